"""`Survey`: what a session's head names, of all its revisions, read in one go: head, manifest, log of places.

Rules:
1. Nothing is written, and no blob but the log of places is read.
2. Everything is told as it lies now: where a pack is carried by another one, that one is told of.

    found = survey(environment, read)
    found.packs
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError
from snapshots.head import LIVE, Head
from snapshots.maintenance.needs import Books, books_of
from snapshots.placement import PackUse, PlaceRow, open_manifest, unseal_manifest
from snapshots.reading import (
    HeadRead,
    Manifest,
    manifest_from,
    named_by,
    read_manifest_bytes,
    read_places,
)
from snapshots.roots import kept_packs
from storage.digest import BlobRef
from storage.extents import packs_of
from storage.store import ByteRange

History = Literal["retained", "head"]
"""What of a session is copied: every revision that the source retains, or the present one alone."""

WHOLE: History = "retained"
PRESENT_ONLY: History = "head"


@dataclass(frozen=True, slots=True)
class Survey:
    """A live head, and what it names.

    Attributes:
        read: The head.
        record: The bytes of the checkpoint that its manifest holds; of a fork's first revision, its base's.
        manifest: The present revision.
        rows: The log of places as it is stored.
        books: The same as it is now.
    """

    read: HeadRead
    record: bytes
    manifest: Manifest
    rows: tuple[PlaceRow, ...]
    books: Books

    @property
    def head(self) -> Head:
        """Return the head."""
        return self.read.head

    @property
    def uses(self) -> tuple[PackUse, ...]:
        """Return which revisions need which packs, of all revisions; of those that lie in the head too."""
        return (*self.manifest.placement.packs, *self.books.ended)

    def needed(self, history: History) -> frozenset[str]:
        """Return the packs that a copy needs, those that lie in the head among them.

        The present manifest and the log of places are written anew with it, unless there is nothing to be written.
        """
        present = {use.pack for use in self.manifest.placement.packs}
        if self.rows:
            extents = self.manifest.placement.extents
            present = set(packs_of(extents[ref.digest] for ref in self.manifest.checkpoint.refs()))
        return frozenset(present.union(self._of_earlier() if history == WHOLE else ()))

    def _of_earlier(self) -> Iterator[str]:
        """Yield the packs that retained revisions before the present one need."""
        head = self.head
        earlier = [number for number in range(1, head.revision) if head.retains(number)]
        for use in self.uses:
            if has_any(earlier, use.first_revision, use.last_revision or head.revision):
                yield use.pack

    @property
    def packs(self) -> frozenset[str]:
        """Return the packs that the head names; none that lies in it."""
        return frozenset(kept_packs(self.head, self.uses)).difference(pack.name for pack in self.head.tail)

    def is_copied(self, revision: int, history: History) -> bool:
        """Say whether a copy has a revision."""
        return revision == self.head.revision if history == PRESENT_ONLY else self.head.retains(revision)

    def checkpoint_ref(self, revision: int) -> BlobRef:
        """Return the checkpoint of a revision, retained or not."""
        return (
            named_by(self.head).checkpoint_ref
            if revision == self.head.revision
            else self.rows[revision - 1].checkpoint_ref
        )

    def runs_in(self, pack: str) -> tuple[ByteRange, ...]:
        """Return where the manifests lie in a pack that lies in the head."""
        places = (*(row.manifest for row in self.books.rows), named_by(self.head).manifest)
        return tuple(ByteRange(one.offset, one.stored_bytes) for one in places if one.pack == pack)


def survey(environment: Environment, read: HeadRead) -> Survey:
    """Return what a live head names: two rounds of requests at most.

    Raises:
        CorruptSnapshotError: Something of it cannot be read.
        NotFoundError: Something of it is missing: read the head again.
        CorruptObjectError: Something of it is not what was written.
        UnavailableError: The store did not answer.
    """
    head = read.head
    assert head.status == LIVE, "only live heads name anything"
    named = named_by(head)
    if head.inline_manifest:
        key = environment.layout.head(head.session_id)
        raw = unseal_manifest(head.inline_manifest, key=key)
    else:
        key = environment.layout.pack(head.family, named.manifest.pack)
        raw = read_manifest_bytes(environment, head, named)
    manifest = manifest_from(raw, named, key=key)
    rows = tuple(read_places(environment, head, manifest.placement))
    if [row.revision for row in rows] != list(range(1, head.revision)):
        raise CorruptSnapshotError(environment.layout.head(head.session_id), "the log of places has not all revisions")
    return Survey(read, open_manifest(raw, key=key)[0], manifest, rows, books_of(rows))


def has_any(numbers: Sequence[int], first: int, last: int) -> bool:
    """Say whether one of these rising numbers lies between two, both included."""
    index = bisect_left(numbers, first)
    return index < len(numbers) and numbers[index] <= last


Places = Mapping[str, tuple[str, int]]
"""Where packs lie in another store: pack and first byte there."""


def places_in(found: Survey) -> dict[str, tuple[str, int]]:
    """Return where all packs lie that a head names, whatever names manifests have for them; not those in the head."""
    packs = found.packs
    own = {pack: (pack, 0) for pack in packs}
    moves = (*found.books.homes.moves(), *named_by(found.head).manifest.moved.moves())
    return own | {move.pack: (move.into, move.shift) for move in moves if move.into in packs}
