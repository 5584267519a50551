"""Execution modes, and values that only one mode understands. Pure.

Rules:
1. A mode is its id; "standard" is the default.
2. A payload is opaque JSON tagged with the mode it belongs to: another mode's reader gets None, never a misreading.

    options = ModeTurnOptions.typed("repl", ReplOptions(depth=2))
    options.decode("repl", ReplOptions), options.decode("standard")   # ReplOptions(depth=2), None
"""

from __future__ import annotations

import json
from typing import Any, Self, TypeVar, overload

from pydantic import Field, TypeAdapter, model_validator

from snapshots.state.values import Json, Value

ExecutionMode = str
STANDARD_MODE: ExecutionMode = "standard"

T = TypeVar("T")


class _ModeTagged(Value):
    @classmethod
    def typed(cls, mode: ExecutionMode, value: object) -> Self:
        """Return `value` (a model, dataclass or plain data) as the payload of `mode`."""
        payload = TypeAdapter(type(value)).dump_python(value, mode="json")
        return cls.model_validate({"mode_id": mode, "payload": payload})

    @overload
    def decode(self, expected_mode: ExecutionMode) -> Any: ...
    @overload
    def decode(self, expected_mode: ExecutionMode, kind: type[T]) -> T | None: ...
    def decode(self, expected_mode: ExecutionMode, kind: type[T] | None = None) -> Any:
        """Return the payload, as `kind` if one is given, or None when it belongs to another mode.

        Raises:
            ValueError: The payload is not a `kind`.
        """
        if self.mode_id != expected_mode:
            return None
        if kind is None:
            return self.payload
        return TypeAdapter(kind).validate_json(json.dumps(self.payload))

    mode_id: ExecutionMode
    payload: Json


class ModeTurnOptions(_ModeTagged):
    """Options of the next turn, for the mode that runs it."""

    mode_id: ExecutionMode = STANDARD_MODE
    payload: Json = Field(default_factory=dict)

    @classmethod
    def empty(cls, mode: ExecutionMode = STANDARD_MODE) -> Self:
        """Return no options for `mode`."""
        return cls(mode_id=mode)


class ModeEvent(_ModeTagged):
    """Something a mode recorded in the session's history."""

    @model_validator(mode="before")
    @classmethod
    def _check_tagged(cls, data: Any) -> Any:
        if isinstance(data, dict) and not ("mode_id" in data and "payload" in data):
            raise ValueError("mode events must be tagged with mode_id and payload")
        return data
