"""Whatever fails, and wherever a copy ends: what is here is correct, and whoever repeats it goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.errors import CopyConflictError
from snapshots.maintenance.copy.satellites import copy_satellites
from snapshots.realtime.journal import RECORDS_BEHIND_MAX, register_of
from snapshots.realtime.progress import Checkpoint
from snapshots.satellite import RING_MAX
from storage.testing.faults import (
    Crash,
    CrashAfter,
    CrashBefore,
    Delay,
    FailBefore,
    Fault,
    LoseAnswer,
    Meanwhile,
    OwnRetry,
    Repeat,
)
from tests.snapshots.copy.satellites import SESSION, Bench, gone_wrong
from tests.snapshots.realtime.bench import out
from tests.snapshots.usage.bench import line

PUT_FAULTS: list[Fault] = [
    FailBefore(applied="no"),
    FailBefore(applied="unknown"),
    LoseAnswer(),
    OwnRetry(),
    Delay(),
    Delay(after_requests=1),
    Delay(after_requests=2),
    Repeat(after_requests=1),
    Repeat(after_requests=3),
]
PUTS = 14  # of a copy of a session with one frame
REQUESTS = 40
TARGETS = pytest.mark.parametrize(("tenant", "target"), [("default", SESSION), ("other", "copy")])


def filled(tenant: str = "default", target: str = SESSION) -> Bench:
    bench = Bench(tenant, target)
    bench.fill(frames=1, rows=3)
    return bench


def write_more(bench: Bench) -> None:
    bench.source.records.record_delta(SESSION, 10)
    bench.source.runtime_metadata()
    bench.source.log.append(line("more"))
    bench.source.resumed().complete_restart()


def check_once(bench: Bench) -> None:
    """Check that everything is here, no row twice, and that nothing more is to be done."""
    bench.check()
    assert sorted(bench.here.rows()) == sorted(bench.source.rows())
    assert bench.here.stored_rows() == bench.source.stored_rows()
    assert not bench.copy().is_changed


def test_the_numbers_above_reach_to_the_end() -> None:
    bench = filled()
    bench.copy()
    verbs = bench.here.requests()
    assert (verbs.count("put") <= PUTS, len(verbs) <= REQUESTS) == (True, True)
    assert verbs.count("put") >= PUTS - 2


@pytest.mark.parametrize("nth", range(1, PUTS + 1))
@pytest.mark.parametrize("fault", PUT_FAULTS, ids=str)
def test_a_write_that_goes_wrong_once_doubles_and_loses_nothing(fault: Fault, nth: int) -> None:
    bench = filled("other", "copy")
    bench.here.faulty.plan.on("put", nth=nth, fault=fault)
    bench.copy()
    bench.works_again()
    check_once(bench)


@pytest.mark.parametrize("nth", range(1, PUTS + 1))
@pytest.mark.parametrize("fault", PUT_FAULTS, ids=str)
def test_a_write_of_a_further_copy_that_goes_wrong_doubles_and_loses_nothing(fault: Fault, nth: int) -> None:
    bench = filled()
    bench.copy()
    write_more(bench)
    bench.here.faulty.plan.on("put", nth=nth, fault=fault)
    bench.copy()
    bench.works_again()
    check_once(bench)


@TARGETS
@pytest.mark.parametrize("nth", range(1, REQUESTS + 1))
@pytest.mark.parametrize("fault", [CrashBefore(), CrashAfter()], ids=str)
def test_a_copy_that_is_killed_anywhere_is_correct_and_goes_on(
    fault: Fault, nth: int, tenant: str, target: str
) -> None:
    bench = filled(tenant, target)
    for is_further in (False, True):
        if is_further:
            write_more(bench)
        bench.here.faulty.plan.on("*", nth=nth, fault=fault)
        with gone_wrong():
            bench.copy()
        bench.works_again()
        assert bench.here.found() == []
        bench.copy()
        bench.check()
        assert sorted(bench.here.rows()) == sorted(bench.source.rows())


@pytest.mark.parametrize("nth", range(1, 24))
def test_a_source_that_fails_is_read_again(nth: int) -> None:
    bench = filled()
    bench.source.faulty.plan.on("*", nth=nth, fault=FailBefore(applied="no"))
    with gone_wrong():
        bench.copy()
    bench.works_again()
    assert bench.here.found() == []
    bench.copy()
    check_once(bench)


@pytest.mark.parametrize("fault", [CrashBefore(), CrashAfter(), LoseAnswer()], ids=str)
@pytest.mark.parametrize("nth", [*range(2, 2 * RECORDS_BEHIND_MAX, 23), RECORDS_BEHIND_MAX + 2, RECORDS_BEHIND_MAX + 3])
def test_a_long_realtime_copy_that_is_killed_goes_on(fault: Fault, nth: int) -> None:
    bench = Bench()
    bench.fill(frames=RECORDS_BEHIND_MAX)
    bench.here.faulty.plan.on("put", nth=nth, fault=fault)
    with gone_wrong():
        bench.copy(["realtime"])
    bench.works_again()
    assert bench.here.found() == []
    bench.copy(["realtime"])
    assert bench.differences_of("realtime session") == []
    assert bench.here.found() == []


def test_the_state_is_there_first_and_never_far_behind() -> None:
    bench = Bench()
    bench.fill(frames=3 * RECORDS_BEHIND_MAX)
    bench.source.resumed()
    register = register_of(bench.here.environment, SESSION)
    states: list[Checkpoint] = []

    def look() -> None:
        found = register.find()
        listed = list(bench.here.behind.list(bench.here.layout.realtime(SESSION)))
        stored = len(listed) - (found is not None)
        if found is not None:
            states.append(found.value)
            assert stored - RECORDS_BEHIND_MAX <= found.value.sequence <= stored
        assert found is not None or not stored

    bench.here.faulty.plan.on("put", fault=Meanwhile(look), times=None)
    bench.copy(["realtime"])
    covered = [one.sequence for one in states]
    assert covered == sorted(covered)
    assert (covered[0], len(set(covered)), {one.claim for one in states}) == (0, 7, {1})


def test_a_killed_copy_is_taken_over_here_and_then_in_conflict() -> None:
    bench = Bench()
    bench.fill(frames=5)
    bench.here.faulty.plan.on("put", nth=6, fault=CrashAfter())
    with pytest.raises(Crash):
        bench.copy(["realtime"])
    bench.works_again()
    bench.here.resumed().complete_restart()
    with pytest.raises(CopyConflictError):
        bench.copy(["realtime"])
    assert bench.here.found() == []


# Beside others.


@pytest.mark.parametrize("nth", range(1, REQUESTS + 1))
def test_two_copies_at_once_are_one(nth: int) -> None:
    bench = filled("other", "copy")

    def another() -> None:
        copy_satellites(bench.source.environment, bench.here.environment, SESSION, "copy")

    bench.here.faulty.plan.on("*", nth=nth, fault=Meanwhile(another))
    bench.copy()
    bench.check()
    assert sorted(bench.here.rows()) == sorted(bench.source.rows())


def test_the_state_does_not_go_back_behind_that_of_a_faster_copy() -> None:
    bench = Bench()
    bench.fill(frames=RECORDS_BEHIND_MAX)
    key = bench.here.layout.realtime_state(SESSION)

    def another() -> None:
        copy_satellites(bench.source.environment, bench.here.environment, SESSION, SESSION)

    bench.here.faulty.plan.on("put", key, nth=2, fault=Meanwhile(another))
    bench.copy(["realtime"])
    puts = [request for request in bench.here.faulty.log if request.verb == "put" and request.keys == (key,)]
    assert len(puts) == 2  # the first state, and one that came too late
    assert bench.differences() == []


@pytest.mark.parametrize("nth", range(1, 24))
def test_a_source_that_goes_on_meanwhile_is_copied_as_it_was_at_some_time(nth: int) -> None:
    bench = filled()
    bench.source.faulty.plan.on("*", nth=nth, fault=Meanwhile(lambda: write_more(bench)))
    bench.copy()
    bench.works_again()
    assert bench.here.found() == []
    bench.copy()
    check_once(bench)


def test_a_realtime_source_that_is_faster_than_we_list_is_copied_without_a_gap() -> None:
    bench = Bench()
    controller = bench.fill()

    def go_on() -> None:
        for n in range(RECORDS_BEHIND_MAX):
            controller.send(out(f"more{len(sent)}.{n}"))
        sent.append(1)

    sent: list[int] = []
    listing = bench.source.layout.realtime(SESSION)
    bench.source.faulty.plan.on("list", listing, fault=Meanwhile(go_on), times=None)
    bench.copy(["realtime"])
    assert bench.here.found() == []
    state = register_of(bench.here.environment, SESSION).read().value
    assert 0 <= len(bench.here.realtime()) - state.sequence <= RECORDS_BEHIND_MAX
    bench.works_again()
    bench.copy(["realtime"])
    assert bench.here.found() == []
    assert bench.differences_of("realtime session") == []


@pytest.mark.parametrize("nth", [2, 3, 4])
def test_a_restart_that_is_announced_here_in_the_midst_of_a_copy_stays_announced(nth: int) -> None:
    bench = Bench()
    bench.fill(frames=RECORDS_BEHIND_MAX)
    register = register_of(bench.here.environment, SESSION)

    def announce() -> None:
        register.update(lambda present: replace(present, claim=1))

    key = bench.here.layout.realtime_state(SESSION)
    bench.here.faulty.plan.on("put", key, nth=nth, fault=Meanwhile(announce))
    with pytest.raises(CopyConflictError, match="restart 1 was announced here"):
        bench.copy(["realtime"])
    assert register.read().value.claim == 1
    assert bench.here.found() == []


@pytest.mark.parametrize("nth", [4, 5, 9])
def test_a_host_that_takes_over_here_in_the_midst_of_a_copy_is_left_alone(nth: int) -> None:
    bench = Bench()
    bench.fill(frames=5)
    bench.here.faulty.plan.on("put", nth=nth, fault=Meanwhile(lambda: bench.here.resumed().complete_restart()))
    with pytest.raises(CopyConflictError, match="here is another one than in the source"):
        bench.copy(["realtime"])
    assert bench.here.realtime()[-1].kind.value == "restart_completed"
    assert bench.here.found() == []


def test_a_session_that_is_deleted_here_in_the_midst_of_a_copy_is_a_conflict() -> None:
    bench = Bench()
    bench.fill()

    def delete() -> None:
        with SnapshotRepository(bench.here.behind, clock=bench.clock) as repo:
            repo.commit(PersistedSessionState(session_id=SESSION))
            repo.delete(SESSION)

    bench.here.faulty.plan.on("put", bench.here.layout.realtime_record(SESSION, 8), fault=Meanwhile(delete))
    with pytest.raises(CopyConflictError, match="its id is spent"):
        bench.copy(["realtime"])


def test_a_write_here_in_the_midst_of_a_copy_is_not_overwritten() -> None:
    bench = filled()
    bench.copy()
    write_more(bench)

    def others_write() -> None:
        bench.here.records.record_delta(SESSION, 99)

    key = bench.here.layout.record(SESSION)
    bench.here.faulty.plan.on("put", key, fault=Meanwhile(others_write))
    with pytest.raises(CopyConflictError):
        bench.copy()
    assert bench.here.records.read(SESSION).record.delta_token_count == 99


def test_many_writes_here_behind_a_lost_answer_are_not_overwritten() -> None:
    bench = filled()
    bench.copy()
    write_more(bench)

    def others_write() -> None:
        for _ in range(RING_MAX + 1):
            bench.here.records.record_delta(SESSION, 1)

    key = bench.here.layout.record(SESSION)
    bench.here.faulty.plan.on("put", key, fault=LoseAnswer())
    bench.here.faulty.plan.on("get", key, nth=2, fault=Meanwhile(others_write))
    with gone_wrong():
        bench.copy()
    assert bench.here.records.read(SESSION).record.delta_token_count == 10 + RING_MAX + 1


def test_rows_that_are_appended_here_meanwhile_stay() -> None:
    bench = filled()
    key = bench.here.layout.usage_index(SESSION)
    bench.here.faulty.plan.on("put", key, nth=2, fault=Meanwhile(lambda: bench.here.log.append(line("here"))))
    bench.copy()
    assert len(bench.here.rows()) == bench.here.stored_rows() == 4


def test_faults_are_met() -> None:
    bench = filled()
    bench.here.faulty.plan.on("put", nth=1, fault=LoseAnswer())
    bench.copy()
    assert any(request.fault for request in bench.here.faulty.log)
