"""The books of a copied session: where its revisions lie in the store that it was copied to. Reads and writes nothing.

Packs are copied whole, under other names; the manifests in them stay as they are, and go on naming the packs by the
names that they had. So the books say where these lie now, as a commit says that carries packs.

Rules:
1. Every revision that either store retains for the session can be found; what one has dropped by itself the copy does
   not bring back. A pin is kept by either.
2. A pack has one place here. Where the source carries one in another that was copied, it lies there; else where an
   earlier copy has put it.
3. The log of places is written anew, in one stretch: its rows name manifests as they were first named, and its last row
   says where all packs lie. So a copy of a copy has no longer books than the first.
4. The first revision of a session has no row before it: where its packs lie stands in the head.

    retention = retention_of(source.head, before.head, WHOLE)
    books = CopiedBooks(source, before, places, WHOLE)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from snapshots.errors import LimitExceededError
from snapshots.head import KEPT_MAX, Head
from snapshots.maintenance.copy.survey import WHOLE, History, Places, Survey, has_any, places_in
from snapshots.pins import PINS_MAX, Pin
from snapshots.placement import NOT_MOVED, Homes, ManifestPlace, Move, PackUse, PlaceRow
from snapshots.reading import named_by
from storage.digest import Digest
from storage.extents import Extent


@dataclass(frozen=True, slots=True)
class Retention:
    """Which revisions a copied head retains: what stands in it under these names."""

    floor: int
    kept: tuple[int, ...]
    pins: tuple[Pin, ...]


def retention_of(source: Head, before: Head | None, history: History) -> Retention:
    """Return what is retained of a session once it was copied (rule 1).

    Args:
        source: Its head there.
        before: Its head here, None if there is no revision of it yet.
        history: What is copied.

    Raises:
        LimitExceededError: The head has no room for so many revisions below the floor, or pins.
    """
    known = 0 if before is None else before.revision
    numbers = set() if before is None else _unpinned(before, 1)
    numbers |= _unpinned(source, known + 1) if history == WHOLE else {source.revision}
    floor = source.revision
    while floor - 1 in numbers:
        floor -= 1
    kept = tuple(sorted(number for number in numbers if number < floor))
    if len(kept) > KEPT_MAX:
        raise LimitExceededError(f"{KEPT_MAX} revisions kept below the floor", len(kept))
    pins = {} if before is None else {pin.name: pin for pin in before.pins}
    held = numbers | {pin.revision for pin in pins.values()}
    pins |= {pin.name: pin for pin in source.pins if pin.revision in held or _is_new(source, pin, known, history)}
    if len(pins) > PINS_MAX:
        raise LimitExceededError(f"{PINS_MAX} pins", len(pins))
    return Retention(floor, kept, tuple(pins[name] for name in sorted(pins)))


def _unpinned(head: Head, first: int) -> set[int]:
    """Return the revisions from `first` on that a head retains without a pin."""
    return {*range(max(head.floor, first), head.revision + 1), *(one for one in head.kept if one >= first)}


def _is_new(source: Head, pin: Pin, known: int, history: History) -> bool:
    return history == WHOLE and known < pin.revision <= source.revision


def only_here_in(source: Survey, before: Survey | None, history: History) -> list[int]:
    """Return the revisions that are retained here and not copied, rising."""
    if before is None:
        return []
    numbers = range(1, before.head.revision + 1)
    return [one for one in numbers if before.head.retains(one) and not source.is_copied(one, history)]


class CopiedBooks:
    """Where the revisions of a copied session lie.

    Args:
        source: The session there.
        before: The session here, None if there is no revision of it yet.
        places: Where each pack that the copy needs lies here, and each of those that lay in the head here and that
            revisions need which are retained here alone.
        history: What is copied.
        body_bytes: Sizes of packs here, as far as they are known.
    """

    def __init__(
        self,
        source: Survey,
        before: Survey | None,
        places: Places,
        history: History,
        body_bytes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._source = source
        self._before = before
        self._places = places
        self._history = history
        self._body_bytes = body_bytes

    @property
    def revision(self) -> int:
        """Return the present revision."""
        return self._source.head.revision

    def extents(self) -> dict[Digest, tuple[Extent, ...]]:
        """Return where the blobs of the present revision lie; without its log of places."""
        placed = self._source.manifest.placement
        logs = {ref.digest for ref in placed.refs()} - {ref.digest for ref in self._source.manifest.checkpoint.refs()}
        return {
            digest: tuple(one.moved(*self._at(one)) for one in many)
            for digest, many in placed.extents.items()
            if digest not in logs
        }

    def _at(self, extent: Extent) -> tuple[str, int]:
        pack, start = self._places[extent.pack]
        return pack, start

    def first_place(self) -> ManifestPlace:
        """Return where the manifest of a first revision lies (rule 4)."""
        place = named_by(self._source.head).manifest
        homes = Homes(self._moves())
        against = None if place.against is None else self._placed(place.against)
        return replace(self._placed(place), against=against, moved=homes)

    def _placed(self, place: ManifestPlace) -> ManifestPlace:
        pack, start = self._places[place.pack]
        return ManifestPlace(pack, place.offset + start, place.stored_bytes)

    def rows(self) -> tuple[PlaceRow, ...]:
        """Return the log of places (rule 3); none for a first revision."""
        only_here = frozenset(only_here_in(self._source, self._before, self._history))
        mine = {} if self._before is None else _by_revision(self._before)
        rows = [_bare(mine[row.revision] if row.revision in only_here else row) for row in self._source.rows]
        if rows:
            ended = tuple(use for use in self._uses() if use.last_revision)
            rows[-1] = replace(rows[-1], ended=ended, moved=tuple(self._moves()))
        return tuple(rows)

    def present_uses(self) -> tuple[PackUse, ...]:
        """Return the packs that the present revision needs."""
        return tuple(use for use in self._uses() if not use.last_revision)

    def _moves(self) -> list[Move]:
        """Return where all packs lie, by every name that a manifest may have for them."""
        return [Move(name, *place) for name, place in sorted(self._homes().items()) if place != (name, 0)]

    def _homes(self) -> dict[str, tuple[str, int]]:
        """Return the same for those too that lie under their own names (rule 2)."""
        found = {} if self._before is None else places_in(self._before)
        found |= self._places
        for move in (*self._source.books.homes.moves(), *named_by(self._source.head).manifest.moved.moves()):
            if move.into in self._places:
                pack, start = self._places[move.into]
                found[move.pack] = (pack, start + move.shift)
        return found

    def _uses(self) -> list[PackUse]:
        """Return which revisions need which packs; each pack once for each run of revisions."""
        present = self.revision
        spans = [
            (self._places[use.pack][0], use.first_revision, use.last_revision or present)
            for use in self._source.uses
            if use.pack in self._places
        ]
        spans += self._spans_only_here()
        sizes = self._body_bytes
        return [
            PackUse(pack, first, 0 if end == present else end, sizes.get(pack, 0))
            for pack, first, end in _merged(spans)
        ]

    def _spans_only_here(self) -> list[tuple[str, int, int]]:
        """Return what revisions need that are retained here alone: whatever their packs lie in now."""
        if self._before is None:
            return []
        last, homes = self._before.head.revision, self._homes()
        only_here = only_here_in(self._source, self._before, self._history)
        places = places_in(self._before) | {pack.name: (pack.name, 0) for pack in self._before.head.tail}
        now: dict[str, set[str]] = {}
        for name, (pack, _) in places.items():
            if name in homes:
                now.setdefault(pack, set()).add(homes[name][0])
        return [
            (pack, use.first_revision, use.last_revision or last)
            for use in self._before.uses
            if has_any(only_here, use.first_revision, use.last_revision or last)
            for pack in now.get(use.pack, ())
        ]


def _by_revision(found: Survey) -> dict[int, PlaceRow]:
    return {row.revision: row for row in (*found.rows, named_by(found.head))}


def _bare(row: PlaceRow) -> PlaceRow:
    """Return a row without what it says of packs; its manifest is named as it was first."""
    place = row.manifest
    against = None if place.against is None else replace(place.against, moved=NOT_MOVED)
    return replace(row, manifest=replace(place, against=against, moved=NOT_MOVED), ended=(), moved=())


def _merged(spans: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Return spans of revisions with those of one pack joined that overlap or touch."""
    merged: list[tuple[str, int, int]] = []
    for pack, first, last in sorted(spans):
        if merged and merged[-1][0] == pack and first <= merged[-1][2] + 1:
            merged[-1] = (pack, merged[-1][1], max(last, merged[-1][2]))
        else:
            merged.append((pack, first, last))
    return merged
