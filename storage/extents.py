"""`Extent`: where a piece of a blob lies. Pure.

Rules:
1. An extent lies in one frame of one pack. 2. A blob is its extents in order, nothing between them.
3. Reads that lie near each other in one pack are one request.

    plan_reads(extents) -> one ByteRange after another, per pack
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from storage.store import ByteRange

GAP_BYTES_MAX = 64 << 10  # reading so much for nothing is cheaper than another request
READ_BYTES_MAX = 8 << 20  # per request, so that several threads share a large blob


@dataclass(frozen=True, slots=True)
class Extent:
    """A piece of a blob.

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


def plan_reads(extents: Iterable[Extent]) -> list[tuple[str, ByteRange]]:
    """Return the ranges that cover the frames of `extents`, merged by rule 3, in order of pack and offset."""
    reads: list[tuple[str, ByteRange]] = []
    for pack, start, stored in sorted({(one.pack, one.offset, one.stored_bytes) for one in extents}):
        if reads and reads[-1][0] == pack:
            last = reads[-1][1]
            end = max(last.end, start + stored)
            if start - last.end <= GAP_BYTES_MAX and end - last.start <= READ_BYTES_MAX:
                reads[-1] = (pack, ByteRange(last.start, end - last.start))
                continue
        reads.append((pack, ByteRange(start, stored)))
    return reads
