"""Short ways to build what the tests of the state are about."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from snapshots.state import (
    BlobRef,
    EventPayload,
    Message,
    MessageOrigin,
    MessageRole,
    ModeEvent,
    Part,
    PluginPayload,
    SessionGraph,
    SessionNodeRecord,
    ToolCallOutput,
    ToolCallRecord,
    ToolInvocation,
)
from storage.digest import blob_ref

AT = "2026-01-01T00:00:00.000000Z"


def part(part_id: str, text: str = "", **fields: Any) -> Part:
    return Part(**{"id": part_id, "kind": "Text", "content": text, **fields})


def message(
    message_id: str, text: str = "hello", *, role: MessageRole = "User", calls: tuple[str, ...] = ()
) -> Message:
    parts = [part(f"{message_id}.p0", text)]
    parts += [part(f"{message_id}.{call_id}", kind="ToolCall", tool_call_id=call_id) for call_id in calls]
    return Message(id=message_id, role=role, parts=tuple(parts))


def transient(message_id: str) -> Message:
    origin = MessageOrigin(plugin_id="memory", transient=True)
    return message(message_id).model_copy(update={"origin": origin})


def call(call_id: str | None, output: Any = "ok", *, tool: str = "read", args: Any = None) -> ToolCallRecord:
    return ToolCallRecord(
        call_id=call_id,
        tool=tool,
        args={} if args is None else args,
        output=ToolCallOutput.success(output),
        duration_ms=1,
    )


def node(node_id: str, parent: str | None = None, *, at: str = AT, payload: Any = None) -> SessionNodeRecord:
    """Return a node holding `payload`, or a message with the node's id."""
    if payload is None:
        payload = message(node_id)
    if isinstance(payload, ToolCallRecord):
        payload = ToolInvocation(stable_key=payload.stable_key(), record=payload)
    if isinstance(payload, Message | ToolInvocation | ModeEvent):
        payload = EventPayload(event=payload)
    return SessionNodeRecord(node_id=node_id, parent_node_id=parent, timestamp=at, payload=payload)


def plugin_node(node_id: str, parent: str | None = None) -> SessionNodeRecord:
    return node(node_id, parent, payload=PluginPayload(plugin_type="note", body={"n": 1}))


def raw_graph(*nodes: SessionNodeRecord, leaf: str | None = None) -> SessionGraph:
    """Return an unchecked graph, as a damaged store would give it."""
    graph = SessionGraph()
    graph.extend_node_records(nodes)
    graph.set_leaf_node_id(leaf)
    return graph


def chain(length: int) -> SessionGraph:
    """Return a committed graph of `length` messages n0, n1, … in a row."""
    nodes = [node(f"n{i}", f"n{i - 1}" if i else None) for i in range(length)]
    return SessionGraph.from_nodes(nodes, f"n{length - 1}", committed=True)


def tree() -> SessionGraph:
    """Return a committed graph of four messages: root, then `left` with `leaf` below it, and `right`; at `right`."""
    nodes = [node("root"), node("left", "root"), node("leaf", "left"), node("right", "root")]
    return SessionGraph.from_nodes(nodes, "right", committed=True)


def ref(text: str) -> BlobRef:
    return blob_ref(text.encode())


def ids(messages: tuple[Message, ...]) -> list[str]:
    return [message.id for message in messages]


def lines_run(work: Callable[[], Any]) -> int:
    """Return how many lines of `snapshots` `work` runs: a cost that neither a clock nor the collector can blur."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if not frame.f_globals.get("__name__", "").startswith("snapshots."):
            return None  # hooks of other packages run whenever garbage is collected
        count += event == "line"
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(previous)
    return count
