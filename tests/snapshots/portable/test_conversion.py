"""A session as the state of a repository: exact both ways, one node for an event."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.errors import InvalidStateError, LimitExceededError
from snapshots.fields import U64_MAX
from snapshots.portable import Event, Session, from_state, to_state
from snapshots.portable.conversion import CHANGED, CREATED, EVENT, FACTS_BYTES_MAX, append, other_nodes, write
from snapshots.state import Message, ModeTurnOptions, PersistedSessionState, PluginPayload, SessionGraph
from snapshots.state.values import json_text
from storage.testing.clock import START
from tests.snapshots.portable.samples import event, event_documents, original, sessions, talk


def kinds(state: PersistedSessionState) -> list[str]:
    nodes = state.session_graph.active_path_nodes()
    return [node.plugin.plugin_type if node.plugin else "message" for node in nodes]


def same(one: Session, other: Session) -> bool:
    """Compare as texts do: 1, 1.0 and true are three values."""
    return json_text(one.export()) == json_text(other.export())


def stored(state: PersistedSessionState) -> PersistedSessionState:
    """Return a state as a store gives it back."""
    state.session_graph.check()
    return PersistedSessionState.model_validate_json(state.model_dump_json())


@settings(deadline=None)
@given(sessions())
def test_a_session_comes_back_from_its_state_as_it_was(session: Session) -> None:
    assert same(from_state(stored(to_state(session))), session)


@settings(deadline=None)
@given(sessions())
def test_equal_sessions_make_equal_states(session: Session) -> None:
    assert to_state(session) == to_state(session.model_copy(deep=True))


@settings(deadline=None)
@given(sessions(), sessions())
def test_a_session_is_written_over_another_and_back(one: Session, other: Session) -> None:
    other = other.model_copy(update={"id": one.id})
    state = to_state(one)
    for session in (other, one, one):
        nodes = list(state.session_graph.nodes)
        write(session, state)
        assert same(from_state(stored(state)), session)
        assert list(state.session_graph.nodes)[: len(nodes)] == nodes  # rule 4


@settings(deadline=None)
@given(sessions())
def test_a_session_that_stands_there_already_adds_nothing(session: Session) -> None:
    state = to_state(session)
    before = state.copy()
    write(from_state(state), state)
    assert state == before


@settings(deadline=None)
@given(sessions(), st.lists(event_documents, max_size=4))
def test_an_append_to_the_state_is_an_append_to_the_session(session: Session, documents: list[dict[str, Any]]) -> None:
    state = to_state(session)
    for document in documents:
        one = Event.model_validate(document)
        count = len(state.session_graph)
        append(state, one, at=START)
        session.append(one, at=START)
        assert len(state.session_graph) == count + 1
    assert same(from_state(stored(state)), session)


@settings(deadline=None)
@given(sessions(), st.sampled_from(["", "i1", "i2", "i3"]))
def test_a_rewind_of_the_session_is_one_of_the_state(session: Session, invocation_id: str) -> None:
    state = to_state(session)
    session.rewind_to_invocation(invocation_id)
    write(session, state)
    assert same(from_state(stored(state)), session)


def test_an_event_is_a_node_and_its_body_is_verbatim() -> None:
    session = Session.model_validate(original())
    state = to_state(session)
    assert kinds(state) == [CREATED, EVENT, EVENT, EVENT, EVENT]
    node = state.session_graph.nodes[1]
    assert node.plugin is not None
    assert json_text(node.plugin.body) == json_text(original()["events"][0])
    assert (node.node_id, node.timestamp) == ("event:e1", "2026-11-20T23:57:06.000000Z")


def test_a_changed_node_is_written_only_where_the_replay_differs() -> None:
    session = talk("i1", "i2")
    assert CHANGED not in kinds(to_state(session))
    session.state["by hand"] = [1]
    state = to_state(session)
    assert kinds(state) == [CREATED, EVENT, EVENT, CHANGED]
    append(state, event(3), at=START)
    assert kinds(state)[-1] == EVENT
    assert from_state(state).state == {"n": 3, "by hand": [1]}


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), (0, False), (0.0, -0.0)])
def test_a_state_that_python_takes_for_the_same_is_written(one: Any, other: Any) -> None:
    session = Session.new("app", "user", {"x": one}, session_id="s1")
    state = to_state(session)
    session.state["x"] = other
    write(session, state)
    assert json_text(from_state(state).state) == json_text({"x": other})


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), (0.0, -0.0)])
def test_an_event_that_python_takes_for_the_same_is_another(one: Any, other: Any) -> None:
    state, session = to_state(talk()), talk()
    for value in (one, other):
        session.events = [event(1, state_delta={"x": value})]
        write(session, state)
        assert same(from_state(state), session)


def test_a_rewound_tail_stays_in_the_graph_and_its_ids_can_be_used_again() -> None:
    session = talk("i1", "i2")
    state = to_state(session)
    session.rewind_to_invocation("i1")
    write(session, state)
    assert kinds(state) == [CREATED, EVENT]
    again = event(2, "i3", content="again")
    append(state, again, at=START)
    assert from_state(state).events == [event(1), again]
    assert [one.node_id for one in state.session_graph.nodes] == [CREATED, "event:e1", "event:e2", "event:e2:3"]
    state.session_graph.tombstone_nodes(["event:e2"])
    session.append(again)
    session.append(event(2, "i4"))
    write(session, state)
    assert from_state(stored(state)).events == session.events


def test_events_of_one_id_are_all_kept() -> None:
    session = talk("i1")
    for number in range(3):
        session.append(event(1, f"j{number}"))
    state = to_state(session)
    assert same(from_state(stored(state)), session)
    assert len({node.node_id for node in state.session_graph.nodes}) == 5


@pytest.mark.parametrize("timestamp", [0, 253_402_300_799, 253_402_300_800, U64_MAX])
def test_any_timestamp_makes_a_node(timestamp: int) -> None:
    session = talk("i1")
    session.append(event(2, timestamp=timestamp))
    assert same(from_state(stored(to_state(session))), session)


@pytest.mark.parametrize("text", ["1795219026Z", "", "0001-01-01T00:00:00+23:59", "0999-01-01T00:00:00Z", "x"])
def test_any_text_is_a_time(text: str) -> None:
    session = talk("i1").model_copy(update={"created_at": text, "updated_at": text})
    session.state["by hand"] = 1
    assert same(from_state(stored(to_state(session))), session)


def test_nodes_of_others_stay_and_are_not_shown() -> None:
    session = talk("i1")
    state = to_state(session)
    state.append_active_read_delta([Message(id="m1", role="User", parts=())], [])
    state.session_graph.append_plugin("other", {"x": 1})
    assert other_nodes(state) == 2
    assert same(from_state(state), session)
    append(state, event(2), at=START)
    session.append(event(2), at=START)
    session.append(event(3), at=START)
    write(session, state)
    assert kinds(state) == [CREATED, EVENT, "message", "other", EVENT, EVENT]
    assert same(from_state(stored(state)), session)


def test_what_something_else_made_is_no_session() -> None:
    state = PersistedSessionState(session_id="s1")
    state.session_graph.append_plugin(CREATED, {"initial_state": {}, "unknown": {}})
    for options in (
        ModeTurnOptions(),
        ModeTurnOptions(mode_id="session", payload={}),
        ModeTurnOptions(mode_id="session", payload=["app_name"]),
        ModeTurnOptions(mode_id="session", payload={"app_name": 1, "user_id": "", "created_at": "", "updated_at": ""}),
    ):
        state.mode_turn_options = options
        before = state.copy()
        with pytest.raises(InvalidStateError, match=r"SnapshotRepository\.load"):
            from_state(state)
        with pytest.raises(InvalidStateError, match="portable"):
            append(state, event(1), at=START)
        assert state == before


CREATION: dict[str, Any] = {"initial_state": {}, "unknown": {}}


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [(EVENT, event(1).to_plain())],
        [(CREATED, CREATION), (CREATED, CREATION)],
        [(CREATED, CREATION), (EVENT, event(1).to_plain()), (CREATED, CREATION)],
        [(CREATED, [])],
        [(CREATED, {})],
        [(CREATED, {**CREATION, "initial_state": [["a", 1]]})],
        [(CREATED, {**CREATION, "unknown": {"format": 1}})],
        [(CREATED, CREATION), (EVENT, {})],
        [(CREATED, CREATION), (EVENT, {**event(1).to_plain(), "actions": 1})],
        [(CREATED, CREATION), (EVENT, {**event(1).to_plain(), "timestamp": "x"})],
        [(CREATED, CREATION), (EVENT, "x")],
        [(CREATED, CREATION), (CHANGED, {"state": {}})],
        [(CREATED, CREATION), (CHANGED, {"state": [], "unknown": {}})],
    ],
)
def test_nodes_that_make_no_session_are_refused(nodes: list[tuple[str, Any]]) -> None:
    state = to_state(talk())
    state.session_graph.branch_to(None)
    state.append_session_nodes([PluginPayload(plugin_type=kind, body=body) for kind, body in nodes])
    with pytest.raises(InvalidStateError):
        from_state(state)


@pytest.mark.parametrize("spoil", [{"state": {"x": object()}}, {"app_name": "x" * FACTS_BYTES_MAX}])
def test_what_cannot_be_stored_changes_nothing(spoil: dict[str, Any]) -> None:
    state = to_state(talk("i1"))
    before = state.copy()
    session = talk("i1", "i2").model_copy(update=spoil)
    with pytest.raises((InvalidStateError, LimitExceededError)):
        write(session, state)
    assert state == before


def test_an_event_that_is_no_json_changes_nothing() -> None:
    state = to_state(talk("i1"))
    before = state.copy()
    spoilt = event(2)
    spoilt.actions.state_delta["x"] = object()
    with pytest.raises(InvalidStateError, match="state_delta"):
        append(state, spoilt, at=START)
    assert state == before


@pytest.mark.parametrize("updated_at", ["", "now", "2026-01-01", "2026-01-01T00:00:00Z"])
def test_what_could_be_stored_can_be_appended_to(updated_at: str) -> None:
    fields = {**original(), "created_at": "", "updated_at": updated_at, "app_name": ""}
    used = len(json_text(Session.model_validate(fields).facts.model_dump())) - len(updated_at)
    for spare in (27, 28):  # the length of an instant of ours, and one more
        fields["app_name"] = "x" * (FACTS_BYTES_MAX - used - spare)
        append(to_state(Session.model_validate(fields)), event(9), at=START)
    fields["app_name"] = "x" * (FACTS_BYTES_MAX - used - 26)
    with pytest.raises(LimitExceededError):
        to_state(Session.model_validate(fields))


def test_an_append_does_not_go_through_what_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    state = to_state(talk("i1", "i2"))
    state.session_graph.branch_to("event:e1")
    state.session_graph.tombstone_nodes(["event:e2"])

    def asked(_: object) -> None:
        raise AssertionError("sorts all of them")

    monkeypatch.setattr(SessionGraph, "tombstoned_node_ids", property(asked))
    append(state, event(2), at=START)
    node_id = state.session_graph.leaf_node_id
    assert node_id is not None
    assert node_id.startswith("event:e2:")


DAMAGED_EVENTS: list[Any] = [
    {},
    5,
    None,
    {"id": ["x"]},
    {"id": 5},
    {"id": "e3"},
    {"id": "x", "actions": {"state_delta": {}}},
]


@pytest.mark.parametrize("body", DAMAGED_EVENTS, ids=str)
def test_a_damaged_event_is_named_with_a_remedy(body: Any) -> None:
    state = to_state(talk("i1"))
    state.session_graph.append_plugin(EVENT, body)
    with pytest.raises(InvalidStateError, match=r"'s1' is damaged: .*; restore an earlier revision"):
        from_state(state)
