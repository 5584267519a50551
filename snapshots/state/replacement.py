"""Decide what of an active path survives when its read state is replaced. Pure.

Rules:
1. Nothing is deleted: the superseded tail stays in the graph as a branch that no leaf names.
2. Kept is the longest run of nodes, from the root, whose messages and tool calls equal the wanted ones; records of
   modes and plugins in it stay, and so does what no read model shows (transient or repeated messages)
   before a kept node.
3. A tool call stands right after the first message with a part of its call id, else after the last message; without
   any message tool calls have no place and are dropped.

    leaf, rest = plan_replacement(path_nodes, wanted_items(messages, tool_calls))
"""

from __future__ import annotations

from collections.abc import Sequence

from snapshots.state.messages import Message
from snapshots.state.nodes import SessionNodeRecord, ToolInvocation
from snapshots.state.tool_calls import ToolCallRecord

ReadItem = Message | ToolCallRecord


def wanted_items(messages: Sequence[Message], tool_calls: Sequence[ToolCallRecord]) -> list[ReadItem]:
    """Return messages and tool calls in the order in which the path should hold them."""
    kept = _first_of_each_id(messages)
    if not kept:
        return []
    after: list[list[ToolCallRecord]] = [[] for _ in kept]
    anchors = _anchors(kept)
    for record in tool_calls:
        after[anchors.get(record.call_id or "", len(kept) - 1)].append(record)
    items: list[ReadItem] = []
    for message, records in zip(kept, after, strict=True):
        items.append(message)
        items.extend(records)
    return items


def _first_of_each_id(messages: Sequence[Message]) -> list[Message]:
    seen: set[str] = set()
    kept = []
    for message in messages:
        known = message.id != "" and message.id in seen  # an empty id is no id
        if not known and not message.is_transient():
            seen.add(message.id)
            kept.append(message)
    return kept


def _anchors(messages: Sequence[Message]) -> dict[str, int]:
    anchors: dict[str, int] = {}
    for index, message in enumerate(messages):
        for part in message.parts:
            if part.tool_call_id:
                anchors.setdefault(part.tool_call_id, index)
    return anchors


def plan_replacement(
    path: Sequence[SessionNodeRecord], wanted: Sequence[ReadItem]
) -> tuple[str | None, Sequence[ReadItem]]:
    """Return the id of the last node to keep (None: keep nothing), and the items still to be appended after it."""
    leaf: str | None = None
    matched = 0
    shown: set[str] = set()
    for node in path:
        message = node.message
        if message is not None and (message.is_transient() or message.id in shown):
            continue
        if message is not None or node.tool_invocation is not None:
            if matched == len(wanted) or not _holds(node, wanted[matched]):
                break
            matched += 1
        if message is not None:
            shown.add(message.id)
        leaf = node.node_id
    return leaf, wanted[matched:]


def _holds(node: SessionNodeRecord, item: ReadItem) -> bool:
    event = node.event
    if isinstance(item, Message):
        return isinstance(event, Message) and event == item
    return isinstance(event, ToolInvocation) and event.record.same_as(item)
