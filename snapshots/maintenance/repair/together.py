"""Putting blobs together from pieces that lie in several places.

Rules:
1. At each position the blob's own piece comes first, then what others have there: another placement of the same blob,
   or another log, of which this one may be the beginning.
2. Only the digest decides what is right. No more than TRIES_MAX times something else is taken than what comes first.

    data = put_together(pieces, ref, placement.extents[ref.digest], others=Positions([extents_of_a_longer_log]))
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from snapshots.maintenance.pieces import Fetched, Pieces, windows
from storage.digest import BlobRef, verify
from storage.errors import CorruptObjectError, NotFoundError
from storage.extents import Extent
from storage.frame import FRAME_BYTES_MAX
from storage.packs import PREFIX_BYTES_MAX

TRIES_MAX = 256  # pieces that are not the first choice: a commit that was uploaded twice has two of each


class LostError(Exception):
    """Something cannot be had from what is left; says why. Never leaves this package.

    Attributes:
        gap: Position in a blob at which nothing can be had, whatever stands before it; -1 where that is not known.
    """

    def __init__(self, reason: str, gap: int = -1) -> None:
        self.gap = gap
        super().__init__(reason)


class Positions:
    """Pieces by the position at which they stand in a blob, or in a log.

    Args:
        placed: The extents of each, from its beginning.
    """

    def __init__(self, placed: Iterable[Sequence[Extent]] = ()) -> None:
        self._at: dict[int, dict[Extent, None]] = {}
        for extents in longest(placed):
            starts = accumulate((extent.length for extent in extents), initial=0)
            for start, extent in zip(starts, extents, strict=False):
                self._at.setdefault(start, {})[extent] = None
        self._starts = sorted(self._at)

    def covering(self, position: int) -> Iterator[tuple[int, Extent]]:
        """Yield the pieces that have the byte at a position, each with the position at which it begins."""
        index = bisect_right(self._starts, position) - 1
        while index >= 0 and self._starts[index] > position - FRAME_BYTES_MAX:
            start = self._starts[index]
            yield from ((start, extent) for extent in self._at[start] if start + extent.length > position)
            index -= 1


def longest(placed: Iterable[Sequence[Extent]]) -> list[tuple[Extent, ...]]:
    """Return these without those that another one begins with."""
    kept: list[tuple[Extent, ...]] = []
    for extents in sorted(map(tuple, placed), key=len, reverse=True):
        if not any(longer[: len(extents)] == extents for longer in kept):
            kept.append(extents)
    return kept


Beyond = Callable[[int], Iterable[bytes]]


def nothing_beyond(_: int) -> Iterable[bytes]:
    """Say that nothing is known of a blob but what lies somewhere."""
    return ()


def put_together(
    pieces: Pieces,
    ref: BlobRef,
    own: Sequence[Extent],
    others: Positions | None = None,
    beyond: Beyond = nothing_beyond,
) -> bytes:
    """Return the bytes of a blob.

    Args:
        pieces: Where everything lies.
        ref: The blob.
        own: Where it should lie.
        others: What others have (rule 1), None for nothing.
        beyond: Gives what may stand at a position without lying anywhere.

    Raises:
        LostError: No way was found.
        UnavailableError: The store did not answer.
    """
    data = bytearray()
    puzzle = _Puzzle(pieces, ref, own, others or Positions(), beyond, data)
    ways: list[tuple[int, Iterator[bytes]]] = [(0, puzzle.options(0))]
    taken = [0]
    tries = reached = 0
    while ways and tries <= TRIES_MAX:
        position, options = ways[-1]
        del data[position:]
        if position == ref.size_bytes and puzzle.is_it():
            return bytes(data)
        piece = next(options, None) if position < ref.size_bytes else None
        if piece is None:
            ways.pop()
            taken.pop()
            continue
        taken[-1] += 1
        tries += taken[-1] > 1
        data += piece
        reached = max(reached, len(data))
        ways.append((len(data), puzzle.options(len(data))))
        taken.append(0)
    gap = -1 if tries or reached == ref.size_bytes else reached
    raise LostError(f"blob {ref.digest} lies whole in no pack of the family", gap)


class _Puzzle:
    """What can stand where in a blob, of which `data` is what was chosen so far."""

    def __init__(
        self,
        pieces: Pieces,
        ref: BlobRef,
        own: Sequence[Extent],
        others: Positions,
        beyond: Beyond,
        data: bytearray,
    ) -> None:
        self._pieces = pieces
        self._ref = ref
        self._own = _Own(pieces, own)
        self._others = others
        self._beyond = beyond
        self._data = data

    def is_it(self) -> bool:
        try:
            verify(self._data, self._ref, key="")
        except CorruptObjectError:
            return False
        return True

    def options(self, position: int) -> Iterator[bytes]:
        """Yield what may stand at a position; until the next one is asked for, `data` may grow behind it."""
        seen: set[bytes] = set()
        for piece in self._pieces_at(position):
            if piece and piece not in seen:
                seen.add(piece)
                yield piece

    def _pieces_at(self, position: int) -> Iterator[bytes]:
        own = self._own.at(position)
        end = self._ref.size_bytes
        if own is not None:
            end = own[0] + own[1].length  # behind it the next one of its own may be there, and others differ
            yield from self._cut(position, end, *own)
        for start, extent in self._others.covering(position):
            if own is None or extent != own[1]:
                yield from self._cut(position, end, start, extent, self._pieces.fetch([extent]))
        left = self._ref.size_bytes - position
        yield from (piece for piece in self._beyond(position) if len(piece) == left)

    def _cut(self, position: int, end: int, start: int, extent: Extent, fetched: Fetched) -> Iterator[bytes]:
        """Yield what a piece that begins at `start` has from `position` to `end`, if it can be opened."""
        try:
            piece = fetched.piece(extent, bytes(self._data[max(0, start - PREFIX_BYTES_MAX) : start]))
        except (NotFoundError, CorruptObjectError):
            return  # the next one; when there is none, that is said
        yield piece[position - start : end - start]


class _Own:
    """The pieces of a blob where they should lie; a window of them is held at a time."""

    def __init__(self, pieces: Pieces, extents: Sequence[Extent]) -> None:
        self._pieces = pieces
        self._extents = extents
        self._starts = list(accumulate((extent.length for extent in extents), initial=0))
        self._windows = list(windows(extents))
        self._window_starts = list(accumulate((len(window) for window in self._windows), initial=0))
        self._held: tuple[int, Fetched] | None = None

    def at(self, position: int) -> tuple[int, Extent, Fetched] | None:
        """Return the piece that has the byte at a position, and where it begins; None behind the last one."""
        index = bisect_right(self._starts, position) - 1
        if index >= len(self._extents):
            return None
        number = bisect_right(self._window_starts, index) - 1
        if self._held is None or self._held[0] != number:
            self._held = number, self._pieces.fetch(self._windows[number])
        return self._starts[index], self._extents[index], self._held[1]
