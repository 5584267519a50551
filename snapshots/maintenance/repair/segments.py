"""Segments of logs as plain entries, read from wherever they lie.

Rules:
1. A segment is decoded once; that one cannot be had is remembered as well.

    segments = Segments(remains)
    entries = segments.between(checkpoint.history, placement, 0, 7)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from snapshots import codec
from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.fields import Fields
from snapshots.logs import Segment
from snapshots.maintenance.repair.remains import LostError, Remains
from snapshots.placement import Placement
from storage.digest import BlobRef
from storage.extents import Extent

T = TypeVar("T")


class Segments:
    """The segments of one family."""

    def __init__(self, remains: Remains) -> None:
        self._remains = remains
        self._plain: dict[BlobRef, list[Any]] = {}
        self._lost: dict[BlobRef, str] = {}

    def between(self, segments: Iterable[Segment], where: Placement, start: int, end: int) -> list[Any]:
        """Return the entries from `start` to `end`, as far as the log has them. Raises LostError."""
        found: list[Any] = []
        for first, segment in overlapping(segments, start, end):
            found += self.entries(segment, where)[max(start - first, 0) : end - first]
        return found

    def rows(self, segment: Segment, where: Placement, parse: Callable[[Any], T]) -> tuple[T, ...]:
        """Return the entries of a segment of rows. Raises LostError."""
        return parsed(self.entries(segment, where), parse)

    def entries(self, segment: Segment, where: Placement) -> list[Any]:
        """Return the entries of a segment. Raises LostError."""
        ref = segment.ref
        if ref in self._lost:
            raise LostError(self._lost[ref])
        if ref not in self._plain:
            try:
                self._plain[ref] = _decoded(self._remains.read(ref, *places(ref, where)), segment)
            except LostError as error:
                self._lost[ref] = str(error)
                raise
        return self._plain[ref]

    def keep(self, segment: Segment, data: bytes) -> None:
        """Take in the bytes of a segment that were had otherwise."""
        self._plain[segment.ref] = _decoded(data, segment)
        self._lost.pop(segment.ref, None)


def _decoded(data: bytes, segment: Segment) -> list[Any]:
    try:
        plain = codec.decode(data, key="")
    except CorruptSnapshotError as error:
        raise LostError(f"segment {segment.ref.digest} cannot be decoded") from error
    if not isinstance(plain, list) or len(plain) != segment.count:
        raise LostError(f"blob {segment.ref.digest} is no segment of {segment.count} entries")
    return plain


def parsed(plain: Sequence[Any], parse: Callable[[Any], T]) -> tuple[T, ...]:
    """Return rows from their plain form. Raises LostError."""
    try:
        return Fields({"rows": list(plain)}, key="", record="segment of a log").rows("rows", parse)
    except (CorruptSnapshotError, UnsupportedSchemaError) as error:
        raise LostError(str(error)) from error


def places(ref: BlobRef, where: Placement) -> list[tuple[Extent, ...]]:
    """Return where a placement says that all of a blob lies: one place, or none."""
    extents = where.extents.get(ref.digest)
    return [] if extents is None or sum(one.length for one in extents) != ref.size_bytes else [extents]


def numbered(segments: Iterable[Segment]) -> Iterator[tuple[int, Segment]]:
    """Yield each segment with the number of entries before it."""
    first = 0
    for segment in segments:
        yield first, segment
        first += segment.count


def overlapping(segments: Iterable[Segment], start: int, end: int) -> list[tuple[int, Segment]]:
    """Return the segments that hold entries from `start` to `end`, each with the number of entries before it."""
    return [(first, one) for first, one in numbered(segments) if first < end and first + one.count > start]
