"""Nodes of a session graph: one event or plugin record each, with its place in the tree. Pure.

Rules:
1. A node is frozen and shared: changing history means adding nodes.
2. The payload is flattened on the wire, tag `kind`: `event` with an externally tagged event (`Conversation`,
   `Tool: {Invocation}`, `Mode`), or `plugin` with `plugin_type` and `body`.
3. Lists of nodes are converted in one call (`nodes_to_plain`, `nodes_from_plain`), never node by node.

    node = SessionNodeRecord(node_id="m1", timestamp="2026-01-01T00:00:00Z", payload=EventPayload(event=message))
    nodes_from_plain(nodes_to_plain([node])) == [node]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    TypeAdapter,
    ValidationError,
    WrapSerializer,
    model_serializer,
    model_validator,
)

from snapshots.errors import InvalidStateError
from snapshots.state.messages import Message
from snapshots.state.modes import ModeEvent
from snapshots.state.tool_calls import ToolCallRecord
from snapshots.state.values import Json, Timestamp, Value, omit_none


class ToolInvocation(Value):
    """A tool call in the history, under its stable key."""

    stable_key: str
    record: ToolCallRecord


SessionEvent = Message | ToolInvocation | ModeEvent
_WIRE_TAGS = {"Conversation", "Tool", "Mode"}


def _event_tag(value: Any) -> str | None:
    if type(value) is dict:
        if len(value) == 1:
            (tag,) = value
            return tag if tag in _WIRE_TAGS else None
        return None
    return type(value).__name__


def _conversation(wire: dict[str, Any]) -> Any:
    return wire["Conversation"]


def _mode(wire: dict[str, Any]) -> Any:
    return wire["Mode"]


def _invocation(wire: dict[str, Any]) -> Any:
    tool = wire["Tool"]
    if type(tool) is not dict or tool.keys() != {"Invocation"}:
        raise ValueError("a tool event is an Invocation")
    return tool["Invocation"]


def _tagged(event: SessionEvent, handler: SerializerFunctionWrapHandler) -> Any:
    plain = handler(event)
    if isinstance(event, Message):
        return {"Conversation": plain}
    return {"Tool": {"Invocation": plain}} if isinstance(event, ToolInvocation) else {"Mode": plain}


# An event arrives tagged from the wire, or as the value itself when a node is built in Python.
_Event = Annotated[
    Annotated[Message, Tag("Message")]
    | Annotated[ToolInvocation, Tag("ToolInvocation")]
    | Annotated[ModeEvent, Tag("ModeEvent")]
    | Annotated[Message, BeforeValidator(_conversation), Tag("Conversation")]
    | Annotated[ToolInvocation, BeforeValidator(_invocation), Tag("Tool")]
    | Annotated[ModeEvent, BeforeValidator(_mode), Tag("Mode")],
    Discriminator(_event_tag),
    WrapSerializer(_tagged),
]


class EventPayload(Value):
    """A message, a tool call or a mode's event."""

    kind: Literal["event"] = "event"
    event: _Event


class PluginPayload(Value):
    """A plugin's record; `body` is opaque JSON."""

    kind: Literal["plugin"] = "plugin"
    plugin_type: str
    body: Json


_PAYLOAD_KEYS = ("kind", "event", "plugin_type", "body")


class SessionNodeRecord(Value):
    """One node: its id, its parent's id (None for a root), when it was made, and what it holds."""

    node_id: str = Field(min_length=1)
    parent_node_id: str | None = omit_none()
    timestamp: Timestamp
    payload: Annotated[EventPayload | PluginPayload, Field(discriminator="kind")]

    @model_validator(mode="before")
    @classmethod
    def _nest_payload(cls, data: Any) -> Any:
        if type(data) is not dict:
            return data
        if "payload" in data:
            if isinstance(data["payload"], dict):
                raise ValueError("the payload of a node is flattened into it")
            return data
        data = dict(data)
        data["payload"] = {key: data.pop(key) for key in _PAYLOAD_KEYS if key in data}
        return data

    @model_serializer(mode="wrap")
    def _flatten_payload(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        plain.update(plain.pop("payload"))
        return plain

    @property
    def event(self) -> SessionEvent | None:
        """The event, None for a plugin's record."""
        return self.payload.event if isinstance(self.payload, EventPayload) else None

    @property
    def message(self) -> Message | None:
        """The message, None for any other node."""
        event = self.event
        return event if isinstance(event, Message) else None

    @property
    def tool_invocation(self) -> ToolInvocation | None:
        """The tool call, None for any other node."""
        event = self.event
        return event if isinstance(event, ToolInvocation) else None

    @property
    def mode_event(self) -> ModeEvent | None:
        """The mode's event, None for any other node."""
        event = self.event
        return event if isinstance(event, ModeEvent) else None

    @property
    def plugin(self) -> PluginPayload | None:
        """The plugin's record, None for an event."""
        return self.payload if isinstance(self.payload, PluginPayload) else None


_NODES = TypeAdapter(list[SessionNodeRecord])


def nodes_to_plain(nodes: Iterable[SessionNodeRecord]) -> list[dict[str, Any]]:
    """Return the nodes as plain data, in order."""
    plain: list[dict[str, Any]] = _NODES.dump_python(list(nodes))
    return plain


def nodes_from_plain(plain: list[dict[str, Any]]) -> list[SessionNodeRecord]:
    """Return the nodes that `nodes_to_plain` gave, in order.

    Raises:
        InvalidStateError: An entry is not a node; the reason says where and why.
    """
    try:
        return _NODES.validate_python(plain)
    except ValidationError as error:
        raise InvalidStateError(f"not a list of nodes: {error}") from error
