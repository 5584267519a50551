"""`Stretch`: where a stretch of the log of places lies. One revision is found without the whole log. Pure.

Rules:
1. The stretches in a head cover the log up to its end, the beginning of one perhaps the end of the one before. Those of
   the beginning of the log may be missing: who wants a row from there reads all of it.
2. What became of the packs that a revision needs stands behind its row, in the last stretch that has it: when packs are
   carried, the log is written again from the first row on whose revision needs one of them (`snapshots.laying`), and
   that becomes a stretch up to the row which tells of it.

    stretch = stretch_with(head.stretches, 7)
    place_in(rows_of_the_section, 7)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snapshots.fields import columns, is_whole
from snapshots.logs import encode_rows
from snapshots.placement import PlaceRow, homes_of
from storage.digest import BLOB_BYTES_MAX
from storage.extents import Extent, Spliceable
from storage.frame import FRAME_BYTES_MAX, STORED_BYTES_MAX

STRETCH_EXTENTS_MAX = 64  # of all stretches in a head


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some rows of the log of places.

    Attributes:
        first_revision: That of the first row.
        count: Number of rows.
        position: Byte of the log with which they begin.
        extents: Where they lie, in order.
    """

    first_revision: int
    count: int
    position: int
    extents: tuple[Extent, ...]

    def __contains__(self, revision: int) -> bool:
        return 0 <= revision - self.first_revision < self.count

    def in_log(self, log: Spliceable) -> Stretch:
        """Return the same rows, where they lie in a log that has been continued since."""
        length = sum(extent.length for extent in self.extents)
        return replace(self, extents=tuple(log.between(self.position, length)))

    def to_plain(self, numbers: Mapping[str, int]) -> list[Any]:
        """Return `[first revision, count, position, …]`, then pack, offset, stored, skip, length of each extent."""
        plain = [self.first_revision, self.count, self.position]
        for pack, *rest in self.extents:
            plain += (numbers[pack], *rest)
        return plain


def stretch_from_plain(plain: Any, names: Sequence[str]) -> Stretch:
    """Return the stretch that `to_plain` wrote. Raises ValueError, TypeError."""
    if not isinstance(plain, list | tuple) or len(plain) < 8:
        raise ValueError("not a stretch of the log of places")
    first, count, position = plain[:3]
    extents = (plain[start : start + 5] for start in range(3, len(plain), 5))
    if not is_whole(first, 1) or not is_whole(count, 1) or not is_whole(position, 0, BLOB_BYTES_MAX):
        raise ValueError("not a stretch of the log of places")
    return Stretch(first, count, position, tuple(_extent_from_plain(one, names) for one in extents))


def _extent_from_plain(plain: Any, names: Sequence[str]) -> Extent:
    number, offset, stored, skip, length = columns(plain, 5)
    if not is_whole(number, 0, len(names) - 1) or not is_whole(offset, 0, BLOB_BYTES_MAX):
        raise ValueError("not an extent")
    if not is_whole(stored, 1, STORED_BYTES_MAX) or not is_whole(skip) or not is_whole(length, 1, FRAME_BYTES_MAX):
        raise ValueError("not an extent")
    return Extent(names[number], offset, stored, skip, length)


def position_of(rows: Sequence[PlaceRow], log_bytes: int, revision: int) -> int:
    """Return where the row of a revision begins in a log of these rows, which have so many bytes."""
    return log_bytes - len(encode_rows(rows[revision - 1 :]))


def last_rows(log: Spliceable, log_bytes: int, revisions: range, position: int) -> Stretch:
    """Return the rows of these revisions, with which a log of so many bytes ends from `position` on."""
    return Stretch(revisions.start, len(revisions), position, tuple(log.between(position, log_bytes - position)))


def as_many_as_fit(stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """Return the last ones, in order, as far as a head has room for them (rule 1)."""
    room = STRETCH_EXTENTS_MAX
    count = 0
    for stretch in reversed(stretches):
        room -= len(stretch.extents)
        if room < 0:
            break
        count += 1
    return tuple(stretches[len(stretches) - count :])


def stretch_with(stretches: Sequence[Stretch], revision: int) -> Stretch | None:
    """Return the last stretch with the row of a revision, None if it is not known where that lies."""
    found = [stretch for stretch in stretches if revision in stretch]
    return found[-1] if found else None


def place_in(rows: Sequence[PlaceRow], revision: int) -> PlaceRow:
    """Return the row of a revision, as what it names lies now. Raises ValueError where the rows do not have it.

    Args:
        rows: Of its stretch, or of the whole log.
        revision: Whose.
    """
    behind = [row for row in rows if row.revision >= revision]
    if not behind or behind[0].revision != revision:
        raise ValueError(f"the log of places has no row for revision {revision}")
    made = (row.manifest.pack for row in behind[1:])
    later = {*made, *(move.into for row in behind for move in row.moved)}  # made after it, so that it cannot need them
    return homes_of(behind).without(later).row(behind[0])
