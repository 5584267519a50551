"""The reaper: what is due is expired once, within a limit, beside others, and whatever ends it in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.errors import InvalidStateError, LimitExceededError
from snapshots.records import ReapReport, SessionRecords, SessionStatus, plan_reap, reap
from snapshots.records.scan import SIDE_BY_SIDE
from storage.errors import UnavailableError
from storage.registers import REGISTER_BYTES_MAX
from storage.testing.clock import START, ManualClock
from storage.testing.faults import (
    Crash,
    CrashAfter,
    CrashBefore,
    FailBefore,
    Fault,
    Meanwhile,
)
from tests.faults import WRITE_FAULTS
from tests.snapshots.records_of_sessions.benches import MODEL, TTL, Bench, after

CREATED, ACTIVE, CLOSED, EXPIRED = SessionStatus


@pytest.fixture
def bench() -> Bench:
    return Bench()


def names(number: int) -> list[str]:
    return [f"s{index}" for index in range(number)]


def overdue(bench: Bench, number: int) -> list[str]:
    """Make so many records whose time is up, every other one active; return their ids in the order of their keys."""
    for index, name in enumerate(names(number)):
        bench.create(name, ttl_secs=TTL)
        if index % 2:
            bench.theirs.activate(name)
    bench.clock.advance(TTL)
    return sorted(names(number), key=bench.key)


def statuses(bench: Bench) -> dict[str, SessionStatus]:
    return {one.session_id: one.status for one in bench.theirs.list()}


def writes_of_life(name: str) -> int:
    """Return how often a record of `overdue` was written once it is expired."""
    return 3 if int(name.removeprefix("s")) % 2 else 2


def check_each_expired_once(bench: Bench, number: int) -> None:
    assert statuses(bench) == dict.fromkeys(names(number), EXPIRED)
    assert {name: bench.writes(name) for name in names(number)} == {
        name: writes_of_life(name) for name in names(number)
    }


# What is expired.


def test_what_is_due_is_expired_and_nothing_else(bench: Bench) -> None:
    overdue(bench, 4)
    bench.create("young")
    bench.create("for ever", ttl_secs=0)
    bench.create("closed", ttl_secs=0)
    bench.theirs.activate("closed")
    bench.theirs.close("closed")
    now = bench.clock.now()
    report = reap(bench.here)
    assert report == ReapReport(read=7, expired=4, skipped=0, damaged=(), damaged_count=0, next_after="")
    assert statuses(bench) == {
        **dict.fromkeys(names(4), EXPIRED),
        "young": CREATED,
        "for ever": CREATED,
        "closed": CLOSED,
    }
    assert {bench.theirs.read(name).record.closed_at for name in names(4)} == {now}
    assert reap(bench.here).expired == 0


def test_one_that_is_due_costs_a_read_and_a_write(bench: Bench) -> None:
    overdue(bench, 3)
    bench.create("young")
    reap(bench.here)
    assert Counter(bench.requests()) == {"list": 1, "get": 4, "put": 3}


def test_a_plan_writes_nothing_and_says_what_a_reap_would_do(bench: Bench) -> None:
    ids = overdue(bench, 4)
    bench.create("young")
    plan = plan_reap(bench.here)
    assert [one.session_id for one in plan.due] == ids
    assert {one.expires_at for one in plan.due} == {after(TTL)}
    assert {one.session_id: one.status for one in plan.due} == {
        name: ACTIVE if int(name[1:]) % 2 else CREATED for name in ids
    }
    assert (plan.read, plan.damaged, plan.next_after) == (5, (), "")
    assert set(bench.requests()) == {"list", "get"}
    assert len(plan_reap(bench.here, now=after(10 * TTL)).due) == 5
    assert not plan_reap(bench.here, now=after(TTL - 1)).due


# Limits.


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
def test_a_run_looks_at_no_more_than_its_limit_and_can_be_gone_on_with(bench: Bench, limit: int) -> None:
    overdue(bench, 7)
    expired: list[int] = []
    start_after = ""
    while not expired or start_after:
        bench.faulty.log.clear()
        report = reap(bench.here, limit=limit, start_after=start_after)
        assert bench.requests().count("get") <= limit
        assert report.read == report.expired
        expired.append(report.expired)
        start_after = report.next_after
    assert len(expired) == -(-7 // limit)
    assert sum(expired) == 7
    check_each_expired_once(bench, 7)


def test_a_plan_can_be_gone_on_with(bench: Bench) -> None:
    ids = overdue(bench, 5)
    first = plan_reap(bench.here, limit=3)
    assert first.next_after == bench.key(ids[2])
    rest = plan_reap(bench.here, limit=3, start_after=first.next_after)
    assert [one.session_id for one in (*first.due, *rest.due)] == ids
    assert rest.next_after == ""


@pytest.mark.parametrize("run", [reap, plan_reap])
def test_a_limit_that_lets_nothing_be_done_is_refused(bench: Bench, run: Callable[..., object]) -> None:
    for limit in (0, -1):
        with pytest.raises(InvalidStateError, match="give 1 or more"):
            run(bench.here, limit=limit)
    with pytest.raises(InvalidStateError, match="is no key among the records"):
        run(bench.here, start_after="elsewhere/records/aa/s1")
    assert not bench.faulty.log


def test_a_record_that_is_gone_counts_against_the_limit(bench: Bench) -> None:
    ids = overdue(bench, 4)
    bench.faulty.plan.on("get", fault=Meanwhile(lambda: bench.behind.delete(bench.key(ids[0]))))
    report = reap(bench.here, limit=2)
    assert bench.requests().count("get") == 2
    assert (report.read, report.expired, report.next_after) == (1, 1, bench.key(ids[1]))


def test_progress_is_told_and_can_be_gone_on_from(bench: Bench) -> None:
    number = 2 * SIDE_BY_SIDE + 5
    ids = overdue(bench, number)
    told: list[ReapReport] = []
    report = reap(bench.here, progress=told.append)
    assert [one.read for one in told] == [SIDE_BY_SIDE, 2 * SIDE_BY_SIDE, number]
    assert [one.expired for one in told] == [one.read for one in told]
    assert [one.next_after for one in told] == [bench.key(ids[one.read - 1]) for one in told]
    assert report.next_after == ""
    assert reap(bench.here, start_after=told[0].next_after).read == number - SIDE_BY_SIDE


# Others at work.


def test_two_reapers_in_turn_count_each_expiry_once(bench: Bench) -> None:
    overdue(bench, 6)
    theirs: list[ReapReport] = []
    bench.faulty.plan.on("put", nth=3, fault=Meanwhile(lambda: theirs.append(reap(bench.there))))
    mine = reap(bench.here)
    assert (mine.expired, mine.skipped) == (2, 4)
    assert (theirs[0].expired, theirs[0].skipped) == (4, 0)
    check_each_expired_once(bench, 6)


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_reapers_at_once_count_each_expiry_once(scheme: str, tmp_path: Path) -> None:
    number, reapers = 60, 4
    with SnapshotRepository.open("memory:" if scheme == "memory" else f"file:{tmp_path}") as repo:
        records = SessionRecords(repo)
        for name in names(number):
            records.create(name, **MODEL, ttl_secs=1)
        repo.environment.clock.sleep(1.05)
        with ThreadPoolExecutor(reapers) as threads:
            reports = list(threads.map(lambda _: reap(repo), range(reapers)))
        assert sum(report.expired for report in reports) == number
        assert all(report.read == number for report in reports)
        assert {one.status for one in records.list()} == {EXPIRED}


def test_what_was_closed_meanwhile_is_left_alone(bench: Bench) -> None:
    (name,) = overdue(bench, 1)
    behind_the_time = Bench(
        bench.behind, ManualClock(seed=1)
    )  # a host whose clock is an hour behind, so that it may still close it
    bench.faulty.plan.on(
        "put",
        fault=Meanwhile(lambda: (behind_the_time.theirs.activate(name), behind_the_time.theirs.close(name))),
    )
    report = reap(bench.here)
    assert (report.expired, report.skipped) == (0, 1)
    assert statuses(bench) == {name: CLOSED}


def test_what_was_activated_meanwhile_lives_on(bench: Bench) -> None:
    (name,) = overdue(bench, 1)
    behind_the_time = Bench(bench.behind, ManualClock(seed=1))
    behind_the_time.clock.advance(TTL - 1)
    bench.faulty.plan.on("put", fault=Meanwhile(lambda: behind_the_time.theirs.activate(name)))
    report = reap(bench.here)
    assert (report.expired, report.skipped) == (0, 1)
    assert statuses(bench) == {name: ACTIVE}


def test_what_was_counted_meanwhile_is_expired_with_its_count(bench: Bench) -> None:
    bench.create("s1")
    bench.theirs.activate("s1")
    bench.clock.advance(TTL)
    behind_the_time = Bench(bench.behind, ManualClock(seed=1))
    bench.faulty.plan.on("put", fault=Meanwhile(lambda: behind_the_time.theirs.record_delta("s1", 9)))
    assert reap(bench.here).expired == 1
    found = bench.theirs.read("s1")
    assert (found.status, found.record.delta_token_count) == (EXPIRED, 9)


def test_what_was_deleted_meanwhile_is_skipped(bench: Bench) -> None:
    with SnapshotRepository(bench.behind, clock=bench.clock) as repo:
        repo.commit(PersistedSessionState(session_id="s0"))
        overdue(bench, 2)
        repo.delete("s0")
    bench.faulty.plan.on("put", bench.key("s0"), fault=Meanwhile(lambda: bench.behind.delete(bench.key("s0"))))
    report = reap(bench.here)
    assert (report.expired, report.skipped, report.damaged) == (1, 1, ())


def test_a_damaged_record_stops_nothing(bench: Bench) -> None:
    overdue(bench, 4)
    bench.damage("s1")
    data = bench.data("s1")
    report = reap(bench.here)
    assert (report.read, report.expired, report.skipped, report.damaged_count) == (4, 3, 0, 1)
    assert [one.key for one in report.damaged] == [bench.key("s1")]
    assert bench.data("s1") == data
    plan = plan_reap(bench.here)
    assert (plan.due, plan.damaged, plan.damaged_count) == ((), report.damaged, 1)


def test_a_register_without_room_stops_nothing(bench: Bench) -> None:
    full = overdue(bench, 3 * SIDE_BY_SIDE)[1]
    plain = bench.plain(full)
    plain["value"]["metadata"] = "x" * (REGISTER_BYTES_MAX - len(bench.data(full)) - 4)
    bench.put(plain, full)
    for expired in (3 * SIDE_BY_SIDE - 1, 0):
        report = reap(bench.here)
        assert (report.expired, report.skipped, report.damaged_count, report.next_after) == (expired, 0, 1, "")
        assert report.damaged[0].key == bench.key(full)
        assert "session record of" in report.damaged[0].reason
    with pytest.raises(LimitExceededError):
        bench.mine.expire(full)


@pytest.mark.parametrize("now", [START.replace(tzinfo=None), "2026-01-01T00:00:00Z", 5], ids=str)
def test_a_plan_by_no_instant_is_refused(bench: Bench, now: Any) -> None:
    with pytest.raises(InvalidStateError, match="aware"):
        plan_reap(bench.here, now=now)


@pytest.mark.parametrize("wrong", [{"start_after": None}, {"start_after": 5}, {"limit": "5"}, {"limit": True}], ids=str)
def test_a_run_of_wrong_types_is_refused(bench: Bench, wrong: dict[str, Any]) -> None:
    for run in (reap, plan_reap):
        with pytest.raises(InvalidStateError):
            run(bench.here, **wrong)


def test_what_is_damaged_or_vanishes_meanwhile_is_named(bench: Bench) -> None:
    overdue(bench, 4)
    bench.faulty.plan.on("put", bench.key("s1"), fault=Meanwhile(lambda: bench.damage("s1")))
    bench.faulty.plan.on("put", bench.key("s2"), fault=Meanwhile(lambda: bench.behind.delete(bench.key("s2"))))
    report = reap(bench.here)
    assert (report.read, report.expired, report.damaged_count) == (4, 2, 2)
    assert {one.key for one in report.damaged} == {bench.key("s1"), bench.key("s2")}


# Lost answers, and ends in between.


@pytest.mark.parametrize("fault", WRITE_FAULTS, ids=str)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_expiry_is_counted_once_whatever_answers_get_lost(bench: Bench, fault: Fault, nth: int) -> None:
    overdue(bench, 3)
    bench.faulty.plan.on("put", nth=nth, fault=fault)
    report = reap(bench.here)
    bench.faulty.release()
    assert (report.read, report.expired, report.skipped) == (3, 3, 0)
    check_each_expired_once(bench, 3)


@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=str)
@pytest.mark.parametrize("nth", range(1, 10))
def test_one_that_is_killed_in_between_is_repeated(bench: Bench, crash: Fault, nth: int) -> None:
    overdue(bench, 4)  # one listing, four reads, four writes
    bench.faulty.plan.on("*", nth=nth, fault=crash)
    with pytest.raises(Crash):
        reap(bench.here)
    bench.faulty.restart()
    before = sum(status is EXPIRED for status in statuses(bench).values())
    assert before == max(0, nth - 5 - isinstance(crash, CrashBefore))
    report = reap(bench.here)
    assert (report.read, report.expired) == (4, 4 - before)
    check_each_expired_once(bench, 4)


def test_one_that_is_killed_goes_on_from_what_it_told(bench: Bench) -> None:
    number = 2 * SIDE_BY_SIDE
    overdue(bench, number)
    told: list[ReapReport] = []
    bench.faulty.plan.on("put", nth=SIDE_BY_SIDE + 10, fault=CrashAfter())
    with pytest.raises(Crash):
        reap(bench.here, progress=told.append)
    bench.faulty.restart()
    (last,) = told
    rest = reap(bench.here, start_after=last.next_after)
    assert (last.expired, rest.read, rest.expired) == (SIDE_BY_SIDE, SIDE_BY_SIDE, SIDE_BY_SIDE - 10)
    check_each_expired_once(bench, number)


@pytest.mark.parametrize("verb", ["list", "get", "put"])
def test_a_store_that_does_not_answer_ends_it_and_it_can_be_repeated(bench: Bench, verb: str) -> None:
    overdue(bench, 3)
    bench.faulty.plan.on(verb, nth=1, fault=FailBefore(), times=None)  # type: ignore[arg-type]  # a verb
    with pytest.raises(UnavailableError):
        reap(bench.here)
    bench.faulty.plan.clear()
    assert reap(bench.here).expired == 3
