"""What a graph knows about the path from the root to its leaf. Private to the graph; extended, not rebuilt, on append.

Rules:
1. The read model is derived from the path: messages that are not transient, the first of each id, and all tool calls,
   in order.
2. Following a leaf costs the steps from the leaf down to the known path; a whole rebuild happens only after the leaf
   moved to another branch.
3. A cycle or a missing parent is an error that names the node. History is never truncated silently.

    path = ActivePath()
    path = path.follow(graph_find, leaf_node_id, node_count)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from snapshots.errors import InvalidStateError
from snapshots.state.messages import Message
from snapshots.state.nodes import SessionEvent, SessionNodeRecord, ToolInvocation
from snapshots.state.tool_calls import ToolCallRecord

FindNode = Callable[[str], SessionNodeRecord | None]


class ActivePath:
    """The nodes from the root to one leaf, with the read model over them."""

    __slots__ = ("_records", "events", "message_ids", "messages", "node_ids", "nodes", "tool_calls")

    def __init__(self) -> None:
        self.nodes: list[SessionNodeRecord] = []
        self.node_ids: set[str] = set()
        self.events: list[SessionEvent] = []
        self.messages: list[Message] = []
        self.message_ids: set[str] = set()
        self.tool_calls: list[ToolCallRecord] = []
        self._records: dict[str, tuple[ToolCallRecord, ...]] = {}

    @property
    def leaf_node_id(self) -> str | None:
        """Id of the last node, None for an empty path."""
        return self.nodes[-1].node_id if self.nodes else None

    def copy(self) -> ActivePath:
        """Return an independent copy."""
        other = ActivePath()
        other.nodes = list(self.nodes)
        other.node_ids = set(self.node_ids)
        other.events = list(self.events)
        other.messages = list(self.messages)
        other.message_ids = set(self.message_ids)
        other.tool_calls = list(self.tool_calls)
        other._records = dict(self._records)
        return other

    def follow(self, find: FindNode, leaf_node_id: str | None, node_count: int) -> ActivePath:
        """Return the path to `leaf_node_id`: this one, extended, if the leaf lies ahead of it, else a new one.

        Args:
            find: Looks a node up by id.
            leaf_node_id: The leaf; None or an unknown id gives an empty path.
            node_count: Number of nodes in the graph; more steps than that are a cycle.

        Raises:
            InvalidStateError: A parent is missing, or the parents form a cycle. Repair the named node.
        """
        if leaf_node_id == self.leaf_node_id:
            return self
        leaf = None if leaf_node_id is None else find(leaf_node_id)
        tail = [] if leaf is None else self._tail(find, leaf, node_count)
        reached = bool(tail) and tail[0].parent_node_id is not None
        path = self if reached else ActivePath()
        for node in tail:
            path._append(node)
        return path

    def _tail(self, find: FindNode, leaf: SessionNodeRecord, node_count: int) -> list[SessionNodeRecord]:
        """Return the nodes from just after the known leaf, or else from the root, to `leaf`."""
        tail = [leaf]
        known_leaf = self.leaf_node_id
        while (parent_id := tail[-1].parent_node_id) is not None and parent_id != known_leaf:
            parent = find(parent_id)
            if parent is None:
                raise InvalidStateError(f"node {tail[-1].node_id!r}: its parent {parent_id!r} is not in the graph")
            if len(tail) >= node_count:
                raise InvalidStateError(f"node {parent_id!r}: it is its own ancestor (parents form a cycle)")
            tail.append(parent)
        tail.reverse()
        return tail

    def _append(self, node: SessionNodeRecord) -> None:
        self.nodes.append(node)
        self.node_ids.add(node.node_id)
        event = node.event
        if event is None:
            return
        self.events.append(event)
        if isinstance(event, Message):
            if not event.is_transient() and event.id not in self.message_ids:
                self.message_ids.add(event.id)
                self.messages.append(event)
        elif isinstance(event, ToolInvocation):
            self.tool_calls.append(event.record)
            self._records[event.stable_key] = (*self._records.get(event.stable_key, ()), event.record)

    def unseen_messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages that an append should add: not transient, and of an id neither here nor before.

        An empty id is no id: such messages are always new.
        """
        seen: set[str] = set()
        unseen = []
        for message in messages:
            known = message.id != "" and (message.id in self.message_ids or message.id in seen)
            if not known and not message.is_transient():
                seen.add(message.id)
                unseen.append(message)
        return unseen

    def unseen_tool_calls(self, tool_calls: Sequence[ToolCallRecord]) -> list[ToolCallRecord]:
        """Return the tool calls that are not here and not earlier in the list: another output is another call."""
        new: dict[str, list[ToolCallRecord]] = {}
        unseen = []
        for record in tool_calls:
            key = record.stable_key()
            batch = new.setdefault(key, [])
            if not any(record.same_as(known) for known in (*self._records.get(key, ()), *batch)):
                batch.append(record)
                unseen.append(record)
        return unseen
