"""Append-only logs: the graph's nodes, the history, the log of places. Each is one blob that only grows. Pure.

The bytes of a log are its entries in deterministic CBOR, one behind the other: they depend on the entries alone. A
commit hashes and stores what is new; where the older bytes lie, and in how many pieces, is the placement's business.

Rules:
1. Entries are never changed; the log of an earlier revision is the beginning of every later one that continues it.
2. What is new is hashed on top of what was hashed before: the work does not depend on the length of the log.

    log = HeldLog().appended(encode_rows([row]), [row])
    log.at                                      # → LogRef: what the checkpoint names
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from snapshots import codec
from snapshots.fields import columns, is_whole, ref_from_plain, ref_to_plain
from storage.digest import BlobRef, Hasher, blob_ref

T = TypeVar("T")


class Row(Protocol):
    """An entry of a log, as a record."""

    def to_plain(self) -> list[Any]:
        """Return its fields, in order."""
        ...


def encode_rows(rows: Iterable[Row]) -> bytes:
    """Return the bytes of these entries of a log."""
    return codec.encode_entries([row.to_plain() for row in rows])


@dataclass(frozen=True, slots=True)
class LogRef:
    """A log as one revision has it.

    Attributes:
        ref: The blob that all entries make.
        count: Number of entries.
    """

    ref: BlobRef
    count: int

    def to_plain(self) -> list[Any]:
        """Return `[digest, size, count]`."""
        return [*ref_to_plain(self.ref), self.count]


NO_LOG = LogRef(blob_ref(b""), 0)


def log_ref_from_plain(plain: Any) -> LogRef:
    """Return what `to_plain` wrote. Raises ValueError, TypeError."""
    name, size, count = columns(plain, 3)
    log = LogRef(ref_from_plain((name, size)), count)
    if not is_whole(count, 0, size) or (count == 0 and log != NO_LOG):  # an entry has one byte at least
        raise ValueError("not a log")
    return log


@dataclass(frozen=True, slots=True)
class HeldLog(Generic[T]):
    """A log with its bytes, as the process knows it that loaded or continued it.

    Attributes:
        at: What the checkpoint names.
        entries: All entries, oldest first; () for the graph, whose nodes are the state's.
        chunks: Its bytes, in pieces.
        hasher: Of all bytes; never updated (rule 2).
    """

    at: LogRef = NO_LOG
    entries: tuple[T, ...] = ()
    chunks: tuple[bytes, ...] = ()
    hasher: Hasher = field(default_factory=Hasher, compare=False)

    def appended(self, data: bytes, entries: Sequence[T], count: int | None = None) -> HeldLog[T]:
        """Return the log continued.

        Args:
            data: Bytes of the new entries.
            entries: The new entries, () where they are held elsewhere.
            count: How many there are, if `entries` does not say.
        """
        hasher = self.hasher.copy()
        hasher.update(data)
        at = LogRef(hasher.ref(), self.at.count + (len(entries) if count is None else count))
        return HeldLog(at, (*self.entries, *entries), (*self.chunks, data), hasher)

    def between(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` on, as far as there are so many."""
        pieces: list[bytes] = []
        begin = self.at.ref.size_bytes
        for chunk in reversed(self.chunks):  # what is asked for is mostly near the end
            begin -= len(chunk)
            if begin < start + length:
                pieces.append(chunk)
            if begin <= start:
                break
        skip = max(0, start - begin)
        return b"".join(reversed(pieces))[skip : skip + length]

    def before(self, position: int, length: int) -> bytes:
        """Return up to `length` bytes that stand before `position`."""
        start = max(0, position - length)
        return self.between(start, position - start) if position > start else b""


def held_log(at: LogRef, data: bytes, entries: Iterable[T]) -> HeldLog[T]:
    """Return a log that was read; that `data` is what `at` names was checked."""
    hasher = Hasher()
    hasher.update(data)
    return HeldLog(at, tuple(entries), (data,) if data else (), hasher)
