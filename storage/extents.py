"""`Extent`: where a piece of a blob lies. Pure.

Rules:
1. An extent lies in one frame of one pack. 2. A blob is its extents in order, nothing between them.
3. Reads that lie near each other in one pack are one request.
4. What did not change is copied in runs: work in Python is in proportion to the changes, not to the extents.

    plan_reads(extent[:3] for extent in extents) -> one Read after another, per pack
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from operator import itemgetter, sub
from typing import NamedTuple

from storage.store import ByteRange

GAP_BYTES_MAX = 1 << 20  # reading so much for nothing takes as long as another request: 30 ms at 30 MB/s
READ_BYTES_MAX = 16 << 20  # per request, so that several threads share a large blob


Frame = tuple[str, int, int]
"""A frame of a pack: name of the pack, first byte, stored size. A plain tuple: a large revision has thousands."""


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


class Run(tuple[Extent, ...]):
    """Extents that stand one behind the other in a blob; none goes on in the next (`coalesced`)."""

    __slots__ = ()

    @property
    def size_bytes(self) -> int:
        """Return how many raw bytes they hold."""
        return sum(map(itemgetter(4), self))

    def first(self, size_bytes: int) -> Run:
        """Return the extents of so many bytes from the start on, at most of all."""
        if size_bytes >= self.size_bytes:
            return self
        return Run(Spliceable(self).between(0, size_bytes) if size_bytes else ())


def packs_of(runs: Iterable[Sequence[Extent]]) -> dict[str, None]:
    """Return the names of the packs that these extents lie in, in order of first appearance."""
    return dict.fromkeys(map(itemgetter(0), chain.from_iterable(runs)))


def frames_of(extents: Iterable[Extent]) -> Iterator[Frame]:
    """Yield the frame that each extent lies in."""
    return map(itemgetter(0, 1, 2), extents)


class Spliceable:
    """The extents of one blob, to copy parts of it.

    Args:
        extents: All of them, in order.
    """

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._extents = extents
        self._ends = list(accumulate(map(itemgetter(4), extents)))

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


def joined(runs: Iterable[Sequence[Extent]]) -> tuple[Extent, ...]:
    """Return the extents of these runs in order; where one goes on in the next, these two are one."""
    whole: list[Extent] = []
    for run in runs:
        if whole and run and whole[-1].goes_on_in(run[0]):
            whole[-1] = whole[-1]._replace(length=whole[-1].length + run[0].length)
            whole += run[1:]
        else:
            whole += run
    return tuple(whole)


class Read(NamedTuple):
    """A range of a pack to be read at once."""

    pack: str
    place: ByteRange


def plan_reads(frames: Iterable[Extent | Frame]) -> list[Read]:
    """Return the ranges that cover these frames, merged by rule 3, in order of pack and offset.

    Args:
        frames: Frames, or extents in them.
    """
    every = list(frames)
    spans = _spans(every)
    wide: dict[str, list[Extent | Frame]] = {
        pack: [] for pack, (start, end) in spans.items() if end - start > GAP_BYTES_MAX
    }
    for frame in every if wide else ():
        if frame[0] in wide:
            wide[frame[0]].append(frame)
    apart = {pack: frames for pack, frames in wide.items() if not _is_one_read(frames, *spans[pack])}
    return [
        Read(pack, ByteRange(start, end - start))
        for pack in sorted(spans)
        for start, end in (_ranges(apart[pack]) if pack in apart else (spans[pack],))
    ]


def _is_one_read(frames: Iterable[Extent | Frame], start: int, end: int) -> bool:
    """Say whether so little lies between the starts of frames that there cannot be a gap; saves looking at each."""
    starts = sorted(map(itemgetter(1), frames))
    return end - start <= READ_BYTES_MAX and max(map(sub, starts[1:], starts), default=0) <= GAP_BYTES_MAX


def _spans(frames: Iterable[Extent | Frame]) -> dict[str, tuple[int, int]]:
    """Return where the first of these frames begins in each pack, and where the last ends."""
    spans: dict[str, tuple[int, int]] = {}
    last, low, high = "", 0, 0
    for frame in frames:
        pack, start, end = frame[0], frame[1], frame[1] + frame[2]
        if pack != last:
            spans[last] = (low, high)
            last = pack
            low, high = spans.get(pack, (start, end))
        if start < low:
            low = start
        if end > high:
            high = end
    spans[last] = (low, high)
    del spans[""]
    return spans


def _ranges(frames: Iterable[Extent | Frame]) -> Iterator[tuple[int, int]]:
    """Yield start and end of the ranges that cover these frames of one pack."""
    start = end = -1
    for offset, stored in sorted({frame[1:3] for frame in frames}):
        if start >= 0 and offset - end <= GAP_BYTES_MAX and max(end, offset + stored) - start <= READ_BYTES_MAX:
            end = max(end, offset + stored)
            continue
        if start >= 0:
            yield start, end
        start, end = offset, offset + stored
    if start >= 0:
        yield start, end
