"""`Extent`: where a piece of a blob lies. Pure.

Rules:
1. An extent lies in one frame of one pack. 2. A blob is its extents in order, nothing between them.
3. Reads that lie near each other in one pack are one request.

    plan_reads(extent[:3] for extent in extents) -> one Read after another, per pack
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from storage.store import ByteRange

GAP_BYTES_MAX = 1 << 20  # reading so much for nothing takes as long as another request: 30 ms at 30 MB/s
READ_BYTES_MAX = 16 << 20  # per request, so that several threads share a large blob


class Extent(NamedTuple):
    """A piece of a blob. A tuple: a large execution state has tens of thousands of them.

    Attributes:
        pack: Name of the pack.
        offset: First byte of the frame in the pack.
        stored_bytes: Length of the frame, header included.
        skip: Raw bytes of the frame before the piece.
        length: Raw bytes of the piece.
    """

    pack: str
    offset: int
    stored_bytes: int
    skip: int
    length: int

    @property
    def frame(self) -> ByteRange:
        """Return where the frame lies in its pack."""
        return ByteRange(self.offset, self.stored_bytes)

    def part(self, start: int, length: int) -> Extent:
        """Return `length` bytes of the piece from `start` on."""
        return self._replace(skip=self.skip + start, length=length)

    def moved(self, pack: str, shift: int) -> Extent:
        """Return the piece in a pack that carries its own, which begins at `shift` there."""
        return self._replace(pack=pack, offset=self.offset + shift)

    def goes_on_in(self, other: Extent) -> bool:
        """Say whether `other` is what stands behind this piece in the same frame."""
        return self[:3] == other[:3] and self.skip + self.length == other.skip


class Spliceable:
    """The extents of one blob, to copy parts of it.

    Args:
        extents: All of them, in order.
    """

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._extents = extents
        self._ends = list(accumulate(extent.length for extent in extents))

    def between(self, start: int, length: int) -> list[Extent]:
        """Return the extents of `length` bytes from `start` on; at least one byte, all within the blob."""
        end = start + length
        first, last = bisect_right(self._ends, start), bisect_right(self._ends, end - 1)
        found = list(self._extents[first : last + 1])
        head = start - (self._ends[first] - found[0].length)
        tail = self._ends[last] - end
        if tail:
            found[-1] = found[-1].part(0, found[-1].length - tail)
        if head:
            found[0] = found[0].part(head, found[0].length - head)
        return found


def coalesced(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Return the extents with those joined that go on in one another."""
    joined: list[Extent] = []
    offset, end = -1, 0  # of the last frame, and of the piece in it: told apart by these nearly always
    for extent in extents:
        if extent[1] == offset and extent[3] == end and joined[-1].goes_on_in(extent):
            joined[-1] = joined[-1]._replace(length=joined[-1].length + extent[4])
        else:
            joined.append(extent)
        offset, end = extent[1], extent[3] + extent[4]
    return tuple(joined)


class Read(NamedTuple):
    """A range of a pack to be read at once."""

    pack: str
    place: ByteRange


def plan_reads(frames: Iterable[Extent | tuple[str, int, int]]) -> list[Read]:
    """Return the ranges that cover these frames, merged by rule 3, in order of pack and offset.

    Args:
        frames: Extents; or pack, offset and stored size of each frame.
    """
    places: dict[str, set[tuple[int, int]]] = {}
    last, found = "", set[tuple[int, int]]()
    for frame in frames:
        if frame[0] != last:
            last = frame[0]
            found = places.setdefault(last, set())
        found.add(frame[1:3])
    return [
        Read(pack, ByteRange(start, end - start)) for pack in sorted(places) for start, end in _ranges(places[pack])
    ]


def _ranges(places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield start and end of the ranges that cover these frames of one pack, by start and stored size."""
    start = end = -1
    for offset, stored in sorted(places):
        if start >= 0 and offset - end <= GAP_BYTES_MAX and max(end, offset + stored) - start <= READ_BYTES_MAX:
            end = max(end, offset + stored)
            continue
        if start >= 0:
            yield start, end
        start, end = offset, offset + stored
    if start >= 0:
        yield start, end
