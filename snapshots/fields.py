"""`Fields`: reading a decoded record field by field, every surprise a `CorruptSnapshotError`. Pure.

Rules:
1. A field that is missing, of another type or out of bounds is corruption, named by record and field.
2. `null` is only what `optional` accepts.
3. A field that nobody read is of a later schema: refused, never dropped (`nothing_else`).

    fields = Fields(plain, key="…", record="head")
    revision = fields.integer("revision", 0, U64_MAX)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from storage.digest import BlobRef, Digest
from storage.errors import StorageError
from storage.keys import check_id

T = TypeVar("T")
U64_MAX = (1 << 64) - 1
SCHEMA_VERSION = 1  # of every record but those of STORE_VERSIONS
STORE_VERSIONS = (1, 2)  # of the store object and of heads: those that are read, oldest first
NEWEST_VERSION = STORE_VERSIONS[-1]  # of a store that is made now; its heads have that of the store
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Fields:
    """A decoded map, and what to name when it disappoints."""

    def __init__(self, plain: Any, *, key: str, record: str) -> None:
        self._key = key
        self._record = record
        if not isinstance(plain, dict):
            raise self.wrong("is no map")
        self._plain = plain
        self._read: set[str] = {"schema_version"}
        self._supported: Sequence[int] = (SCHEMA_VERSION,)

    def wrong(self, reason: str) -> CorruptSnapshotError:
        """Return the error that says what is wrong with this record."""
        return CorruptSnapshotError(self._key, f"the {self._record} {reason}")

    def schema(self, supported: Sequence[int] = (SCHEMA_VERSION,)) -> int:
        """Return the schema version. Raises UnsupportedSchemaError for one that is not supported."""
        self._supported = supported
        found = self._plain.get("schema_version")
        if type(found) is not int or found not in supported:
            raise UnsupportedSchemaError(f"{self._record} at {self._key}", found=found, supported=supported)
        return found

    def value(self, name: str) -> Any:
        """Return the field as it is."""
        if name not in self._plain:
            raise self.wrong(f"has no field {name!r}")
        self._read.add(name)
        return self._plain[name]

    def text(self, name: str) -> str:
        """Return a text field."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.wrong(f"has no text in {name!r}")
        return value

    def integer(self, name: str, low: int = 0, high: int = U64_MAX) -> int:
        """Return an integer field within bounds."""
        value = self.value(name)
        if not is_whole(value, low, high):
            raise self.wrong(f"has no integer of {low}..{high} in {name!r}")
        return int(value)

    def flag(self, name: str) -> bool:
        """Return a field that is true or false."""
        return self.parsed(name, flag_of, self.value(name))

    def raw(self, name: str, size: int | None = None) -> bytes:
        """Return a field of bytes, of exactly `size` if given."""
        value = self.value(name)
        if not isinstance(value, bytes) or (size is not None and len(value) != size):
            raise self.wrong(f"has no {'' if size is None else f'{size} '}bytes in {name!r}")
        return value

    def rows(self, name: str, parse: Callable[[Any], T], count_max: int = 1 << 24) -> tuple[T, ...]:
        """Return a list field, each entry parsed."""
        value = self.value(name)
        if not isinstance(value, list) or len(value) > count_max:
            raise self.wrong(f"has no list of at most {count_max} in {name!r}")
        return tuple(self.parsed(name, parse, entry) for entry in value)

    def optional(self, name: str, parse: Callable[[Any], T]) -> T | None:
        """Return the parsed field, or None for null."""
        value = self.value(name)
        return None if value is None else self.parsed(name, parse, value)

    def parsed(self, name: str, parse: Callable[[Any], T], value: Any) -> T:
        """Return `parse(value)`; what it trips over is corruption."""
        try:
            return parse(value)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, StorageError) as error:
            raise self.wrong(f"has an unreadable {name!r} ({error})") from error

    def nothing_else(self) -> None:
        """Check that every field was read: one we do not know changes what the others mean.

        Raises:
            UnsupportedSchemaError: There is another.
        """
        unknown = sorted(map(str, self._plain.keys() - self._read))
        if unknown:
            what = f"{self._record}.{unknown[0]} at {self._key}"
            raise UnsupportedSchemaError(what, found="an unknown field", supported=self._supported)

    def nothing_yet(self, *names: str) -> None:
        """Check that fields of later versions are empty. Raises UnsupportedSchemaError."""
        for name in names:
            if self.value(name) not in (None, []):
                raise UnsupportedSchemaError(f"{self._record}.{name} at {self._key}", found="in use", supported=[])


def is_whole(value: Any, low: int = 0, high: int = U64_MAX) -> bool:
    """Say whether `value` is an integer within bounds; `true` is none."""
    return type(value) is int and low <= value <= high


def text_of(plain: Any) -> str:
    """Return `plain` if it is a text. Raises TypeError."""
    if not isinstance(plain, str):
        raise TypeError("not a text")
    return plain


def flag_of(plain: Any) -> bool:
    """Return `plain` if it is true or false. Raises TypeError."""
    if not isinstance(plain, bool):
        raise TypeError("neither true nor false")
    return plain


def columns(plain: Any, count: int) -> Sequence[Any]:
    """Return `plain` if it is a list of `count` entries: bytes and maps, which unpack as well, are refused.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(plain, list | tuple) or len(plain) != count:
        raise ValueError(f"not a list of {count}")
    return plain


def ref_to_plain(ref: BlobRef) -> list[Any]:
    """Return `[digest, size]`; a `b3:` digest as its 32 bytes, others as text."""
    return [digest_to_plain(ref.digest), ref.size_bytes]


def ref_from_plain(plain: Sequence[Any]) -> BlobRef:
    """Return the ref that `ref_to_plain` wrote. Raises ValueError, TypeError."""
    name, size = columns(plain, 2)
    return BlobRef(digest_from_plain(name), size)


def digest_to_plain(digest: Digest) -> bytes | str:
    """Return a `b3:` digest as its 32 bytes, another as text."""
    kind, _, digits = digest.partition(":")
    return bytes.fromhex(digits) if kind == "b3" else digest


def digest_from_plain(name: bytes | str) -> Digest:
    """Return the digest that `digest_to_plain` wrote."""
    return Digest("b3:" + name.hex() if isinstance(name, bytes) else name)


def micros(instant: datetime) -> int:
    """Return microseconds since 1970 of an aware instant."""
    return (instant - _EPOCH) // _MICROSECOND


def instant(micros_since_1970: int) -> datetime:
    """Return the aware instant that `micros` wrote. Raises TypeError, OverflowError."""
    if type(micros_since_1970) is not int:
        raise TypeError("not an instant")
    return _EPOCH + micros_since_1970 * _MICROSECOND


def id_or_empty(value: Any) -> str:
    """Return `value` if it is an id, or empty for none. Raises InvalidKeyError."""
    return "" if value == "" else check_id(value)


def id_bytes(identifier: str) -> bytes:
    """Return the 16 bytes of a 32-digit id."""
    return bytes.fromhex(identifier)


def id_text(raw: bytes) -> str:
    """Return the 32 digits of a 16-byte id. Raises ValueError."""
    if not isinstance(raw, bytes) or len(raw) != 16:
        raise ValueError("not an id of 16 bytes")
    return raw.hex()
