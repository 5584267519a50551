"""The session graph: node ids, appending, reading, forking, the message tree."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import snapshots.state.graph as graph_module
from snapshots.errors import InvalidStateError
from snapshots.state import (
    AppendedNodes,
    Message,
    ModeEvent,
    PluginPayload,
    SessionGraph,
    ToolCallRecord,
)
from storage.testing.clock import ManualClock
from tests.snapshots.state import strategies
from tests.snapshots.state.builders import call, ids, message, node, part, plugin_node, raw_graph, transient


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    manual = ManualClock(datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC))
    monkeypatch.setattr(graph_module, "_clock", manual)
    return manual


def node_ids(graph: SessionGraph) -> list[str]:
    return [one.node_id for one in graph.active_path_nodes()]


def test_typed_append_node_ids_use_semantic_prefixes(clock: ManualClock) -> None:
    graph = SessionGraph()
    again = ManualClock(seed=0)
    assert graph.append_message(message("m1")) == "m1"
    assert graph.append_tool_call(call("c1")) == "tool:c1"
    assert graph.append_mode_event(ModeEvent(mode_id="repl", payload=1)) == f"mode:{again.new_id()}"
    assert graph.append_plugin("note", {"n": 1}) == f"plugin:{again.new_id()}"
    assert graph.append_message(message("")) == f"m{again.new_id()}"
    assert graph.nodes[-1].message is not None
    assert graph.nodes[-1].message.id == graph.leaf_node_id
    assert clock.new_id() == again.new_id()


def test_taken_node_ids_are_made_unique(clock: ManualClock) -> None:
    graph = SessionGraph()
    again = ManualClock(seed=0)
    assert [graph.append_message(message("m1")) for _ in range(4)] == [
        "m1",
        "message:m1",
        "message:m1:2",
        "message:m1:3",
    ]
    assert graph.append_tool_call(call("c1")) == "tool:c1"
    assert graph.append_tool_call(call("c1", "changed")) == f"tool:c1:{again.new_id()}"
    assert all(one.message.id == "m1" for one in graph.nodes if one.message is not None)
    assert clock.new_id() == again.new_id()


def test_an_anonymous_call_is_stored_under_its_content() -> None:
    graph = SessionGraph()
    record = call(None)
    assert graph.append_tool_call(record) == f"tool:{record.stable_key()}"


def test_active_read_replacement_uses_tool_prefix() -> None:
    graph = SessionGraph.from_active_read_state([message("m1", calls=("c1",))], [call("c1")])
    assert node_ids(graph) == ["m1", "tool:c1"]


def test_graph_writers_do_not_put_active_read_events_under_plugin_ids() -> None:
    graph = SessionGraph()
    graph.append_plugin("note", 1)
    graph.append_active_read_delta([message("m1")], [call("c1")])
    graph.append_active_conversation_messages([message("m1"), message("m2")])
    graph.replace_active_read_state([message("m3")], [call("c2")])
    assert all(one.plugin is not None for one in graph.nodes if one.node_id.startswith("plugin:"))
    assert all(one.plugin is None for one in graph.nodes if not one.node_id.startswith("plugin:"))


def test_appending_chains_from_the_leaf_and_stamps_the_time(clock: ManualClock) -> None:
    graph = SessionGraph()
    graph.append_message(message("m1"))
    clock.advance(1.5)
    graph.append_plugin("note", None)
    assert [one.parent_node_id for one in graph.nodes] == [None, "m1"]
    assert [one.timestamp for one in graph.nodes] == ["2026-02-03T04:05:06.000000Z", "2026-02-03T04:05:07.500000Z"]
    assert graph.leaf_node_id == graph.nodes[-1].node_id


def test_session_nodes_of_all_kinds_are_appended_in_order() -> None:
    graph = SessionGraph()
    event = ModeEvent(mode_id="repl", payload=1)
    new = graph.append_session_nodes([message("m1"), event, PluginPayload(plugin_type="note", body=2)])
    assert new == AppendedNodes(tuple(node_ids(graph)), graph.leaf_node_id)
    assert [graph.nodes[0].message, graph.nodes[1].mode_event, graph.nodes[2].plugin] == [
        message("m1"),
        event,
        PluginPayload(plugin_type="note", body=2),
    ]


def test_the_read_model_shows_each_message_once_and_no_transient_ones() -> None:
    graph = SessionGraph()
    for one in (message("m1", "first"), transient("t1"), message("m1", "again"), message("m2")):
        graph.append_message(one)
    graph.append_tool_call(call("c1"))
    graph.append_mode_event(ModeEvent(mode_id="repl", payload=1))
    assert graph.messages() == (message("m1", "first"), message("m2"))
    assert graph.tool_calls() == (call("c1"),)
    assert len(graph.active_events()) == 6


def test_a_delta_appends_only_what_is_not_shown() -> None:
    graph = SessionGraph()
    assert graph.append_active_read_delta([message("m1"), transient("t"), message("m1")], [call("c1")]) == [
        "m1",
        "tool:c1",
    ]
    assert graph.append_active_read_delta([message("m1", "other"), message("m2")], [call("c1")]) == ["m2"]
    assert ids(graph.messages()) == ["m1", "m2"]


def test_a_delta_appends_a_known_call_with_another_output() -> None:
    graph = SessionGraph()
    graph.append_active_read_delta([], [call("c1", 1), call("c1", 1), call("c1", True), call("c1", 2)])
    assert [record.output.outcome.model_dump()["payload"] for record in graph.tool_calls()] == [1, True, 2]
    assert graph.append_active_read_delta([], [call("c1", 2), call("c1", 1)]) == []


def test_a_delta_never_drops_messages_without_an_id() -> None:
    graph = SessionGraph()
    assert len(graph.append_active_read_delta([message("", "a"), message("", "b")], [])) == 2
    assert [one.search_text() for one in graph.messages()] == ["a", "b"]


def test_a_delta_counts_only_the_active_branch_as_shown() -> None:
    graph = SessionGraph()
    graph.append_active_read_delta([message("m1"), message("m2")], [call("c1")])
    graph.branch_to("m1")
    graph.append_active_read_delta([message("m2")], [call("c1")])
    assert node_ids(graph)[:2] == ["m1", "message:m2"]
    assert len(graph.tool_calls()) == 1


def test_conversation_messages_are_appended_without_looking() -> None:
    graph = SessionGraph()
    graph.append_message(message("m1"))
    assert graph.append_active_conversation_messages([message("m1"), transient("t"), message("m2")]) == [
        "message:m1",
        "m2",
    ]
    assert ids(graph.messages()) == ["m1", "m2"]


def test_appending_after_an_unknown_leaf_is_refused() -> None:
    graph = raw_graph(node("m1"), leaf="lost")
    with pytest.raises(InvalidStateError, match="'lost'"):
        graph.append_message(message("m2"))
    assert len(graph.nodes) == 1


def test_branching_moves_the_leaf_and_forgets_nothing() -> None:
    graph = SessionGraph()
    graph.append_active_read_delta([message("m1"), message("m2"), message("m3")], [])
    graph.branch_to("m1")
    graph.append_message(message("x"))
    assert node_ids(graph) == ["m1", "x"]
    assert graph.orphaned_node_ids() == ("m2", "m3")
    graph.branch_to("m3")
    assert node_ids(graph) == ["m1", "m2", "m3"]
    graph.branch_to(None)
    assert node_ids(graph) == []
    graph.append_message(message("root2"))
    assert graph.nodes[-1].parent_node_id is None


def test_branching_to_an_unknown_node_is_refused() -> None:
    graph = raw_graph(node("m1"), leaf="m1")
    with pytest.raises(InvalidStateError, match="'m9'"):
        graph.branch_to("m9")
    assert graph.leaf_node_id == "m1"


def test_the_active_path_is_found_by_id() -> None:
    graph = raw_graph(node("m1"), node("side", "m1"), node("m2", "m1"), leaf="m2")
    assert graph.active_path_contains("m1")
    assert not graph.active_path_contains("side")
    assert graph.find_node("side") is graph.nodes[1]
    assert graph.node_index("m2") == 2
    assert graph.find_node("m9") is None
    assert graph.node_index("m9") is None


def test_a_fork_holds_the_active_path_alone_with_nothing_committed() -> None:
    graph = raw_graph(node("m1"), node("side", "m1"), node("m2", "m1"), leaf="m2")
    graph.mark_committed()
    fork = graph.fork_current_path()
    assert [one.node_id for one in fork.nodes] == ["m1", "m2"]
    assert fork.leaf_node_id == "m2"
    assert (fork.committed_count, fork.only_appended) == (0, True)
    fork.append_message(message("m3"))
    assert len(graph.nodes) == 3


def test_a_fork_of_an_unknown_leaf_is_refused_by_its_check() -> None:
    fork = raw_graph(node("m1"), leaf="lost").fork_current_path()
    assert (list(fork.nodes), fork.leaf_node_id) == ([], "lost")
    with pytest.raises(InvalidStateError, match="'lost'"):
        fork.check()


def test_a_fork_before_the_first_node_is_empty_and_sound() -> None:
    fork = raw_graph(node("m1"), leaf=None).fork_current_path()
    fork.check()
    assert fork == SessionGraph()


def test_extending_the_active_path_is_raw_and_moves_the_leaf() -> None:
    graph = SessionGraph()
    graph.append_message(message("m1"))
    graph.extend_active_path([node("m2", "m1"), node("m3", "m2")])
    assert ids(graph.messages()) == ["m1", "m2", "m3"]
    graph.push_node_record(node("m4", "m3"))
    graph.extend_node_records([node("m5", "m4")])
    assert graph.leaf_node_id == "m3"
    graph.set_leaf_node_id("m5")
    assert ids(graph.messages()) == ["m1", "m2", "m3", "m4", "m5"]


def test_nodes_are_a_read_only_live_sequence() -> None:
    graph = SessionGraph()
    nodes = graph.nodes
    graph.append_message(message("m1"))
    assert len(nodes) == 1
    assert nodes[0].node_id == "m1"
    assert nodes[-1:] == (graph.nodes[0],)
    assert nodes == [graph.nodes[0]]
    assert isinstance(nodes, Sequence)
    assert not hasattr(nodes, "append")
    with pytest.raises(TypeError):
        nodes[0] = node("x")


def test_copies_are_independent_and_share_nodes() -> None:
    graph = SessionGraph.from_nodes([node("m1"), node("m2", "m1")], "m2", committed=True)
    graph.append_message(message("m3"))
    clone = graph.copy()
    assert clone == graph
    assert clone.nodes[0] is graph.nodes[0]
    assert (clone.committed_count, clone.only_appended) == (2, True)
    clone.append_message(message("m4"))
    clone.branch_to("m1")
    assert ids(graph.messages()) == ["m1", "m2", "m3"]
    assert ids(clone.messages()) == ["m1"]
    assert graph.append_active_read_delta([message("m4")], []) == ["m4"]


def test_the_tree_skips_what_is_no_message_and_sorts_by_time() -> None:
    graph = raw_graph(
        node("root", at="2026-01-01T00:00:00Z"),
        plugin_node("p", "root"),
        node("late", "p", at="2026-01-03T00:00:00Z"),
        node("early", "p", at="2026-01-02T00:00:00Z"),
        node("reply", "late", at="2026-01-04T00:00:00Z"),
        plugin_node("q"),
        node("second", "q", at="2025-01-01T00:00:00Z"),
        leaf="reply",
    )
    tree = graph.message_tree()
    assert [entry.node_id for entry in tree.roots()] == ["second", "root"]
    assert [entry.node_id for entry in tree.children("root")] == ["early", "late"]
    assert [entry.node_id for entry in tree.children("late")] == ["reply"]
    assert tree.children("reply") == ()
    assert {entry.node_id for entry in tree.entries if entry.active} == {"root", "late", "reply"}


def test_the_tree_marks_the_right_node_of_a_message_on_two_branches() -> None:
    graph = SessionGraph()
    graph.append_active_read_delta([message("m1"), message("m2")], [])
    graph.branch_to("m1")
    graph.append_active_read_delta([message("m2")], [])
    active = {entry.node_id: entry.active for entry in graph.message_tree().entries}
    assert active == {"m1": True, "m2": False, "message:m2": True}


def test_a_tree_of_a_long_conversation_can_be_built_and_compared() -> None:
    graph = SessionGraph()
    graph.append_active_read_delta([message(f"m{i}") for i in range(3000)], [])
    assert graph.message_tree() == graph.copy().message_tree()
    assert len(graph.message_tree().model_dump()["entries"]) == 3000


def test_user_messages_are_counted_on_all_branches() -> None:
    first = Message(
        id="u1",
        role="User",
        parts=(
            part("a", "look"),
            part("b", "ignored", kind="ToolResult"),
            part("c", kind="Image"),
            part("d", " "),
            part("e", "there"),
        ),
    )
    graph = SessionGraph()
    assert (graph.user_message_count(), graph.first_user_message()) == (0, "")
    graph.append_active_read_delta([message("s", role="System"), first, message("a", role="Assistant")], [])
    graph.branch_to(None)
    graph.append_message(message("u2"))
    assert graph.user_message_count() == 2
    assert graph.first_user_message() == "look\n\n[Image attached]\n\nthere"


@given(st.lists(strategies.messages, max_size=5), st.lists(strategies.tool_calls, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_delta_can_be_repeated_without_effect(messages: list[Message], calls: list[ToolCallRecord]) -> None:
    graph = SessionGraph()
    graph.append_active_read_delta(messages, calls)
    graph.check()
    assert graph.append_active_read_delta(messages, calls) == []
    rebuilt = SessionGraph.from_nodes(graph.nodes, graph.leaf_node_id)
    assert rebuilt.append_active_read_delta(messages, calls) == []
    assert rebuilt.messages() == graph.messages()
