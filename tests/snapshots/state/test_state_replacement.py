"""Replacing what the active path shows: what is kept, what becomes a branch."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.state import Message, ModeEvent, SessionGraph, ToolCallRecord
from tests.snapshots.state import strategies
from tests.snapshots.state.builders import call, ids, message, raw_graph, transient


def path(graph: SessionGraph) -> list[str]:
    return [node.node_id for node in graph.active_path_nodes()]


def test_the_matching_start_is_kept_and_the_rest_becomes_a_branch() -> None:
    graph = SessionGraph.from_active_read_state([message("m1"), message("m2"), message("m3")], [])
    graph.replace_active_read_state([message("m1"), message("m2", "changed"), message("m3")], [])
    assert path(graph) == ["m1", "message:m2", "message:m3"]
    assert graph.messages() == (message("m1"), message("m2", "changed"), message("m3"))
    assert graph.orphaned_node_ids() == ("m2", "m3")


def test_replacing_with_the_same_adds_nothing() -> None:
    messages, calls = [message("m1", calls=("c1",)), message("m2")], [call("c1"), call(None)]
    graph = SessionGraph.from_active_read_state(messages, calls)
    before = path(graph)
    graph.replace_active_read_state(messages, calls)
    graph.replace_active_tool_calls(calls)
    assert path(graph) == before
    assert len(graph.nodes) == len(before)


def test_shortening_only_moves_the_leaf() -> None:
    graph = SessionGraph.from_active_read_state([message("m1"), message("m2")], [])
    graph.replace_active_read_state([message("m1")], [])
    assert path(graph) == ["m1"]
    assert len(graph.nodes) == 2
    graph.replace_active_read_state([], [])
    assert path(graph) == []
    assert graph.leaf_node_id is None


def test_calls_stand_after_the_first_message_that_names_them() -> None:
    messages = [message("m1", calls=("c2",)), message("m2", calls=("c2", "c1")), message("m3")]
    graph = SessionGraph.from_active_read_state(messages, [call("c1"), call("c2"), call("c9"), call(None)])
    anonymous = call(None).stable_key()
    assert path(graph) == ["m1", "tool:c2", "m2", "tool:c1", "m3", "tool:c9", f"tool:{anonymous}"]


def test_calls_without_any_message_are_dropped() -> None:
    graph = SessionGraph.from_active_read_state([transient("t")], [call("c1")])
    assert graph == SessionGraph()


def test_records_of_modes_and_plugins_in_the_kept_start_stay() -> None:
    graph = SessionGraph()
    graph.append_plugin("note", 0)
    graph.append_message(message("m1"))
    event = graph.append_mode_event(ModeEvent(mode_id="repl", payload=1))
    graph.append_message(message("m2"))
    graph.append_plugin("note", 2)
    kept = path(graph)[:3]
    graph.replace_active_read_state([message("m1"), message("x")], [])
    assert path(graph) == [*kept, "x"]
    assert graph.nodes[-1].parent_node_id == event


def test_what_no_read_model_shows_neither_matches_nor_stops_the_match() -> None:
    graph = SessionGraph()
    for one in (message("m1"), transient("t"), message("m1", "repeated"), message("m2"), transient("u")):
        graph.append_message(one)
    graph.replace_active_read_state([message("m1"), transient("x"), message("m1"), message("m2"), message("m3")], [])
    assert path(graph) == ["m1", "t", "message:m1", "m2", "m3"]


def test_a_call_with_another_output_or_json_type_is_replaced() -> None:
    for old, new in (("ok", "other"), (1, True)):
        graph = SessionGraph.from_active_read_state([message("m1")], [call("c1", old)])
        graph.replace_active_tool_calls([call("c1", new)])
        assert len(graph.tool_calls()) == 1
        assert graph.tool_calls()[0].same_as(call("c1", new))
        assert graph.orphaned_node_ids() == ("tool:c1",)


def test_replacing_under_an_unknown_leaf_starts_afresh() -> None:
    graph = raw_graph(leaf="lost")
    graph.replace_active_read_state([message("m1")], [])
    assert path(graph) == ["m1"]
    graph.check()


@given(
    st.lists(strategies.messages, max_size=4),
    st.lists(strategies.messages, max_size=4),
    st.lists(strategies.tool_calls, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_afterwards_exactly_the_given_is_shown_and_nothing_is_lost(
    before: list[Message], after: list[Message], calls: list[ToolCallRecord]
) -> None:
    graph = SessionGraph()
    graph.append_active_conversation_messages(before)
    count = len(graph.nodes)
    graph.replace_active_read_state(after, calls)
    graph.check()
    assert graph.only_appended
    assert len(graph.nodes) >= count
    wanted = SessionGraph()
    wanted.append_active_read_delta(after, [])
    assert graph.messages() == wanted.messages()
    shown = sorted(record.stable_key() for record in graph.tool_calls())
    assert shown == (sorted(record.stable_key() for record in calls) if ids(graph.messages()) else [])
