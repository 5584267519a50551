"""Branches: reading along one, going on from a required ancestor, and where a branching session stands afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from snapshots.errors import InvalidStateError
from snapshots.state import AppendedNodes, Message, SessionGraph, StaleBranch
from tests.snapshots.state.builders import chain, ids, message, node, plugin_node, raw_graph, tree


def test_active_path_read_scope_selects_only_requested_ancestry() -> None:
    graph = tree()
    scope = graph.active_path_to("leaf")
    assert [one.node_id for one in scope.nodes] == ["root", "left", "leaf"]
    assert scope.leaf_node_id == "leaf"
    assert ids(scope.messages()) == ["root", "left", "leaf"]
    assert scope.nodes[0] is graph.nodes[0]
    assert graph.leaf_node_id == "right"
    scope.check()


def test_a_path_is_read_root_first_whatever_the_order_of_insertion() -> None:
    graph = raw_graph(node("c", "b"), plugin_node("b", "a"), node("a"), leaf=None)
    assert [one.node_id for one in graph.active_path_to("c").nodes] == ["a", "b", "c"]
    assert [one.node_id for one in graph.active_path_to("a").nodes] == ["a"]


def test_a_path_read_is_independent_and_uncommitted() -> None:
    graph = tree()
    scope = graph.active_path_to("left")
    assert (scope.committed_count, scope.only_appended) == (0, True)
    scope.append_message(message("x"))
    assert graph == tree()
    assert graph.active_path_to("right") == graph.fork_current_path()


def test_a_path_to_an_unknown_node_is_refused() -> None:
    with pytest.raises(InvalidStateError, match="'gone' is not in the graph"):
        tree().active_path_to("gone")


def test_a_damaged_path_is_refused_not_shortened() -> None:
    graph = raw_graph(node("root"), node("b", "gone"), node("x", "y"), node("y", "x"), leaf="root")
    with pytest.raises(InvalidStateError, match="'gone'"):
        graph.active_path_to("b")
    with pytest.raises(InvalidStateError, match="own ancestor"):
        graph.active_path_to("x")


def test_nodes_are_appended_when_the_required_ancestor_is_on_the_active_path() -> None:
    for ancestor in ("root", "right", None):
        graph = tree()
        appended = graph.append_session_nodes([message("x"), message("right")], requires_ancestor_node_id=ancestor)
        assert appended == AppendedNodes(("x", "message:right"), "message:right")
        assert [one.parent_node_id for one in graph.new_nodes()] == ["right", "x"]


@pytest.mark.parametrize("ancestor", ["left", "leaf", "gone", "x"])
def test_a_stale_branch_is_reported_with_the_present_leaf_and_changes_nothing(ancestor: str) -> None:
    graph = tree()
    assert graph.append_session_nodes([message("x")], requires_ancestor_node_id=ancestor) == StaleBranch("right")
    assert graph == tree()
    assert not graph.new_nodes()


def test_before_the_first_node_every_required_ancestor_is_stale() -> None:
    assert SessionGraph().append_session_nodes([], requires_ancestor_node_id="root") == StaleBranch(None)
    assert SessionGraph().append_session_nodes([]) == AppendedNodes((), None)


def test_a_tombstoned_ancestor_is_stale() -> None:
    graph = tree()
    graph.tombstone_nodes(["leaf"])
    assert graph.append_session_nodes([message("x")], requires_ancestor_node_id="leaf") == StaleBranch("right")


def test_items_that_fail_to_arrive_append_nothing() -> None:
    def items() -> Iterator[Message]:
        yield message("x")
        raise TimeoutError("the source is gone")

    graph = tree()
    with pytest.raises(TimeoutError):
        graph.append_session_nodes(items())
    assert graph == tree()


def test_progress_holds_only_the_explicit_tail_of_the_graph() -> None:
    graph = chain(3)
    graph.append_session_nodes([message("x")], requires_ancestor_node_id="n2")
    assert [one.node_id for one in graph.new_nodes()] == ["x"]
    graph.mark_committed()
    graph.append_session_nodes([message("y")], requires_ancestor_node_id="x")
    assert [one.node_id for one in graph.new_nodes()] == ["y"]
    assert graph.only_appended


def test_branching_keeps_every_node_and_what_is_committed() -> None:
    graph = tree()
    graph.branch_to("left")
    assert graph.orphaned_node_ids() == ("leaf", "right")
    assert (graph.committed_count, graph.only_appended) == (4, True)
    graph.check_new()


def test_a_lost_leaf_on_one_branch_never_becomes_a_message_of_another_while_its_ancestry_is_known() -> None:
    graph = tree()
    graph.branch_to("leaf")
    graph.remove_nodes(["leaf"])
    healing = graph.heal_orphaned_leaf()
    assert (healing.rule, healing.leaf_node_id) == ("ancestor", "left")
    assert healing.report().healed[0].name == "leaf"
    assert graph.nodes[-1].node_id == "right"  # the newest message, of another branch
