"""The blobs of a new revision, laid out as pieces of what lies somewhere already and of what is new. Pure.

Rules:
1. What did not change keeps its extents; of what did, only what is new becomes a piece of bytes.
2. Packs that are merged (`snapshots.compaction`) are gone from the pieces: carried ones are replaced by the new pack,
   of others the bytes are written again.
3. Whenever packs are merged, a small part is stored in full, and rows of the history that lie in packs which are
   carried are written again. Their pieces would become many.
4. When packs are carried, the log of places is written again from the first row on whose revision needs one of them:
   what became of the packs of a revision stands behind its row, in the same stretch (`snapshots.stretches`).

    laid = Laid(base, LIMITS)
    laid.part(TOOL_STATE, content.tool_state, base.checkpoint.tool_state)
    laid.merge_into(builder)
    placement = laid.put_into(builder, revision, places.at)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Never

from snapshots.base import Base
from snapshots.compaction import Limits, Plan, live_in, may_be_due, planned
from snapshots.content import Content, Part
from snapshots.head import TailPack
from snapshots.history import HistoryRow
from snapshots.logs import HeldLog, LogRef, encode_rows
from snapshots.parts import Parts, Piece, SpooledPart, spliced
from snapshots.placement import Move, PackUse, Placement, PlaceRow
from snapshots.stretches import Stretch, as_many_as_fit, last_rows, position_of
from storage.digest import BlobRef
from storage.extents import Extent, Run, Spliceable, packs_of
from storage.packs import PREFIX_BYTES_MAX, PackBody, PackBuilder
from storage.spools import SPOOLED
from storage.store import ByteRange

GRAPH, HISTORY, PLACES = "graph", "history", "places"
SMALL_PART_BYTES_MAX = 64 << 10  # rule 3
AT_HAND_BYTES_MAX = 64 << 20  # of packs kept in memory to be carried


@dataclass(frozen=True, slots=True)
class _Blob:
    """A blob of the new revision.

    Attributes:
        kind: For the index of the pack.
        ref: The blob.
        pieces: Its bytes, in order.
        source: Where its bytes can be had, None if they are not known; a spool has only the new ones.
    """

    kind: str
    ref: BlobRef
    pieces: Sequence[Piece]
    source: HeldLog[Any] | bytes | SpooledPart | None

    @property
    def is_at_hand(self) -> bool:
        """Say whether all of it can be written again."""
        return isinstance(self.source, HeldLog | bytes)

    def between(self, start: int, length: int) -> memoryview:
        if isinstance(self.source, bytes):
            return memoryview(self.source)[start : start + length]
        assert isinstance(self.source, HeldLog), "only what is at hand is written again"
        return memoryview(self.source.between(start, length))

    def put(self, builder: PackBuilder) -> None:
        if self.kind == GRAPH and isinstance(self.source, HeldLog):  # its text is like the text before it
            before = partial(self.source.before, length=PREFIX_BYTES_MAX)
            builder.add_log(self.kind, self.ref, self.pieces, before)
        elif isinstance(self.source, SpooledPart):
            builder.add_spooled(self.kind, self.ref, chain.from_iterable(self.runs()), self.source.spool)
        else:
            builder.add_spliced(self.kind, self.ref, self.pieces)

    def runs(self) -> Iterator[Run]:
        return (piece for piece in self.pieces if isinstance(piece, Run))

    def fresh_bytes(self) -> int:
        if isinstance(self.source, SpooledPart):
            return self.source.spool.size_bytes
        return sum(piece.nbytes for piece in self.pieces if not isinstance(piece, Run))


class Laid:
    """The blobs of the revision after `base`.

    Args:
        base: What it stands on.
        limits: What may lie apart.

    Attributes:
        parts: What is known of the bytes of its parts.
        moves: What is carried since the base was stored: by its own pack, and by one that was uploaded ahead.
        merged: Whether packs were merged.
    """

    def __init__(self, base: Base, limits: Limits) -> None:
        self._base = base
        self._limits = limits
        self._blobs: list[_Blob] = []
        self.parts = Parts()
        self.moves = base.moves
        self.merged = False
        self._own_moves: tuple[Move, ...] = ()
        self._places = self._again(_Blob(PLACES, base.places.at.ref, [self._held(base.places.at.ref)], base.places))

    def copy(self) -> Laid:
        """Return the same, to be put into another pack."""
        other = Laid(self._base, self._limits)
        other._blobs, other.parts = list(self._blobs), self.parts
        return other

    def estimated_bytes(self) -> int:
        """Return about how much room the new bytes will take: text gets four times smaller, other things hardly."""
        new = {GRAPH: 0, HISTORY: 0}
        for blob in self._blobs:
            new[blob.kind] = new.get(blob.kind, 0) + blob.fresh_bytes()
        return sum(new.values()) - new[GRAPH] * 3 // 4 + self._places.fresh_bytes()

    def graph(self, content: Content) -> HeldLog[Never] | None:
        """Return the graph's log, None if nothing is appended and its bytes are not known."""
        log: HeldLog[Never] | None = HeldLog() if content.fresh_graph else self._base.graph
        if content.new_nodes:
            assert log is not None, "what is appended to was read"
            return self._continued(GRAPH, log, log.appended(content.new_bytes, (), len(content.new_nodes)))
        if not content.fresh_graph and self._base.checkpoint.graph.count:
            self._carried(GRAPH, self._base.checkpoint.graph.ref, log)
        return log

    def history(self, rows: Sequence[HistoryRow]) -> HeldLog[HistoryRow]:
        """Return the history continued."""
        log = self._base.history
        return self._continued(HISTORY, log, log.appended(encode_rows(rows), rows))

    def places(self, row: PlaceRow) -> HeldLog[PlaceRow]:
        """Return the log of places continued; the last step, as the row tells what became of the others."""
        log = self._base.places
        longer = log.appended(encode_rows([row]), [row])
        size = log.at.ref.size_bytes
        new = longer.between(size, longer.at.ref.size_bytes - size)
        self._places = _Blob(PLACES, longer.at.ref, [*self._places.pieces, memoryview(new)], longer)
        return longer

    def part(self, kind: str, part: Part | None, parent: BlobRef | None) -> BlobRef | None:
        """Return the ref of a part, stored as what it adds to the base's."""
        if part is None:
            return None
        held = self._base.parts.of(kind, parent)
        if part.data is None:
            self._carried(kind, part.ref, held.data if held is not None and isinstance(held.data, bytes) else None)
        elif isinstance(part.data, SpooledPart):
            self._lay(_Blob(kind, part.ref, [part.data.run(self._base.placement.extents)], part.data))
            held = part.data.held()
        else:
            pieces, held = spliced(part.ref, part.data, held, self._base.placement.extents)
            self._lay(_Blob(kind, part.ref, pieces, part.data))
        if held is not None:
            self.parts = self.parts.holding(kind, held)
        return part.ref

    def packs(self) -> set[str]:
        """Return the packs that the blobs need, but for the new one; those of the log of places too."""
        return packs_of(run for blob in (*self._blobs, self._places) for run in blob.runs()).keys() - {SPOOLED}

    def merge_into(self, builder: PackBuilder) -> None:
        """Carry the tail of the head, and what has to be merged; write the rest of that again (rule 2)."""
        tail = {pack.name: tail_body(self._base, pack) for pack in self._base.head.tail}
        plan = self._planned(frozenset(tail))
        carried = [*tail.values(), *(self._base.at_hand[pack] for pack in plan.carried)]
        self._own_moves = tuple(Move(body.name, builder.name, builder.carry(body)) for body in carried)
        self.moves = (*self.moves, *self._own_moves)
        self.merged = plan.merges
        if self._own_moves or plan.merges:
            self._blobs = [self._merged(blob, plan.rewritten) for blob in self._blobs]
            self._places = self._again(self._merged(self._places, plan.rewritten))

    def _planned(self, tail: frozenset[str]) -> Plan:
        uses = sorted(self._base.placement.packs, key=lambda use: use.first_revision)
        bodies = {use.pack: use.body_bytes for use in uses if use.pack not in tail}
        if not may_be_due(bodies, self._limits):
            return Plan()
        fixed = packs_of(run for blob in self._blobs if not blob.is_at_hand for run in blob.runs()).keys() - {SPOOLED}
        live = live_in(extent for extent in self._needed() if extent.pack not in tail)
        return planned(live, bodies, self._base.at_hand, fixed, self._limits)

    def _again(self, places: _Blob) -> _Blob:
        """Return the log of places, to be written again as far as rule 4 says."""
        first = self._first_again()
        if first is None:
            return places
        start = self._position(first)
        pieces: list[Piece] = []
        room = start
        for piece in places.pieces:
            length = min(room, _length(piece))
            if length:
                pieces.append(piece.first(length) if isinstance(piece, Run) else piece[:length])
            room -= length
        return replace(places, pieces=[*pieces, places.between(start, places.ref.size_bytes - start)])

    def _first_again(self) -> int | None:
        """Return the revision from whose row on the log of places is written again, None if it is not."""
        if not self.moves or not self._base.places.entries:
            return None
        moved = {name for move in self.moves for name in (move.pack, move.into)}
        return max(1, self._first_need(moved) - 1)

    def _position(self, revision: int) -> int:
        log = self._base.places
        return position_of(log.entries, log.at.ref.size_bytes, revision)

    def stretches(self, placement: Placement) -> tuple[Stretch, ...]:
        """Return where the rows of the log of places lie then, after `put_into`."""
        before, log = self._base.places.at, placement.places
        if not log.count:
            return ()
        held = Spliceable(placement.extents[log.ref.digest])
        again = self._first_again()
        first = log.count if again is None else again  # the new row alone
        position = before.ref.size_bytes if again is None else self._position(again)
        kept = (stretch for stretch in self._base.head.stretches if stretch.first_revision < first)
        newest = last_rows(held, log.ref.size_bytes, range(first, log.count + 1), position)
        if self.merged or self.moves:
            kept = (stretch.in_log(held) for stretch in kept)
        return as_many_as_fit([*kept, newest])

    def put_into(self, builder: PackBuilder, revision: int, places: LogRef) -> Placement:
        """Put what is new into the pack; return where everything lies then."""
        blobs = [*self._blobs, self._places] if places.count else self._blobs
        for blob in blobs:
            blob.put(builder)
        extents = {blob.ref.digest: builder.extents_of(blob.ref) for blob in blobs}
        packs = packs_of(extents.values())
        known = {use.pack: use for use in self._base.placement.packs}
        carried = {move.pack for move in self._own_moves}
        own = PackUse(builder.name, min(revision, self._first_need(carried)), 0, builder.size_bytes)
        uses = (known.get(pack) or PackUse(pack, revision) for pack in packs if pack != builder.name)  # some come back
        return Placement(extents, (*uses, own), places)

    def _first_need(self, packs: Set[str]) -> int:
        """Return the first revision that needs one of these packs, the next one if none does."""
        if not packs:
            return self._base.revision + 1
        ended = (use for row in self._base.places.entries for use in row.ended)
        uses = (use for use in (*self._base.placement.packs, *ended) if use.pack in packs)
        return min((use.first_revision for use in uses), default=self._base.revision + 1)

    def _continued(self, kind: str, log: HeldLog[Any], longer: HeldLog[Any]) -> HeldLog[Any]:
        size = log.at.ref.size_bytes
        new = memoryview(longer.between(size, longer.at.ref.size_bytes - size))
        self._lay(_Blob(kind, longer.at.ref, [self._held(log.at.ref), new], longer))
        return longer

    def _carried(self, kind: str, ref: BlobRef, source: HeldLog[Any] | bytes | None) -> None:
        self._lay(_Blob(kind, ref, [self._held(ref)], source))

    def _lay(self, blob: _Blob) -> None:
        if all(blob.ref != one.ref for one in self._blobs):  # equal bytes lie where they were laid first, nowhere else
            self._blobs.append(blob)

    def _held(self, ref: BlobRef) -> Run:
        return Run(self._base.placement.extents[ref.digest] if ref.size_bytes else ())

    def _needed(self) -> Iterator[Extent]:
        for blob in (*self._blobs, self._places):
            yield from (extent for run in blob.runs() for extent in run if extent.pack != SPOOLED)

    def _merged(self, blob: _Blob, rewritten: frozenset[str]) -> _Blob:
        if self.merged and isinstance(blob.source, bytes) and len(blob.source) <= SMALL_PART_BYTES_MAX:
            return replace(blob, pieces=[memoryview(blob.source)])  # Rule 3.
        shifts = {move.pack: move.shift for move in self._own_moves}
        into = self._own_moves[0].into if self._own_moves else ""
        again = rewritten | shifts.keys() if blob.kind in (HISTORY, PLACES) else rewritten
        pieces: list[Piece] = []
        kept: list[Extent] = []
        position = start = 0  # from `start` on everything is written again
        for piece in blob.pieces:
            if not isinstance(piece, Run):
                position += piece.nbytes
                continue
            for extent in piece:
                if extent.pack not in again or not blob.is_at_hand:
                    if start < position:
                        pieces += [Run(kept), blob.between(start, position - start)]
                        kept = []
                    kept.append(extent.moved(into, shifts[extent.pack]) if extent.pack in shifts else extent)
                    start = position + extent.length
                position += extent.length
        pieces.append(Run(kept))
        if start < position:
            pieces.append(blob.between(start, position - start))
        return replace(blob, pieces=pieces)


def tail_body(base: Base, pack: TailPack) -> PackBody:
    """Return a pack that lies in the head of `base`, to be carried."""
    places = [*(row.manifest for row in base.places.entries), base.head.manifest]
    found = (ByteRange(one.offset, one.stored_bytes) for one in places if one and one.pack == pack.name)
    return PackBody(pack.name, pack.data, (), tuple(found))


def _length(piece: Piece) -> int:
    return piece.size_bytes if isinstance(piece, Run) else piece.nbytes


def at_hand(before: Mapping[str, PackBody], own: PackBody, placement: Placement) -> dict[str, PackBody]:
    """Return the packs kept in memory: those still needed, the largest left out while they are too much."""
    bodies = {use.pack: before[use.pack] for use in placement.packs if use.pack in before}
    if isinstance(own.data, bytes):
        bodies[own.name] = own
    while sum(body.size_bytes for body in bodies.values()) > AT_HAND_BYTES_MAX:
        del bodies[max(bodies, key=lambda name: bodies[name].size_bytes)]
    return bodies
