"""`Stretch`: where a stretch of the log of places lies. One revision is found without the whole log. Pure.

Rules:
1. The stretches in a head follow one another up to the end of the log. Those of its beginning may be missing: who wants
   a row from there reads the log.
2. What became of the packs that a revision needs stands behind its row, in the same stretch: when packs are carried,
   the log is written again from the first row on whose revision needs one of them (`snapshots.laying`).

    stretch = stretch_with(head.places, 7)
    place_in(rows_of_the_section, 7)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """A stretch of the log of places.

    Attributes:
        first_revision: That of its first row.
        extents: Where its rows lie, in order.
    """

    first_revision: int
    extents: tuple[Extent, ...]

    @property
    def length(self) -> int:
        """Return the size of its rows in bytes."""
        return sum(extent.length for extent in self.extents)

    def to_plain(self, numbers: Mapping[str, int]) -> list[Any]:
        """Return `[first revision, [pack, offset, stored bytes, skip, length], …]`, packs by their numbers."""
        return [self.first_revision, *([numbers[one.pack], *one[1:]] for one in self.extents)]


def stretch_from_plain(plain: Any, names: Sequence[str]) -> Stretch:
    """Return the stretch that `to_plain` wrote. Raises ValueError, TypeError."""
    if not isinstance(plain, list | tuple) or len(plain) < 2 or not is_whole(plain[0], 1):
        raise ValueError("not a stretch of the log of places")
    return Stretch(plain[0], tuple(_extent_from_plain(one, names) for one in plain[1:]))


def _extent_from_plain(plain: Any, names: Sequence[str]) -> Extent:
    number, offset, stored, skip, length = columns(plain, 5)
    if not is_whole(number, 0, len(names) - 1) or not is_whole(offset, 0, BLOB_BYTES_MAX):
        raise ValueError("not an extent")
    if not is_whole(stored, 1, STORED_BYTES_MAX) or not is_whole(skip) or not is_whole(length, 1, FRAME_BYTES_MAX):
        raise ValueError("not an extent")
    return Extent(names[number], offset, stored, skip, length)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stretch begins: the revision of its first row, and how many bytes of the log stand before."""

    revision: int
    position: int


def start_at(rows: Sequence[PlaceRow], log_bytes: int, revision: int) -> Start:
    """Return where the row of a revision begins in a log of these rows, which have so many bytes."""
    return Start(revision, log_bytes - len(encode_rows(rows[revision - 1 :])))


def starts_of(stretches: Sequence[Stretch], log_bytes: int) -> list[Start]:
    """Return where the stretches of a log of so many bytes begin."""
    position = log_bytes - sum(stretch.length for stretch in stretches)
    starts = []
    for stretch in stretches:
        starts.append(Start(stretch.first_revision, position))
        position += stretch.length
    return starts


def stretches_at(starts: Sequence[Start], extents: Sequence[Extent]) -> tuple[Stretch, ...]:
    """Return the stretches of a log that begin there; neighbours in one pack are one.

    Args:
        starts: Rising.
        extents: Of the whole log.
    """
    size = sum(extent.length for extent in extents)
    held = Spliceable(extents)
    ends = [*(start.position for start in starts[1:]), size]
    found: list[Stretch] = []
    for start, end in zip(starts, ends, strict=True):
        stretch = Stretch(start.revision, tuple(held.between(start.position, end - start.position)))
        if found and len(_packs(found[-1]) | _packs(stretch)) == 1:
            stretch = Stretch(found[-1].first_revision, _joined(found.pop().extents, stretch.extents))
        found.append(stretch)
    return tuple(_newest(found))


def _packs(stretch: Stretch) -> set[str]:
    return {extent.pack for extent in stretch.extents}


def _joined(before: tuple[Extent, ...], behind: tuple[Extent, ...]) -> tuple[Extent, ...]:
    last, first = before[-1], behind[0]
    if not last.goes_on_in(first):
        return (*before, *behind)
    return (*before[:-1], last._replace(length=last.length + first.length), *behind[1:])


def _newest(stretches: Sequence[Stretch]) -> Iterator[Stretch]:
    """Yield the last ones, in order, as far as there is room for them (rule 1)."""
    room = STRETCH_EXTENTS_MAX
    count = 0
    for stretch in reversed(stretches):
        room -= len(stretch.extents)
        if room < 0:
            break
        count += 1
    yield from stretches[len(stretches) - count :]


def stretch_with(stretches: Sequence[Stretch], revision: int) -> Stretch | None:
    """Return the stretch with the row of a revision, None if it is not known where that lies."""
    found = [stretch for stretch in stretches if stretch.first_revision <= revision]
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
    later = {row.manifest.pack for row in behind[1:]}  # made after it, so that it cannot need them
    return homes_of(behind).without(later).row(behind[0])
