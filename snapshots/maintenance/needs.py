"""Which packs a revision needs, and where everything lies now. What maintenance decides of it is decided here. Pure.

Rules:
1. A revision needs the packs of its blobs, of its manifest, and of the one that this was compressed against.
2. Where a pack is carried by another one, that one is needed in its place.

    books = books_of(rows)
    packs_needed(books.rows[0].manifest, placement.extents.values())
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from snapshots.placement import Homes, ManifestPlace, PackUse, PlaceRow, homes_of
from storage.extents import Extent


@dataclass(frozen=True, slots=True)
class Books:
    """What a log of places says, as it is now (rule 2).

    Attributes:
        rows: The rows, each with the place where the manifest lies now.
        ended: Packs that earlier revisions needed and the present one does not.
        homes: Where the packs lie that others carry.
    """

    rows: tuple[PlaceRow, ...]
    ended: tuple[PackUse, ...]
    homes: Homes


def books_of(rows: Sequence[PlaceRow]) -> Books:
    """Return what these rows of a log of places say; all of them, as far as they can be had."""
    homes = homes_of(rows)
    ended = tuple(replace(use, pack=homes.pack(use.pack)) for row in rows for use in row.ended)
    return Books(tuple(map(homes.row, rows)), ended, homes)


def packs_needed(manifest: ManifestPlace, extents: Iterable[Iterable[Extent]]) -> dict[str, None]:
    """Return the names of the packs that a revision needs, in order.

    Args:
        manifest: Where its manifest lies now.
        extents: Where its blobs lie now.
    """
    packs = dict.fromkeys(one.pack for many in extents for one in many)
    return packs | dict.fromkeys(run.pack for run in manifest.runs())
