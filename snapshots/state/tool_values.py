"""What a tool returns: JSON with attachments as leaves. Pure.

Rules:
1. On the wire an attachment is `{"$lash_tool_value": "attachment", "ref": …}`.
2. An object that really contains that key is `{"$lash_tool_value": "object", "entries": …}`, so nothing a tool returns
   can be mistaken for an attachment.
3. Another tag, a tag that is not a string, further keys: refused. So are non-finite floats and integers beyond 64 bits.

    value = ToolValue.of({"picture": AttachmentRef(id="a1", media_type="image/png", byte_len=3)})
    ToolValue.model_validate(value.model_dump()) == value
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, PlainSerializer, PlainValidator, RootModel

from snapshots.state.messages import AttachmentRef
from snapshots.state.values import JSON_DEPTH_MAX, json_number

TAG_KEY = "$lash_tool_value"
_ATTACHMENT, _OBJECT, _REF, _ENTRIES = "attachment", "object", "ref", "entries"


def _decode(wire: Any, depth: int = 0) -> Any:
    kind = type(wire)
    if kind is str or wire is None or kind is bool:
        return wire
    if kind is list:
        _check_depth(depth)
        return [_decode(item, depth + 1) for item in wire]
    if kind is dict:
        return _decode_tagged(wire, depth) if TAG_KEY in wire else _decode_entries(wire, depth)
    return json_number(wire)


def _decode_entries(entries: Any, depth: int) -> dict[str, Any]:
    _check_depth(depth)
    if type(entries) is not dict or not all(type(key) is str for key in entries):
        raise ValueError("tool value objects have string keys")
    return {key: _decode(item, depth + 1) for key, item in entries.items()}


def _decode_tagged(wire: dict[str, Any], depth: int) -> Any:
    tag = wire[TAG_KEY]
    if not isinstance(tag, str):
        raise ValueError("the reserved tag of a tool value must be a string")
    if tag == _ATTACHMENT:
        if wire.keys() != {TAG_KEY, _REF}:
            raise ValueError("malformed attachment in a tool value")
        return AttachmentRef.model_validate(wire[_REF])
    if tag == _OBJECT:
        if wire.keys() != {TAG_KEY, _ENTRIES}:
            raise ValueError("malformed escaped object in a tool value")
        return _decode_entries(wire[_ENTRIES], depth)
    raise ValueError(f"unknown reserved tag of a tool value: {tag[:80]!r}")


def _check_depth(depth: int) -> None:
    if depth >= JSON_DEPTH_MAX:
        raise ValueError(f"tool value nested deeper than {JSON_DEPTH_MAX} levels")


def _encode(value: Any, depth: int = 0) -> Any:
    if isinstance(value, AttachmentRef):
        return {TAG_KEY: _ATTACHMENT, _REF: value.model_dump()}
    if isinstance(value, dict):
        _check_depth(depth)
        entries = {key: _encode(item, depth + 1) for key, item in value.items()}
        return {TAG_KEY: _OBJECT, _ENTRIES: entries} if TAG_KEY in value else entries
    if isinstance(value, list):
        _check_depth(depth)
        return [_encode(item, depth + 1) for item in value]
    return value


class ToolValue(RootModel[Annotated[Any, PlainValidator(_decode), PlainSerializer(_encode)]]):
    """A tool's result. `root` is the value itself: JSON in which any leaf may be an `AttachmentRef`.

    Built from the wire form by `model_validate`, from a value by `of`.
    """

    model_config = ConfigDict(frozen=True)

    @classmethod
    def of(cls, value: Any) -> ToolValue:
        """Return `value` as a tool value; an object with the reserved key is taken as such.

        Raises:
            ValueError: Something neither JSON nor an attachment.
        """
        return cls.model_validate(_encode(value))

    def attachments(self) -> list[AttachmentRef]:
        """Return its attachments, in order of appearance."""
        found: list[AttachmentRef] = []
        _collect(self.root, found)
        return found


def _collect(value: Any, found: list[AttachmentRef]) -> None:
    if isinstance(value, AttachmentRef):
        found.append(value)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)
    elif isinstance(value, list):
        for item in value:
            _collect(item, found)
