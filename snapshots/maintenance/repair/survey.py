"""A survey: what is left of each retained revision of a session, and what can be proved about it.

Rules:
1. The chain of proof begins in the head: it names a checkpoint and, through the log of places, every earlier one.
   What hashes to what is named there is the record, wherever it was found.
2. A piece of a log that is gone is had from any other log that has the same bytes there: an earlier one is the
   beginning of every later one that continues it. The digest of the whole says whether that is it.
3. A revision is whole if its checkpoint and every blob that it needs can be had.
4. What lies in a sound pack that the head names for a revision stays there; everything else has to be stored again,
   wherever it was found, piece by piece.
5. Which packs the head names stands in the manifest that it names and nowhere else: another manifest of the same
   checkpoint may come from an upload that was never published. Of what it says of packs nothing is believed.

    survey = Survey(environment, head, Remains(environment, head), damaged)
    survey.whole, survey.lost, survey.rescued
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, islice
from types import MappingProxyType

from snapshots import codec
from snapshots.checkpoint import SessionCheckpoint
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.fields import Fields
from snapshots.head import Head
from snapshots.history import HistoryRow, row_from_plain
from snapshots.laying import GRAPH, HISTORY
from snapshots.logs import NO_LOG, encode_rows
from snapshots.maintenance.findings import DAMAGE
from snapshots.maintenance.manifests import Manifests
from snapshots.maintenance.memory import Memory
from snapshots.maintenance.needs import books_of
from snapshots.maintenance.pieces import readable_runs
from snapshots.maintenance.repair.found import Found, rows_in
from snapshots.maintenance.repair.past import last_rows
from snapshots.maintenance.repair.places import places_of
from snapshots.maintenance.repair.remains import Remains, nowhere
from snapshots.maintenance.repair.rescued import Rescued
from snapshots.maintenance.repair.together import TRIES_MAX, LostError, Positions
from snapshots.placement import PackUse, Placement, PlaceRow, open_manifest, unseal_manifest
from snapshots.reading import manifest_from, named_by, with_tail
from snapshots.roots import kept_packs
from storage.digest import BlobRef
from storage.extents import Extent

NOTHING_BROKEN: Mapping[int, str] = MappingProxyType({})
_Missed = tuple[str, Extent, bytes] | tuple[str, BlobRef, bytes]  # kind, where it lay or what it is, bytes


@dataclass(frozen=True, slots=True)
class Revision:
    """What is left of a revision whose checkpoint can be had.

    Attributes:
        row: Where the head says that it lies now.
        record: The checkpoint's bytes; its base's, where the overrides of a fork stand beside it.
        checkpoint: As the overrides leave it.
        placed: The bytes of its placement: where the blobs of `record` lay when it was written.
        own: Whether that is the placement which the head names, and not one that was found elsewhere.
        in_place: Whether it was read from where the head says, and no pack that it was read from is damaged.
    """

    row: PlaceRow
    record: bytes
    checkpoint: SessionCheckpoint
    placed: bytes
    own: bool
    in_place: bool

    @property
    def number(self) -> int:
        """Return its number."""
        return self.row.revision

    def placement(self) -> Placement:
        """Return where the blobs of `record` lie. Not kept: those of all revisions together are much."""
        return self.row.manifest.moved.placement(Placement.decode(self.placed, key=""))

    def recorded(self) -> dict[BlobRef, str]:
        """Return every blob that `record` names, with its kind; a fork needs those of its own checkpoint alone."""
        named = SessionCheckpoint.decode(self.record, key="")
        logs = {log.ref: kind for log, kind in ((named.graph, GRAPH), (named.history, HISTORY)) if log.count}
        return logs | {ref: kind for kind, ref in named.parts().items() if ref is not None}


def lies_at(ref: BlobRef, placement: Placement) -> tuple[Extent, ...] | None:
    """Return where a placement says that all of a blob lies, None if it does not say."""
    extents = placement.extents.get(ref.digest)
    return None if extents is None or sum(one.length for one in extents) != ref.size_bytes else extents


class Survey:
    """What is left of one session.

    Args:
        environment: Where it lies.
        head: Its head, live.
        remains: Of its family.
        damaged: Names of packs that are to be left behind.
        broken: Why a revision is not whole though all its bytes are, by number.

    Attributes:
        head: The head.
        limits: What commits leave lying apart.
        damaged: As given.
        present: The present revision.
        rows: Where every earlier revision lies, oldest first, as it was written.
        homes: Where the packs lie that others carry.
        places: The bytes of the log of places.
        uses: Packs that the present revision needs, as the head names them.
        known: Retained revisions whose checkpoint can be had, by number.
        whole: Those of them that are whole.
        lost: Why a retained revision is not whole, by number.
        forkable: Those of the lost ones of which only the history is lost: a fork does not need it.
        loadable: Those of the lost ones that load from where they lie, without their execution state.
        rescued: What whole revisions need and what does not stay where it is.

    Raises:
        LostError: The records on which all revisions stand cannot be had.
        UnavailableError: The store did not answer.
    """

    def __init__(
        self,
        environment: Environment,
        head: Head,
        remains: Remains,
        damaged: frozenset[str],
        broken: Mapping[int, str] = NOTHING_BROKEN,
    ) -> None:
        self.head = head
        self.limits = environment.limits
        self.damaged = damaged
        self.rescued = Rescued()
        self.known: dict[int, Revision] = {}
        self.whole: dict[int, Revision] = {}
        self.lost: dict[int, str] = {}
        self.forkable: set[int] = set()
        self.loadable: set[int] = set()
        self._environment = environment
        self._remains = remains
        self._manifests = Manifests(with_tail(environment, head), head.family, Memory())
        self._unread: dict[BlobRef, str] = {}
        self._others: dict[tuple[str, Found], Positions] = {}
        self._gaps: list[tuple[str, tuple[Extent, ...]]] = []  # beginnings of logs that end where nothing can be had
        self.present = self._revision(named_by(head), inline=head.inline_manifest)
        self.rows = self._places()
        self.places = encode_rows(self.rows)
        if not self.present.own:
            self.rows = tuple(replace(row, ended=()) for row in self.rows)  # rule 5
        self.uses = self._uses()
        books = books_of(self.rows)
        self.homes = books.homes
        self._ranges = _by_pack([*self.uses, *books.ended])
        self._know(books.rows)
        self._judge(broken)

    def stays(self, extents: Iterable[Extent], number: int) -> bool:
        """Say whether what lies there is left there for a revision (rule 4)."""
        return all(extent.pack not in self.damaged and self._names(extent.pack, number) for extent in extents)

    def named(self) -> frozenset[str]:
        """Return the packs that the head names; when nothing says which, all that no other head does (rule 5)."""
        if not self.present.own:
            return self._remains.family.named_by_no_other(self.head.session_id)
        named = kept_packs(self.head, [use for many in self._ranges.values() for use in many])
        return frozenset(named).difference(pack.name for pack in self.head.tail)

    def moved(self, revision: Revision) -> bool:
        """Say whether the manifest of a whole revision has to be written again."""
        placed, needed = revision.placement(), set(revision.checkpoint.refs())
        if not revision.in_place or not all(self._stays(ref, placed, revision) for ref in (*needed, *placed.refs())):
            return True
        return any(lies_at(ref, placed) is None for ref in revision.recorded())

    def history(self, revision: Revision) -> tuple[bytes, tuple[HistoryRow, ...]]:
        """Return the log of the history of a revision, bytes and rows. Raises LostError."""
        at = revision.checkpoint.history
        extents = lies_at(at.ref, revision.placement()) if at.count else ()
        data = self._had(at.ref, HISTORY, extents or (), revision)
        try:
            plain = {"rows": codec.decode_entries(data, at.count, key="")}
            return data, Fields(plain, key="", record="history").rows("rows", row_from_plain)
        except (CorruptSnapshotError, UnsupportedSchemaError) as error:
            raise LostError(str(error)) from error

    def history_rows(self) -> dict[int, HistoryRow]:
        """Return the rows of the history that can be read."""
        rows: dict[int, HistoryRow] = {}
        for extents in self._logs_of(HISTORY):
            for run in readable_runs(self._remains.pieces, extents):
                for row in rows_in(run, row_from_plain):
                    rows.setdefault(row.revision, row)
        return rows

    def _names(self, pack: str, number: int) -> bool:
        return any(map(self._covering(number), self._ranges.get(pack, ())))

    def _covering(self, number: int) -> Callable[[PackUse], bool]:
        return lambda use: use.first_revision <= number <= (use.last_revision or self.head.revision)

    def _stays(self, ref: BlobRef, placed: Placement, revision: Revision) -> bool:
        extents = lies_at(ref, placed)
        return extents is not None and self.stays(extents, revision.number)

    # Records.

    def _places(self) -> tuple[PlaceRow, ...]:
        if self.present.row.overrides is not None:
            return ()  # a fork's first revision has none before it
        return places_of(self.head, self.present.checkpoint, self.present.placement(), self._remains)

    def _uses(self) -> tuple[PackUse, ...]:
        present, row = self.present, self.present.row
        if not present.own:
            return (PackUse(row.manifest.pack, self.head.revision),)
        if row.overrides is None:
            return present.placement().packs
        return present.placement().narrowed(present.checkpoint.refs(), row.manifest).packs

    def _know(self, rows: Iterable[PlaceRow]) -> None:
        for row in rows:
            if self.head.retains(row.revision):
                try:
                    self.known[row.revision] = self._revision(row)
                except LostError as error:
                    self.lost[row.revision] = str(error)
        self.known[self.present.number] = self.present

    def _revision(self, row: PlaceRow, inline: bytes = b"") -> Revision:
        key = self._remains.key_of(row.manifest.pack)
        in_place = not any(run.pack in self.damaged for run in row.manifest.runs())
        if inline:
            try:
                head_key = self._environment.layout.head(self.head.session_id)
                return _opened(unseal_manifest(inline, key=head_key), row, head_key, in_place=in_place)
            except DAMAGE:
                in_place = False  # the head has to be written again, whatever its pack says
        try:
            return _opened(self._manifests.read(row.manifest), row, key, in_place=in_place)
        except DAMAGE:
            return self._found(row, key)

    def _found(self, row: PlaceRow, key: str) -> Revision:
        """Return a revision whose manifest is not where it should be (rule 1)."""
        found = self._remains.family.record(row.checkpoint_ref if row.overrides is None else row.overrides.base_ref)
        checkpoint = found.checkpoint
        if row.overrides is not None:
            if row.overrides.checkpoint_ref() != row.checkpoint_ref:
                raise LostError(f"{key}: the overrides of the fork do not match its checkpoint")
            checkpoint = row.overrides.applied(checkpoint)
        return Revision(row, found.record, checkpoint, found.placed, own=False, in_place=False)

    # Blobs.

    def _judge(self, broken: Mapping[int, str]) -> None:
        """Find out which revisions are whole (rule 3)."""
        for number, revision in self.known.items():
            if number in broken:
                self.lost[number] = broken[number]
                continue
            placed = revision.placement()
            try:
                missed = list(self._missed(revision, placed))
            except LostError as error:
                self.lost[number] = str(error)
                content = replace(revision.checkpoint, history=NO_LOG).refs()  # what a fork takes over
                if revision.in_place and all(self._stays(ref, placed, revision) for ref in content):
                    self.forkable.add(number)
                if self._loads(revision, placed):
                    self.loadable.add(number)
            else:
                self.whole[number] = revision
                self._keep(missed)

    def _missed(self, revision: Revision, placed: Placement) -> Iterator[_Missed]:
        """Yield what of a revision has to be stored again and is not kept yet. Raises LostError."""
        needed = set(revision.checkpoint.refs())
        for ref, kind in revision.recorded().items():
            extents = lies_at(ref, placed)
            if extents is None:
                if not self.rescued.has_blob(ref):
                    yield kind, ref, self._had(ref, kind, (), revision)
                continue
            gone = {extent for extent in extents if not self.stays([extent], revision.number)}
            if ref not in needed or all(map(self.rescued.has, gone)):
                continue
            data, position = self._had(ref, kind, extents, revision), 0
            for extent in extents:
                if extent in gone:
                    yield kind, extent, data[position : position + extent.length]
                position += extent.length

    def _keep(self, missed: Iterable[_Missed]) -> None:
        for kind, what, data in missed:
            if isinstance(what, BlobRef):
                self.rescued.take_blob(kind, what, data)
            else:
                self.rescued.take(kind, what, data)

    def _loads(self, revision: Revision, placed: Placement) -> bool:
        """Say whether a revision loads from where it lies, but for its execution state."""
        row = revision.row
        if not revision.own or not all(self._names(run.pack, row.revision) for run in row.manifest.runs()):
            return False
        try:
            self._manifests.read(row.manifest)
        except DAMAGE:
            return False
        needed = (*replace(revision.checkpoint, execution_state=None).refs(), *placed.refs())
        return all(self._lies(ref, lies_at(ref, placed), row.revision) for ref in needed)

    def _lies(self, ref: BlobRef, extents: Sequence[Extent] | None, number: int) -> bool:
        if extents is None or self.stays(extents, number):
            return extents is not None
        return all(self._names(one.pack, number) for one in extents) and self._remains.lies(ref, extents)

    def _had(self, ref: BlobRef, kind: str, extents: Sequence[Extent], revision: Revision) -> bytes:
        """Return the bytes of a blob, proved. Raises LostError."""
        if self._has_gap(kind, extents) and not any(found.places(ref) for found in self._remains.family.found()):
            self._unread[ref] = f"blob {ref.digest} lies whole in no pack of the family"
        if ref in self._unread:
            raise LostError(self._unread[ref])
        others = partial(self._positions, kind) if kind in (GRAPH, HISTORY) else nowhere
        try:
            return self._remains.read(ref, extents, others, partial(self._beyond, kind, revision))
        except LostError as error:
            self._unread[ref] = str(error)
            if error.gap >= 0 and kind in (GRAPH, HISTORY):
                ends = accumulate(extent.length for extent in extents)
                self._gaps.append((kind, tuple(extents[: 1 + sum(1 for end in ends if end <= error.gap)])))
            raise

    def _has_gap(self, kind: str, extents: Sequence[Extent]) -> bool:
        """Say whether a log begins with pieces that were found to lead to a gap."""
        return any(kind == one and tuple(extents[: len(gap)]) == gap for one, gap in self._gaps)

    def _beyond(self, kind: str, revision: Revision, _: int) -> Iterator[bytes]:
        """Yield what the last row of the history may be, from what the head says."""
        if kind == HISTORY and revision.number == self.head.revision:
            for row in islice(last_rows(self.head, revision.checkpoint.node_count), TRIES_MAX):
                yield encode_rows([row])

    def _positions(self, kind: str, found: Found) -> Positions:
        """Return what stands where in the logs of a kind (rule 2)."""
        if (kind, found) not in self._others:
            placed = found.logs(kind, self.head.session_id)
            here = (tuple(map(self.homes.extent, extents)) for extents in placed)
            everywhere = self._remains.wherever(placed, found)
            self._others[kind, found] = Positions((*self._logs_of(kind), *here, *everywhere))
        return self._others[kind, found]

    def _logs_of(self, kind: str) -> list[tuple[Extent, ...]]:
        """Return where the logs of the known revisions lie, without those that are the beginning of another one."""
        longest: list[tuple[Extent, ...]] = []
        for revision in reversed(self.known.values()):
            at = getattr(revision.checkpoint, kind)
            extents = lies_at(at.ref, revision.placement()) if at.count else None
            if extents and not any(longer[: len(extents)] == extents for longer in longest):
                longest.append(extents)
        return longest


def _by_pack(uses: Iterable[PackUse]) -> dict[str, list[PackUse]]:
    found: dict[str, list[PackUse]] = {}
    for use in uses:
        found.setdefault(use.pack, []).append(use)
    return found


def _opened(raw: bytes, row: PlaceRow, key: str, *, in_place: bool) -> Revision:
    checkpoint = manifest_from(raw, row, key=key).checkpoint
    record, placed = open_manifest(raw, key=key)
    return Revision(row, record, checkpoint, placed, own=True, in_place=in_place)
