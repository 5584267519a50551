r"""Chat-completion messages as messages of a session, and back without loss. Pure.

Rules:
1. Text, tool calls and tool results become parts, so that a session reads like any other. A tool's answer is a user
   message with a `ToolResult` part.
2. What parts cannot say (other fields, null contents, absent ids, …) stands in `response_meta` of the first part,
   under `transcript`: `other_fields` are set, `absent_fields` removed when the message is given back.
3. Every conversion is tried backwards at once. Should it not be exact, the message is kept verbatim, as `message`.
4. A message that no transcript gave becomes what its parts say.

    to_chat(to_message({"role": "user", "content": "hi\r\n"}, "m0")) == {"role": "user", "content": "hi\r\n"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snapshots.documents import PathStep, bad_shape
from snapshots.state import Message, MessageRole, Part
from snapshots.state.values import json_text

ChatMessage = dict[str, Any]

_ROLES: Mapping[str, MessageRole] = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "User"}
_CHAT_ROLES: Mapping[MessageRole, str] = {"System": "system", "User": "user", "Assistant": "assistant"}
_META = "transcript"
_VERBATIM, _OTHER, _ABSENT = "message", "other_fields", "absent_fields"


def check_messages(value: Any, path: tuple[PathStep, ...]) -> list[ChatMessage]:
    """Return `value` if it is a list of messages: objects with a text as role.

    Raises:
        BadDocumentError: It is not; names the position.
    """
    if not isinstance(value, list):
        raise bad_shape(path, "want a list of messages")
    for index, message in enumerate(value):
        if not isinstance(message, dict):
            raise bad_shape((*path, index), "want a message, an object with a role")
        if not isinstance(message.get("role"), str):
            raise bad_shape((*path, index, "role"), "want the role, a text" if "role" in message else "missing")
    return value


def to_message(chat: ChatMessage, message_id: str) -> Message:
    """Return a message with this id that `to_chat` turns back into `chat`."""
    role = _ROLES.get(chat["role"], "User")
    message = Message(id=message_id, role=role, parts=_parts(chat, message_id))
    residue = _residue(chat, _plain(message))
    if residue:
        message = _with_meta(message, residue)
    if json_text(to_chat(message)) != json_text(chat):
        message = _with_meta(message, {_VERBATIM: chat})
    return message


def to_chat(message: Message) -> ChatMessage:
    """Return the chat-completion message that `to_message` was given."""
    meta = _meta(message)
    if _VERBATIM in meta:
        return dict(meta[_VERBATIM])
    chat = {**_plain(message), **meta.get(_OTHER, {})}
    for name in meta.get(_ABSENT, ()):
        del chat[name]
    return chat


def _meta(message: Message) -> dict[str, Any]:
    known = message.parts[0].response_meta if message.parts else None
    meta = known.get(_META) if isinstance(known, dict) else None
    return meta if isinstance(meta, dict) else {}


def _with_meta(message: Message, meta: dict[str, Any]) -> Message:
    first = message.parts[0].model_copy(update={"response_meta": {_META: meta}})
    return message.model_copy(update={"parts": (first, *message.parts[1:])})


def _residue(chat: ChatMessage, plain: ChatMessage) -> dict[str, Any]:
    other = {
        name: value
        for name, value in chat.items()
        if name not in plain or json_text(plain[name]) != json_text(value)  # `==` takes true for 1
    }
    absent = [name for name in plain if name not in chat]
    return {name: value for name, value in ((_OTHER, other), (_ABSENT, absent)) if value}


def _parts(chat: ChatMessage, message_id: str) -> tuple[Part, ...]:
    content = chat.get("content")
    if chat["role"] == "tool":
        return (
            Part(
                id=f"{message_id}.p0",
                kind="ToolResult",
                content=_text(content),
                tool_call_id=_text_or_none(chat.get("tool_call_id")),
                tool_name=_text_or_none(chat.get("name")),
            ),
        )
    calls = _calls(chat.get("tool_calls"))
    fields: list[dict[str, Any]] = [{"kind": "ToolCall", **call} for call in calls]
    if content is not None or not calls:
        fields.insert(0, {"kind": "Text", "content": _text(content)})
    return tuple(Part(id=f"{message_id}.p{index}", **part) for index, part in enumerate(fields))


def _plain(message: Message) -> ChatMessage:
    """Return what the parts alone say of the original."""
    result = next((part for part in message.parts if part.kind == "ToolResult"), None)
    if result is not None:
        named = {"tool_call_id": result.tool_call_id, "name": result.tool_name}
        present = {name: value for name, value in named.items() if value is not None}
        return {"role": "tool", "content": result.content, **present}
    text = next((part.content for part in message.parts if part.kind == "Text"), None)
    chat: ChatMessage = {"role": _CHAT_ROLES[message.role], "content": text}
    calls = [part for part in message.parts if part.kind == "ToolCall"]
    if calls:
        chat["tool_calls"] = [_plain_call(part) for part in calls]
    return chat


def _plain_call(part: Part) -> dict[str, Any]:
    return {
        "id": part.tool_call_id,
        "type": "function",
        "function": {"name": part.tool_name, "arguments": part.content},
    }


def _calls(value: Any) -> Sequence[dict[str, str]]:
    """Return the calls that have an id, a name and arguments; others live in the residue alone."""
    calls = []
    for call in value if isinstance(value, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            found = {
                "tool_call_id": call.get("id"),
                "tool_name": function.get("name"),
                "content": function.get("arguments"),
            }
            if all(isinstance(item, str) for item in found.values()):
                calls.append(found)
    return calls


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _text(content: Any) -> str:
    """Return what a reader should see of a content: its text, that of its text parts, or its JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        texts = [item.get("text") for item in content if isinstance(item, dict) and item.get("type") == "text"]
        if texts and all(isinstance(text, str) for text in texts):
            return "\n".join(map(str, texts))
    return json_text(content)
