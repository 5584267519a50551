"""Cuts: what of a blob that is too large to be held can be copied from another such blob. Pure.

Rules:
1. A blob is cut by its content; of every cut its digest is kept, 16 bytes of BLAKE3, and where it ends.
2. Cuts of one digest are the same bytes: whoever copies one needs no byte of the other blob.
3. A cut that goes on where the last copy ended is preferred, so that long stretches stay one copy.

    table = table_of([first_window, second_window])
    KnownCuts(table).find(digest)  # a Copy, None where no cut has this digest
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

from storage.digest import Buffer, short_hash
from storage.matching import Copy, Cutter

DIGEST_BYTES = 16  # two different cuts of one digest: not in 2^64 of them, not even by intent


class CutTable:
    """The cuts of one blob, in order."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._ends = array("Q")

    def __len__(self) -> int:
        return len(self._ends)

    def __repr__(self) -> str:
        return f"CutTable({len(self)} cuts of {self.size_bytes} bytes)"

    @property
    def size_bytes(self) -> int:
        """Return how long the blob is."""
        return self._ends[-1] if self._ends else 0

    def add(self, cut: Buffer) -> bytes:
        """Take the next cut; return its digest."""
        digest = short_hash(cut, DIGEST_BYTES)
        self._digests += digest
        self._ends.append(self.size_bytes + len(cut))
        return digest

    def digest(self, index: int) -> bytes:
        """Return the digest of a cut."""
        return bytes(self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES])

    def place(self, index: int) -> Copy:
        """Return where a cut lies."""
        start = self._ends[index - 1] if index else 0
        return Copy(start, self._ends[index] - start)

    def within(self, stretches: Iterable[Copy]) -> Iterator[int]:
        """Yield the cuts that have bytes in one of these stretches, which must be in order."""
        index = 0
        for start, length in stretches:
            while index < len(self) and self._ends[index] <= start:
                index += 1
            while index < len(self) and self.place(index).start < start + length:
                yield index
                index += 1


def table_of(windows: Iterable[Buffer]) -> CutTable:
    """Return the cuts of a blob whose bytes come in these windows."""
    table, cutter = CutTable(), Cutter()
    for window in windows:
        for cut in cutter.cut(window):
            table.add(cut)
    for cut in cutter.end():
        table.add(cut)
    return table


class KnownCuts:
    """Finds cuts of one blob.

    Args:
        table: Its cuts.
        lost: Stretches of it, in order, of which nothing may be copied.
    """

    def __init__(self, table: CutTable, lost: Sequence[Copy] = ()) -> None:
        self._table = table
        self._lost = frozenset(table.within(lost))
        self._index: dict[bytes, int] | None = None
        self._next = 0

    def find(self, digest: bytes) -> Copy | None:
        """Return a cut of this digest, None if there is none (rule 3)."""
        index: int | None = self._next
        if self._next >= len(self._table) or self._next in self._lost or self._table.digest(self._next) != digest:
            index = self._by_digest().get(digest)
        if index is None:
            return None
        self._next = index + 1
        return self._table.place(index)

    def _by_digest(self) -> dict[bytes, int]:
        if self._index is None:
            usable = (index for index in range(len(self._table)) if index not in self._lost)
            self._index = {self._table.digest(index): index for index in usable}
        return self._index
