"""The messages of all branches as a tree, for showing and choosing branches. Pure.

Rules:
1. A message's parent in the tree is its nearest ancestor that is a message; other nodes between them are skipped.
2. Siblings are sorted by timestamp, equal ones by insertion.
3. `active` tells whether the node itself lies on the path to the leaf, by node id: a message id that stands on two
   branches marks only the right one.

The tree is flat (entries that name their parent), so that a conversation of any length can be shown and compared.

    for entry in graph.message_tree().roots(): ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import cached_property

from snapshots.errors import InvalidStateError
from snapshots.state.messages import Message
from snapshots.state.nodes import SessionNodeRecord
from snapshots.state.values import Items, Timestamp, Value, omit_none


class SessionMessageTreeNode(Value):
    """One message with its place among the others."""

    node_id: str
    parent_message_node_id: str | None = omit_none()
    message: Message
    timestamp: Timestamp
    active: bool


class MessageTree(Value):
    """All messages, siblings in order; parents are named by node id."""

    entries: Items[SessionMessageTreeNode] = ()

    def roots(self) -> tuple[SessionMessageTreeNode, ...]:
        """Return the messages without a message above them, oldest first."""
        return self._children.get(None, ())

    def children(self, node_id: str) -> tuple[SessionMessageTreeNode, ...]:
        """Return the messages right below this one, oldest first."""
        return self._children.get(node_id, ())

    @cached_property
    def _children(self) -> dict[str | None, tuple[SessionMessageTreeNode, ...]]:
        lists: dict[str | None, list[SessionMessageTreeNode]] = {}
        for entry in self.entries:
            lists.setdefault(entry.parent_message_node_id, []).append(entry)
        return {parent: tuple(entries) for parent, entries in lists.items()}


def build_message_tree(
    nodes: Iterable[SessionNodeRecord],
    find: Callable[[str], SessionNodeRecord | None],
    active_node_ids: Collection[str],
) -> MessageTree:
    """Return the tree over `nodes`.

    Raises:
        InvalidStateError: A parent is missing, or the parents form a cycle.
    """
    ancestors: dict[str, str | None] = {}
    entries = []
    for node in nodes:
        message = node.message
        if message is None:
            continue
        parent = node.parent_node_id
        entries.append(
            SessionMessageTreeNode(
                node_id=node.node_id,
                parent_message_node_id=None if parent is None else _nearest_message(parent, find, ancestors),
                message=message,
                timestamp=node.timestamp,
                active=node.node_id in active_node_ids,
            )
        )
    entries.sort(key=lambda entry: entry.timestamp)
    return MessageTree(entries=tuple(entries))


def _nearest_message(
    start: str, find: Callable[[str], SessionNodeRecord | None], known: dict[str, str | None]
) -> str | None:
    """Return `start` or its nearest ancestor that is a message; `known` remembers the answer for all nodes passed."""
    passed: dict[str, None] = {}
    current: str | None = start
    while current is not None and current not in known:
        if current in passed:
            raise InvalidStateError(f"node {current!r}: it is its own ancestor (parents form a cycle)")
        node = find(current)
        if node is None:
            raise InvalidStateError(f"node {current!r}: it is named as a parent but is not in the graph")
        if node.message is not None:
            known[current] = current
            break
        passed[current] = None
        current = node.parent_node_id
    found = None if current is None else known[current]
    known.update(dict.fromkeys(passed, found))
    return found
