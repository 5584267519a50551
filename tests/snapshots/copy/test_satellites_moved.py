"""What a session leaves behind that was moved: it says where to go to whoever asks, and is copied all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, codec
from snapshots.errors import (
    CopyConflictError,
    CorruptSnapshotError,
    InvalidStateError,
    LimitExceededError,
    SessionMovedError,
    UnsupportedSchemaError,
)
from snapshots.fields import SCHEMA_VERSION
from snapshots.head import MOVED
from snapshots.maintenance.collect import execute, plan_on
from snapshots.maintenance.copy.satellites import KINDS, copy_satellites, retire_satellites
from snapshots.realtime import RealtimeCloseReason, RealtimeController, load_realtime, subscribe
from snapshots.realtime.journal import register_of as realtime_register
from snapshots.records import plan_reap, reap
from snapshots.records.stored import register_of as record_register
from snapshots.runtime import RuntimeMetadata, RuntimeSession
from snapshots.runtime.persistence import metadata_register
from snapshots.runtime.stored import StoredMetadata
from snapshots.satellite import DESTINATION_BYTES_MAX, MOVED_VERSION, RING_MAX
from snapshots.usage import compact
from snapshots.usage.index import index_register
from storage.errors import UnavailableError
from storage.store import Overwrite
from storage.testing.faults import CrashAfter, CrashBefore, Delay, FailBefore, Fault, LoseAnswer, Meanwhile, OwnRetry
from tests.integration.builders import rewrite_head
from tests.snapshots.copy.satellites import SESSION, Bench, Side, gone_wrong
from tests.snapshots.realtime.bench import NotingAdapter, out, sidecar
from tests.snapshots.usage.bench import line

DESTINATION = "s3://bucket/new"


@pytest.fixture
def bench() -> Bench:
    """One whose realtime session is detached."""
    bench = Bench()
    bench.fill().close(RealtimeCloseReason.HOST_OWNED_DETACH)
    return bench


def retire(bench: Bench, destination: str = DESTINATION) -> None:
    retire_satellites(bench.source.seen, SESSION, destination)


CALLS: dict[str, Callable[[Side], object]] = {
    "records.create": lambda side: side.records.create(SESSION, provider_id="p", model="m"),
    "records.read": lambda side: side.records.read(SESSION),
    "records.activate": lambda side: side.records.activate(SESSION),
    "records.record_delta": lambda side: side.records.record_delta(SESSION, 1),
    "records.close": lambda side: side.records.close(SESSION),
    "records.expire": lambda side: side.records.expire(SESSION),
    "runtime.load": lambda side: side.runtime.load_runtime_session(SESSION),
    "runtime.save": lambda side: side.runtime.save_runtime_session(RuntimeSession(session_id=SESSION)),
    "runtime.read_metadata": lambda side: side.runtime.read_metadata(SESSION),
    "runtime.update_metadata": lambda side: side.runtime.update_metadata(SESSION, lambda one: one.changed(title="x")),
    "runtime.append_usage": lambda side: side.runtime.append_token_usage_record(SESSION, line(1)),
    "usage.append": lambda side: side.log.append(line(1)),
    "usage.append_many": lambda side: side.log.append_many([line(1)]),
    "usage.read": lambda side: list(side.log.read()),
    "usage.segments": lambda side: side.log.segments(),
    "usage.compact": lambda side: compact(side.host, SESSION),
    "realtime.connect": lambda side: side.connected(),
    "realtime.resume": lambda side: side.resumed(),
    "realtime.load": lambda side: load_realtime(side.host, SESSION),
    "realtime.subscribe": lambda side: list(subscribe(side.host, SESSION).new()),
}


@pytest.mark.parametrize("name", CALLS)
def test_whoever_asks_is_told_where_to_go(bench: Bench, name: str) -> None:
    retire(bench)
    before = [(row.key, bench.source.behind.get(row.key).data) for row in bench.source.behind.list("default/re")]
    with pytest.raises(SessionMovedError) as caught:
        CALLS[name](bench.source)
    assert (caught.value.session_id, caught.value.destination) == (SESSION, DESTINATION)
    assert before == [
        (row.key, bench.source.behind.get(row.key).data) for row in bench.source.behind.list("default/re")
    ]


def test_whoever_had_it_open_is_told_too(bench: Bench) -> None:
    side, log, runtime = bench.source, bench.source.log, bench.source.runtime
    log.append(line("open"))
    runtime.append_token_usage_record(SESSION, line("open"))
    loaded = runtime.load_runtime_session(SESSION)
    subscription = subscribe(side.host, SESSION)
    known = record_register(side.environment, SESSION).read()
    retire(bench)
    loaded.title = "stale"
    writes: list[Callable[[], object]] = [
        lambda: log.append(line("late")),
        lambda: list(log.read()),
        lambda: runtime.append_token_usage_record(SESSION, line("late")),
        lambda: runtime.save_runtime_session(loaded),
        lambda: list(subscription.new()),
        lambda: record_register(side.environment, SESSION).update(
            lambda one: one.close(bench.clock.now()), known=known
        ),
    ]
    for write in writes:
        with pytest.raises(SessionMovedError):
            write()


@pytest.mark.parametrize("reason", [RealtimeCloseReason.PROVIDER_FAILURE, RealtimeCloseReason.HOST_OWNED_DETACH])
def test_a_host_whose_connection_ended_cannot_begin_a_restart(reason: RealtimeCloseReason) -> None:
    bench = Bench()
    controller = bench.fill()
    controller.close(reason)
    retire(bench)
    before = len(list(bench.source.behind.list(bench.source.layout.realtime(SESSION))))
    for _ in range(2):
        with pytest.raises(SessionMovedError):
            controller.begin_restart()
    assert len(list(bench.source.behind.list(bench.source.layout.realtime(SESSION)))) == before


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_restart_and_a_move_at_once_are_one_of_both(nth: int) -> None:
    bench = Bench()
    controller = bench.fill()
    controller.close(RealtimeCloseReason.HOST_OWNED_DETACH)
    bench.source.faulty.plan.on("*", nth=nth, fault=Meanwhile(controller.begin_restart))
    try:
        retire(bench)
    except InvalidStateError:
        assert load_realtime(bench.source.host, SESSION).state.restart_count == 1
    except SessionMovedError:  # of the restart
        assert realtime_register(bench.source.environment, SESSION).look() is not None
    else:
        with pytest.raises(SessionMovedError):
            controller.begin_restart()


def test_a_realtime_session_that_is_connected_is_refused_and_nothing_is_left_behind() -> None:
    bench = Bench()
    controller = bench.fill()
    with pytest.raises(InvalidStateError, match="close or detach it first"):
        retire(bench)
    assert bench.source.records.read(SESSION)
    controller.send(out("goes on"))
    controller.close()
    retire(bench)


def test_a_restart_that_was_announced_is_refused(bench: Bench) -> None:
    register = realtime_register(bench.source.environment, SESSION)
    register.update(lambda present: replace(present, claim=1))
    with pytest.raises(InvalidStateError, match="about to be restarted"):
        retire(bench)


def test_a_state_without_records_is_refused() -> None:
    bench = Bench()
    bench.source.unconnected()
    with pytest.raises(InvalidStateError, match="connecting"):
        retire(bench)


def test_nothing_is_left_behind_where_there_is_nothing() -> None:
    empty = Bench()
    retire(empty)
    assert not list(empty.source.behind.list(""))


# Copied, compared, verified.


@pytest.mark.parametrize(("tenant", "target"), [("default", SESSION), ("other", "copy")])
@pytest.mark.parametrize("copies_before", [0, 1])
def test_what_was_left_behind_is_copied_and_compared(tenant: str, target: str, copies_before: int) -> None:
    bench = Bench(tenant, target)
    controller = bench.fill()
    for _ in range(copies_before):
        bench.copy()
    controller.send(out("later"))
    controller.close(RealtimeCloseReason.HOST_OWNED_DETACH)
    bench.source.records.record_delta(SESSION, 5)
    bench.source.log.append(line("later"))
    rows = bench.source.rows()
    retire(bench)
    assert bench.differences()
    bench.copy()
    bench.check()
    assert bench.here.rows() == rows
    assert bench.outcomes(bench.copy()) == ["same"] * 4
    bench.here.records.record_delta(target, 1)
    assert bench.outcomes(bench.copy()) == ["ahead", "same", "same", "same"]


def test_a_move_that_is_killed_anywhere_is_repeated() -> None:
    for nth in range(1, 14):
        for fault in (CrashBefore(), CrashAfter()):
            bench = Bench()
            bench.fill().close()
            bench.source.faulty.plan.on("*", nth=nth, fault=fault)
            with gone_wrong():
                retire(bench)
                bench.copy()
            bench.works_again()
            retire(bench)
            bench.copy()
            bench.check()


@pytest.mark.parametrize("nth", range(1, 5))
@pytest.mark.parametrize(
    "fault", [FailBefore("no"), FailBefore("unknown"), LoseAnswer(), OwnRetry(), Delay(), Delay(1), Delay(2)], ids=str
)
def test_a_lost_answer_leaves_it_behind_once(bench: Bench, fault: Fault, nth: int) -> None:
    bench.source.faulty.plan.on("put", nth=nth, fault=fault)
    retire(bench)
    bench.works_again()
    bench.copy()
    bench.check()


@pytest.mark.parametrize("nth", range(1, 5))
def test_what_was_written_up_to_the_move_moves_along(bench: Bench, nth: int) -> None:
    key = bench.source.layout.record(SESSION)
    bench.source.faulty.plan.on("*", key, nth=nth, fault=Meanwhile(lambda: told(bench)))
    retire(bench)
    bench.works_again()
    bench.copy()
    assert bench.here.records.read(SESSION).record.round_count == bench.counted
    bench.check()


def told(bench: Bench) -> None:
    """Count a round, and note whether that was acknowledged."""
    try:
        bench.source.records.record_delta(SESSION, 1)
    except SessionMovedError:
        return
    bench.counted += 1


def test_a_write_whose_answer_was_lost_before_the_move_was_applied(bench: Bench) -> None:
    key = bench.source.layout.record(SESSION)
    bench.source.faulty.plan.on("put", key, fault=LoseAnswer())
    bench.source.faulty.plan.on("get", key, nth=2, fault=Meanwhile(lambda: retire_now(bench)))
    records = type(bench.source.records)(replace(bench.source.host, environment=bench.source.seen))
    assert records.record_delta(SESSION, 7).record.delta_token_count == 7
    bench.works_again()
    bench.copy()
    assert bench.here.records.read(SESSION).record.delta_token_count == 7


def retire_now(bench: Bench) -> None:
    retire_satellites(bench.source.environment, SESSION, DESTINATION)


def test_again_to_the_same_destination_does_nothing_and_to_another_is_refused(bench: Bench) -> None:
    retire(bench)
    bench.source.requests()
    retire(bench)
    assert bench.source.requests() == ["get"] * 4
    with pytest.raises(SessionMovedError, match=DESTINATION):
        retire(bench, "file:elsewhere")


@pytest.mark.parametrize("destination", ["", "x" * (DESTINATION_BYTES_MAX + 1)])
def test_what_is_no_destination_is_refused(bench: Bench, destination: str) -> None:
    with pytest.raises(InvalidStateError, match="a destination has"):
        retire(bench, destination)


def test_a_register_without_room_for_the_destination_is_refused(bench: Bench) -> None:
    register = metadata_register(bench.source.environment, "full")
    low, high = 0, 1 << 20
    while high - low > 1:
        middle = (low + high) // 2
        try:
            register.put(lambda _, size=middle: StoredMetadata(RuntimeMetadata(title="x" * size)))  # type: ignore[misc]  # a default argument
            low = middle
        except LimitExceededError:
            high = middle
    with pytest.raises(LimitExceededError, match="where its session moved"):
        retire_satellites(bench.source.environment, "full", "x" * DESTINATION_BYTES_MAX)
    assert register.read()


def test_nothing_is_copied_onto_what_was_left_behind(bench: Bench) -> None:
    bench.copy()
    retire_satellites(bench.here.environment, SESSION, DESTINATION)
    before = [(row.key, bench.here.behind.get(row.key).data) for row in bench.here.behind.list("")]
    for kind in KINDS:
        with pytest.raises(CopyConflictError, match="moved on from here"):
            copy_satellites(bench.source.environment, bench.here.environment, SESSION, SESSION, [kind])
    assert before == [(row.key, bench.here.behind.get(row.key).data) for row in bench.here.behind.list("")]


@pytest.mark.parametrize("sequence", [1, 3, 8])
def test_damage_of_what_was_left_behind_is_found(bench: Bench, sequence: int) -> None:
    retire(bench)
    key = bench.source.layout.realtime_record(SESSION, sequence)
    bench.source.behind.put(key, b"damaged", Overwrite())
    (segment,) = (row.key for row in bench.source.behind.list("default/usage/") if row.key.endswith(".zst"))
    bench.source.behind.delete(segment)
    assert [one.key for one in bench.source.found()] == [segment, key]


# Listings and collections.


def test_listings_name_what_was_left_behind_and_stumble_over_nothing(bench: Bench) -> None:
    side = bench.source
    for other in ("s0", "s2"):
        side.records.create(other, provider_id="p", model="m", ttl_secs=1)
    retire(bench)
    listing = side.records.list()
    assert {one.session_id for one in listing} == {"s0", "s2"}
    assert (listing.read, listing.damaged, listing.moved_count) == (3, (), 1)
    assert [(one.session_id, one.destination) for one in listing.moved] == [(SESSION, DESTINATION)]
    bench.clock.sleep(2)
    assert len(plan_reap(side.host).due) == 2
    assert reap(side.host).expired == 2


def test_a_record_that_is_left_behind_while_it_is_reaped_is_skipped(bench: Bench) -> None:
    side = bench.source
    side.records.create("s2", provider_id="p", model="m", ttl_secs=1)
    bench.clock.sleep(2)
    key = side.layout.record("s2")
    leave = Meanwhile(lambda: retire_satellites(side.environment, "s2", DESTINATION))
    side.faulty.plan.on("put", key, fault=leave)
    report = reap(replace(side.host, environment=side.seen))
    assert (report.expired, report.skipped, report.damaged_count) == (0, 1, 0)


def test_a_collection_leaves_it_until_the_session_is_deleted(bench: Bench) -> None:
    side = bench.source
    compact(side.host, SESSION)
    retire(bench)
    keys = {row.key for row in side.behind.list("")}
    plan = plan_on(side.environment)
    assert plan.logs.spared == ()
    execute(plan)
    assert keys <= {row.key for row in side.behind.list("")}
    assert side.found() == []
    with SnapshotRepository(side.behind, clock=bench.clock) as repo:
        repo.delete(SESSION)
    execute(plan_on(side.environment))
    left = {row.key for prefix in side.layout.satellites for row in side.behind.list(prefix)}
    assert left == set()


def test_a_log_that_is_left_behind_while_it_is_collected_is_left_alone(bench: Bench) -> None:
    side = bench.source
    for n in range(4):
        side.log.append(line(n))
    compact(side.host, SESSION)
    plan = plan_on(side.environment)
    assert plan.logs.superseded
    rows = len(side.rows())
    retire(bench)
    execute(plan)
    bench.copy()
    assert len(bench.here.rows()) == rows
    bench.check()


# As it is stored.


def test_it_is_of_the_second_version_and_says_what_it_was(bench: Bench) -> None:
    retire(bench)
    key = bench.source.layout.record(SESSION)
    plain = codec.decode(codec.unguarded(bench.source.behind.get(key).data, key=key), key=key)
    assert (plain["schema_version"], plain["kind"], len(plain["write_ids"])) == (MOVED_VERSION, "moved", 1)
    assert plain["value"].keys() == {"destination", "kind", "write_ids", "value"}
    assert (plain["value"]["kind"], plain["value"]["destination"]) == ("session record", DESTINATION)


def altered(bench: Bench, key: str, **changes: object) -> None:
    plain = codec.decode(codec.unguarded(bench.source.behind.get(key).data, key=key), key=key)
    bench.source.behind.put(key, codec.guarded(codec.encode({**plain, **changes})), Overwrite())


def test_what_is_not_as_it_should_be_is_refused(bench: Bench) -> None:
    key = bench.source.layout.record(SESSION)
    other = bench.source.layout.record("s2")
    altered(bench, key, schema_version=MOVED_VERSION)
    with pytest.raises(UnsupportedSchemaError):
        bench.source.records.read(SESSION)
    altered(bench, key, schema_version=SCHEMA_VERSION)
    retire(bench)
    left = bench.source.behind.get(key).data
    bench.source.behind.put(other, left, Overwrite())
    with pytest.raises(CorruptSnapshotError, match="moved here"):
        bench.source.records.read("s2")
    assert [one.key for one in bench.source.found()] == [other]
    bench.source.behind.delete(other)
    altered(bench, key, schema_version=SCHEMA_VERSION)
    with pytest.raises(CorruptSnapshotError):
        bench.source.records.read(SESSION)
    bench.source.behind.put(key, left, Overwrite())
    altered(bench, key, more=1)
    with pytest.raises(UnsupportedSchemaError):
        bench.source.records.read(SESSION)
    bench.source.behind.put(key, left, Overwrite())
    metadata = bench.source.layout.metadata(SESSION)
    bench.source.behind.put(metadata, left, Overwrite())
    with pytest.raises(CorruptSnapshotError, match="moved here"):
        metadata_register(bench.source.environment, SESSION).look()


def test_a_full_ring_stays(bench: Bench) -> None:
    for n in range(RING_MAX + 3):
        bench.source.records.record_delta(SESSION, n)
    before = record_register(bench.source.environment, SESSION).read()
    retire(bench)
    after = record_register(bench.source.environment, SESSION).look()
    assert after is not None
    assert (after.value, after.ring, after.destination) == (before.value, before.ring, DESTINATION)


def test_nothing_is_made_anew_once_the_head_says_so(bench: Bench) -> None:
    side = Side(bench.clock)
    with SnapshotRepository(side.behind, clock=bench.clock) as repo:
        repo.commit(PersistedSessionState(session_id=SESSION))
    rewrite_head(side.behind, lambda head: replace(head, status=MOVED, destination=DESTINATION), SESSION)
    retire_satellites(side.environment, SESSION, DESTINATION)
    for name in ("records.create", "usage.append", "realtime.connect", "runtime.save"):
        with pytest.raises(SessionMovedError):
            CALLS[name](side)
    with pytest.raises(SessionMovedError):
        RealtimeController(side.host, SESSION, NotingAdapter(), sidecar()).connect()


def test_an_index_that_cannot_be_left_behind_stops_the_move(bench: Bench) -> None:
    key = bench.source.layout.usage_index(SESSION)
    bench.source.faulty.plan.on("put", key, fault=FailBefore("no"), times=None)
    with pytest.raises(UnavailableError):
        retire(bench)
    bench.works_again()
    assert index_register(bench.source.environment, SESSION).find() is not None
    retire(bench)
