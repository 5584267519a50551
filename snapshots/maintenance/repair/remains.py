"""What is left of a family: blobs and manifests, wherever in its packs they lie.

Rules:
1. Everything is believed for its digest alone: where a pack or a manifest says that something lies, it is read and
   hashed.
2. The cheapest way is tried first: where it should lie, where a pack or a manifest says that all of it lies, and then
   piece by piece, from whatever has the same bytes.

    remains = Remains(environment, head)
    data = remains.read(ref, extents)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from snapshots.environment import Environment
from snapshots.head import Head
from snapshots.maintenance.memory import FRAMES_BYTES_MAX, Remembered
from snapshots.maintenance.pieces import Pieces
from snapshots.maintenance.repair.family import Family
from snapshots.maintenance.repair.found import Found
from snapshots.maintenance.repair.together import Beyond, LostError, Positions, nothing_beyond, put_together
from snapshots.placement import NOT_MOVED
from snapshots.reading import with_tail
from storage.digest import BlobRef
from storage.extents import Extent


def nowhere(_: Found) -> Positions:
    """Say that nothing else has the bytes of a blob."""
    return Positions()


class Remains:
    """The packs of one family, and those that lie in one of its heads.

    Args:
        environment: Where they lie.
        head: The head.
        family: What was found in the packs so far, None for nothing.

    Attributes:
        family: What is found in the packs.
        pieces: What lies in them, and in the head.
    """

    def __init__(self, environment: Environment, head: Head, family: Family | None = None) -> None:
        self.family = family or Family(environment, head.family)
        self.pieces = Pieces(with_tail(environment, head), head.family, Remembered(FRAMES_BYTES_MAX))

    def key_of(self, pack: str) -> str:
        """Return the key of a pack of the family."""
        return self.pieces.key_of(pack)

    def read(
        self,
        ref: BlobRef,
        extents: Sequence[Extent],
        others: Callable[[Found], Positions] = nowhere,
        beyond: Beyond = nothing_beyond,
    ) -> bytes:
        """Return the bytes of a blob, from where it should lie or from wherever its pieces are.

        Args:
            ref: The blob.
            extents: Where it should lie, () if nothing says so.
            others: Gives, of what was found, the pieces of logs that it may be the beginning of.
            beyond: As `put_together` takes it.

        Raises:
            LostError: It lies nowhere; its gap is one for all longer logs too.
            UnavailableError: The store did not answer.
        """
        lost = LostError(f"blob {ref.digest} lies whole in no pack of the family")
        for way in self._ways(ref, extents, others, beyond):
            try:
                return way()
            except LostError as error:
                lost = error  # the next way; when there is none, that is said
        raise lost

    def _ways(
        self, ref: BlobRef, extents: Sequence[Extent], others: Callable[[Found], Positions], beyond: Beyond
    ) -> Iterator[Callable[[], bytes]]:
        """Yield how the bytes of a blob may be had; what each needs is looked for only then (rule 2)."""
        yield partial(put_together, self.pieces, ref, extents)
        for found in self.family.found():
            placed = found.places(ref)
            for one in placed:
                yield partial(put_together, self.pieces, ref, one)
            yield partial(put_together, self.pieces, ref, extents, Positions(placed))
            if any(found.homes(self.pieces)):
                yield partial(put_together, self.pieces, ref, extents, Positions(self.wherever(placed, found)))
            yield partial(put_together, self.pieces, ref, extents, others(found), beyond)

    def wherever(self, placed: Iterable[Sequence[Extent]], found: Found) -> list[tuple[Extent, ...]]:
        """Return where these lay, and where they lie now for each session of the family, which may carry packs."""
        homes = found.homes(self.pieces)
        everywhere = [tuple(map(home.extent, extents)) for extents in placed for home in (NOT_MOVED, *homes)]
        return list(dict.fromkeys(everywhere))

    def lies(self, ref: BlobRef, extents: Sequence[Extent]) -> bool:
        """Say whether a blob can be read from that place. Raises UnavailableError."""
        try:
            put_together(self.pieces, ref, extents)
        except LostError:
            return False
        return True
