"""What lies beside a session is copied as it is, once, and over nothing that moved on by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.errors import CopyConflictError, CorruptSnapshotError, LimitExceededError
from snapshots.maintenance.copy.satellites import KINDS, KindCopied, copy_satellites
from snapshots.maintenance.copy.satellites.marks import made_by, mark_of, standing
from snapshots.maintenance.copy.satellites.realtime import copy_realtime
from snapshots.realtime import RealtimeCloseReason, load_realtime
from snapshots.realtime.journal import RECORDS_BEHIND_MAX, register_of
from snapshots.realtime.progress import Checkpoint
from snapshots.runtime import RuntimeSession
from snapshots.satellite import RING_MAX
from snapshots.usage import compact
from snapshots.usage.index import index_register
from storage.store import Overwrite
from tests.snapshots.copy.satellites import SESSION, Bench, Side
from tests.snapshots.realtime.bench import out
from tests.snapshots.usage.bench import line

TARGETS = pytest.mark.parametrize(
    ("tenant", "target"), [("default", SESSION), ("other", SESSION), ("default", "copy"), ("other", "copy of s1 " * 9)]
)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@TARGETS
def test_everything_is_copied_whatever_the_new_ids(tenant: str, target: str) -> None:
    bench = Bench(tenant, target)
    bench.fill()
    copied = bench.copy()
    bench.check()
    assert [(one.kind, one.outcome, one.count) for one in copied.kinds] == [
        ("record", "copied", 1),
        ("metadata", "copied", 1),
        ("usage", "copied", 5),
        ("realtime", "copied", 8),
    ]
    assert (copied.rows, copied.records, copied.is_changed) == (5, 8, True)
    record = bench.here.records.read(target)
    assert (record.record.tenant_id, record.session_id, record.status) == (tenant, target, "active")
    assert bench.here.rows() == bench.source.rows()
    mine, theirs = bench.here.realtime(), bench.source.realtime()
    assert {one.state.session_id.value for one in mine} == {target}
    assert [one.model_copy(update={"state": None}) for one in mine] == [
        one.model_copy(update={"state": None}) for one in theirs
    ]


@TARGETS
def test_the_copy_is_used_as_the_source_was(tenant: str, target: str) -> None:
    bench = Bench(tenant, target)
    bench.fill()
    bench.copy()
    bench.here.records.record_delta(target, 7)
    bench.here.log.append(line(99))
    controller = bench.here.resumed()
    controller.complete_restart()
    controller.send(out("here"))
    controller.close()
    assert bench.here.found() == []
    assert len(bench.here.rows()) == 6


def test_nothing_is_copied_where_there_is_nothing(bench: Bench) -> None:
    assert bench.outcomes(bench.copy()) == ["absent"] * 4
    assert bench.here.requests() == []


def test_only_the_kinds_that_are_asked_for_are_copied(bench: Bench) -> None:
    bench.fill()
    assert [one.kind for one in bench.copy(["usage"]).kinds] == ["usage"]
    assert [one.what for one in bench.differences()] == ["session record", "metadata", "realtime session"]


def test_realtime_bytes_are_the_source_s_where_ids_are_equal(bench: Bench) -> None:
    bench.fill()
    bench.copy()
    keys = [bench.source.layout.realtime_record(SESSION, number) for number in range(1, 9)]
    assert [bench.here.behind.get(key).data for key in keys] == [bench.source.behind.get(key).data for key in keys]


@TARGETS
def test_again_with_nothing_new_costs_two_reads_of_each_and_a_listing(tenant: str, target: str) -> None:
    bench = Bench(tenant, target)
    bench.fill()
    bench.copy()
    bench.source.requests(), bench.here.requests()
    copied = bench.copy()
    assert bench.outcomes(copied) == ["same"] * 4
    assert (copied.bytes, copied.is_changed) == (0, False)
    assert bench.source.requests() == ["get", "get", "get", "get", "list"]
    assert bench.here.requests() == ["get", "get", "get", "get"]


@TARGETS
def test_what_was_written_in_the_source_since_is_copied_further(tenant: str, target: str) -> None:
    bench = Bench(tenant, target)
    controller = bench.fill()
    bench.copy()
    for n in range(3):
        bench.source.records.record_delta(SESSION, 10 + n)
        bench.source.runtime.update_metadata(SESSION, lambda before: before.changed(pinned=not before.pinned))
        bench.source.log.append(line(100 + n))
        controller.send(out(f"more{n}"))
        bench.source.requests(), bench.here.requests()
        copied = bench.copy()
        assert [(one.outcome, one.count) for one in copied.kinds] == [("copied", 1)] * 3 + [("copied", 2)]
        assert bench.here.requests().count("put") == 1 + 1 + 3 + 3  # rows: a segment, the index, the mark
        bench.check()


def test_a_copy_is_far_behind_and_follows(bench: Bench) -> None:
    bench.fill()
    bench.copy()
    for n in range(2 * RING_MAX):
        bench.source.records.record_delta(SESSION, n)
        bench.source.runtime.update_metadata(SESSION, lambda before: before.changed(pinned=not before.pinned))
    assert bench.outcomes(bench.copy())[:2] == ["copied", "copied"]
    bench.check()


def test_a_copy_goes_back_to_where_it_came_from(bench: Bench) -> None:
    controller = bench.fill()
    controller.close(RealtimeCloseReason.HOST_OWNED_DETACH)
    bench.copy()
    bench.here.records.record_delta(SESSION, 1)
    bench.here.runtime_metadata()
    bench.here.log.append(line("here"))
    bench.here.resumed()
    back = copy_satellites(bench.here.environment, bench.source.environment, SESSION, SESSION)
    assert [one.outcome for one in back.kinds] == ["copied"] * 4
    bench.check()


def test_a_copy_of_a_copy_is_told_like_the_first(bench: Bench) -> None:
    bench.fill()
    bench.copy(["record", "metadata"])
    third = Side(bench.clock)
    first, second = bench.source.environment, bench.here.environment
    copy_satellites(second, third.environment, SESSION, SESSION, ["record"])
    assert copy_satellites(first, third.environment, SESSION, SESSION, ["record"]).kinds[0].outcome == "same"
    bench.source.records.record_delta(SESSION, 3)
    assert copy_satellites(first, third.environment, SESSION, SESSION, ["record"]).kinds[0].outcome == "copied"
    assert copy_satellites(second, third.environment, SESSION, SESSION, ["record"]).kinds[0].outcome == "ahead"


# What moved on by itself.


def changed_record(side: Side) -> None:
    side.records.record_delta(side.session_id, 1)


def changed_metadata(side: Side) -> None:
    side.runtime_metadata()


def changed_realtime(side: Side) -> None:
    side.resumed()


CHANGES: dict[str, Callable[[Side], None]] = {
    "record": changed_record,
    "metadata": changed_metadata,
    "realtime": changed_realtime,
}
WHATS = {"record": "session record", "metadata": "metadata", "realtime": "realtime session"}
EACH = pytest.mark.parametrize("kind", list(CHANGES))


@EACH
def test_what_moved_on_here_alone_is_ahead(bench: Bench, kind: str) -> None:
    bench.fill()
    bench.copy()
    CHANGES[kind](bench.here)
    before = dict(_everything(bench.here))
    outcomes = dict(zip(KINDS, bench.outcomes(bench.copy()), strict=True))
    assert outcomes == {one: "ahead" if one == kind else "same" for one in KINDS}
    assert dict(_everything(bench.here)) == before


@EACH
@pytest.mark.parametrize(("tenant", "target"), [("default", SESSION), ("other", "copy")])
def test_what_moved_on_in_both_is_a_conflict_and_stays(kind: str, tenant: str, target: str) -> None:
    bench = Bench(tenant, target)
    bench.fill()
    bench.copy()
    for side in (bench.source, bench.here):
        CHANGES[kind](side)
    if kind == "record":
        changed_record(bench.source)
    before = dict(_everything(bench.here))
    with pytest.raises(CopyConflictError) as caught:
        bench.copy([one for one in KINDS if one == kind])
    assert (caught.value.session_id, caught.value.what) == (target, WHATS[kind])
    assert dict(_everything(bench.here)) == before
    assert next(one.what for one in bench.differences()) == WHATS[kind]


@EACH
def test_what_was_made_here_is_not_replaced(bench: Bench, kind: str) -> None:
    bench.fill()
    side = bench.here
    side.records.create(SESSION, provider_id="another", model="m")
    side.runtime.save_runtime_session(RuntimeSession(session_id=SESSION, title="another"))
    side.connected()
    before = dict(_everything(side))
    with pytest.raises(CopyConflictError, match="was not copied"):
        bench.copy([one for one in KINDS if one == kind])
    assert dict(_everything(side)) == before


def _everything(side: Side) -> list[tuple[str, bytes]]:
    return [(row.key, side.behind.get(row.key).data) for row in side.behind.list("")]


def test_equal_values_are_no_conflict_however_they_came_about(bench: Bench) -> None:
    for side in (bench.source, bench.here):  # at one instant
        side.records.create(SESSION, provider_id="p", model="m")
        side.runtime.save_runtime_session(RuntimeSession(session_id=SESSION, title="Trip"))
    before = dict(_everything(bench.here))
    assert bench.outcomes(bench.copy(["record", "metadata"])) == ["same", "same"]
    assert dict(_everything(bench.here)) == before


def test_an_older_source_is_not_put_in_the_place_of_a_newer_copy(bench: Bench) -> None:
    bench.fill()
    backup = Side(bench.clock)
    bench.copy(["record"])
    copy_satellites(bench.source.environment, backup.environment, SESSION, SESSION, ["record"])
    bench.source.records.record_delta(SESSION, 1)
    bench.copy(["record"])
    again = copy_satellites(backup.environment, bench.here.environment, SESSION, SESSION, ["record"])
    assert again.of("record").outcome == "ahead"
    assert bench.differences_of("session record") == []


def test_another_history_than_the_source_remembers_is_a_conflict_whatever_it_counts(bench: Bench) -> None:
    bench.fill()
    bench.copy()
    other = Side(bench.clock)
    bench.clock.sleep(1)
    other.records.create(SESSION, provider_id="p", model="m", metadata={"a": [1, None]})
    other.records.activate(SESSION)
    for n in range(2 * RING_MAX):
        other.records.record_delta(SESSION, n)
    with pytest.raises(CopyConflictError):
        copy_satellites(other.environment, bench.here.environment, SESSION, SESSION, ["record"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_that_was_deleted_here_is_a_conflict(bench: Bench, kind: str) -> None:
    bench.fill()
    with SnapshotRepository(bench.here.behind, clock=bench.clock) as repo:
        repo.commit(PersistedSessionState(session_id=SESSION))
        repo.delete(SESSION)
    with pytest.raises(CopyConflictError, match="its id is spent"):
        bench.copy([one for one in KINDS if one == kind])
    assert not list(bench.here.behind.list(bench.here.layout.realtime(SESSION)))


# Usage.


def test_logs_unite(bench: Bench) -> None:
    bench.source.log.append_many([line(n) for n in range(5)])
    bench.here.log.append(line("here"))
    assert bench.copy(["usage"]).rows == 5
    assert len(bench.here.rows()) == 6
    assert [one.kind for one in bench.differences()] == ["more"]
    back = copy_satellites(bench.here.environment, bench.source.environment, SESSION, SESSION, ["usage"])
    assert back.rows == 1
    bench.check()


def test_ten_thousand_rows_come_in_order_and_are_merged(bench: Bench) -> None:
    texts = [line(n, row_id=f"r{n}") if n % 3 else line(n) for n in range(10_000)]
    for start in range(0, 10_000, 250):
        bench.source.log.append_many(texts[start : start + 250])
    assert bench.copy(["usage"]).rows == 10_000
    assert bench.here.rows() == bench.source.rows()
    assert bench.here.stored_rows() == 10_000
    assert len(bench.here.log.segments()) == 1
    bench.check()
    bench.source.log.append(line("new"))
    assert bench.copy(["usage"]).rows == 1
    bench.check()


def test_a_merged_source_has_no_new_rows(bench: Bench) -> None:
    for n in range(6):
        bench.source.log.append(line(n))
    bench.copy(["usage"])
    compact(bench.source.host, SESSION)
    assert bench.copy(["usage"]).kinds == (KindCopied("usage", "same"),)
    bench.source.requests()
    bench.copy(["usage"])
    assert bench.source.requests() == ["get"]


def test_the_mark_is_forgotten_and_nothing_is_copied_twice(bench: Bench) -> None:
    bench.source.log.append_many([line(n) for n in range(5)])
    bench.copy(["usage"])
    for n in range(RING_MAX + 1):
        bench.here.log.append(line(f"here {n}"))
    assert bench.copy(["usage"]).rows == 0
    assert bench.here.stored_rows() == 5 + RING_MAX + 1


def test_a_log_without_rows_is_copied_as_one(bench: Bench) -> None:
    register = index_register(bench.source.environment, SESSION)
    bench.source.log.append(line(1))
    register.update(lambda index: type(index)())
    assert bench.outcomes(bench.copy(["usage"])) == ["same"]
    assert bench.outcomes(bench.copy(["usage"])) == ["same"]
    assert bench.here.rows() == []


def test_a_row_that_is_another_one_here_is_told(bench: Bench) -> None:
    bench.source.log.append(line(1, row_id="r"))
    bench.here.log.append(line(2, row_id="r"))
    assert bench.copy(["usage"]).rows == 0
    assert [(one.kind, one.position) for one in bench.differences()] == [("different", "r")]


# Realtime.


@TARGETS
def test_a_long_realtime_session_is_covered_as_a_host_covers_it(tenant: str, target: str) -> None:
    bench = Bench(tenant, target)
    bench.fill(frames=3 * RECORDS_BEHIND_MAX)
    bench.copy(["realtime"])
    assert bench.differences_of("realtime session") == []
    assert bench.here.found() == []
    assert len(bench.here.realtime()) == 2 + 6 * RECORDS_BEHIND_MAX


def test_only_new_records_are_read_and_written(bench: Bench) -> None:
    controller = bench.fill(frames=20)
    bench.copy(["realtime"])
    controller.send(out("new"))
    bench.source.requests(), bench.here.requests()
    assert bench.copy(["realtime"]).records == 2
    assert bench.source.requests().count("get") == 3
    assert bench.here.requests().count("put") == 3


def test_the_claim_is_copied(bench: Bench) -> None:
    bench.fill()
    bench.source.resumed()
    bench.copy(["realtime"])
    assert register_of(bench.here.environment, SESSION).read().value.claim == 1
    assert load_realtime(bench.here.host, SESSION) == load_realtime(bench.source.host, SESSION)


def test_a_source_that_is_behind_without_a_mark_changes_nothing(bench: Bench) -> None:
    controller = bench.fill()
    bench.copy(["realtime"])
    controller.send(out("more"))
    before = dict(_everything(bench.source))
    back = bench.here.environment, bench.source.environment, SESSION, SESSION
    assert copy_realtime(*back).outcome == "ahead"
    register_of(bench.source.environment, SESSION).update(lambda present: replace(present, claim=1))
    assert copy_realtime(*back).outcome == "ahead"
    assert before.keys() == dict(_everything(bench.source)).keys()


def test_a_state_that_covers_other_records_than_ours_would_is_copied_as_it_is(bench: Bench) -> None:
    bench.fill(frames=44)  # 90 records
    progress = load_realtime(bench.source.host, SESSION)
    register_of(bench.source.environment, SESSION).update(lambda _: Checkpoint.of(progress))
    controller = bench.source.resumed()
    controller.complete_restart()
    for n in range(24):
        controller.send(out(f"more{n}"))
    assert (progress.sequence, len(bench.source.realtime())) == (90, 141)
    bench.copy(["realtime"])
    assert register_of(bench.here.environment, SESSION).read().value.sequence == 90
    assert bench.differences_of("realtime session") == []


def test_nothing_is_added_to_what_goes_with_a_deleted_session(bench: Bench) -> None:
    controller = bench.fill()
    bench.copy()
    with SnapshotRepository(bench.here.behind, clock=bench.clock) as repo:
        repo.commit(PersistedSessionState(session_id=SESSION))
        repo.delete(SESSION)
    controller.send(out("more"))
    bench.source.log.append(line("more"))
    before = {key for key, _ in _everything(bench.here)}
    for kind in ("usage", "realtime"):
        with pytest.raises(CopyConflictError, match="its id is spent"):
            bench.copy([one for one in KINDS if one == kind])
    assert {key for key, _ in _everything(bench.here)} == before


def test_a_restart_that_was_announced_here_is_a_conflict(bench: Bench) -> None:
    controller = bench.fill()
    bench.copy(["realtime"])
    bench.here.resumed()
    controller.send(out("more"))
    with pytest.raises(CopyConflictError, match="realtime session of session 's1'"):
        bench.copy(["realtime"])


def test_a_state_without_records_is_copied(bench: Bench) -> None:
    controller = bench.source.unconnected()
    bench.copy(["realtime"])
    assert bench.differences() == []
    assert bench.here.found() == []
    controller.connect()
    bench.copy(["realtime"])
    bench.check()


def test_a_damaged_record_is_not_copied_and_those_before_it_are(bench: Bench) -> None:
    bench.fill()
    key = bench.source.layout.realtime_record(SESSION, 5)
    bench.source.behind.put(key, bench.source.behind.get(key).data[:-1] + b"x", Overwrite())
    with pytest.raises(CorruptSnapshotError):
        bench.copy(["realtime"])
    assert bench.here.found() == []


def test_a_missing_record_is_corruption_and_leaves_no_gap(bench: Bench) -> None:
    bench.fill()
    bench.source.behind.delete(bench.source.layout.realtime_record(SESSION, 5))
    with pytest.raises(CorruptSnapshotError, match="missing"):
        bench.copy(["realtime"])
    assert bench.here.found() == []


# Marks, records that do not fit.


def test_marks_tell_where_a_copy_stands() -> None:
    ids = [f"{n:032x}" for n in range(1, 40)]
    x, y, z = ids[:3]
    copied = (x, mark_of(x))
    assert made_by(copied) == x
    assert standing((x,), copied) == standing(copied, (x,)) == "same"
    assert standing((x,), (*copied, z)) == "ahead"
    assert standing((x, y), copied) == standing((x, y), (x,)) == "behind"
    assert standing((x, y), (*copied, z)) == "apart"
    assert standing((y,), copied) == "apart"
    assert standing(tuple(ids[4:36]), copied) == "perhaps behind"
    assert standing(tuple(ids[4:36]), (*copied, z)) == "apart"
    assert mark_of(x) != mark_of(x, 1) != mark_of(y, 1)


def test_a_record_that_does_not_fit_under_its_new_id_is_refused() -> None:
    bench = Bench(target="long" * 20)  # no longer than what is spared for later steps
    low, high = 0, 1 << 20
    while high - low > 1:  # the longest that fits under the short id
        middle = (low + high) // 2
        try:
            Side(bench.clock).records.create(SESSION, provider_id="p", model="m", metadata="x" * middle)
            low = middle
        except LimitExceededError:
            high = middle
    bench.source.records.create(SESSION, provider_id="p", model="m", metadata="x" * low)
    with pytest.raises(LimitExceededError):
        bench.copy(["record"])
    assert not list(bench.here.behind.list(""))
