"""A session that was moved away may come back, from wherever it went on; and no other one in its place."""

from __future__ import annotations

import pytest

from snapshots import SnapshotRepository
from snapshots.errors import SessionMovedError
from snapshots.maintenance.copy.fleet import CopyReport, execute, plan_copy
from snapshots.maintenance.copy.moving import move
from snapshots.maintenance.copy.session import SessionJob, copy_session
from snapshots.maintenance.prune import Retention, plan_prune
from snapshots.maintenance.prune import execute as execute_prune
from snapshots.records import SessionRecords
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from snapshots.usage import UsageLog
from storage.backends.memory import MemoryStore
from storage.testing.clock import ManualClock
from storage.testing.faults import FaultyStore, Meanwhile
from tests.integration.builders import check_every_revision, new_session, take_turn
from tests.snapshots.copy.walks import collected, findings


def repository(seed: int) -> SnapshotRepository:
    return SnapshotRepository(MemoryStore(), clock=ManualClock(seed=seed), inline_limit_bytes=0)


def moved(source: SnapshotRepository, destination: SnapshotRepository, url: str) -> CopyReport:
    return move(source, destination, plan_copy(source, destination, may_return=True), url=url)


@pytest.mark.parametrize("collects", [0, 2])
def test_a_session_that_went_on_elsewhere_comes_back(collects: int) -> None:
    first, second = repository(1), repository(2)
    state = new_session("s1")
    for number in range(3):
        first.commit(take_turn(state, f"first{number}"))
    first.fork("s1", "s1.fork", 2)
    assert not moved(first, second, "second:").not_copied
    with pytest.raises(SessionMovedError):
        first.load("s1")
    for _ in range(collects):
        collected(first)
    for number in range(2):
        second.commit(take_turn(second.load("s1"), f"second{number}"))
    assert not moved(second, first, "first:").not_copied
    for _ in range(collects):
        collected(first)
    assert len(first.history("s1")) == 5
    check_every_revision(first, "s1")
    assert first.load("s1.fork").head_revision == 1
    assert not findings(first)
    with pytest.raises(SessionMovedError, match="first:"):
        second.load("s1")
    first.commit(take_turn(first.load("s1"), "and on"))
    check_every_revision(first, "s1")


def test_another_session_of_the_same_id_does_not_come_in_its_place() -> None:
    first, second, other = repository(1), repository(2), repository(3)
    first.commit(new_session("s1", "first"))
    moved(first, second, "second:")
    other.commit(new_session("s1", "other"))
    (outcome,) = moved(other, first, "first:").sessions
    assert outcome.outcome == "conflict"
    with pytest.raises(SessionMovedError):
        first.load("s1")
    assert other.load("s1").head_revision == 1


def test_a_plain_copy_opens_nothing_again_that_was_left() -> None:
    first, second = repository(1), repository(2)
    first.commit(new_session("s1", "first"))
    moved(first, second, "second:")
    second.commit(take_turn(second.load("s1"), "second"))
    (outcome,) = execute(plan_copy(second, first)).sessions
    assert outcome.outcome == "conflict"
    with pytest.raises(SessionMovedError):
        first.load("s1")


def test_what_lies_beside_it_comes_back_too() -> None:
    first, second = repository(1), repository(2)
    first.commit(new_session("s1", "first"))
    UsageLog(first, "s1").append('{"row_id": "a", "model": "m", "input_tokens": 1}')
    UsageLog(first, "alone").append('{"row_id": "z", "model": "m", "input_tokens": 9}')
    RuntimeSessionStore(first).save_runtime_session(RuntimeSession(session_id="s1", title="first"))
    for _ in range(2):
        for there, here, url in ((first, second, "second:"), (second, first, "first:")):
            assert not moved(there, here, url).not_copied
            with pytest.raises(SessionMovedError):
                UsageLog(there, "s1").append('{"model": "m", "input_tokens": 1}')
            UsageLog(here, "s1").append('{"model": "m", "input_tokens": 10}')
            UsageLog(here, "alone").append('{"model": "m", "input_tokens": 10}')
            assert RuntimeSessionStore(here).load_runtime_session("s1").title == "first"
    assert sum(row.record.input_tokens for row in UsageLog(first, "s1").read()) == 41
    assert sum(row.record.input_tokens for row in UsageLog(first, "alone").read()) == 49
    assert not findings(first)
    assert not findings(second)


def test_a_move_that_fails_gives_back_what_lies_beside_too() -> None:
    first, second = repository(1), repository(2)
    state = new_session("s1")
    for number in range(3):
        first.commit(take_turn(state, f"first{number}"))
    UsageLog(first, "s1").append('{"row_id": "a", "model": "m", "input_tokens": 1}')
    execute(plan_copy(first, second))
    execute_prune(plan_prune(second, "s1", Retention(last=1)))
    (outcome,) = moved(first, second, "second:").sessions
    assert outcome.outcome == "damaged"  # the copy has no longer all of it
    UsageLog(first, "s1").append('{"row_id": "b", "model": "m", "input_tokens": 2}')
    first.commit(take_turn(first.load("s1"), "and on"))
    assert sum(row.record.input_tokens for row in UsageLog(first, "s1").read()) == 3


def test_what_was_moved_on_while_it_came_back_stays_where_it_is() -> None:
    first, second, third = repository(1), repository(2), repository(3)
    first.commit(new_session("s1"))
    moved(first, second, "second:")
    faulty = FaultyStore(second.environment.store)
    leaving = SnapshotRepository(faulty, clock=ManualClock(seed=4))

    def on() -> None:
        assert not moved(first, third, "third:").not_copied

    faulty.plan.on("get", second.environment.layout.lease("s1"), nth=1, fault=Meanwhile(on))  # once it was copied
    (outcome,) = moved(leaving, first, "first:").sessions
    assert outcome.outcome == "conflict"
    with pytest.raises(SessionMovedError, match="third:"):
        first.load("s1")
    assert second.load("s1").head_revision == 1


def test_who_read_it_before_it_came_back_does_not_bring_it_back_again() -> None:
    first, second, third = repository(1), repository(2), repository(3)
    first.commit(new_session("s1"))
    moved(first, second, "second:")
    faulty = FaultyStore(first.environment.store)
    late = SnapshotRepository(faulty, clock=ManualClock(seed=4))

    def back_and_on() -> None:
        moved(second, first, "first:")
        moved(first, third, "third:")

    faulty.plan.on("get", first.environment.layout.head("s1"), nth=1, fault=Meanwhile(back_and_on))
    with pytest.raises(SessionMovedError, match="first:"):
        copy_session(second.environment, late.environment, SessionJob("s1", may_return=True))
    with pytest.raises(SessionMovedError, match="third:"):
        first.load("s1")


def test_what_lies_alone_does_not_come_in_the_place_of_another() -> None:
    first, second, other = repository(1), repository(2), repository(3)
    for number, repo in enumerate((first, second, other)):
        repo.commit(new_session(f"a{number}"))
    for name in ("logged", "recorded"):
        UsageLog(first, name).append('{"row_id": "first", "model": "m", "input_tokens": 1}')
        UsageLog(other, name).append('{"row_id": "other", "model": "m", "input_tokens": 2}')
    SessionRecords(first).create("recorded", provider_id="p", model="first")
    SessionRecords(other).create("recorded", provider_id="p", model="other")
    assert not moved(first, second, "second:").not_copied
    outcomes = {one.session_id: one.outcome for one in moved(other, first, "first:").sessions}
    assert outcomes == {"a2": "moved", "logged": "conflict", "recorded": "conflict"}
    for name in ("logged", "recorded"):
        with pytest.raises(SessionMovedError, match="second:"):
            UsageLog(first, name).append('{"model": "m", "input_tokens": 4}')
        assert [row.record.input_tokens for row in UsageLog(other, name).read()] == [2]
    with pytest.raises(SessionMovedError, match="second:"):
        SessionRecords(first).activate("recorded")


def test_what_lies_alone_does_not_come_back_from_where_it_was_left_too() -> None:
    first, second, third = repository(1), repository(2), repository(3)
    for number, repo in enumerate((first, second, third)):
        repo.commit(new_session(f"a{number}"))
    UsageLog(first, "alone").append('{"row_id": "1", "model": "m", "input_tokens": 1}')
    assert not moved(first, second, "second:").not_copied
    assert not moved(second, third, "third:").not_copied
    UsageLog(third, "alone").append('{"row_id": "2", "model": "m", "input_tokens": 2}')
    assert [one.session_id for one in moved(second, first, "first:").not_copied] == ["alone"]
    with pytest.raises(SessionMovedError, match="second:"):
        UsageLog(first, "alone").append('{"model": "m", "input_tokens": 4}')
    assert not moved(third, first, "first:").not_copied  # by a way of its own
    UsageLog(first, "alone").append('{"row_id": "3", "model": "m", "input_tokens": 4}')
    assert sum(row.record.input_tokens for row in UsageLog(first, "alone").read()) == 7
