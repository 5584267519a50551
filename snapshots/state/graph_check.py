"""The rules a graph must keep before it is committed and after it is loaded. Pure.

Rules:
1. Node ids are unique. 2. A parent is None or a node of the graph. 3. No node is its own ancestor.
4. The leaf is None or a node of the graph. 5. The leaf, and the parent of a visible node, are visible.

The cost is that of the nodes checked: those before them are taken as checked.

    check_nodes(nodes, index, leaf_node_id, tombstoned, start=committed_count)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from snapshots.errors import InvalidStateError
from snapshots.state.nodes import SessionNodeRecord


def check_nodes(
    nodes: Sequence[SessionNodeRecord],
    index: Mapping[str, int],
    leaf_node_id: str | None,
    tombstoned: AbstractSet[str],
    *,
    start: int,
) -> None:
    """Check the nodes from position `start` on, and the leaf.

    Args:
        nodes: All nodes.
        index: Node id → position of the first node with that id.
        leaf_node_id: The leaf.
        tombstoned: Ids of the hidden nodes.
        start: Nodes before it are known to be good.

    Raises:
        InvalidStateError: A rule is broken; the reason names the node and the rule. Mend that node.
    """
    forward = []
    for position in range(start, len(nodes)):
        node = nodes[position]
        if index[node.node_id] != position:
            raise InvalidStateError(f"node {node.node_id!r}: its id is taken by another node (ids are unique)")
        parent_id = node.parent_node_id
        if parent_id is None:
            continue
        parent = index.get(parent_id)
        if parent is None:
            raise InvalidStateError(f"node {node.node_id!r}: its parent {parent_id!r} is not in the graph")
        if parent_id in tombstoned and node.node_id not in tombstoned:
            raise InvalidStateError(f"node {node.node_id!r}: its parent {parent_id!r} is tombstoned")
        if parent >= position:
            forward.append(position)
    if forward:
        _check_acyclic(nodes, index, forward, start)
    if leaf_node_id is not None and leaf_node_id not in index:
        raise InvalidStateError(f"leaf {leaf_node_id!r} is not in the graph (heal_orphaned_leaf chooses another)")
    if leaf_node_id in tombstoned:
        raise InvalidStateError(f"leaf {leaf_node_id!r} is tombstoned (heal_orphaned_leaf chooses another)")


def _check_acyclic(
    nodes: Sequence[SessionNodeRecord], index: Mapping[str, int], forward: Sequence[int], start: int
) -> None:
    """Walk up from the nodes whose parent comes later (every cycle has one) until good ground."""
    good: set[int] = set()
    for first in forward:
        walked: set[int] = set()
        position = first
        # The nodes before `start` were checked without the later ones, so no walk leaves them upwards.
        while position >= start and position not in good:
            if position in walked:
                raise InvalidStateError(
                    f"node {nodes[position].node_id!r}: it is its own ancestor (parents form a cycle)"
                )
            walked.add(position)
            parent_id = nodes[position].parent_node_id
            if parent_id is None:
                break
            position = index[parent_id]
        good |= walked
