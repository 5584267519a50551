"""Where the earlier revisions of a session lie: the log of places, put together again where pieces of it are gone.

Rules:
1. A row is what a piece of this log or of another one says, or what the manifest says that it would name: a pack that
   this manifest needed ended with it, unless a later row or the present placement still names it, or it was carried.
2. That packs were carried is seen where the same pieces lie in the pack of the next revision, one pack behind the other
   from its beginning.
3. Only rows that together hash to the log which the present placement names are believed.

    rows = places_of(head, checkpoint, placement, remains)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, product

from snapshots import codec, placement
from snapshots.checkpoint import SessionCheckpoint
from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.fields import Fields
from snapshots.head import Head
from snapshots.laying import PLACES
from snapshots.logs import encode_rows
from snapshots.maintenance.needs import books_of
from snapshots.maintenance.repair.found import rows_at
from snapshots.maintenance.repair.remains import Remains
from snapshots.maintenance.repair.runs import FoundManifest
from snapshots.maintenance.repair.together import TRIES_MAX, LostError, Positions
from snapshots.placement import ManifestPlace, Move, PackUse, Placement, PlaceRow
from storage.digest import BlobRef, Digest, blob_ref
from storage.extents import Extent


@dataclass(frozen=True, slots=True)
class _Guess:
    """What a row may have said that stands nowhere any more.

    Attributes:
        found: Manifest of its revision.
        place: Where that lay.
        moved: Packs that the pack of the next revision carries.
    """

    found: FoundManifest
    place: ManifestPlace
    moved: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class _Lying:
    """Where the blobs of a revision lay when its manifest was written.

    Attributes:
        graph: Pieces of the graph, which later revisions have too, by position.
        parts: Pieces of everything else, by blob and position.
        packs: What it needed.
    """

    graph: dict[int, Extent]
    parts: dict[tuple[Digest, int], Extent]
    packs: tuple[str, ...]


Option = PlaceRow | _Guess  # what may tell where a revision lies


def places_of(head: Head, checkpoint: SessionCheckpoint, present: Placement, remains: Remains) -> tuple[PlaceRow, ...]:
    """Return the rows of all earlier revisions, oldest first, as they were written.

    Args:
        head: A live head.
        checkpoint: Of its present revision.
        present: The placement of that.
        remains: Of its family.

    Raises:
        LostError: The log can neither be had nor be put together again.
        UnavailableError: The store did not answer.
    """
    rows = _Log(head, checkpoint, present, remains).rows()
    if [row.revision for row in rows] != list(range(1, head.revision)):
        raise LostError(f"the log of places does not run from 1 to {head.revision - 1}")
    return rows


class _Log:
    """The log of places of one session."""

    def __init__(self, head: Head, checkpoint: SessionCheckpoint, present: Placement, remains: Remains) -> None:
        self._head = head
        self._checkpoint = checkpoint
        self._present = present
        self._remains = remains
        self._at = present.places
        self._extents = present.extents.get(self._at.ref.digest, ()) if self._at.count else ()
        self._ends: dict[str, int] = {}  # of the frames of a pack: its manifest is the last

    def rows(self) -> tuple[PlaceRow, ...]:
        try:
            data = self._remains.read(self._at.ref, self._extents)
        except LostError as error:
            return self._put_together(str(error))
        return self._decoded(data)

    def _decoded(self, data: bytes) -> tuple[PlaceRow, ...]:
        try:
            plain = {"rows": codec.decode_entries(data, self._at.count, key="")}
            return Fields(plain, key="", record="log of places").rows("rows", placement.row_from_plain)
        except (CorruptSnapshotError, UnsupportedSchemaError) as error:
            raise LostError(str(error)) from error

    def _put_together(self, reason: str) -> tuple[PlaceRow, ...]:
        own = rows_at([self._extents], self._remains.pieces)
        homes = books_of(own).homes
        logs = self._remains.family.in_packs.logs(PLACES, self._head.session_id)
        elsewhere = dict.fromkeys((*logs, *(tuple(map(homes.extent, log)) for log in logs)))
        try:
            return self._decoded(self._remains.read(self._at.ref, self._extents, lambda _: Positions(elsewhere)))
        except LostError:
            others = rows_at(elsewhere, self._remains.pieces)
        guesses = self._guesses([move for row in (*own, *others) for move in row.moved])
        numbers = range(1, self._head.revision)
        for sure in (own, ()):  # a piece that can be read is nearly always right
            certain, read = _by_revision(sure, numbers), _by_revision((*own, *others), numbers)
            options = [certain[one] or [*read[one], *guesses[one]] for one in numbers]
            found = self._proved(options)
            if found is not None:
                return found
        raise LostError(f"the log of places cannot be had: {reason}")

    def _guesses(self, moves: Sequence[Move]) -> dict[int, list[Option]]:
        """Return what the manifests of each revision say that its row may have been, the likeliest first."""
        whose = ("", self._head.session_id)
        mine = [
            one for one in self._remains.family.in_packs.manifests if one.session_id in whose and one.place is not None
        ]
        for found in mine:
            if found.place is not None:
                end = found.place.offset + found.place.stored_bytes
                self._ends[found.place.pack] = max(end, self._ends.get(found.place.pack, 0))
        lying = [(one.checkpoint.revision, _lying(one.checkpoint, one.placement())) for one in mine]
        lying.append((self._head.revision, _lying(self._checkpoint, self._present)))
        guesses: dict[int, list[Option]] = {number: [] for number in range(1, self._head.revision)}
        for found, (number, before) in zip(mine, lying, strict=False):
            if number not in guesses or found.place is None:
                continue
            later = (after for one, after in lying if one > number)
            carried = dict.fromkeys(moved for after in later for moved in self._carried(number, before, after))
            places = _before(found.place, moves)
            guesses[number] += [_Guess(found, place, moved) for moved in (*carried, ()) for place in places]
        for number, options in guesses.items():
            commit_id = self._head.commits.commit_id(number)
            options.sort(key=lambda one: _is_no_pack_of(commit_id, one))
        return guesses

    def _carried(self, number: int, before: _Lying, after: _Lying) -> Iterator[tuple[Move, ...]]:
        """Yield what the pack of the revision after `number` may carry (rule 2)."""
        shifts: dict[str, dict[int, str]] = {}
        for old, new in _alike(before, after):
            if old.pack != new.pack and new.offset >= old.offset and old[2:] == new[2:]:
                shifts.setdefault(new.pack, {})[new.offset - old.offset] = old.pack
        commit_id = self._head.commits.commit_id(number + 1)
        for into, packs in shifts.items():
            if commit_id in (None, into.partition(".")[0]):
                row = _in_a_row(packs, {pack: self._ends[pack] for pack in before.packs if pack in self._ends})
                moved = tuple(Move(pack, into, shift) for shift, pack in row.items())
                yield from (moved[:count] for count in range(len(moved), 0, -1))  # what follows may be written again

    def _proved(self, options: Sequence[Sequence[Option]]) -> tuple[PlaceRow, ...] | None:
        for chosen in islice(product(*options), TRIES_MAX):
            rows = _rows(chosen, self._present)
            if _ref_of(rows) == self._at.ref:
                return rows
        return None


def _lying(checkpoint: SessionCheckpoint, placed: Placement) -> _Lying:
    graph = checkpoint.graph.ref.digest
    parts = {
        (digest, position): extent
        for digest, extents in placed.extents.items()
        for position, extent in _positioned(extents)
        if digest != graph
    }
    packs = tuple(use.pack for use in placed.packs)
    return _Lying(dict(_positioned(placed.extents.get(graph, ()))), parts, packs)


def _positioned(extents: Sequence[Extent]) -> Iterator[tuple[int, Extent]]:
    return zip(accumulate((extent.length for extent in extents), initial=0), extents, strict=False)


def _alike(before: _Lying, after: _Lying) -> Iterator[tuple[Extent, Extent]]:
    """Yield the pieces that have the same bytes in both."""
    yield from ((before.graph[at], after.graph[at]) for at in before.graph.keys() & after.graph.keys())
    yield from ((before.parts[at], after.parts[at]) for at in before.parts.keys() & after.parts.keys())


def _in_a_row(shifts: Mapping[int, str], ends: Mapping[str, int]) -> dict[int, str]:
    """Return the packs that lie one behind the other from the beginning, by where; one of which nothing is seen too.

    Args:
        shifts: Packs by how much further on pieces of them lie.
        ends: Where the frames of each pack end.
    """
    row: dict[int, str] = {}
    end = 0
    for shift in sorted(shifts):
        unseen = [pack for pack in ends if pack not in shifts.values() and 0 < ends[pack] == shift - end]
        if shift > end and len(unseen) == 1:
            row[end] = unseen[0]
            end = shift
        if shift == end:
            row[shift] = shifts[shift]
            end += ends.get(shifts[shift], 0)
    return row


def _ref_of(rows: Sequence[PlaceRow]) -> BlobRef:
    return blob_ref(encode_rows(rows))


def _by_revision(rows: Iterable[PlaceRow], numbers: range) -> dict[int, list[Option]]:
    found: dict[int, list[Option]] = {number: [] for number in numbers}
    for row in rows:
        if row.revision in found and row not in found[row.revision]:
            found[row.revision].append(row)
    return found


def _before(place: ManifestPlace, moves: Sequence[Move]) -> list[ManifestPlace]:
    """Return where a manifest may have lain before its pack was carried, and where it was found."""
    against = [None] if place.against is None else _before(place.against, moves)
    carried = [(move.pack, place.offset - move.shift) for move in moves if move.into == place.pack]
    places = [*((pack, offset) for pack, offset in carried if offset >= 0), (place.pack, place.offset)]
    return [ManifestPlace(*at, place.stored_bytes, before) for at in places for before in against]


def _is_no_pack_of(commit_id: str | None, option: Option) -> bool:
    return isinstance(option, PlaceRow) or option.place.pack.partition(".")[0] != commit_id


def _rows(chosen: Sequence[Option], present: Placement) -> tuple[PlaceRow, ...]:
    named = _starts(present.packs)
    carried: set[str] = set()
    rows: list[PlaceRow] = []
    for number in range(len(chosen), 0, -1):
        one = chosen[number - 1]
        carried |= {move.pack for move in one.moved}
        row = one if isinstance(one, PlaceRow) else _row(one, number, named, carried)
        named |= _starts(row.ended)
        rows.append(row)
    return tuple(rows[::-1])


def _starts(uses: Iterable[PackUse]) -> set[tuple[str, int]]:
    return {(use.pack, use.first_revision) for use in uses}


def _row(guess: _Guess, number: int, later: set[tuple[str, int]], carried: set[str]) -> PlaceRow:
    """Return the row that names a manifest (rule 1)."""
    uses = (use for use in guess.found.placement().packs if use.pack not in carried)
    ended = [replace(use, last_revision=number) for use in uses if (use.pack, use.first_revision) not in later]
    return PlaceRow(number, blob_ref(guess.found.record), guess.place, None, tuple(ended), guess.moved)
