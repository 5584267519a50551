"""The nodes of a graph in order of insertion, found by id, with what is known of their last commit.

Rules:
1. `nodes` is a read-only view; nodes are added at the end and shared between copies.
2. Raw adds accept anything; `check` and `check_new` say what is wrong. Of several nodes with one id the first is found.
3. `nodes[:committed_count]` stand in the last committed or loaded revision, always. `only_appended` turns False with
   anything but appending and moving the leaf, and True again with `mark_committed`.
4. A tombstoned node is hidden from every read by id, and so is what descends from it; it stays in `nodes`, and its id
   stays taken, until `vacuum`. Which nodes are tombstoned is no part of `nodes`, so hiding rewrites none of them.

    table.push_node_record(node)
    table.check_new()
    encode(table.new_nodes()); table.mark_committed()
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Self, overload

from snapshots.errors import InvalidStateError
from snapshots.state.graph_check import check_nodes
from snapshots.state.nodes import SessionNodeRecord
from snapshots.state.tombstones import Tombstones


class NodeSequence(Sequence[SessionNodeRecord]):
    """A read-only, live view of a graph's nodes."""

    __slots__ = ("_nodes",)

    def __init__(self, nodes: list[SessionNodeRecord]) -> None:
        self._nodes = nodes

    @overload
    def __getitem__(self, index: int) -> SessionNodeRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SessionNodeRecord]: ...
    def __getitem__(self, index: int | slice) -> SessionNodeRecord | Sequence[SessionNodeRecord]:
        return tuple(self._nodes[index]) if isinstance(index, slice) else self._nodes[index]

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[SessionNodeRecord]:
        return iter(self._nodes)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NodeSequence):
            return self._nodes == other._nodes
        return list(other) == self._nodes if isinstance(other, list | tuple) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a live view has no stable hash

    def __repr__(self) -> str:
        return f"NodeSequence({self._nodes!r})"


class NodeTable:
    """Nodes, leaf and commit bookkeeping: the part of a `SessionGraph` that knows nothing of conversations."""

    __slots__ = (
        "_committed_count",
        "_index",
        "_leaf_node_id",
        "_nodes",
        "_only_appended",
        "_parents_of_removed",
        "_tombstones",
    )

    def __init__(self) -> None:
        self._nodes: list[SessionNodeRecord] = []
        self._index: dict[str, int] = {}
        self._leaf_node_id: str | None = None
        self._committed_count = 0
        self._only_appended = True
        self._parents_of_removed: dict[str, str | None] = {}
        self._tombstones = Tombstones()

    @classmethod
    def from_nodes(
        cls,
        nodes: Iterable[SessionNodeRecord],
        leaf_node_id: str | None,
        *,
        committed: bool = False,
        tombstoned: Iterable[str] = (),
    ) -> Self:
        """Return a graph of these nodes, checked as by `check`.

        Args:
            nodes: In order of insertion.
            leaf_node_id: The leaf, None for none.
            committed: Whether they were loaded from a revision, so that the next commit writes only what follows.
            tombstoned: Ids of the hidden ones among them, each once.

        Raises:
            InvalidStateError: A rule of graphs or of tombstones is broken; the reason names the node.
        """
        graph = cls()
        graph.extend_node_records(nodes)
        graph._leaf_node_id = leaf_node_id
        graph.check()
        graph._load_tombstones(tuple(tombstoned))
        if committed:
            graph.mark_committed()
        return graph

    @property
    def nodes(self) -> Sequence[SessionNodeRecord]:
        """All nodes of all branches, oldest first, tombstoned ones included: a read-only, live view."""
        return NodeSequence(self._nodes)

    @property
    def visible_nodes(self) -> tuple[SessionNodeRecord, ...]:
        """The nodes of all branches that are not tombstoned, oldest first."""
        return tuple(node for node in self._nodes if node.node_id not in self._tombstones.ids)

    @property
    def tombstoned_node_ids(self) -> tuple[str, ...]:
        """Ids of the tombstoned nodes, in the order in which the nodes were inserted."""
        return tuple(sorted(self._tombstones.ids, key=self._index.__getitem__))

    @property
    def leaf_node_id(self) -> str | None:
        """Id of the node the conversation stands at, None before the first."""
        return self._leaf_node_id

    def find_node(self, node_id: str) -> SessionNodeRecord | None:
        """Return the visible node of this id, or None."""
        position = self.node_index(node_id)
        return None if position is None else self._nodes[position]

    def is_taken(self, node_id: str) -> bool:
        """Say whether there is a node of this id, tombstoned ones included (rule 4)."""
        return node_id in self._index

    def node_index(self, node_id: str) -> int | None:
        """Return the position of the visible node of this id in `nodes`, or None."""
        return None if node_id in self._tombstones.ids else self._index.get(node_id)

    def push_node_record(self, node: SessionNodeRecord) -> None:
        """Add a node as it is; the leaf stays. Nothing is checked."""
        self._index.setdefault(node.node_id, len(self._nodes))
        self._nodes.append(node)

    def extend_node_records(self, nodes: Iterable[SessionNodeRecord]) -> None:
        """Add nodes as they are; the leaf stays. Nothing is checked."""
        for node in nodes:
            self.push_node_record(node)

    def set_leaf_node_id(self, node_id: str | None) -> None:
        """Move the leaf, even to a node that is not here; `heal_orphaned_leaf` mends that, `check` reports it."""
        self._leaf_node_id = node_id

    def check(self) -> None:
        """Check every node and the leaf.

        Raises:
            InvalidStateError: An id is taken twice, a parent is missing, parents form a cycle, or the leaf is unknown;
                or the parent of a visible node or the leaf is tombstoned. The reason names the node.
        """
        check_nodes(self._nodes, self._index, self._leaf_node_id, self._tombstones.ids, start=0)

    def check_new(self) -> None:
        """Check the leaf and the nodes added since the last commit; costs what they are, not what the graph is.

        Raises:
            InvalidStateError: As for `check`.
        """
        check_nodes(self._nodes, self._index, self._leaf_node_id, self._tombstones.ids, start=self._committed_count)

    @property
    def committed_count(self) -> int:
        """Number of nodes at the start of `nodes` that stand in the last committed or loaded revision."""
        return self._committed_count

    @property
    def only_appended(self) -> bool:
        """Whether nothing but appending nodes and moving the leaf happened since the last commit."""
        return self._only_appended

    def new_nodes(self) -> Sequence[SessionNodeRecord]:
        """Return the nodes after the committed ones."""
        return self._nodes[self._committed_count :]

    def mark_committed(self) -> None:
        """Take note that the last revision holds exactly the present nodes."""
        self._committed_count = len(self._nodes)
        self._only_appended = True
        self._parents_of_removed.clear()

    def tombstone_nodes(self, node_ids: Iterable[str]) -> int:
        """Hide nodes from every read at once; return how many were visible before.

        They stay in `nodes`, and their ids stay taken, until `vacuum`. The next commit need not write the graph for it.

        Raises:
            InvalidStateError: A node is unknown, is on the active path, or has a visible node that descends from it;
                nothing was hidden. Branch away from it, or tombstone its descendants as well.
        """
        wanted = dict.fromkeys(node_ids)
        for node_id in wanted:
            if node_id not in self._index:
                raise InvalidStateError(f"node {node_id!r} is not in the graph; tombstone nodes that are")
        if self._leaf_node_id in wanted:
            raise InvalidStateError(f"node {self._leaf_node_id!r} is the leaf; branch away before tombstoning it")
        # What else lies on the active path has the visible leaf among its descendants.
        return self._tombstones.hide(self._nodes, wanted)

    def vacuum(self) -> int:
        """Remove the tombstoned nodes, which frees their ids; return how many were removed.

        If there were any, the next commit writes the whole graph.

        Raises:
            InvalidStateError: A visible node was pushed below one of them; nothing was removed. Remove it as well.
        """
        return self.remove_nodes(self._tombstones.ids)

    def _load_tombstones(self, node_ids: Sequence[str]) -> None:
        if len(frozenset(node_ids)) != len(node_ids):
            raise InvalidStateError("a node is tombstoned twice; name each once")
        self.tombstone_nodes(node_ids)

    def remove_nodes(self, node_ids: Collection[str]) -> int:
        """Remove nodes that no remaining node, tombstoned or not, descends from; return how many were removed.

        The leaf stays where it is; if it was removed, `heal_orphaned_leaf` finds its nearest surviving ancestor.
        Unknown ids are passed over.

        Raises:
            InvalidStateError: A node that stays has its parent among them; nothing was removed. Remove it as well.
        """
        doomed = {node_id for node_id in node_ids if node_id in self._index}
        if not doomed:
            return 0
        for node in self._nodes:
            if node.parent_node_id in doomed and node.node_id not in doomed:
                raise InvalidStateError(f"node {node.node_id!r} stays, so its parent {node.parent_node_id!r} must too")
        first = min(self._index[node_id] for node_id in doomed)
        removed = [node for node in self._nodes if node.node_id in doomed]
        self._parents_of_removed.update((node.node_id, node.parent_node_id) for node in removed)
        kept = [node for node in self._nodes if node.node_id not in doomed]
        self._nodes.clear()
        self._index.clear()
        NodeTable.extend_node_records(self, kept)
        self._tombstones.forget(doomed)
        self._committed_count = min(self._committed_count, first)
        self._only_appended = False
        return len(removed)

    def continue_from(self, previous: NodeTable) -> None:
        """Take over the commit bookkeeping of `previous`, which this graph replaces in the same session.

        Afterwards `committed_count` counts the committed nodes of `previous` that this graph starts with, and
        `only_appended` is False unless it starts with all of them. Tombstones are content: this graph keeps its own.
        """
        committed = previous._nodes[: previous._committed_count]
        shared = 0
        for mine, theirs in zip(self._nodes, committed, strict=False):
            if mine is not theirs and mine != theirs:
                break
            shared += 1
        self._committed_count = shared
        self._only_appended = self._only_appended and previous._only_appended and shared == len(committed)

    def _copy_table_to(self, other: NodeTable) -> None:
        other._nodes = list(self._nodes)
        other._index = dict(self._index)
        other._leaf_node_id = self._leaf_node_id
        other._committed_count = self._committed_count
        other._only_appended = self._only_appended
        other._parents_of_removed = dict(self._parents_of_removed)
        other._tombstones = self._tombstones.copy()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeTable):
            return NotImplemented
        return (
            self._leaf_node_id == other._leaf_node_id
            and self._tombstones.ids == other._tombstones.ids
            and self._nodes == other._nodes
        )

    __hash__: Any = None  # mutable

    def __len__(self) -> int:
        return len(self._nodes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._nodes)} nodes, leaf {self._leaf_node_id!r})"
