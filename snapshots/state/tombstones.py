"""The nodes of a graph that are hidden but still there: no read shows them, yet their ids stay taken. Pure.

Rules:
1. What descends from a hidden node is hidden, so that no visible node loses its history.
2. Hiding costs what is hidden: children are indexed once, and on as the graph grows.
3. What is refused hides nothing.

    tombstones = Tombstones()
    tombstones.hide(nodes, ["m3", "m2"])   # 2
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from snapshots.errors import InvalidStateError
from snapshots.state.nodes import SessionNodeRecord


class Tombstones:
    """Ids of the hidden nodes, with what is needed to hide more. Private to the graph."""

    __slots__ = ("_children", "_indexed_count", "ids")

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.ids = set(ids)
        self._children: dict[str, list[str]] = {}
        self._indexed_count = 0

    def copy(self) -> Tombstones:
        """Return an independent copy; it indexes the children anew when it first needs them."""
        return Tombstones(self.ids)

    def hide(self, nodes: Sequence[SessionNodeRecord], node_ids: Iterable[str]) -> int:
        """Hide nodes; return how many were visible.

        Args:
            nodes: All nodes of the graph: those of the last call, and what was appended since.
            node_ids: Nodes of the graph.

        Raises:
            InvalidStateError: A visible node descends from one of them (rule 1). Hide it as well, or keep both.
        """
        doomed = {node_id: None for node_id in node_ids if node_id not in self.ids}
        if not doomed:
            return 0
        self._index(nodes)
        for node_id in doomed:
            for child in self._children.get(node_id, ()):
                if child not in doomed and child not in self.ids:
                    raise InvalidStateError(f"node {child!r} stays visible, so its parent {node_id!r} must too")
        self.ids.update(doomed)
        return len(doomed)

    def forget(self, removed: Collection[str]) -> None:
        """Take note that these nodes are gone from the graph, and that the others stand elsewhere in it."""
        self.ids.difference_update(removed)
        self._children.clear()
        self._indexed_count = 0

    def _index(self, nodes: Sequence[SessionNodeRecord]) -> None:
        for position in range(self._indexed_count, len(nodes)):
            if (parent_id := nodes[position].parent_node_id) is not None:
                self._children.setdefault(parent_id, []).append(nodes[position].node_id)
        self._indexed_count = len(nodes)
