"""Deterministic CBOR of plain values. Pure; the only importer of cbor2.

Rules:
1. Plain values: dict with text or byte keys, list, str, bytes, int within 64 bits, float, bool, None. No tags at all.
2. Equal values have equal bytes (core deterministic encoding), so a digest names content.
3. Decoding is strict: no tags, no indefinite lengths, no duplicate keys, bounded nesting, nothing left over.

    decode(encode({"a": 1}), key="…") == {"a": 1}

Source: RFC 8949 section 4.2 (core deterministic encoding).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import cbor2

from snapshots.errors import CorruptSnapshotError, InvalidStateError
from storage.digest import short_hash

GUARD_BYTES = 16  # at the end of a guarded record
DEPTH_MAX = 80  # a document of 64 levels, inside a node, inside its record
_BIGNUM_MIN = 1 << 64
NUMBERS_MIN = 6
ORDERS_MAX = 1024  # of keys that are remembered
ORDER_CHARACTERS_MAX = 512  # of all keys of one map whose order is


def encode(value: Any) -> bytes:
    """Return the deterministic bytes of a plain value.

    Raises:
        InvalidStateError: Something in it is not plain: text with lone surrogates, an integer over 64 bits.
    """
    try:
        return cbor2.dumps(_ordered(value))
    except (_UnusualError, RecursionError):
        return _encode_any(value)
    except UnicodeEncodeError as error:
        raise InvalidStateError("a text holds a lone surrogate, which is no UTF-8; replace it") from error


class _UnusualError(Exception):
    """A value that `_ordered` leaves to the library; caught in `encode`, never seen outside."""


def _ordered(value: Any) -> Any:
    """Return a plain value with the keys of its maps in order: half the time of letting the library sort them.

    Raises:
        _UnusualError: A float, an integer over 64 bits, a key that is not ASCII, a type that may not be plain.
    """
    kind = type(value)
    if kind is str or kind is bytes or kind is bool or value is None:
        return value
    if kind is int:
        if -_BIGNUM_MIN // 2 <= value < _BIGNUM_MIN:
            return value
    elif kind is dict:
        return {key: _ordered(value[key]) for key in _keys_in_order(tuple(value))}
    elif kind is list or kind is tuple:
        return value if _is_numbers(value) else [_ordered(one) for one in value]
    raise _UnusualError


def _is_numbers(values: Sequence[Any]) -> bool:
    """Say whether these are integers within 64 bits, and so many that looking at all at once is faster."""
    if len(values) < NUMBERS_MIN or set(map(type, values)) != {int}:
        return False
    least, most = int(min(values)), int(max(values))
    return least >= -_BIGNUM_MIN // 2 and most < _BIGNUM_MIN


def _keys_in_order(keys: tuple[Any, ...]) -> tuple[Any, ...]:
    known = _ORDERS.get(keys)
    if known is not None:
        return known
    if not all(type(key) is str and key.isascii() for key in keys):
        raise _UnusualError
    in_order = tuple(sorted(keys, key=lambda key: (len(key), key)))  # as their encoded forms are, length first
    if len(_ORDERS) < ORDERS_MAX and sum(map(len, keys)) <= ORDER_CHARACTERS_MAX:
        _ORDERS[keys] = in_order
    return in_order


_ORDERS: dict[tuple[str, ...], tuple[str, ...]] = {}  # of keys: most maps are records of few kinds


def _encode_any(value: Any) -> bytes:
    try:
        return cbor2.dumps(value, canonical=True, encoders=_ENCODERS)
    except UnicodeEncodeError as error:
        raise InvalidStateError("a text holds a lone surrogate, which is no UTF-8; replace it") from error
    except cbor2.CBOREncodeError as error:
        raise InvalidStateError(f"a value cannot be stored ({error}); use JSON values and bytes") from error


def _encode_int(encoder: cbor2.CBOREncoder, value: int) -> None:
    if not -_BIGNUM_MIN // 2 <= value < _BIGNUM_MIN:
        raise cbor2.CBOREncodeValueError(f"integer {str(value)[:40]} is outside 64 bits")
    encoder.encode_int(value)


def _refuse_type(_: cbor2.CBOREncoder, value: Any) -> None:
    raise cbor2.CBOREncodeValueError(f"{type(value).__name__} is not plain")


# Types that cbor2 would write with a tag, or as something that reads back as another type.
_NOT_PLAIN = (date, datetime, Decimal, Fraction, set, frozenset, memoryview, cbor2.CBORTag, cbor2.CBORSimpleValue)
_REFUSING = dict.fromkeys(_NOT_PLAIN, _refuse_type)
_ENCODERS = {**_REFUSING, int: _encode_int}


def decode(data: bytes, *, key: str) -> Any:
    """Return the plain value that `data` encodes.

    Raises:
        CorruptSnapshotError: Not what `encode` writes; names `key`.
    """
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream,
            tag_hook=_refuse_tag,
            semantic_decoders=_REFUSED,
            max_depth=DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
    except (cbor2.CBORDecodeError, ValueError, RecursionError) as error:
        raise CorruptSnapshotError(key, f"a record cannot be decoded ({error})") from error
    if stream.tell() != len(data):
        raise CorruptSnapshotError(key, "a record has bytes behind its end")
    return value


def encode_entries(values: Sequence[Any]) -> bytes:
    """Return the bytes of the values, one behind the other: a log, which is continued by appending.

    Raises:
        InvalidStateError: As `encode`.
    """
    return encode(list(values))[len(_array_head(len(values))) :]


def decode_entries(data: bytes, count: int, *, key: str) -> list[Any]:
    """Return the `count` values that `encode_entries` wrote. Raises CorruptSnapshotError."""
    entries: list[Any] = decode(_array_head(count) + data, key=key)
    return entries


def _array_head(count: int) -> bytes:
    """Return how a CBOR array of `count` items begins (RFC 8949 section 3.1)."""
    if count < 24:
        return bytes((0x80 | count,))
    size = max(0, (count.bit_length() - 1) // 8)
    width = size.bit_length()  # 1, 2, 4 or 8 bytes
    return bytes((0x98 + width,)) + count.to_bytes(1 << width, "big")


def guarded(data: bytes) -> bytes:
    """Return `data` with a checksum behind it, for a record that no digest names."""
    return data + short_hash(data, GUARD_BYTES)


def unguarded(data: bytes, *, key: str) -> bytes:
    """Return what `guarded` was given. Raises CorruptSnapshotError."""
    record, checksum = data[:-GUARD_BYTES], data[-GUARD_BYTES:]
    if len(checksum) < GUARD_BYTES or short_hash(record, GUARD_BYTES) != checksum:
        raise CorruptSnapshotError(key, "the record does not match its own checksum")
    return record


def _refuse_tag(*_: Any) -> Any:
    raise ValueError("tags are not plain")


# Every tag that cbor2 would build an object for, from its documentation of supported tags.
_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799)
_REFUSED = dict.fromkeys(_TAGS, _refuse_tag)
