"""Where the earlier revisions of a session lie: the log of places, put together again where a segment of it is gone.

Rules:
1. A row is what another segment says, or what the manifest says that it would name: a pack that this manifest needed
   ended with it, unless a later row or the present placement still names it.
2. Only rows that together hash to the segment which the present placement names are believed.

    rows = places_of(head, placement, remains, segments)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from itertools import islice, product

from snapshots import codec, placement
from snapshots.head import Head
from snapshots.logs import Segment
from snapshots.maintenance.repair.remains import FoundManifest, LostError, Remains
from snapshots.maintenance.repair.segments import Segments, numbered, overlapping
from snapshots.placement import PackUse, Placement, PlaceRow
from storage.digest import BlobRef, blob_ref

TRIES_MAX = 256  # ways to put one segment together: a commit that was uploaded twice has two manifests
Uses = frozenset[tuple[str, int]]  # packs with the first revision that needs them
Option = tuple[int, PlaceRow | FoundManifest]  # a revision with what may tell where it lies


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
            numbers = range(first + 1, first + segment.count + 1)
            found = _proved(segment, _options(head, numbers, remains, segments), later, str(error))
        later |= _starts(use for row in found for use in row.ended)
        rows = [*found, *rows]
    if [row.revision for row in rows] != list(range(1, head.revision)):
        raise LostError(f"the log of places does not run from 1 to {head.revision - 1}")
    return tuple(rows)


def _starts(uses: Iterable[PackUse]) -> Uses:
    return frozenset((use.pack, use.first_revision) for use in uses)


def _options(head: Head, numbers: range, remains: Remains, segments: Segments) -> list[list[Option]]:
    """Return what may tell where each of these revisions lies, each with its number, the likeliest first (rule 1)."""
    mine = [found for found in remains.manifests if found.session_id in ("", head.session_id)]
    rows: dict[int, list[Option]] = {number: [] for number in numbers}
    for row in _rows_in(mine, numbers, segments):
        if (row.revision, row) not in rows[row.revision]:
            rows[row.revision].append((row.revision, row))
    manifests: dict[int, list[FoundManifest]] = {number: [] for number in numbers}
    for found in mine:
        if found.checkpoint.revision in manifests:
            manifests[found.checkpoint.revision].append(found)
    for number in numbers:
        commit_id = head.commits.commit_id(number)
        ordered = sorted(manifests[number], key=lambda found: _is_no_pack_of(commit_id, found))
        rows[number] += [(number, found) for found in ordered]
    return list(rows.values())


def _rows_in(manifests: Iterable[FoundManifest], numbers: range, segments: Segments) -> Iterator[PlaceRow]:
    """Yield the rows of these revisions in all logs of places; what several manifests name is parsed once."""
    seen: set[BlobRef] = set()
    for found in manifests:
        for _, segment in overlapping(found.placement.places, numbers.start - 1, numbers.stop - 1):
            if segment.ref in seen:
                continue
            seen.add(segment.ref)
            try:
                log = segments.rows(segment, found.placement, placement.row_from_plain)
            except LostError:
                continue  # the next one; when there is none, that is said
            yield from (row for row in log if row.revision in numbers)


def _is_no_pack_of(commit_id: str | None, found: FoundManifest) -> bool:
    return found.place is None or found.place.pack.partition(".")[0] != commit_id


def _proved(segment: Segment, options: Sequence[Sequence[Option]], later: Uses, reason: str) -> list[PlaceRow]:
    for chosen in islice(product(*options), TRIES_MAX):
        rows = _rows(chosen, later)
        if blob_ref(codec.encode([row.to_plain() for row in rows])) == segment.ref:
            return rows
    raise LostError(f"the log of places cannot be had: {reason}")


def _rows(chosen: Sequence[Option], later: Uses) -> list[PlaceRow]:
    named = set(later)
    rows: list[PlaceRow] = []
    for number, one in reversed(chosen):
        row = one if isinstance(one, PlaceRow) else _row(one, number, named)
        named |= _starts(row.ended)
        rows.append(row)
    return rows[::-1]


def _row(found: FoundManifest, number: int, later: Set[tuple[str, int]]) -> PlaceRow:
    """Return the row that names a manifest (rule 1)."""
    assert found.place is not None, "it was found in a pack"
    uses = found.placement.packs
    ended = [replace(use, last_revision=number) for use in uses if (use.pack, use.first_revision) not in later]
    return PlaceRow(number, blob_ref(found.record), found.place, None, tuple(ended))
