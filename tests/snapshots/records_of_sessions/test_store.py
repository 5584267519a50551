"""Records in a store: one register each, every step applied once, nobody else's record ever read."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.errors import (
    CorruptSnapshotError,
    IllegalTransitionError,
    InvalidStateError,
    LimitExceededError,
    SessionDeletedError,
    SessionExistsError,
    SessionNotFoundError,
    UnsupportedSchemaError,
)
from snapshots.fields import U64_MAX
from snapshots.layout import Layout
from snapshots.maintenance.collect import execute, plan_collect
from snapshots.records import SessionRecords, SessionStatus, StoredRecord, reap
from snapshots.records.stored import first_record
from snapshots.satellite import RING_MAX
from storage.errors import InvalidKeyError, PermissionDeniedError, UnavailableError
from storage.registers import REGISTER_BYTES_MAX
from storage.store import Create
from storage.testing.clock import ManualClock
from storage.testing.faults import (
    Crash,
    CrashAfter,
    CrashBefore,
    Delay,
    Deny,
    FailBefore,
    Fault,
    LoseAnswer,
    Meanwhile,
    OwnRetry,
)
from tests.faults import WRITE_FAULTS
from tests.snapshots.records_of_sessions.benches import MODEL, SESSION, TTL, Bench, after, host

CREATED, ACTIVE, CLOSED, EXPIRED = SessionStatus
Act = Callable[[SessionRecords], StoredRecord]
# What a step is taken from, what it leads to, and how.
ACTS: dict[str, tuple[SessionStatus, SessionStatus, Act]] = {
    "activate": (CREATED, ACTIVE, lambda records: records.activate(SESSION)),
    "record_delta": (ACTIVE, ACTIVE, lambda records: records.record_delta(SESSION, 5)),
    "close": (ACTIVE, CLOSED, lambda records: records.close(SESSION)),
    "expire": (ACTIVE, EXPIRED, lambda records: records.expire(SESSION)),
}
EACH_ACT = pytest.mark.parametrize("name", ACTS)
EVERY_FAULT = pytest.mark.parametrize("fault", WRITE_FAULTS, ids=str)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def ready(bench: Bench, name: str) -> Act:
    """Bring the record where a step may be taken, and the clock."""
    status, _, act = ACTS[name]
    bench.at(status)
    if name == "expire":
        bench.clock.advance(TTL)
    return act


# Creating and reading.


def test_a_record_is_one_register_of_the_repositorys_tenant(bench: Bench) -> None:
    stored = bench.mine.create(SESSION, **MODEL, ttl_secs=5, initial_token_count=9, metadata={"a": 1})
    assert stored.status is CREATED
    assert (stored.record.session_id, stored.record.tenant_id) == (SESSION, "default")
    assert (stored.record.created_at, stored.record.ttl_secs) == (after(0), 5)
    assert (stored.record.initial_token_count, stored.record.metadata) == (9, {"a": 1})
    assert [row.key for row in bench.behind.list("")] == [bench.key()]
    assert bench.theirs.read(SESSION) == stored


def test_reading_is_one_request_and_a_step_two(bench: Bench) -> None:
    bench.at(ACTIVE)
    bench.mine.read(SESSION)
    assert bench.requests() == ["get"]
    bench.mine.record_delta(SESSION, 5)
    assert bench.requests() == ["get", "get", "put"]


def test_instants_are_stored_in_microseconds(bench: Bench) -> None:
    bench.at(ACTIVE)
    value = bench.plain()["value"]
    assert value["created_at"] == value["activated_at"] == 1_767_225_600_000_000
    assert (value["closed_at"], value["status"], len(value)) == (None, "active", 13)


def test_what_is_there_is_not_created_again(bench: Bench) -> None:
    before = bench.at(ACTIVE)
    data = bench.data()
    with pytest.raises(SessionExistsError, match="session record of session 's1' exists already"):
        bench.mine.create(SESSION, provider_id="other", model="other")
    assert bench.theirs.read(SESSION) == before
    assert bench.data() == data


def test_what_is_not_there_is_not_found(bench: Bench) -> None:
    acts: list[Act] = [lambda records: records.read(SESSION), *(act for _, _, act in ACTS.values())]
    for act in acts:
        with pytest.raises(SessionNotFoundError, match="no session record of session 's1'"):
            act(bench.mine)
    assert "put" not in bench.requests()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": ""}, InvalidStateError),
        ({"ttl_secs": -1}, InvalidStateError),
        ({"ttl_secs": U64_MAX + 1}, InvalidStateError),
        ({"initial_token_count": -1}, InvalidStateError),
        ({"metadata": float("inf")}, InvalidStateError),
        ({"metadata": "\ud800"}, InvalidStateError),
        ({"metadata": "x" * REGISTER_BYTES_MAX}, LimitExceededError),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_out_of_bounds_is_not_written(bench: Bench, fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        bench.mine.create(SESSION, **{**MODEL, **fields})
    assert "put" not in bench.requests()
    assert not list(bench.behind.list(""))


def largest_metadata(bench: Bench) -> str:
    """Return the longest text that a record can be made with."""
    fits, too_large = 0, REGISTER_BYTES_MAX
    while too_large - fits > 1:
        size = (fits + too_large) // 2
        try:
            first_record(
                Layout("default"),
                SESSION,
                **MODEL,
                created_at=bench.clock.now(),
                ttl_secs=TTL,
                metadata="x" * size,
            )
            fits = size
        except LimitExceededError:
            too_large = size
    return "x" * fits


def test_a_record_that_could_be_made_can_take_every_step(bench: Bench) -> None:
    metadata = largest_metadata(bench)
    bench.mine.create(SESSION, **MODEL, ttl_secs=TTL, metadata=metadata)
    with pytest.raises(LimitExceededError):
        bench.mine.create("s2", **MODEL, ttl_secs=TTL, metadata=metadata + "x")
    bench.mine.activate(SESSION)
    for _ in range(RING_MAX):
        bench.mine.record_delta(SESSION, 0, rounds=0)
    bench.mine.record_delta(SESSION, U64_MAX, rounds=U64_MAX)
    bench.clock.advance(TTL)
    assert reap(bench.here).expired == 1
    assert REGISTER_BYTES_MAX - 16 < len(bench.data()) <= REGISTER_BYTES_MAX


def test_what_is_no_id_is_refused(bench: Bench) -> None:
    for session_id in ("", "a\nb", "x" * 513):
        with pytest.raises(InvalidKeyError):
            bench.mine.create(session_id, **MODEL)
    assert not bench.faulty.log


def test_the_largest_numbers_are_kept(bench: Bench) -> None:
    bench.mine.create(SESSION, **MODEL, ttl_secs=U64_MAX, initial_token_count=U64_MAX)
    bench.mine.activate(SESSION)
    stored = bench.mine.record_delta(SESSION, U64_MAX, rounds=U64_MAX)
    assert bench.theirs.read(SESSION) == stored
    data = bench.data()
    with pytest.raises(LimitExceededError):
        bench.mine.record_delta(SESSION, 1, rounds=0)
    with pytest.raises(InvalidStateError):
        bench.mine.record_delta(SESSION, -1)
    assert bench.data() == data


# Steps.


@EACH_ACT
def test_a_step_is_stored(bench: Bench, name: str) -> None:
    stored = ready(bench, name)(bench.mine)
    assert stored.status is ACTS[name][1]
    assert bench.theirs.read(SESSION) == stored


@EACH_ACT
@pytest.mark.parametrize("status", SessionStatus)
def test_a_refused_step_writes_nothing(bench: Bench, name: str, status: SessionStatus) -> None:
    bench.at(status)
    if name != "expire" and ACTS[name][0] is status:
        bench.clock.advance(TTL)  # its time is up, though no reap came yet
    data = bench.data()
    with pytest.raises(IllegalTransitionError):
        ACTS[name][2](bench.mine)
    assert bench.data() == data
    assert "put" not in bench.requests()


@pytest.mark.parametrize("name", ["activate", "close"])
def test_a_host_whose_clock_is_behind_writes_nothing(bench: Bench, name: str) -> None:
    act = ready(bench, name)
    data = bench.data()
    behind = SessionRecords(host(bench.behind, ManualClock(after(-60), seed=9)))
    with pytest.raises(InvalidStateError, match="the clock runs behind"):
        act(behind)
    assert bench.data() == data
    act(bench.mine)


# Lost answers, second writers, crashes.


@EVERY_FAULT
@EACH_ACT
def test_a_step_is_applied_once_whatever_answers_get_lost(bench: Bench, name: str, fault: Fault) -> None:
    act = ready(bench, name)
    before, writes = bench.theirs.read(SESSION), bench.writes()
    bench.faulty.plan.on("put", fault=fault)
    stored = act(bench.mine)
    bench.faulty.release()
    assert bench.theirs.read(SESSION) == stored
    assert bench.writes() == writes + 1
    if name == "record_delta":
        assert (stored.record.delta_token_count, stored.record.round_count) == (5, 1)
        assert stored.record.created_at == before.record.created_at


@EVERY_FAULT
def test_a_creation_is_applied_once_whatever_answers_get_lost(bench: Bench, fault: Fault) -> None:
    bench.faulty.plan.on("put", fault=fault)
    stored = bench.mine.create(SESSION, **MODEL)
    bench.faulty.release()
    assert bench.theirs.read(SESSION) == stored
    assert bench.writes() == 1


@pytest.mark.parametrize("fault", [LoseAnswer(), OwnRetry(), Delay(after_requests=0)], ids=str)
def test_a_count_whose_answer_was_lost_is_counted_once_under_others_counts(bench: Bench, fault: Fault) -> None:
    bench.at(ACTIVE)
    bench.faulty.plan.on("put", fault=fault)
    bench.faulty.plan.on("get", nth=2, fault=Meanwhile(lambda: bench.theirs.record_delta(SESSION, 100)))
    assert bench.mine.record_delta(SESSION, 5).record.delta_token_count in (5, 105)
    found = bench.theirs.read(SESSION).record
    assert (found.delta_token_count, found.round_count) == (105, 2)


def test_the_clock_is_read_once_however_often_a_step_is_tried(bench: Bench) -> None:
    bench.at(CREATED)
    bench.faulty.plan.on("put", fault=FailBefore(applied="unknown"), times=5)
    at = bench.clock.now()
    assert bench.mine.activate(SESSION).record.activated_at == at
    assert bench.clock.now() > at


def test_two_hosts_both_count(bench: Bench) -> None:
    bench.at(ACTIVE)
    bench.faulty.plan.on("put", fault=Meanwhile(lambda: bench.theirs.record_delta(SESSION, 100)))
    assert bench.mine.record_delta(SESSION, 5).record.delta_token_count == 105


@pytest.mark.parametrize("name", ["record_delta", "close"])
def test_of_two_hosts_the_second_sees_that_it_is_closed(bench: Bench, name: str) -> None:
    bench.at(ACTIVE)
    bench.faulty.plan.on("put", fault=Meanwhile(lambda: bench.theirs.close(SESSION)))
    with pytest.raises(IllegalTransitionError) as caught:
        ACTS[name][2](bench.mine)
    assert caught.value.from_status == "closed"
    assert bench.theirs.read(SESSION).record.delta_token_count == 0


def test_of_two_that_create_one_does(bench: Bench) -> None:
    bench.faulty.plan.on("put", fault=Meanwhile(lambda: bench.theirs.create(SESSION, provider_id="b", model="b")))
    with pytest.raises(SessionExistsError):
        bench.mine.create(SESSION, provider_id="a", model="a")
    assert bench.theirs.read(SESSION).record.provider_id == "b"


@EACH_ACT
@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=str)
@pytest.mark.parametrize("nth", [1, 2])
def test_a_crash_leaves_the_record_before_or_after_the_step(bench: Bench, name: str, crash: Fault, nth: int) -> None:
    act = ready(bench, name)
    before = bench.theirs.read(SESSION)
    bench.faulty.plan.on("*", nth=nth, fault=crash)
    with pytest.raises(Crash):
        act(bench.mine)
    bench.faulty.restart()
    found = bench.theirs.read(SESSION)
    if nth == 2 and isinstance(crash, CrashAfter):
        assert found != before
        assert found.status is ACTS[name][1]
    else:
        assert found == before
        assert act(bench.mine).status is ACTS[name][1]


def test_a_store_that_does_not_answer_says_whether_it_may_be_counted(bench: Bench) -> None:
    bench.at(ACTIVE)
    bench.faulty.plan.on("put", fault=FailBefore(applied="no"), times=None)
    with pytest.raises(UnavailableError) as caught:
        bench.mine.record_delta(SESSION, 5)
    assert caught.value.applied == "no"
    bench.faulty.plan.clear()
    bench.faulty.plan.on("put", fault=FailBefore(applied="unknown"), times=None)
    with pytest.raises(UnavailableError) as caught:
        bench.mine.record_delta(SESSION, 5)
    assert caught.value.applied == "unknown"


def test_credentials_that_expired_are_named(bench: Bench) -> None:
    bench.at(ACTIVE)
    bench.faulty.plan.on("put", fault=Deny())
    with pytest.raises(PermissionDeniedError):
        bench.mine.close(SESSION)
    assert bench.theirs.read(SESSION).status is ACTIVE


THREADS, EACH = 6, 10


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_threads_of_two_repositories_count_everything(scheme: str, tmp_path: Path) -> None:
    url = "memory:" if scheme == "memory" else f"file:{tmp_path}"
    with SnapshotRepository.open(url) as one:
        other = one if scheme == "memory" else SnapshotRepository.open(url)
        hosts = [SessionRecords(one), SessionRecords(other)]
        hosts[0].create(SESSION, **MODEL)
        hosts[1].activate(SESSION)

        def write(number: int) -> None:
            for _ in range(EACH):
                hosts[number % 2].record_delta(SESSION, 3)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(write, range(THREADS)))
        found = hosts[0].read(SESSION).record
        assert (found.round_count, found.delta_token_count) == (THREADS * EACH, THREADS * EACH * 3)
        if other is not one:
            other.close()


# Whose it is.


def test_a_record_moved_to_another_session_is_corruption(bench: Bench) -> None:
    bench.at(ACTIVE)
    bench.behind.put(bench.key("s2"), bench.data(), Create())
    for act in (bench.mine.read, bench.mine.activate, bench.mine.close, bench.mine.expire):
        with pytest.raises(CorruptSnapshotError, match="moved here") as caught:
            act("s2")
        assert caught.value.key == bench.key("s2")
    assert bench.behind.get(bench.key("s2")).data == bench.data()


def test_a_record_moved_to_another_tenant_is_corruption(bench: Bench) -> None:
    bench.at(ACTIVE)
    other = SessionRecords(host(bench.behind, bench.clock, "other"))
    key = host(bench.behind, bench.clock, "other").environment.layout.record(SESSION)
    with pytest.raises(SessionNotFoundError):
        other.read(SESSION)
    bench.behind.put(key, bench.data(), Create())
    with pytest.raises(CorruptSnapshotError, match="of tenant 'default', moved here"):
        other.read(SESSION)
    with pytest.raises(CorruptSnapshotError, match="of tenant 'default', moved here"):
        other.record_delta(SESSION, 1)


@pytest.mark.parametrize("fields", [{"tenant_id": "other"}, {"session_id": "s2"}], ids=str)
def test_a_record_that_names_another_tenant_or_session_inside_is_corruption(
    bench: Bench, fields: dict[str, str]
) -> None:
    bench.at(ACTIVE)
    bench.alter(fields)
    for act in (bench.mine.read, bench.mine.close):
        with pytest.raises(CorruptSnapshotError, match="moved here"):
            act(SESSION)
    listing = bench.mine.list()
    assert not list(listing)
    assert listing.damaged_count == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "open"},
        {"status": "ACTIVE"},
        {"status": None},
        {"status": "created"},
        {"created_at": None},
        {"created_at": "2026-01-01T00:00:00Z"},
        {"created_at": U64_MAX},
        {"created_at": True},
        {"activated_at": None},
        {"activated_at": 0},
        {"closed_at": 0},
        {"ttl_secs": -1},
        {"round_count": 1.0},
        {"model": ""},
        {"model": b"gpt-5"},
        {"metadata": b"x"},
    ],
    ids=str,
)
def test_a_record_that_breaks_a_rule_is_corruption(bench: Bench, fields: dict[str, Any]) -> None:
    bench.at(ACTIVE)
    bench.alter(fields)
    with pytest.raises(CorruptSnapshotError, match="unreadable 'value'"):
        bench.mine.read(SESSION)


def test_a_field_that_is_missing_is_corruption(bench: Bench) -> None:
    bench.at(ACTIVE)
    plain = bench.plain()
    for name in plain["value"]:
        bench.put({**plain, "value": {key: value for key, value in plain["value"].items() if key != name}})
        with pytest.raises(CorruptSnapshotError, match=f"no {name}"):
            bench.mine.read(SESSION)


def test_a_field_of_a_later_format_is_not_dropped(bench: Bench) -> None:
    bench.at(ACTIVE)
    bench.alter({"schema_version": 1})
    with pytest.raises(UnsupportedSchemaError, match="schema_version"):
        bench.mine.read(SESSION)
    bench.put({**bench.plain(), "schema_version": 2})
    data = bench.data()
    with pytest.raises(UnsupportedSchemaError):
        bench.mine.close(SESSION)
    assert bench.data() == data


def test_a_damaged_record_is_not_overwritten(bench: Bench) -> None:
    bench.at(ACTIVE)
    bench.damage(SESSION)
    data = bench.data()
    acts: list[Act] = [lambda records: records.create(SESSION, **MODEL), *(act for _, _, act in ACTS.values())]
    for act in acts:
        with pytest.raises(CorruptSnapshotError):
            act(bench.mine)
    assert bench.data() == data


# Beside a session.


def test_a_record_goes_with_its_session(bench: Bench) -> None:
    with SnapshotRepository(bench.behind, clock=bench.clock) as repo:
        records = SessionRecords(repo)
        repo.commit(PersistedSessionState(session_id=SESSION))
        records.create(SESSION, **MODEL)
        records.create("s2", **MODEL)
        repo.delete(SESSION)
        assert records.activate(SESSION).status is ACTIVE  # until a collection takes it
        execute(plan_collect(repo))
        assert [one.session_id for one in records.list()] == ["s2"]
        with pytest.raises(SessionNotFoundError):
            records.read(SESSION)
        with pytest.raises(SessionDeletedError):
            records.close(SESSION)
        with pytest.raises(SessionDeletedError):
            records.create(SESSION, **MODEL)


def test_a_record_taken_while_it_is_changed_is_gone(bench: Bench) -> None:
    with SnapshotRepository(bench.behind, clock=bench.clock) as repo:
        repo.commit(PersistedSessionState(session_id=SESSION))
        bench.at(ACTIVE)
        repo.delete(SESSION)
    bench.faulty.plan.on("put", fault=Meanwhile(lambda: bench.behind.delete(bench.key())))
    with pytest.raises(SessionDeletedError):
        bench.mine.close(SESSION)
    assert bench.key() not in [row.key for row in bench.behind.list("")]


def test_tenants_do_not_see_each_others_records(bench: Bench) -> None:
    bench.create()
    other = SessionRecords(host(bench.behind, bench.clock, "other"))
    assert not list(other.list())
    assert other.create(SESSION, **MODEL).record.tenant_id == "other"
    assert [one.record.tenant_id for one in bench.mine.list()] == ["default"]


def test_a_life_on_a_real_server(ministack_url: str) -> None:
    with SnapshotRepository.open(ministack_url) as repo, SnapshotRepository.open(ministack_url) as other:
        records, theirs = SessionRecords(repo), SessionRecords(other)
        records.create(SESSION, **MODEL, initial_token_count=100)
        theirs.create("s2", **MODEL, ttl_secs=1)
        theirs.activate(SESSION)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda one: [one.record_delta(SESSION, 10) for _ in range(5)], (records, theirs)))
        assert records.close(SESSION).record.tokens_saved == 10 * 100 - 10 * 10
        with pytest.raises(IllegalTransitionError):
            theirs.record_delta(SESSION, 1)
        repo.environment.clock.sleep(1.1)
        assert reap(other).expired == 1
        assert {one.session_id: one.status for one in records.list()} == {SESSION: CLOSED, "s2": EXPIRED}
