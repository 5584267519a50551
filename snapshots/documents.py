"""Documents of others: JSON text to plain values that can be stored and given back exactly. Pure.

Rules:
1. Refused, because they could not be given back: integers over 64 bits, NaN and infinities, lone surrogates, keys that
   stand twice in one object, more than `DEPTH_MAX` levels; of values made in Python also what JSON does not have.
2. Every refusal names the place: line and column while it is no JSON yet, then the path, as in `item 4: traj[2].role`.

    parse_document(b'[{"task_id": 1}]')
    check_document([{"task_id": 1}])
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from snapshots.state.values import I64_MIN, JSON_DEPTH_MAX, U64_MAX

DEPTH_MAX = JSON_DEPTH_MAX - 4  # levels; a node keeps a message or document a few levels further down
_INTEGER_CHARACTERS_MAX = 20  # of 64 bits, with a sign
_HALF_TOKEN_CHARACTERS = 6  # as long as an escape, longer than a literal
_SCALARS = frozenset({int, float, bool, type(None)})

PathStep = str | int


class BadDocumentError(Exception):
    """A document cannot be used. Becomes an `InvalidInputError` where the file's name is known."""

    def __init__(self, position: str, reason: str) -> None:
        self.position = position
        self.reason = reason
        super().__init__(f"{position}: {reason}")


class _RepeatedKey:
    """Stands for an object with a key that it has twice, until the path to it is known."""

    def __init__(self, key: str) -> None:
        self.key = key


class _LongInteger:
    """Stands for an integer with more digits than 64 bits have."""


def parse_document(raw: bytes) -> Any:
    """Return the value of a JSON text in UTF-8, made of exact built-in types.

    Raises:
        BadDocumentError: It is not JSON, is cut short, or breaks rule 1.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        cut = error.reason == "unexpected end of data"
        reason = "the text ends inside a character, it looks truncated" if cut else "not UTF-8, as JSON must be"
        raise BadDocumentError(f"byte {error.start}", reason) from error
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise BadDocumentError(f"line {error.lineno} column {error.colno}", _why_not_json(text, error)) from error
    except RecursionError as error:
        raise BadDocumentError("", f"nested deeper than {DEPTH_MAX} levels") from error
    check_document(value)
    return value


def check_document(value: Any, path: Sequence[PathStep] = ()) -> None:
    """Check that `value` is JSON that keeps rule 1, made of exact built-in types.

    Args:
        value: What stands at `path`.
        path: Where in its document it stands: its levels count, and refusals name it.

    Raises:
        BadDocumentError: It breaks rule 1.
    """
    _check(value, tuple(path))


def place(path: Sequence[PathStep]) -> str:
    """Return a path as a reader would write it: `item 4: traj[2].role`; "" for the whole document."""
    if path and isinstance(path[0], int):
        rest = place(path[1:])
        return f"item {path[0]}" + (f": {rest}" if rest else "")
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def bad_shape(path: Sequence[PathStep], reason: str) -> BadDocumentError:
    """Return the error for a value of the wrong shape at `path`."""
    return BadDocumentError(place(path), reason)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    counts = Counter(key for key, _ in pairs)
    return _RepeatedKey(next(key for key, count in counts.items() if count > 1))


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) <= _INTEGER_CHARACTERS_MAX else _LongInteger()


def _why_not_json(text: str, error: json.JSONDecodeError) -> str:
    text = text.rstrip()
    if not text:
        return "the file is empty"
    # A string that never ends is reported at its start, half a literal or escape a few characters before the end.
    open_ended = text.lstrip()[0] in "[{" and text[-1] not in "]}" and error.pos >= len(text) - _HALF_TOKEN_CHARACTERS
    if open_ended or error.pos >= len(text) or error.msg.startswith("Unterminated string"):
        return f"the text ends too early, it looks truncated ({error.msg})"
    return f"not JSON ({error.msg})"


def _check(value: Any, path: tuple[PathStep, ...]) -> None:
    kind = type(value)
    if kind is str:
        _check_text(value, path)
    elif kind is dict:
        _check_depth(path)
        for key, item in value.items():
            _check_key(key, path)
            _check(item, (*path, key))
    elif kind is list:
        _check_depth(path)
        for index, item in enumerate(value):
            _check(item, (*path, index))
    elif kind is _LongInteger or (kind is int and not I64_MIN <= value <= U64_MAX):
        raise bad_shape(path, "the integer does not fit in 64 bits")
    elif kind is float and not math.isfinite(value):
        raise bad_shape(path, "not a finite number, which JSON does not have")
    elif kind is _RepeatedKey:
        raise bad_shape(path, f"the key {value.key!r} stands twice in one object")
    elif kind not in _SCALARS:
        raise bad_shape(path, f"a {kind.__name__} is not a JSON value")


def _check_key(key: Any, path: tuple[PathStep, ...]) -> None:
    if type(key) is not str:
        raise bad_shape(path, f"JSON keys are texts, not {type(key).__name__}")
    _check_text(key, path)


def _check_depth(path: tuple[PathStep, ...]) -> None:
    if len(path) >= DEPTH_MAX:
        raise bad_shape(path[:4], f"nested deeper than {DEPTH_MAX} levels")


def _check_text(text: str, path: tuple[PathStep, ...]) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise bad_shape(path, f"lone surrogate U+{ord(text[error.start]):04X}, which is no text") from error
