"""What all value types share: the frozen base, JSON values, bounded numbers, instants, bytes, references.

Rules:
1. A value is frozen, equal by content, and refuses fields it does not know.
2. `model_dump(mode="python")` gives plain data: dict, list, str, int, float, bool, None and bytes, nothing else.
3. JSON values are copied when a value is built; integers fit in 64 bits, floats are finite, keys are strings.
   Treat them as read-only: nodes are shared between copies of a state.
4. In JSON mode bytes are standard base64.

    class Point(Value):
        x: U64
        label: str | None = omit_none()
    Point.model_validate({"x": 1}).model_dump() == {"x": 1}
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import operator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    WrapSerializer,
)

from storage.digest import BlobRef, Digest

I64_MIN = -(1 << 63)
I64_MAX = (1 << 63) - 1
U64_MAX = (1 << 64) - 1
JSON_DEPTH_MAX = 64  # nesting levels: what the documents we decode are held to as well

T = TypeVar("T")


class Value(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_alias=True, validate_by_name=True
    )


def omit_none() -> Any:
    """Return a field that is None by default and left out of the wire form while it is."""
    return Field(default=None, exclude_if=partial(operator.is_, None))


def omit_empty(factory: type[Any]) -> Any:
    """Return a field that is `factory()` by default and left out of the wire form while it is empty."""
    return Field(default_factory=factory, exclude_if=operator.not_)


def omit_false() -> Any:
    """Return a field that is False by default and left out of the wire form while it is."""
    return Field(default=False, exclude_if=operator.not_)


def _as_list(value: Any, handler: SerializerFunctionWrapHandler) -> Any:
    return list(handler(value))


def json_value(value: Any) -> Any:
    """Return a copy of a JSON value, made of exact built-in types.

    Raises:
        ValueError: Something JSON cannot say: a non-finite float, an integer beyond 64 bits, a key that is not a
            string, another type, or more than `JSON_DEPTH_MAX` levels.
    """
    return _json(value, 0)


def _json(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is dict:
        _check_depth(depth)
        return {_key(key): _json(item, depth + 1) for key, item in value.items()}
    if kind is list:
        _check_depth(depth)
        return [_json(item, depth + 1) for item in value]
    return json_number(value)


def _key(key: Any) -> str:
    if type(key) is not str:
        raise ValueError(f"JSON keys are strings, not {type(key).__name__}")
    return key


def _check_depth(depth: int) -> None:
    if depth >= JSON_DEPTH_MAX:
        raise ValueError(f"JSON value nested deeper than {JSON_DEPTH_MAX} levels")


def json_number(value: Any) -> int | float:
    """Return `value` if it is a number that JSON and 64 bits can say, else raise ValueError."""
    if type(value) is int:
        if not I64_MIN <= value <= U64_MAX:
            raise ValueError("integer does not fit in 64 bits")
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError("non-finite number is not a JSON value")
        return value
    raise ValueError(f"{type(value).__name__} is not a JSON value")


def json_text(value: Any) -> str:
    """Return the one JSON text of plain data: sorted keys, no spaces, no NaN. Equal texts mean equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def rfc3339(instant: datetime) -> str:
    """Return an aware instant as RFC 3339 in UTC, with microseconds, so that texts sort like instants."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def first_fault(error: ValidationError) -> tuple[tuple[int | str, ...], str]:
    """Return path and reason of the first fault of a value that was refused, and nothing of what stands there."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return fault["loc"], fault["msg"].removeprefix("Value error, ")


def _ref_in(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) != {"digest", "size_bytes"}:
            raise ValueError("a blob reference has digest and size_bytes, nothing else")
        return BlobRef(Digest(value["digest"]), value["size_bytes"])
    if not isinstance(value, BlobRef):
        raise ValueError(f"not a blob reference: {type(value).__name__}")
    return value


def _ref_out(ref: BlobRef) -> dict[str, Any]:
    return {"digest": ref.digest, "size_bytes": ref.size_bytes}


def _bytes_in(value: Any, info: ValidationInfo) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if info.mode == "json" and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("not base64") from error
    raise ValueError(f"want bytes, not {type(value).__name__}")


def _bytes_out(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


Json = Annotated[Any, PlainValidator(json_value)]
JsonObject = Annotated[dict[str, Json], Field()]
U64 = Annotated[int, Field(strict=True, ge=0, le=U64_MAX)]
I64 = Annotated[int, Field(strict=True, ge=I64_MIN, le=I64_MAX)]
U32 = Annotated[int, Field(strict=True, ge=0, le=(1 << 32) - 1)]
# Source: RFC 3339 §5.6 (date-time). Kept as text: it sorts, and other writers' precision survives.
Timestamp = Annotated[
    str,
    StringConstraints(
        pattern=r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?"
        r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$"
    ),
]
Items = Annotated[tuple[T, ...], WrapSerializer(_as_list)]  # immutable here, a list on the wire
Ref = Annotated[BlobRef, BeforeValidator(_ref_in), PlainSerializer(_ref_out)]
Bytes = Annotated[bytes, PlainValidator(_bytes_in), PlainSerializer(_bytes_out, when_used="json")]
