"""Where a child session starts from, and whose usage is whose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from snapshots import PersistedSessionState, SessionPolicy, SnapshotRepository, TokenLedgerEntry, TokenUsage, ToolState
from snapshots.children import CurrentStart, EmptyStart, ExistingStart, SnapshotStart, Start
from snapshots.errors import InvalidStateError, SessionDeletedError, SessionExistsError, SessionNotFoundError
from snapshots.layout import Layout
from snapshots.state import (
    ChildRelation,
    HandoffRelation,
    PluginSessionSnapshot,
    PluginSnapshot,
    PluginSnapshotMeta,
    diff_token_ledger,
)
from storage.backends.memory import MemoryStore
from storage.errors import InvalidKeyError
from storage.testing.clock import ManualClock
from tests.integration.builders import SESSION, message, message_ids, new_session, raw_head, take_turn, usage_of

LAYOUT = Layout("default")
STATE = b"execution" * 20_000


class Place:
    """A store with a parent that has every part, and another store."""

    def __init__(self) -> None:
        self.store = MemoryStore(ManualClock())
        self.repo = SnapshotRepository(self.store, clock=ManualClock(seed=1))
        self.elsewhere = SnapshotRepository(MemoryStore(ManualClock()), clock=ManualClock(seed=2))
        self.parent = full_session(SESSION)
        self.repo.commit(self.parent, execution_state=STATE)

    def packs(self) -> set[str]:
        return {row.key for row in self.store.list(LAYOUT.packs)}


def full_session(session_id: str) -> PersistedSessionState:
    state = new_session(session_id, "a1", "a2")
    state.policy = SessionPolicy(model="m1", session_id=session_id)
    meta = PluginSnapshotMeta(plugin_id="p", plugin_version="1", revision=3)
    state.stamp_runtime_state(ToolState(generation=4), PluginSessionSnapshot(plugins={"p": PluginSnapshot(meta=meta)}))
    state.plugin_snapshot_revision = 3
    return state


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.repo.close()
    made.elsewhere.close()


def check_child(place: Place, child: str) -> PersistedSessionState:
    """Check what every child has, and return it whole."""
    state = place.repo.load(child, execution_state=True)
    assert state.head_revision == 1
    assert state.token_ledger == []
    assert state.policy.session_id == child
    assert raw_head(place.store, child).relation == ChildRelation(parent_session_id=SESSION)
    return state


def test_empty(place: Place) -> None:
    result = place.repo.start_child(SESSION, EmptyStart(), "c1", initial_nodes=[message("task")])
    child = check_child(place, "c1")
    assert message_ids(child) == ["task"]
    assert child.policy.model == "m1"  # the parent's
    assert (child.tool_state_ref, child.plugin_snapshot_ref, child.execution_state_ref) == (None, None, None)
    assert result.origin is None
    assert raw_head(place.store, "c1").family == "c1"  # shares nothing
    place.repo.start_child(SESSION, EmptyStart(), "c2", policy=SessionPolicy(model="m2"))
    assert place.repo.load("c2").policy == SessionPolicy(model="m2", session_id="c2")


def test_current(place: Place) -> None:
    packs = place.packs()
    result = place.repo.start_child(SESSION, child="c1")
    child = check_child(place, "c1")
    assert message_ids(child) == ["a1", "a2"]
    assert child.turn_index == 2
    assert child.tool_state_snapshot == ToolState(generation=4)
    assert child.plugin_snapshot_revision == 3
    assert child.execution_state_snapshot == STATE
    assert result.requests == 3
    assert place.packs() == packs


def test_a_revision_of_the_parent(place: Place) -> None:
    place.repo.commit(take_turn(place.parent, "a3"))
    place.repo.start_child(SESSION, CurrentStart(1), "c1", plugins="fresh")
    child = check_child(place, "c1")
    assert message_ids(child) == ["a1", "a2"]
    assert child.plugin_snapshot is None


def test_existing(place: Place) -> None:
    place.repo.commit(new_session("other", "o1"))
    result = place.repo.start_child(SESSION, ExistingStart("other"), "c1")
    assert message_ids(check_child(place, "c1")) == ["o1"]
    assert result.origin is not None
    assert result.origin.session_id == "other"
    assert raw_head(place.store, "c1").family == "other"


def test_a_snapshot_stored_here_is_referenced(place: Place) -> None:
    packs = place.packs()
    result = place.repo.start_child(SESSION, SnapshotStart(place.repo.load(SESSION)), "c1")
    assert check_child(place, "c1").execution_state_snapshot == STATE
    assert place.packs() == packs
    assert result.origin is not None


def test_a_snapshot_changed_since_is_uploaded(place: Place) -> None:
    state = take_turn(place.repo.load(SESSION), "draft")
    result = place.repo.start_child(SESSION, SnapshotStart(state), "c1")
    child = check_child(place, "c1")
    assert message_ids(child) == ["a1", "a2", "draft"]
    assert child.tool_state_snapshot == ToolState(generation=4)
    assert (child.plugin_snapshot, child.plugin_snapshot_revision) == (state.plugin_snapshot, 3)
    assert child.execution_state_snapshot == STATE  # read here, where it was only named
    assert (result.origin, raw_head(place.store, "c1").family) == (None, "c1")
    assert state.head_revision == 1  # the given state is as it was
    place.repo.delete(SESSION)
    assert check_child(place, "c1") == child


def test_a_snapshot_from_elsewhere_is_uploaded(place: Place) -> None:
    place.elsewhere.commit(full_session("far"), execution_state=STATE)
    state = place.elsewhere.load("far", execution_state=True)
    place.repo.start_child(SESSION, SnapshotStart(state), "c1")
    child = check_child(place, "c1")
    assert message_ids(child) == ["a1", "a2"]
    assert child.execution_state_snapshot == STATE
    assert child.tool_state_snapshot == ToolState(generation=4)


def test_a_snapshot_from_elsewhere_with_parts_that_lie_there_is_refused(place: Place) -> None:
    place.elsewhere.commit(full_session("far"), execution_state=STATE)
    before = [row.key for row in place.store.list("")]
    with pytest.raises(InvalidStateError, match="execution_state=True"):
        place.repo.start_child(SESSION, SnapshotStart(place.elsewhere.load("far")), "c1")
    assert [row.key for row in place.store.list("")] == before


def test_an_id_is_made_up_when_none_is_given(place: Place) -> None:
    first, second = (place.repo.start_child(SESSION, start) for start in (None, EmptyStart()))
    assert len({first.session_id, second.session_id, SESSION}) == 3
    assert message_ids(place.repo.load(first.session_id)) == ["a1", "a2"]


STARTS = [EmptyStart(), CurrentStart(), ExistingStart(SESSION), SnapshotStart(new_session("x", "x1"))]


@pytest.mark.parametrize("start", STARTS, ids=lambda start: type(start).__name__)
def test_an_id_that_is_taken_or_spent_is_refused(place: Place, start: Start) -> None:
    place.repo.commit(new_session("c1", "own"))
    for taken in ("c1", SESSION):
        with pytest.raises(SessionExistsError):
            place.repo.start_child(SESSION, start, taken)
    assert message_ids(place.repo.load("c1")) == ["own"]
    place.repo.delete("c1")
    with pytest.raises(SessionDeletedError):
        place.repo.start_child(SESSION, start, "c1")


@pytest.mark.parametrize("start", [EmptyStart(), CurrentStart(), ExistingStart("nobody")], ids=type)
def test_a_missing_starting_point_is_refused(place: Place, start: Start) -> None:
    with pytest.raises(SessionNotFoundError):
        place.repo.start_child("nobody", start, "c1")


@pytest.mark.parametrize("start", [EmptyStart(), SnapshotStart(new_session("x", "x1"))], ids=type)
def test_plugins_are_inherit_or_fresh(place: Place, start: Start) -> None:
    with pytest.raises(InvalidStateError, match="fresh"):
        place.repo.start_child(SESSION, start, "c1", plugins="some")
    assert [one.session_id for one in place.repo.sessions()] == [SESSION]


@pytest.mark.parametrize("start", STARTS, ids=lambda start: type(start).__name__)
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"relation": ChildRelation(parent_session_id="c1")}, InvalidStateError),
        ({"relation": ChildRelation(parent_session_id="")}, InvalidKeyError),
        ({"relation": "handoff"}, InvalidStateError),
        ({"initial_nodes": ["text"]}, InvalidStateError),
        ({"initial_nodes": message("not a list")}, InvalidStateError),
        ({"plugins": "some"}, InvalidStateError),
    ],
)
def test_what_no_child_can_be_is_refused_before_anything_is_written(
    place: Place, start: Start, wrong: dict[str, Any], expected: type[Exception]
) -> None:
    before = [row.key for row in place.store.list("")]
    with pytest.raises(expected):
        place.repo.start_child(SESSION, start, "c1", **wrong)
    assert [row.key for row in place.store.list("")] == before


def test_what_is_no_starting_point_is_refused(place: Place) -> None:
    with pytest.raises(InvalidStateError, match="starting point"):
        place.repo.start_child(SESSION, "other", "c1")  # type: ignore[arg-type]  # what is refused


def test_a_handoff_may_start_empty(place: Place) -> None:
    relation = HandoffRelation(parent_session_id=SESSION, reason="shift ends")
    place.repo.start_child(SESSION, EmptyStart(), "c1", relation=relation)
    assert raw_head(place.store, "c1").relation == relation
    place.repo.commit(take_turn(place.repo.load("c1"), "b1"))
    assert raw_head(place.store, "c1").relation == relation


def test_usage_of_a_child_is_booked_in_the_parents_ledger_under_a_label(place: Place) -> None:
    place.repo.start_child(SESSION, child="c1")
    child = place.repo.load("c1")
    booked = list(child.token_ledger)
    for number in range(1, 4):
        place.repo.commit(take_turn(child, f"c{number}", tokens=5))
        parent = place.repo.load(SESSION)
        parent.book_usage(diff_token_ledger(booked, child.token_ledger), source="subagent")
        booked = list(child.token_ledger)
        place.repo.commit(parent)
    assert usage_of(place.repo.load("c1")) == {"c": 15}
    assert (
        TokenLedgerEntry(source="subagent", model="c", usage=TokenUsage(input_tokens=15, cached_input_tokens=15))
        in place.repo.load(SESSION).token_ledger
    )
