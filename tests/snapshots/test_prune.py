"""Pruning: what each rule keeps, what goes with it, what is refused, and that what stays is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, TurnStamp
from snapshots.errors import (
    InvalidStateError,
    LimitExceededError,
    RevisionConflictError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionNotFoundError,
)
from snapshots.head import KEPT_MAX
from snapshots.history import COMMIT, HistoryRow
from snapshots.layout import Layout
from snapshots.maintenance.prune import PrunePlan, execute, plan_prune
from snapshots.maintenance.retention import Retention, kept_by_rules, reasons
from snapshots.pins import Pin
from snapshots.roots import named_packs
from snapshots.testing.collector import collect
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.testing.clock import START, ManualClock
from storage.testing.faults import Delay, FailBefore, FaultyStore, LoseAnswer, Meanwhile, OwnRetry, Repeat
from storage.testing.plan import Fault
from tests.integration.builders import SESSION, message_ids, new_session, raw_head, take_turn, usage_of

LAST = 12
KEY = Layout("default").head(SESSION)
HOUR = timedelta(hours=1)
PRESENT_ONLY = Retention(last=1)


# Rules, on rows alone.


def rows_at(*instants: datetime) -> list[HistoryRow]:
    return [
        HistoryRow(number, number - 1, COMMIT, f"{number:032x}", at, None, 0, ())
        for number, at in enumerate(instants, start=1)
    ]


def kept_of(rows: list[HistoryRow], retention: Retention, now: datetime | None = None, *pins: Pin) -> list[int]:
    """Return what is kept, the present revision only if a rule does."""
    now = rows[-1].created_at if now is None else now
    why = reasons(rows, retention, present=rows[-1].revision, now=now, pins=pins)
    return [revision for revision, each in why.items() if each != ("present",)]


def day(number: int, hour: int = 12, month: int = 1, year: int = 2026) -> datetime:
    return datetime(year, month, number, hour, tzinfo=UTC)


HALF_DAYS = rows_at(*(START + timedelta(hours=12 * number) for number in range(40)))  # two a day, from a Thursday on


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(last=1), [40]),
        (Retention(last=3), [38, 39, 40]),
        (Retention(last=40), list(range(1, 41))),
        (Retention(last=1000), list(range(1, 41))),
        (Retention(within=timedelta(hours=24)), [38, 39, 40]),
        (Retention(within=timedelta(hours=24) - timedelta(microseconds=1)), [39, 40]),
        (Retention(within=timedelta(days=400)), list(range(1, 41))),
        (Retention(daily=1), [40]),
        (Retention(daily=3), [36, 38, 40]),
        (Retention(daily=99), list(range(2, 41, 2))),
        (Retention(weekly=1), [40]),
        (Retention(weekly=3), [22, 36, 40]),
        (Retention(weekly=99), [8, 22, 36, 40]),
        (Retention(monthly=5), [40]),
        (Retention(last=2, weekly=2), [36, 39, 40]),
        (Retention(last=1, within=HOUR, daily=2, weekly=3, monthly=1), [22, 36, 38, 40]),
    ],
    ids=repr,
)
def test_what_each_rule_keeps(retention: Retention, kept: list[int]) -> None:
    assert kept_of(HALF_DAYS, retention) == kept


def test_a_day_is_one_of_utc_and_ends_at_midnight() -> None:
    last = datetime(2026, 1, 1, 23, 59, 59, 999999, tzinfo=UTC)
    elsewhere = datetime(2026, 1, 3, 1, 30, tzinfo=timezone(2 * HOUR))  # 23:30 of the day before
    assert kept_of(rows_at(last, day(2, 0), elsewhere), Retention(daily=2)) == [1, 3]
    assert kept_of(rows_at(last, day(2, 0), day(2, 23)), Retention(daily=2)) == [1, 3]


def test_a_week_is_one_of_iso_8601_across_the_turn_of_the_year() -> None:
    rows = rows_at(day(28, month=12, year=2025), day(29, month=12, year=2025), day(4), day(5))  # Sunday to Monday
    assert kept_of(rows, Retention(weekly=3)) == [1, 3, 4]
    assert kept_of(rows_at(day(2, year=2025), day(2)), Retention(weekly=2)) == [1, 2]  # week 1 of both years


def test_a_month_is_one_of_its_year() -> None:
    rows = rows_at(day(1, month=1, year=2025), day(1), day(31), day(1, month=2), day(28, month=2))
    assert kept_of(rows, Retention(monthly=3)) == [1, 3, 5]
    assert kept_of(rows, Retention(monthly=2)) == [3, 5]


def test_periods_without_a_revision_do_not_count() -> None:
    assert kept_of(rows_at(day(1), day(15), day(30)), Retention(daily=2)) == [2, 3]


def test_a_clock_that_went_back_costs_the_newest_of_no_day() -> None:
    rows = rows_at(day(3), day(1), day(2), day(1))
    assert kept_of(rows, Retention(daily=2)) == [1, 3]
    assert kept_of(rows, Retention(daily=3)) == [1, 3, 4]
    assert kept_of(rows, Retention(within=HOUR), day(2)) == [1, 3]  # the future is not old


def test_reasons_are_all_given_and_a_pin_is_no_rule() -> None:
    pins = (Pin("a", 4), Pin("b", 40, day(1, month=12)), Pin("c", 5, HALF_DAYS[-1].created_at))
    now = HALF_DAYS[-1].created_at
    why = reasons(HALF_DAYS, Retention(last=2, daily=1, weekly=1), present=40, now=now, pins=pins)
    assert why == {4: ("pin a",), 39: ("last",), 40: ("present", "last", "daily", "weekly", "pin b")}
    assert kept_by_rules(why) == [39, 40]


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"last": 0},
        {"last": -1},
        {"last": 0, "daily": 1},
        {"within": timedelta()},
        {"within": -HOUR, "last": 1},
        {"daily": -1, "last": 1},
        {"weekly": -1, "last": 1},
        {"monthly": -1, "last": 1},
    ],
    ids=repr,
)
def test_rules_that_can_keep_nothing_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(InvalidStateError, match="give"):
        Retention(**rules)


# Sessions.


class Place:
    """A session of twelve stamped revisions, an hour apart, each with an execution state of its own."""

    def __init__(self) -> None:
        self.clock = ManualClock(seed=1)
        self.store = MemoryStore(self.clock)
        self.faulty = FaultyStore(self.store)
        self.repo = SnapshotRepository(self.faulty, clock=self.clock)
        self.other = SnapshotRepository(self.store, clock=ManualClock(seed=2))
        self.state = new_session(SESSION)
        self.draw = Random(1)
        for number in range(1, LAST + 1):
            self.turn(f"a{number}")
            self.clock.advance(3600)

    def turn(self, name: str) -> None:
        blob = self.draw.randbytes(200_000)
        self.repo.commit(take_turn(self.state, name), TurnStamp(name, name), execution_state=blob)

    def loaded(self, session_id: str = SESSION) -> dict[int, bytes]:
        """Return every revision that can be loaded, whole."""
        found = {}
        for row in self.repo.history(session_id):
            if row.retained:
                found[row.revision] = whole(self.repo.load(session_id, row.revision, execution_state=True))
            else:
                with pytest.raises(RevisionNotFoundError, match="retention or a repair dropped it"):
                    self.repo.load(session_id, row.revision)
        return found

    def prune(self, retention: Retention = PRESENT_ONLY, session_id: str = SESSION) -> PrunePlan:
        plan = plan_prune(self.repo, session_id, retention)
        execute(plan)
        return plan

    def packs(self) -> dict[str, int]:
        return {row.key: row.size_bytes for row in self.store.list(self.repo.environment.layout.packs)}

    def close(self) -> None:
        self.repo.close()
        self.other.close()


def whole(state: PersistedSessionState) -> bytes:
    execution = state.execution_state_snapshot
    assert execution is not None
    nodes = [node.model_dump_json() for node in state.session_graph.nodes]
    return repr((nodes, state.checkpoint_ref, usage_of(state), state.turn_index)).encode() + execution


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


def test_a_plan_writes_nothing_and_says_what_it_would_do(place: Place) -> None:
    place.repo.pin(SESSION, 3, "good")
    place.repo.pin(SESSION, 5, "brief", expires_at=place.clock.now() + HOUR)
    place.clock.advance(3600)
    before = {row.key: place.store.stat(row.key).version for row in place.store.list("")}
    plan = plan_prune(place.repo, SESSION, Retention(last=2))
    assert {row.key: place.store.stat(row.key).version for row in place.store.list("")} == before
    head = raw_head(place.store)
    assert (plan.session_id, plan.revision, plan.state_id, plan.pins) == (SESSION, LAST, head.state_id, head.pins)
    assert [(one.revision, one.reasons) for one in plan.kept] == [
        (3, ("pin good",)),
        (11, ("last",)),
        (12, ("present", "last")),
    ]
    assert plan.dropped == (1, 2, 4, 5, 6, 7, 8, 9, 10)
    assert [pin.name for pin in plan.pins_removed] == ["brief"]
    assert (plan.floor, plan.kept_below_floor) == (11, ())
    lines = str(plan).splitlines()
    assert head.state_id in lines[0]
    assert lines[1:4] == ["  keep 3 (pin good)", "  keep 11 (last)", "  keep 12 (present, last)"]
    assert lines[-2:] == ["  drop 10", "  remove pin brief of 5 (expired)"]
    with pytest.raises(FrozenInstanceError):
        plan.floor = 1  # type: ignore[misc]  # that is the claim


def test_what_is_kept_loads_byte_identical_and_what_is_dropped_is_not_found(place: Place) -> None:
    before = place.loaded()
    place.repo.pin(SESSION, 2, "good")
    state_id = raw_head(place.store).state_id
    plan = plan_prune(place.repo, SESSION, Retention(last=3, within=3 * HOUR))
    result = execute(plan)
    head = raw_head(place.store)
    assert result.state_id == head.state_id != state_id
    assert head.updated_at == place.clock.now()
    assert (result.session_id, result.dropped, result.pins_removed) == (SESSION, plan.dropped, ())
    assert (head.revision, head.floor, head.kept, head.pins) == (LAST, 10, (), (Pin("good", 2),))
    assert place.loaded() == {revision: before[revision] for revision in (2, 10, 11, 12)}
    assert whole(place.repo.load(SESSION, "good", execution_state=True)) == before[2]
    collect(place.repo.environment)
    assert place.loaded() == {revision: before[revision] for revision in (2, 10, 11, 12)}


def test_what_is_dropped_cannot_be_used_any_more(place: Place) -> None:
    place.prune(Retention(last=4))
    asks: list[Callable[[], object]] = [
        lambda: place.repo.load(SESSION, 8),
        lambda: place.repo.fork(SESSION, "c1", 8),
        lambda: place.repo.rewind(SESSION, 8),
        lambda: place.repo.restore(SESSION, 8),
        lambda: place.repo.pin(SESSION, 8, "x"),
        lambda: place.repo.diff(SESSION, (SESSION, 8)),
    ]
    written = raw_head(place.store).write_id
    for ask in asks:
        with pytest.raises(RevisionNotFoundError, match="retention or a repair dropped it"):
            ask()
    assert raw_head(place.store).write_id == written
    place.repo.fork(SESSION, "c2", 9)
    place.repo.pin(SESSION, 9, "x")
    place.repo.rewind(SESSION, 9)
    assert message_ids(place.repo.load(SESSION)) == [f"a{number}" for number in range(1, 10)]


def test_history_and_stamps_outlive_what_is_dropped(place: Place) -> None:
    before = place.repo.history(SESSION)
    place.prune(Retention(last=4))
    after = place.repo.history(SESSION)
    assert [row.revision for row in after if row.retained] == [9, 10, 11, 12]
    assert tuple(replace(row, retained=True) for row in after) == before
    again = place.repo.load(SESSION, 9)
    assert place.repo.commit(take_turn(again, "a10"), TurnStamp("a10", "a10")).head_revision == 10
    late = place.repo.load(SESSION, 9)
    take_turn(late, "a5")
    with pytest.raises(RevisionNotFoundError, match="committed as it"):
        place.repo.commit(late, TurnStamp("a5", "a5"))
    assert raw_head(place.store).revision == LAST


# What stays below the floor.


def test_revisions_apart_are_written_down_in_the_head_and_looked_at_again(place: Place) -> None:
    plan = place.prune(Retention(last=2, within=4 * HOUR, monthly=1))
    assert (plan.floor, plan.kept_below_floor) == (9, ())
    for number in (13, 14, 15):
        place.clock.advance(86_400)
        place.turn(f"a{number}")
    place.prune(Retention(daily=9))
    head = raw_head(place.store)
    assert (head.floor, head.kept) == (12, ())
    assert sorted(place.loaded()) == [12, 13, 14, 15]
    place.turn("a16")  # later on the same day
    before = place.loaded()
    place.prune(Retention(daily=3))
    head = raw_head(place.store)
    assert (head.floor, head.kept) == (16, (13, 14))
    assert place.loaded() == {revision: before[revision] for revision in (13, 14, 16)}
    collect(place.repo.environment)
    assert place.loaded() == {revision: before[revision] for revision in (13, 14, 16)}
    place.repo.pin(SESSION, 13, "x")
    place.repo.fork(SESSION, "c1", 14)
    place.turn("a17")
    place.prune(Retention(daily=2))
    head = raw_head(place.store)
    assert (head.floor, head.kept, head.pins) == (17, (14,), (Pin("x", 13),))
    assert sorted(place.loaded()) == [13, 14, 17]
    place.repo.unpin(SESSION, "x")
    assert sorted(place.loaded()) == [14, 17]


def test_what_was_dropped_is_not_kept_again_and_stands_for_nothing(place: Place) -> None:
    place.clock.advance(86_400)
    place.turn("a13")
    place.prune(Retention(last=1))
    plan = plan_prune(place.repo, SESSION, Retention(last=9, daily=9))
    assert [one.revision for one in plan.kept] == [13]
    assert not plan.writes


def test_the_floor_never_falls(place: Place) -> None:
    place.repo.pin(SESSION, 11, "good")
    place.repo.pin(SESSION, 3, "brief", expires_at=place.clock.now() + HOUR)
    place.prune()
    place.clock.advance(3600)
    plan = place.prune(Retention(last=2))
    assert plan.dropped == (3,)
    assert (raw_head(place.store).floor, raw_head(place.store).kept) == (LAST, (11,))


def test_a_pin_alone_is_not_written_down(place: Place) -> None:
    place.repo.pin(SESSION, 10, "good")
    place.repo.pin(SESSION, LAST, "present")
    place.prune()
    assert (raw_head(place.store).floor, raw_head(place.store).kept) == (LAST, ())
    state_id = raw_head(place.store).state_id
    place.repo.unpin(SESSION, "good")
    assert sorted(place.loaded()) == [LAST]
    assert raw_head(place.store).state_id != state_id


def test_a_pinned_revision_below_the_floor_may_come_to_be_kept_by_a_rule(place: Place) -> None:
    place.repo.pin(SESSION, LAST, "good")
    place.clock.advance(86_400)
    place.turn("a13")
    place.turn("a14")
    place.prune()
    assert (raw_head(place.store).floor, raw_head(place.store).kept) == (14, ())
    place.turn("a15")
    plan = place.prune(Retention(daily=2))
    assert [(one.revision, one.reasons) for one in plan.kept] == [
        (12, ("daily", "pin good")),
        (15, ("present", "daily")),
    ]
    assert (raw_head(place.store).floor, raw_head(place.store).kept) == (15, (12,))
    place.repo.unpin(SESSION, "good")
    assert sorted(place.loaded()) == [12, 15]


def test_too_many_revisions_apart_are_refused_and_nothing_is_written() -> None:
    clock = ManualClock(seed=1)
    with SnapshotRepository(MemoryStore(clock), clock=clock) as repo:
        state = new_session()
        for number in range(KEPT_MAX + 1):
            for part in (1, 2):
                repo.commit(take_turn(state, f"a{number * 2 + part}"))
            clock.advance(86_400)
        repo.commit(take_turn(state, "last"))
        repo.commit(take_turn(state, "last1"))
        with pytest.raises(LimitExceededError) as caught:
            plan_prune(repo, SESSION, Retention(daily=KEPT_MAX + 2))
        assert caught.value.value == KEPT_MAX + 1
        result = execute(plan_prune(repo, SESSION, Retention(daily=KEPT_MAX + 1)))
        assert len(result.dropped) == KEPT_MAX + 3
        retained = [row.revision for row in repo.history(SESSION) if row.retained]
        assert len(retained) == KEPT_MAX + 1
        assert repo.load(SESSION, retained[0]).head_revision == retained[0]
        repo.commit(take_turn(state, "more"))


# Pins.


@pytest.mark.parametrize(("seconds", "stays"), [(-1, True), (0, False), (1, False)])
def test_a_pin_keeps_its_revision_until_it_expires(place: Place, seconds: int, stays: bool) -> None:
    place.repo.pin(SESSION, 4, "brief", expires_at=place.clock.now() + HOUR)
    place.clock.advance(3600 + seconds)
    plan = place.prune()
    assert [pin.name for pin in plan.pins_removed] == ([] if stays else ["brief"])
    assert [pin.name for pin in place.repo.pins(SESSION)] == (["brief"] if stays else [])
    assert sorted(place.loaded()) == ([4, LAST] if stays else [LAST])


def test_an_expired_pin_goes_alone_when_a_rule_keeps_its_revision(place: Place) -> None:
    place.repo.pin(SESSION, LAST, "brief", expires_at=place.clock.now() + HOUR)
    place.repo.pin(SESSION, LAST, "good")
    place.clock.advance(3600)
    plan = place.prune(Retention(last=LAST))
    assert (plan.dropped, plan.writes) == ((), True)
    assert place.repo.pins(SESSION) == (Pin("good", LAST),)
    assert len(place.loaded()) == LAST


# Rewinds and forks.


def test_a_rewind_is_whole_without_the_revisions_it_came_from(place: Place) -> None:
    place.repo.rewind(SESSION, 4)
    before = place.loaded()
    rewound = place.repo.load(SESSION)
    place.prune()
    collect(place.repo.environment)
    assert place.loaded() == {13: before[13]}
    assert message_ids(place.repo.load(SESSION)) == ["a1", "a2", "a3", "a4"]
    assert usage_of(place.repo.load(SESSION)) == usage_of(rewound)
    with pytest.raises(RevisionNotFoundError):
        place.repo.restore(SESSION, LAST)  # left behind, and dropped
    state = place.repo.load(SESSION)
    place.repo.commit(take_turn(state, "a5"), TurnStamp("a5", "other"))
    assert message_ids(place.repo.load(SESSION)) == ["a1", "a2", "a3", "a4", "a5"]


def test_a_prune_under_a_rewind_is_noticed_by_it(place: Place) -> None:
    place.faulty.plan.on("put", KEY, fault=Meanwhile(lambda: execute(plan_prune(place.other, SESSION, PRESENT_ONLY))))
    with pytest.raises(RevisionNotFoundError):
        place.repo.rewind(SESSION, 4)
    assert raw_head(place.store).revision == LAST


def test_a_prune_under_a_commit_does_not_disturb_it(place: Place) -> None:
    place.faulty.plan.on("put", KEY, fault=Meanwhile(lambda: execute(plan_prune(place.other, SESSION, PRESENT_ONLY))))
    place.turn("a13")
    assert sorted(place.loaded()) == [12, 13]
    collect(place.repo.environment)
    assert message_ids(place.repo.load(SESSION)) == [f"a{number}" for number in range(1, 14)]


def test_a_fork_is_whole_when_its_source_is_pruned(place: Place) -> None:
    place.repo.fork(SESSION, "c1", 5)
    before = place.loaded("c1")
    place.prune()
    collect(place.repo.environment)
    assert place.loaded("c1") == before
    assert len(place.loaded()) == 1


def test_a_source_is_whole_when_its_fork_is_pruned(place: Place) -> None:
    place.repo.fork(SESSION, "c1", 5)
    child = place.repo.load("c1")
    for number in (1, 2, 3):
        place.repo.commit(take_turn(child, f"c{number}"))
    before, present = place.loaded(), place.repo.load("c1", execution_state=True)
    plan = place.prune(Retention(last=2), "c1")
    assert plan.dropped == (1, 2)
    collect(place.repo.environment)
    assert place.loaded() == before
    assert sorted(place.loaded("c1")) == [3, 4]
    assert whole(place.repo.load("c1", execution_state=True)) == whole(present)


# Doing it.


def test_a_plan_that_drops_nothing_writes_nothing(place: Place) -> None:
    version = place.store.stat(KEY).version
    plan = plan_prune(place.repo, SESSION, Retention(last=LAST))
    assert not plan.writes
    assert str(plan).endswith("nothing to do")
    assert execute(plan).dropped == ()
    assert place.store.stat(KEY).version == version


def test_a_prune_is_one_compare_and_swap(place: Place) -> None:
    plan = plan_prune(place.repo, SESSION, PRESENT_ONLY)
    place.faulty.log.clear()
    execute(plan)
    assert [request.verb for request in place.faulty.log] == ["get", "put"]


def test_a_plan_executed_again_does_nothing_more(place: Place) -> None:
    plan = plan_prune(place.repo, SESSION, Retention(last=3))
    first = execute(plan)
    version = place.store.stat(KEY).version
    assert execute(plan) == first
    place.turn("a13")
    assert execute(plan).dropped == first.dropped
    assert place.store.stat(KEY).version != version
    assert raw_head(place.store).revision == LAST + 1


def test_a_revision_since_the_plan_is_a_conflict(place: Place) -> None:
    plan = plan_prune(place.repo, SESSION, PRESENT_ONLY)
    place.turn("a13")
    version = place.store.stat(KEY).version
    with pytest.raises(RevisionConflictError) as caught:
        execute(plan)
    assert (caught.value.expected, caught.value.actual) == (LAST, LAST + 1)
    assert place.store.stat(KEY).version == version


def _pinned_elsewhere(repo: SnapshotRepository) -> None:
    repo.unpin(SESSION, "good")
    repo.pin(SESSION, 4, "good")


CHANGES: dict[str, Callable[[SnapshotRepository], object]] = {
    "pinned": lambda repo: repo.pin(SESSION, 2, "new"),
    "unpinned": lambda repo: repo.unpin(SESSION, "good"),
    "moved": _pinned_elsewhere,
    "pruned": lambda repo: execute(plan_prune(repo, SESSION, Retention(last=8))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_plan_is_refused_when_pins_or_what_is_retained_changed(place: Place, name: str) -> None:
    place.repo.pin(SESSION, 3, "good")
    plan = plan_prune(place.repo, SESSION, PRESENT_ONLY)
    CHANGES[name](place.other)
    version = place.store.stat(KEY).version
    with pytest.raises(InvalidStateError, match="plan again"):
        execute(plan)
    assert place.store.stat(KEY).version == version
    place.prune()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_between_read_and_write_is_refused_as_well(place: Place, name: str) -> None:
    place.repo.pin(SESSION, 3, "good")
    plan = plan_prune(place.repo, SESSION, PRESENT_ONLY)
    place.faulty.plan.on("put", KEY, fault=Meanwhile(lambda: CHANGES[name](place.other)))
    with pytest.raises(InvalidStateError, match="plan again"):
        execute(plan)
    assert 10 in place.loaded()


def test_a_holder_is_no_reason_to_refuse_and_stays(place: Place) -> None:
    plan = plan_prune(place.repo, SESSION, PRESENT_ONLY)
    writer = place.other.acquire(SESSION, "me")
    execute(plan)
    head = raw_head(place.store)
    assert (head.held_by, head.fence, head.floor) == ("me", 1, LAST)
    assert writer.commit(take_turn(writer.state, "a13")).head_revision == LAST + 1


def test_sessions_that_cannot_be_pruned(place: Place) -> None:
    with pytest.raises(SessionNotFoundError):
        plan_prune(place.repo, "nobody", PRESENT_ONLY)
    plan = plan_prune(place.repo, SESSION, PRESENT_ONLY)
    place.repo.delete(SESSION)
    with pytest.raises(SessionDeletedError):
        execute(plan)
    with pytest.raises(SessionDeletedError):
        plan_prune(place.repo, SESSION, PRESENT_ONLY)


def test_a_tombstone_keeps_no_revision(place: Place) -> None:
    place.clock.advance(86_400)
    place.turn("a13")
    place.turn("a14")
    place.prune(Retention(daily=2))
    assert raw_head(place.store).kept == (12,)
    place.repo.delete(SESSION)
    assert raw_head(place.store).kept == ()
    collect(place.repo.environment)
    assert place.packs() == {}


FAULTS: dict[str, Fault] = {
    "not applied": FailBefore("no"),
    "unknown, not applied": FailBefore("unknown"),
    "answer lost": LoseAnswer(),
    "delayed": Delay(),
    "own retry": OwnRetry(),
    "delivered twice": Repeat(),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_prune_is_written_once_whatever_happens_to_its_put(place: Place, name: str) -> None:
    before = place.loaded()
    plan = plan_prune(place.repo, SESSION, Retention(last=2))
    place.faulty.plan.on("put", KEY, fault=FAULTS[name])
    result = execute(plan)
    place.faulty.release()
    assert result.state_id == raw_head(place.store).state_id != plan.state_id
    assert place.loaded() == {revision: before[revision] for revision in (11, 12)}


@pytest.mark.parametrize("name", ["pinned", "committed"])
def test_a_lost_answer_is_recognised_below_what_others_wrote(place: Place, name: str) -> None:
    acts: dict[str, Callable[[], object]] = {
        "pinned": lambda: place.other.pin(SESSION, 11, "new"),
        "committed": lambda: place.other.commit(take_turn(place.other.load(SESSION), "a13")),
    }
    plan = plan_prune(place.repo, SESSION, Retention(last=2))
    place.faulty.plan.on("put", KEY, fault=LoseAnswer())
    place.faulty.plan.on("get", KEY, nth=2, fault=Meanwhile(acts[name]))
    assert execute(plan).dropped == plan.dropped
    assert raw_head(place.store).floor == 11
    assert raw_head(place.store).revision == (LAST if name == "pinned" else LAST + 1)


@pytest.mark.parametrize(("fault", "applied"), [(FailBefore("no"), "no"), (FailBefore("unknown"), "unknown")])
def test_a_prune_that_was_not_confirmed_says_so_and_can_be_repeated(place: Place, fault: Fault, applied: str) -> None:
    plan = plan_prune(place.repo, SESSION, PRESENT_ONLY)
    place.faulty.plan.on("put", KEY, times=99, fault=fault)
    with pytest.raises(UnavailableError) as caught:
        execute(plan)
    assert caught.value.applied == applied
    assert len(place.loaded()) == LAST
    place.faulty.plan.clear()
    execute(plan)
    assert sorted(place.loaded()) == [LAST]


# Space.


def test_a_store_shrinks_after_prune_commits_and_collection(place: Place) -> None:
    before = place.packs()
    collect(place.repo.environment)
    assert place.packs() == before
    place.prune(Retention(last=2))
    for number in range(13, 33):  # more than lie apart: rows of the logs are written again elsewhere, and packs end
        place.turn(f"a{number}")
    before |= place.packs()
    place.prune(Retention(last=2))
    report = collect(place.repo.environment)
    after = place.packs()
    assert report.stopped == ""
    assert set(after) == before.keys() - set(report.deleted)
    assert len(after) <= 10  # of 32: what the two of them need
    assert sum(after.values()) < 0.4 * sum(before.values())
    named = named_packs(place.repo.environment, raw_head(place.store))
    assert {key.rpartition("/")[2] for key in after} == named
    assert sorted(place.loaded()) == [31, 32]
    assert message_ids(place.repo.load(SESSION)) == [f"a{number}" for number in range(1, 33)]
