"""What came of appending nodes after a required ancestor. Pure.

Rules:
1. Appended, or stale: a stale branch means that nothing at all was changed.

    match state.append_session_nodes([message], requires_ancestor_node_id="m1"):
        case AppendedNodes(node_ids=new): ...
        case StaleBranch(current_leaf_node_id=leaf): ...   # the conversation went on elsewhere; decide anew
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AppendedNodes:
    """The items were appended.

    Attributes:
        node_ids: Ids of the new nodes, in the order of the items.
        leaf_node_id: The leaf now.
    """

    node_ids: tuple[str, ...]
    leaf_node_id: str | None


@dataclass(frozen=True, slots=True)
class StaleBranch:
    """The required ancestor is not on the active path; nothing was changed.

    Attributes:
        current_leaf_node_id: Where the conversation stands instead.
    """

    current_leaf_node_id: str | None
