"""Where the earlier revisions of a session lie: the log of places, put together again where a segment of it is gone.

Rules:
1. A row is what another segment says, or what the manifest says that it would name: a pack that this manifest needed
   ended with it, unless a later row or the present placement still names it.
2. Only rows that together hash to the segment which the present placement names are believed.

    rows = places_of(head, placement, remains, segments)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice, product

from snapshots import codec, placement
from snapshots.head import Head
from snapshots.logs import Segment
from snapshots.maintenance.remains import FoundManifest, LostError, Remains
from snapshots.maintenance.segments import Segments, numbered, overlapping
from snapshots.placement import PackUse, Placement, PlaceRow
from storage.digest import blob_ref

TRIES_MAX = 256  # ways to put one segment together: a commit that was uploaded twice has two manifests
Uses = frozenset[tuple[str, int]]  # packs with the first revision that needs them


def places_of(head: Head, present: Placement, remains: Remains, segments: Segments) -> tuple[PlaceRow, ...]:
    """Return the rows of all earlier revisions, oldest first.

    Args:
        head: A live head.
        present: The placement of its present revision.
        remains: Of its family.
        segments: Likewise.

    Raises:
        LostError: A segment can neither be had nor be put together again.
    """
    later = _starts(present.packs)
    rows: list[PlaceRow] = []
    for first, segment in reversed(list(numbered(present.places))):
        try:
            found = list(segments.rows(segment, present, placement.row_from_plain))
        except LostError as error:
            options = [_options(head, first + index, remains, segments) for index in range(1, segment.count + 1)]
            found = _proved(segment, options, later, str(error))
        later |= _starts(use for row in found for use in row.ended)
        rows = [*found, *rows]
    if [row.revision for row in rows] != list(range(1, head.revision)):
        raise LostError(f"the log of places does not run from 1 to {head.revision - 1}")
    return tuple(rows)


def _starts(uses: Iterable[PackUse]) -> Uses:
    return frozenset((use.pack, use.first_revision) for use in uses)


def _options(
    head: Head, number: int, remains: Remains, segments: Segments
) -> list[tuple[int, PlaceRow | FoundManifest]]:
    """Return what may tell where an earlier revision lies, each with its number, the likeliest first (rule 1)."""
    rows: list[PlaceRow] = []
    manifests: list[FoundManifest] = []
    for found in remains.manifests:
        if found.session_id not in ("", head.session_id):
            continue
        if found.checkpoint.revision == number:
            manifests.append(found)
        for _, segment in overlapping(found.placement.places, number - 1, number):
            try:
                log = segments.rows(segment, found.placement, placement.row_from_plain)
            except LostError:
                continue  # the next one; when there is none, that is said
            rows += [row for row in log if row.revision == number and row not in rows]
    commit_id = head.commits.commit_id(number)
    manifests.sort(key=lambda found: found.place is None or found.place.pack.partition(".")[0] != commit_id)
    return [*((number, row) for row in rows), *((number, found) for found in manifests)]


def _proved(
    segment: Segment, options: Sequence[Sequence[tuple[int, PlaceRow | FoundManifest]]], later: Uses, reason: str
) -> list[PlaceRow]:
    for chosen in islice(product(*options), TRIES_MAX):
        rows = _rows(chosen, later)
        if blob_ref(codec.encode([row.to_plain() for row in rows])) == segment.ref:
            return rows
    raise LostError(f"the log of places cannot be had: {reason}")


def _rows(chosen: Sequence[tuple[int, PlaceRow | FoundManifest]], later: Uses) -> list[PlaceRow]:
    rows: list[PlaceRow] = []
    for number, one in reversed(chosen):
        row = one if isinstance(one, PlaceRow) else _row(one, number, later)
        later |= _starts(row.ended)
        rows = [row, *rows]
    return rows


def _row(found: FoundManifest, number: int, later: Uses) -> PlaceRow:
    """Return the row that names a manifest (rule 1)."""
    assert found.place is not None, "it was found in a pack"
    uses = found.placement.packs
    ended = [replace(use, last_revision=number) for use in uses if (use.pack, use.first_revision) not in later]
    return PlaceRow(number, blob_ref(found.record), found.place, None, tuple(ended))
