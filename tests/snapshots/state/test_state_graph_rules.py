"""What makes a graph valid, how a lost leaf is healed, what is known of the last commit, and what it all costs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.errors import InvalidStateError
from snapshots.state import (
    LeafHealing,
    ResumeFinding,
    SessionGraph,
    SessionNodeRecord,
    nodes_from_plain,
    nodes_to_plain,
)
from tests.snapshots.state.builders import call, chain, lines_run, message, node, plugin_node, raw_graph

BROKEN = [
    ([node("a"), node("a")], "a", "'a': its id is taken"),
    ([node("a"), node("b", "gone")], "a", "'b': its parent 'gone' is not in the graph"),
    ([node("a", "a")], "a", "'a': it is its own ancestor"),
    ([node("a", "b"), node("b", "a")], None, "it is its own ancestor"),
    ([node("x"), node("a", "c"), node("b", "a"), node("c", "b")], "x", "it is its own ancestor"),
    ([node("a")], "gone", "leaf 'gone' is not in the graph"),
]


@pytest.mark.parametrize(("nodes", "leaf", "reason"), BROKEN)
def test_broken_graphs_are_refused_by_name_and_rule(
    nodes: list[SessionNodeRecord], leaf: str | None, reason: str
) -> None:
    with pytest.raises(InvalidStateError, match=reason):
        SessionGraph.from_nodes(nodes, leaf)
    graph = raw_graph(*nodes, leaf=leaf)
    for check in (graph.check, graph.check_new):
        with pytest.raises(InvalidStateError) as caught:
            check()
        assert reason in caught.value.reason


@pytest.mark.parametrize(("nodes", "leaf", "reason"), BROKEN)
def test_new_nodes_are_checked_against_the_committed_ones(
    nodes: list[SessionNodeRecord], leaf: str | None, reason: str
) -> None:
    graph = chain(3)
    graph.extend_node_records(nodes)
    graph.set_leaf_node_id(leaf)
    with pytest.raises(InvalidStateError) as caught:
        graph.check_new()
    assert reason in caught.value.reason


def test_a_new_node_cannot_take_a_committed_id() -> None:
    graph = chain(3)
    graph.push_node_record(node("n1", "n2"))
    with pytest.raises(InvalidStateError, match="'n1': its id is taken"):
        graph.check_new()


def test_parents_may_come_later() -> None:
    graph = SessionGraph.from_nodes([node("c", "b"), node("b", "a"), node("a"), node("d", "c")], "d")
    assert [one.node_id for one in graph.active_path_nodes()] == ["a", "b", "c", "d"]
    grown = chain(2)
    grown.extend_node_records([node("y", "x"), node("x", "n1")])
    grown.set_leaf_node_id("y")
    grown.check_new()
    assert [one.node_id for one in grown.active_path_nodes()] == ["n0", "n1", "x", "y"]


@given(st.lists(st.none() | st.integers(0, 7), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_the_check_agrees_with_walking_every_node_up(parents: list[int | None]) -> None:
    nodes = [node(f"n{i}", None if parent is None else f"n{parent}") for i, parent in enumerate(parents)]
    graph = raw_graph(*nodes)

    def reaches_a_root(position: int) -> bool:
        for _ in range(len(parents) + 1):
            parent = parents[position]
            if parent is None:
                return True
            if parent >= len(parents):
                return False
            position = parent
        return False

    if all(reaches_a_root(position) for position in range(len(parents))):
        graph.check()
        for one in nodes:
            graph.set_leaf_node_id(one.node_id)
            assert graph.active_path_nodes()[-1] is one
    else:
        with pytest.raises(InvalidStateError):
            graph.check()


def test_a_cycle_on_the_active_path_is_an_error_not_a_loop() -> None:
    graph = raw_graph(node("a", "b"), node("b", "a"), leaf="b")
    for read in (graph.active_path_nodes, graph.messages, graph.fork_current_path, graph.message_tree):
        with pytest.raises(InvalidStateError, match="own ancestor"):
            read()


def test_a_cycle_off_the_active_path_is_an_error_of_the_tree() -> None:
    graph = raw_graph(node("m"), plugin_node("a", "b"), plugin_node("b", "a"), node("c", "b"), leaf="m")
    with pytest.raises(InvalidStateError, match="own ancestor"):
        graph.message_tree()
    lost = raw_graph(node("m"), node("c", "gone"), leaf="m")
    with pytest.raises(InvalidStateError, match="'gone'"):
        lost.message_tree()


def test_a_missing_parent_is_an_error_not_a_shorter_history() -> None:
    graph = raw_graph(node("b", "gone"), node("c", "b"), leaf="c")
    with pytest.raises(InvalidStateError, match="'b': its parent 'gone'"):
        graph.messages()


def test_an_unknown_leaf_has_an_empty_path() -> None:
    graph = raw_graph(node("a"), leaf="gone")
    assert graph.active_path_nodes() == ()
    assert not graph.active_path_contains("a")


@pytest.mark.parametrize("leaf", [None, "a"])
def test_a_sound_leaf_is_left_alone(leaf: str | None) -> None:
    graph = raw_graph(node("a"), leaf=leaf)
    healing = graph.heal_orphaned_leaf()
    assert not healing
    assert healing == LeafHealing(rule="sound", leaf_node_id=leaf)
    assert not healing.report()
    assert graph.leaf_node_id == leaf


def test_a_lost_leaf_becomes_its_nearest_surviving_ancestor() -> None:
    graph = raw_graph(node("a"), plugin_node("b", "a"), node("c", "b"), node("d", "c"), node("newest", "a"), leaf="d")
    assert graph.remove_nodes(["d", "c", "unknown"]) == 2
    healing = graph.heal_orphaned_leaf()
    assert healing
    assert healing == LeafHealing(rule="ancestor", lost_leaf_node_id="d", leaf_node_id="b")
    assert healing.report().healed == (
        ResumeFinding(kind="leaf", name="d", reason="the leaf was not in the graph; 'b' took its place (ancestor)"),
    )
    graph.check()


def test_a_lost_leaf_uses_an_ancestry_known_elsewhere() -> None:
    graph = raw_graph(node("a"), node("b", "a"), node("newest"), leaf="lost")
    assert graph.heal_orphaned_leaf(["gone too", "b", "a"]).leaf_node_id == "b"


def test_a_leaf_of_which_nothing_is_known_becomes_the_newest_message() -> None:
    graph = raw_graph(node("a"), node("b"), node("t", "b", payload=call("c1")), plugin_node("p", "b"), leaf="lost")
    assert graph.heal_orphaned_leaf() == LeafHealing(rule="newest_message", lost_leaf_node_id="lost", leaf_node_id="b")


def test_without_messages_the_leaf_becomes_none() -> None:
    graph = raw_graph(plugin_node("p"), leaf="lost")
    healing = graph.heal_orphaned_leaf()
    assert healing == LeafHealing(rule="empty", lost_leaf_node_id="lost")
    assert healing
    assert graph.leaf_node_id is None


def test_when_the_whole_ancestry_was_removed_the_newest_message_is_taken() -> None:
    graph = raw_graph(node("a"), node("b", "a"), node("other"), leaf="b")
    graph.remove_nodes(["a", "b"])
    assert graph.heal_orphaned_leaf().rule == "newest_message"
    assert graph.leaf_node_id == "other"


def test_a_node_with_remaining_children_cannot_be_removed() -> None:
    graph = raw_graph(node("a"), node("b", "a"), node("c", "b"), leaf="c")
    with pytest.raises(InvalidStateError, match="'c' stays"):
        graph.remove_nodes(["a", "b"])
    assert len(graph.nodes) == 3
    assert graph.only_appended


def test_removed_nodes_are_gone_from_every_reading() -> None:
    graph = chain(3)
    graph.append_active_read_delta([message("x")], [])
    graph.branch_to("n1")
    assert graph.messages()[-1].id == "n1"
    assert graph.remove_nodes(graph.orphaned_node_ids()) == 2
    assert [one.node_id for one in graph.nodes] == ["n0", "n1"]
    assert graph.find_node("n2") is None
    assert graph.append_active_read_delta([message("x"), message("n2")], []) == ["x", "n2"]
    graph.check()


def test_a_removed_leaf_is_an_unknown_leaf() -> None:
    graph = chain(3)
    assert len(graph.messages()) == 3
    graph.remove_nodes(["n2"])
    assert graph.messages() == ()
    graph.push_node_record(node("n2", "n0"))
    assert [one.node_id for one in graph.active_path_nodes()] == ["n0", "n2"]


def test_appending_and_moving_the_leaf_are_the_only_harmless_changes() -> None:
    graph = chain(3)
    assert (graph.committed_count, graph.only_appended, list(graph.new_nodes())) == (3, True, [])
    graph.append_message(message("x"))
    graph.branch_to("n0")
    graph.append_plugin("note", 1)
    graph.replace_active_read_state([message("y")], [])
    assert graph.only_appended
    assert [one.node_id for one in graph.new_nodes()] == [one.node_id for one in graph.nodes][3:]
    assert len(graph.new_nodes()) == 3
    graph.mark_committed()
    assert (graph.committed_count, len(graph.new_nodes())) == (6, 0)


def test_removing_is_no_append_until_the_next_commit() -> None:
    graph = chain(4)
    graph.append_message(message("x"))
    graph.branch_to("n1")
    graph.remove_nodes(["n2", "n3", "x"])
    assert not graph.only_appended
    assert graph.committed_count == 2  # nodes[:committed_count] still stand in the last revision
    graph.mark_committed()
    assert graph.only_appended


def test_a_new_graph_has_everything_to_commit() -> None:
    graph = SessionGraph.from_nodes([node("a")], "a")
    assert (graph.committed_count, graph.only_appended, len(graph.new_nodes())) == (0, True, 1)


def test_an_uncommitted_copy_has_everything_to_commit() -> None:
    graph = chain(3)
    graph.remove_nodes(["n2"])
    graph.branch_to("n1")
    clone = graph.uncommitted_copy()
    assert (clone.committed_count, clone.only_appended, len(clone.new_nodes())) == (0, True, 2)
    assert clone == graph


def test_a_graph_that_continues_another_keeps_its_commits() -> None:
    previous = chain(3)
    later = previous.copy()
    later.append_message(message("x"))
    previous.append_message(message("y"))
    previous.mark_committed()
    later.continue_from(previous)  # exported before "y" was committed, given back after
    assert (later.committed_count, later.only_appended) == (3, False)


def test_a_graph_read_from_plain_data_continues_the_one_it_came_from() -> None:
    previous = chain(3)
    again = SessionGraph.from_nodes(nodes_from_plain(nodes_to_plain(previous.nodes)), "n2")
    again.append_message(message("x"))
    again.continue_from(previous)
    assert (again.committed_count, again.only_appended) == (3, True)
    assert [one.node_id for one in again.new_nodes()] == ["x"]


def test_an_unrelated_graph_shares_no_commit() -> None:
    other = SessionGraph.from_nodes([node("n0", at="2030-01-01T00:00:00Z")], "n0", committed=True)
    other.continue_from(chain(3))
    assert (other.committed_count, other.only_appended) == (0, False)


def turn(graph: SessionGraph) -> None:
    graph.append_active_read_delta([message("u", calls=("c1",)), message("a")], [call("c1")])
    graph.append_plugin("note", {"n": 1})
    graph.check_new()
    nodes_to_plain(graph.new_nodes())
    graph.mark_committed()
    assert graph.active_path_contains("a")


def test_a_turn_costs_the_same_on_a_small_and_on_a_large_graph() -> None:
    small, large = chain(10), chain(5000)
    for graph in (small, large):
        graph.messages()  # the path is known, as after any reading or appending
    assert lines_run(lambda: turn(small)) == lines_run(lambda: turn(large))


def test_the_known_path_is_extended_not_rebuilt() -> None:
    graph = chain(50)
    graph.messages()
    known = graph._active
    turn(graph)
    graph.messages()
    assert graph._active is known
    graph.branch_to("n10")
    graph.messages()
    assert graph._active is not known


def test_what_a_clone_appends_does_not_cost_the_original_its_path() -> None:
    graph = chain(50)
    graph.messages()
    known = graph._active
    clone = graph.copy()
    turn(clone)
    graph.messages()
    assert graph._active is known
    assert len(graph.messages()) == 50


def children_first(graph: SessionGraph, count: int) -> None:
    """Add a chain below the leaf in the wrong order, as a raw writer may."""
    leaf = graph.leaf_node_id
    graph.extend_node_records(node(f"x{i}", f"x{i - 1}" if i else leaf) for i in reversed(range(count)))


def test_new_nodes_in_any_order_are_checked_without_walking_the_old_ones() -> None:
    small, large = chain(10), chain(5000)
    for graph in (small, large):
        children_first(graph, 3)
    assert lines_run(small.check_new) == lines_run(large.check_new)


def test_checking_children_before_parents_is_linear() -> None:
    some, twice = chain(1), chain(1)
    children_first(some, 200)
    children_first(twice, 400)
    assert lines_run(twice.check_new) < 2.5 * lines_run(some.check_new)
