"""Messages of a runtime as nodes of a session's graph, and back, exactly. Pure.

Rules:
1. What a `Message` gives back unchanged is stored as one, and shown by everything that shows messages. Anything else is
   a plugin's node `runtime.message`, its body the message as it is; so are transient messages, which no read model has.
2. The messages of a session are those of its active path in its order, the first of each id; transient ones of others
   do not count. One without an id goes by the id of its node.
3. A message without an id gets one from content and position: saved again, it is the same one.

    nodes = [to_node(message) for message in with_ids(messages)]
    messages = messages_along(graph.active_path_nodes(), key=key)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from snapshots import codec
from snapshots.errors import CorruptSnapshotError
from snapshots.runtime.session import JsonMessage
from snapshots.state import Message, PluginPayload, SessionNodeRecord
from snapshots.state.values import json_text
from storage.digest import short_hash

RUNTIME_MESSAGE = "runtime.message"
ID_BYTES = 16  # of the hash of content and position


def with_ids(messages: Sequence[JsonMessage]) -> list[JsonMessage]:
    """Return the messages, each with an id (rule 3). Raises InvalidStateError for text that is no UTF-8."""
    return [message if message.get("id") else _identified(message, at) for at, message in enumerate(messages)]


def _identified(message: JsonMessage, position: int) -> JsonMessage:
    content = {name: value for name, value in message.items() if name != "id"}
    return {**content, "id": "m" + short_hash(codec.encode([position, content]), ID_BYTES).hex()}


def to_node(message: JsonMessage) -> Message | PluginPayload:
    """Return what a message with an id is stored as (rule 1)."""
    try:
        parsed = Message.model_validate(message)
    except ValueError:  # a message of another make, which is nothing wrong
        return PluginPayload(plugin_type=RUNTIME_MESSAGE, body=message)
    if parsed.is_transient() or json_text(_plain(parsed)) != json_text(message):
        return PluginPayload(plugin_type=RUNTIME_MESSAGE, body=message)
    return parsed


def messages_along(nodes: Iterable[SessionNodeRecord], *, key: str) -> list[JsonMessage]:
    """Return the messages along a path (rule 2).

    Raises:
        CorruptSnapshotError: A node `runtime.message` holds none; names `key`.
    """
    found: dict[str, JsonMessage] = {}
    for node in nodes:
        message = _stored(node, key)
        if message is not None:
            found.setdefault(message["id"], message)
    return list(found.values())


def _stored(node: SessionNodeRecord, key: str) -> JsonMessage | None:
    message, plugin = node.message, node.plugin
    if message is not None:
        return None if message.is_transient() else {**_plain(message), "id": message.id or node.node_id}
    if plugin is None or plugin.plugin_type != RUNTIME_MESSAGE:
        return None
    body = plugin.body
    if not isinstance(body, dict) or not isinstance(body.get("id"), str) or not body["id"]:
        raise CorruptSnapshotError(key, f"node {node.node_id!r} of kind {RUNTIME_MESSAGE} holds no message with an id")
    return body


def _plain(message: Message) -> JsonMessage:
    return message.model_dump(mode="json")
