"""Tombstoned nodes: hidden from every read at once, their ids taken until they are removed, and never half of it."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from snapshots.errors import InvalidStateError
from snapshots.state import LeafHealing, PersistedSessionState, SessionGraph, nodes_from_plain, nodes_to_plain
from tests.snapshots.state.builders import call, chain, ids, lines_run, message, node, raw_graph, tree

GRAPHS = TypeAdapter(SessionGraph)


def hidden_tree() -> SessionGraph:
    """Return `tree()` with `left` and `leaf` tombstoned."""
    graph = tree()
    assert graph.tombstone_nodes(["leaf", "left"]) == 2
    return graph


def test_a_tombstoned_node_is_hidden_from_every_read_at_once() -> None:
    graph = tree()
    everything = (graph.orphaned_node_ids(), len(graph.message_tree().entries), graph.user_message_count())
    assert everything == (("left", "leaf"), 4, 4)
    graph.tombstone_nodes(["left", "leaf"])
    assert graph.orphaned_node_ids() == ()
    assert [entry.node_id for entry in graph.message_tree().entries] == ["root", "right"]
    assert graph.user_message_count() == 2
    assert [one.node_id for one in graph.visible_nodes] == ["root", "right"]
    assert (graph.find_node("leaf"), graph.node_index("leaf")) == (None, None)
    assert not graph.active_path_contains("leaf")
    assert ids(graph.messages()) == ["root", "right"]
    assert graph.node_index("right") == 3


def test_the_first_user_message_is_the_first_visible_one() -> None:
    graph = raw_graph(node("a", payload=message("a", "hidden")), node("b", payload=message("b", "seen")), leaf="b")
    graph.tombstone_nodes(["a"])
    assert graph.first_user_message() == "seen"


def test_tombstoned_nodes_are_stored_until_they_are_removed() -> None:
    graph = hidden_tree()
    assert [one.node_id for one in graph.nodes] == ["root", "left", "leaf", "right"]
    assert graph.tombstoned_node_ids == ("left", "leaf")  # in the order of the nodes, not of the calls
    assert len(graph) == 4
    graph.check()
    graph.check_new()


def test_tombstoning_again_hides_nothing_new() -> None:
    graph = tree()
    assert graph.tombstone_nodes(["leaf", "leaf"]) == 1
    assert graph.tombstone_nodes(["leaf", "left"]) == 1
    assert graph.tombstone_nodes(["leaf", "left"]) == 0
    assert graph.tombstone_nodes([]) == 0


@pytest.mark.parametrize(
    ("node_ids", "reason"),
    [
        (["leaf", "gone"], "'gone' is not in the graph"),
        (["leaf", "right"], "'right' is the leaf"),
        (["left", "leaf", "root"], "'right' stays visible, so its parent 'root' must too"),
        (["left"], "'leaf' stays visible, so its parent 'left' must too"),
        (["root", "left", "leaf", "right"], "'right' is the leaf"),
    ],
)
def test_what_cannot_be_hidden_hides_nothing(node_ids: list[str], reason: str) -> None:
    graph, before = tree(), tree()
    with pytest.raises(InvalidStateError, match=reason):
        graph.tombstone_nodes(node_ids)
    assert graph == before
    assert graph.tombstoned_node_ids == ()
    assert graph.orphaned_node_ids() == ("left", "leaf")


def test_a_child_appended_after_the_first_tombstones_keeps_its_parent() -> None:
    graph = tree()
    graph.tombstone_nodes(["leaf"])
    graph.branch_to("left")
    graph.append_message(message("late"))
    graph.branch_to("right")
    with pytest.raises(InvalidStateError, match="'late' stays visible"):
        graph.tombstone_nodes(["left"])
    assert graph.tombstone_nodes(["left", "late"]) == 2


@pytest.mark.parametrize(
    "use",
    [
        lambda graph: graph.branch_to("leaf"),
        lambda graph: graph.active_path_to("leaf"),
    ],
)
def test_nothing_stands_on_a_tombstoned_node(use: Callable[[SessionGraph], Any]) -> None:
    graph = hidden_tree()
    with pytest.raises(InvalidStateError, match="'leaf' is tombstoned"):
        use(graph)
    assert graph == hidden_tree()


def test_the_id_stays_taken_until_the_node_is_removed() -> None:
    graph = hidden_tree()
    assert graph.append_active_read_delta([message("leaf")], []) == ["message:leaf"]
    assert graph.vacuum() == 2
    graph.append_message(message("left"))
    assert graph.leaf_node_id == "left"
    graph.check()
    taken = hidden_tree()
    taken.push_node_record(node("leaf", "right"))
    with pytest.raises(InvalidStateError, match="'leaf': its id is taken"):
        taken.check_new()


def test_the_id_of_a_tombstoned_call_stays_taken() -> None:
    graph = SessionGraph()
    graph.append_tool_call(call("c1"))
    graph.branch_to(None)
    graph.tombstone_nodes(["tool:c1"])
    assert graph.append_tool_call(call("c1")).startswith("tool:c1:")


def test_tombstone_and_vacuum_remove_what_is_orphaned() -> None:
    graph = tree()
    assert graph.vacuum() == 0
    assert graph.only_appended
    assert graph.tombstone_nodes(graph.orphaned_node_ids()) == 2
    assert graph.vacuum() == 2
    assert graph.tombstoned_node_ids == ()
    assert [one.node_id for one in graph.nodes] == ["root", "right"]
    assert graph.vacuum() == 0
    graph.check()


def test_only_vacuum_makes_the_graph_written_anew() -> None:
    graph = tree()
    graph.tombstone_nodes(["leaf"])
    assert (graph.committed_count, graph.only_appended, list(graph.new_nodes())) == (4, True, [])
    graph.vacuum()
    assert (graph.committed_count, graph.only_appended) == (2, False)
    graph.mark_committed()
    assert (graph.committed_count, graph.only_appended) == (3, True)


def test_removing_nodes_removes_their_tombstones_as_well() -> None:
    graph = hidden_tree()
    assert graph.remove_nodes(["leaf"]) == 1
    assert graph.tombstoned_node_ids == ("left",)
    graph.push_node_record(node("leaf", "right"))
    assert graph.find_node("leaf") is not None
    graph.check()
    graph.branch_to("leaf")
    with pytest.raises(InvalidStateError, match="'leaf' stays visible"):
        graph.tombstone_nodes(["right"])  # children are known again after a removal


def test_a_visible_node_above_a_tombstoned_one_is_not_removed_alone() -> None:
    graph = tree()
    graph.tombstone_nodes(["leaf"])
    with pytest.raises(InvalidStateError, match="'leaf' stays"):
        graph.remove_nodes(["left"])
    assert graph.remove_nodes(["left", "leaf"]) == 2


def test_a_node_pushed_below_a_tombstoned_one_is_refused_by_the_checks_and_stops_the_vacuum() -> None:
    graph = hidden_tree()
    graph.push_node_record(node("pushed", "leaf"))
    for check in (graph.check, graph.check_new):
        with pytest.raises(InvalidStateError, match="'pushed': its parent 'leaf' is tombstoned"):
            check()
    with pytest.raises(InvalidStateError, match="'pushed' stays"):
        graph.vacuum()
    assert len(graph) == 5


def test_a_tombstoned_leaf_is_a_lost_one() -> None:
    graph = hidden_tree()
    graph.set_leaf_node_id("leaf")
    assert graph.active_path_nodes() == ()
    for check in (graph.check, graph.check_new):
        with pytest.raises(InvalidStateError, match="leaf 'leaf' is tombstoned"):
            check()
    with pytest.raises(InvalidStateError, match="heal_orphaned_leaf"):
        graph.append_message(message("x"))
    assert graph.heal_orphaned_leaf() == LeafHealing(rule="ancestor", lost_leaf_node_id="leaf", leaf_node_id="root")
    graph.check()


def test_a_removed_leaf_heals_past_its_tombstoned_ancestors() -> None:
    graph = tree()
    graph.tombstone_nodes(["leaf", "left"])
    graph.remove_nodes(["leaf"])
    graph.set_leaf_node_id("leaf")
    assert graph.heal_orphaned_leaf(["right"]).leaf_node_id == "root"


def test_no_tombstoned_node_takes_the_place_of_a_lost_leaf() -> None:
    graph = raw_graph(node("a"), node("b"), leaf="a")
    graph.tombstone_nodes(["b"])
    graph.set_leaf_node_id("lost")
    assert graph.heal_orphaned_leaf(["b"]) == LeafHealing(
        rule="newest_message", lost_leaf_node_id="lost", leaf_node_id="a"
    )


def test_a_path_known_from_before_does_not_bring_a_tombstoned_leaf_back() -> None:
    graph = tree()
    graph.branch_to("leaf")
    assert ids(graph.messages()) == ["root", "left", "leaf"]
    graph.branch_to("right")
    graph.tombstone_nodes(["leaf"])
    graph.set_leaf_node_id("leaf")
    assert graph.messages() == ()


def test_from_nodes_takes_tombstones_and_refuses_broken_ones() -> None:
    nodes = list(tree().nodes)
    graph = SessionGraph.from_nodes(nodes, "right", committed=True, tombstoned=("leaf", "left"))
    assert graph == hidden_tree()
    assert (graph.committed_count, graph.only_appended) == (4, True)
    for tombstoned, reason in BROKEN:
        with pytest.raises(InvalidStateError, match=reason):
            SessionGraph.from_nodes(nodes, "right", tombstoned=tombstoned)


BROKEN = [
    (["gone"], "'gone' is not in the graph"),
    (["right"], "'right' is the leaf"),
    (["root"], "stays visible, so its parent 'root'"),
    (["left"], "'leaf' stays visible"),
    (["leaf", "leaf"], "tombstoned twice"),
]


def test_the_plain_form_names_the_tombstones_and_leaves_an_empty_list_out() -> None:
    assert "tombstoned_node_ids" not in tree().to_plain()
    graph = hidden_tree()
    plain = graph.to_plain()
    assert plain["tombstoned_node_ids"] == ["left", "leaf"]
    assert len(plain["nodes"]) == 4
    assert GRAPHS.validate_python(plain) == graph
    assert GRAPHS.validate_json(GRAPHS.dump_json(graph)) == graph
    for again in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert again == graph
        assert again.tombstoned_node_ids == ("left", "leaf")


@pytest.mark.parametrize(("tombstoned", "reason"), BROKEN)
def test_broken_tombstones_are_refused_when_read(tombstoned: list[str], reason: str) -> None:
    plain = {**tree().to_plain(), "tombstoned_node_ids": tombstoned}
    with pytest.raises(ValidationError, match=reason):
        GRAPHS.validate_python(plain)
    document = {"session_id": "s", "session_graph": json.loads(json.dumps(plain))}
    with pytest.raises(ValidationError, match=reason):
        PersistedSessionState.model_validate_json(json.dumps(document))


def test_a_document_with_a_lost_leaf_and_tombstones_can_be_healed() -> None:
    graph = GRAPHS.validate_python({**hidden_tree().to_plain(), "leaf_node_id": "lost"})
    assert graph.heal_orphaned_leaf().leaf_node_id == "right"


def test_graphs_that_hide_different_nodes_differ() -> None:
    one, other = tree(), hidden_tree()
    assert one != other
    one.tombstone_nodes(["leaf"])
    assert one != other
    one.tombstone_nodes(["left"])
    assert one == other


def test_copies_hide_the_same_and_go_on_alone() -> None:
    graph = tree()
    graph.tombstone_nodes(["leaf"])
    for clone in (graph.copy(), graph.uncommitted_copy()):
        assert clone == graph
        clone.tombstone_nodes(["left"])
        clone.vacuum()
        assert graph.tombstoned_node_ids == ("leaf",)
        assert len(graph) == 4


def test_a_fork_of_the_path_has_no_tombstones() -> None:
    fork = hidden_tree().fork_current_path()
    assert [one.node_id for one in fork.nodes] == ["root", "right"]
    assert fork.tombstoned_node_ids == ()


def test_a_graph_given_back_keeps_its_tombstones_and_is_not_rewritten_for_them() -> None:
    state = PersistedSessionState(session_graph=tree(), head_revision=1)
    envelope = state.export_state()
    envelope.session_graph.tombstone_nodes(["leaf"])
    envelope.session_graph.append_message(message("x"))
    state.apply_exported_state(envelope)
    graph = state.session_graph
    assert graph.tombstoned_node_ids == ("leaf",)
    assert (graph.committed_count, graph.only_appended) == (4, True)
    envelope.session_graph.vacuum()
    state.apply_exported_state(envelope)
    assert not state.session_graph.only_appended


def test_a_graph_read_again_continues_the_one_it_came_from() -> None:
    previous = hidden_tree()
    again = SessionGraph.from_nodes(nodes_from_plain(nodes_to_plain(previous.nodes)), "right")
    again.continue_from(previous)
    assert (again.committed_count, again.only_appended) == (4, True)
    assert again.tombstoned_node_ids == ()  # tombstones are content, as the leaf is


def test_tombstoning_costs_what_is_hidden_not_what_the_graph_is() -> None:
    small, large = chain(50), chain(3000)
    for graph in (small, large):
        for number in range(40):
            graph.branch_to("n9")
            graph.append_message(message(f"x{number}"))
        graph.branch_to("n9")
        graph.tombstone_nodes(["x0"])  # the children are indexed from here on
    for node_ids in (["x1"], [f"x{number}" for number in range(2, 40)]):
        costs = [lines_run(partial(graph.tombstone_nodes, node_ids)) for graph in (small, large)]
        assert costs[0] == costs[1]


def test_loading_without_tombstones_indexes_nothing() -> None:
    assert not chain(3)._tombstones._children


@given(st.lists(st.none() | st.integers(0, 11), min_size=1, max_size=12), st.data())
@settings(max_examples=150, deadline=None)
def test_hidden_nodes_look_like_removed_ones(parents: list[int | None], data: st.DataObject) -> None:
    nodes = [node(f"n{i}", None if parent is None or parent >= i else f"n{parent}") for i, parent in enumerate(parents)]
    names = [one.node_id for one in nodes]
    leaf = data.draw(st.sampled_from(names))
    hidden = SessionGraph.from_nodes(nodes, leaf)
    for _ in range(3):
        chosen = data.draw(st.lists(st.sampled_from(names), unique=True))
        before = hidden.copy()
        expected = {one for one in chosen if hidden.find_node(one) is not None}
        kept = [one for one in hidden.visible_nodes if one.node_id not in chosen]
        allowed = leaf not in chosen and not any(one.parent_node_id in chosen for one in kept)
        if allowed:
            assert hidden.tombstone_nodes(chosen) == len(expected)
        else:
            with pytest.raises(InvalidStateError):
                hidden.tombstone_nodes(chosen)
            assert hidden == before
    hidden.check()
    removed = hidden.copy()
    assert removed.vacuum() == len(hidden.tombstoned_node_ids)
    removed.check()
    assert list(removed.nodes) == list(hidden.visible_nodes)
    assert removed.message_tree() == hidden.message_tree()
    assert removed.orphaned_node_ids() == hidden.orphaned_node_ids()
    assert removed.active_path_nodes() == hidden.active_path_nodes()
    assert all((hidden.find_node(one) is None) == (removed.find_node(one) is None) for one in names)
