"""What has to be stored again: pieces of blobs, by the frames in which they lay.

Rules:
1. Bytes are taken in only as part of a blob that hashes to its digest.
2. Of a frame the same bytes are kept once: a piece within one that is kept needs nothing more.

    rescued.take(GRAPH, extent, piece)
    stored = rescued.stored_in(builder)
    stored.extents(extent)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snapshots.maintenance.pieces import frame_of
from storage.digest import BlobRef
from storage.extents import Extent, Frame, Spliceable
from storage.packs import PackBuilder


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some bytes of a frame."""

    kind: str
    skip: int
    data: bytes

    def has(self, extent: Extent) -> bool:
        return self.skip <= extent.skip and extent.skip + extent.length <= self.skip + len(self.data)


class Rescued:
    """Pieces by frame, and blobs of which no placement says where they lay."""

    def __init__(self) -> None:
        self._pieces: dict[Frame, list[_Piece]] = {}
        self._blobs: dict[BlobRef, tuple[str, bytes]] = {}

    def has(self, extent: Extent) -> bool:
        """Say whether all of a piece is kept."""
        return any(piece.has(extent) for piece in self._pieces.get(frame_of(extent), ()))

    def has_blob(self, ref: BlobRef) -> bool:
        """Say whether a blob is kept that lay nowhere."""
        return ref in self._blobs

    def take(self, kind: str, extent: Extent, data: bytes) -> None:
        """Keep a piece of a blob of some kind."""
        if not self.has(extent):
            self._pieces.setdefault(frame_of(extent), []).append(_Piece(kind, extent.skip, data))

    def take_blob(self, kind: str, ref: BlobRef, data: bytes) -> None:
        """Keep a blob that lay nowhere."""
        self._blobs[ref] = kind, data

    def stored_in(self, builder: PackBuilder) -> Stored:
        """Put everything into a pack; return where it lies then."""
        blobs = {ref: builder.add(kind, data) for ref, (kind, data) in self._blobs.items()}
        pieces = {
            frame: [(piece, builder.add(piece.kind, piece.data)) for piece in many]
            for frame, many in self._pieces.items()
        }
        builder.flush()
        return Stored(
            {frame: [(piece, builder.extents[ref.digest]) for piece, ref in many] for frame, many in pieces.items()},
            {ref: builder.extents[ref.digest] for ref in blobs},
        )


class Stored:
    """Where lies now what was rescued."""

    def __init__(
        self,
        pieces: Mapping[Frame, list[tuple[_Piece, tuple[Extent, ...]]]],
        blobs: Mapping[BlobRef, tuple[Extent, ...]],
    ) -> None:
        self._pieces = pieces
        self._blobs = blobs

    def extents(self, extent: Extent) -> list[Extent]:
        """Return where a piece lies now that was kept."""
        piece, extents = next(one for one in self._pieces[frame_of(extent)] if one[0].has(extent))
        return Spliceable(extents).between(extent.skip - piece.skip, extent.length)

    def blob(self, ref: BlobRef) -> tuple[Extent, ...]:
        """Return where a blob lies now that lay nowhere."""
        return self._blobs[ref]
