"""A survey: what is left of each retained revision of a session, and what can be proved about it.

Rules:
1. The chain of proof begins in the head: it names a checkpoint and, through the log of places, every earlier one.
   What hashes to what is named there is the record, wherever it was found.
2. A segment of a log that is gone is put together from other segments of the same entries. Its digest says whether
   that is it.
3. A revision is whole if its checkpoint and every blob that it needs can be had.
4. What lies in a sound pack that the head names for a revision stays there; everything else has to be stored again,
   wherever it was found.
5. Which packs the head names stands in the manifest that it names and nowhere else: another manifest of the same
   checkpoint may come from an upload that was never published. Of what it says of packs nothing is believed.

    survey = Survey(environment, head, Remains(environment, head.family), damaged)
    survey.whole, survey.lost, survey.rescued
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType
from typing import Any

from snapshots import codec
from snapshots.checkpoint import SessionCheckpoint
from snapshots.environment import Environment
from snapshots.head import Head
from snapshots.logs import Segment
from snapshots.maintenance.findings import DAMAGE
from snapshots.maintenance.repair.past import last_rows
from snapshots.maintenance.repair.places import places_of
from snapshots.maintenance.repair.remains import FoundManifest, LostError, Remains
from snapshots.maintenance.repair.segments import Segments, numbered, overlapping, places
from snapshots.placement import PackUse, Placement, PlaceRow, open_manifest
from snapshots.restore import manifest_from, named_by, read_manifest_at, read_stored_manifest
from snapshots.roots import kept_packs
from storage.digest import BlobRef, blob_ref
from storage.extents import Extent

NOTHING_BROKEN: Mapping[int, str] = MappingProxyType({})
TRIES_MAX = 256  # rows that the last of a history may be: where a rewind went is not known


@dataclass(frozen=True, slots=True)
class Revision:
    """What is left of a revision whose checkpoint can be had.

    Attributes:
        row: Where the head says that it lies.
        record: The checkpoint's bytes; its base's, where the overrides of a fork stand beside it.
        checkpoint: As the overrides leave it.
        placement: Where the blobs of `record` lay when it was written.
        own: Whether that is the placement which the head names, and not one that was found elsewhere.
        in_place: Whether it was read from where the head says, and that pack is not damaged.
    """

    row: PlaceRow
    record: bytes
    checkpoint: SessionCheckpoint
    placement: Placement
    own: bool
    in_place: bool

    @property
    def number(self) -> int:
        """Return its number."""
        return self.row.revision

    def recorded(self) -> list[BlobRef]:
        """Return every blob that `record` names; a fork needs those of its own checkpoint alone."""
        return list(SessionCheckpoint.decode(self.record, key="").refs())


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
        damaged: As given.
        segments: The segments of its logs.
        present: The present revision.
        rows: Where every earlier revision lies, oldest first.
        uses: Packs that the present revision needs, as the head names them.
        known: Retained revisions whose checkpoint can be had, by number.
        whole: Those of them that are whole.
        lost: Why a retained revision is not whole, by number.
        forkable: Those of the lost ones of which only the history is lost: a fork does not need it.
        loadable: Those of the lost ones that load from where they lie, without their execution state.
        rescued: Bytes of the blobs that whole revisions need and that lie in a damaged pack.

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
        self.damaged = damaged
        self.segments = Segments(remains)
        self.rescued: dict[BlobRef, bytes] = {}
        self.known: dict[int, Revision] = {}
        self.whole: dict[int, Revision] = {}
        self.lost: dict[int, str] = {}
        self.forkable: set[int] = set()
        self.loadable: set[int] = set()
        self._environment = environment
        self._remains = remains
        self._unread: dict[BlobRef, str] = {}
        self.present = self._revision(named_by(head), inline=head.inline_manifest)
        self.rows = self._places()
        if not self.present.own:
            self.rows = tuple(replace(row, ended=()) for row in self.rows)  # rule 5
        self.uses = self._uses()
        self._ranges = _by_pack([*self.uses, *(use for row in self.rows for use in row.ended)])
        self._know()
        self._judge(broken)

    def stays(self, extents: Iterable[Extent], number: int) -> bool:
        """Say whether what lies there is left there for a revision (rule 4)."""
        return all(extent.pack not in self.damaged and self._names(extent.pack, number) for extent in extents)

    def named(self) -> frozenset[str]:
        """Return the packs that the head names; when nothing says which, all that no other head does (rule 5)."""
        if not self.present.own:
            return self._remains.named_by_no_other(self.head.session_id)
        return frozenset(kept_packs(self.head, [use for many in self._ranges.values() for use in many]))

    def _names(self, pack: str, number: int) -> bool:
        return any(map(self._covering(number), self._ranges.get(pack, ())))

    def _covering(self, number: int) -> Callable[[PackUse], bool]:
        return lambda use: use.first_revision <= number <= (use.last_revision or self.head.revision)

    def moved(self, revision: Revision) -> bool:
        """Say whether the manifest of a whole revision has to be written again."""
        return (
            not revision.in_place
            or any(ref in self.rescued for ref in revision.recorded())
            or not all(self._stays(one.ref, revision) for one in revision.placement.places)
        )

    def _stays(self, ref: BlobRef, revision: Revision) -> bool:
        return any(self.stays(extents, revision.number) for extents in places(ref, revision.placement))

    # Records.

    def _places(self) -> tuple[PlaceRow, ...]:
        if self.present.row.overrides is not None:
            return ()  # a fork's first revision has none before it
        return places_of(self.head, self.present.placement, self._remains, self.segments)

    def _uses(self) -> tuple[PackUse, ...]:
        present, row = self.present, self.present.row
        if not present.own:
            return (PackUse(row.manifest.pack, self.head.revision),)
        if row.overrides is None:
            return present.placement.packs
        return present.placement.narrowed(present.checkpoint.refs(), row.manifest.pack).packs

    def _know(self) -> None:
        for row in self.rows:
            if self.head.retains(row.revision):
                try:
                    self.known[row.revision] = self._revision(row)
                except LostError as error:
                    self.lost[row.revision] = str(error)
        self.known[self.present.number] = self.present

    def _revision(self, row: PlaceRow, inline: bytes = b"") -> Revision:
        environment, head = self._environment, self.head
        key, in_place = self._remains.key_of(row.manifest.pack), row.manifest.pack not in self.damaged
        if inline:
            try:
                return _opened(inline, row, environment.layout.head(head.session_id), in_place=in_place)
            except DAMAGE:
                in_place = False  # the head has to be written again, whatever its pack says
        try:
            return _opened(read_stored_manifest(environment, head, row), row, key, in_place=in_place)
        except DAMAGE:
            return self._found(row, key)

    def _found(self, row: PlaceRow, key: str) -> Revision:
        """Return a revision whose manifest is not where it should be (rule 1)."""
        found = self._remains.record(row.checkpoint_ref if row.overrides is None else row.overrides.base_ref)
        checkpoint = found.checkpoint
        if row.overrides is not None:
            if row.overrides.checkpoint_ref() != row.checkpoint_ref:
                raise LostError(f"{key}: the overrides of the fork do not match its checkpoint")
            checkpoint = row.overrides.applied(checkpoint)
        return Revision(row, found.record, checkpoint, found.placement, own=False, in_place=False)

    # Blobs.

    def _judge(self, broken: Mapping[int, str]) -> None:
        """Find out which revisions are whole (rule 3)."""
        for number, revision in self.known.items():
            if number in broken:
                self.lost[number] = broken[number]
                continue
            try:
                rescued = {ref: self._rescued(ref, revision) for ref in self._to_be_moved(revision)}
            except LostError as error:
                self.lost[number] = str(error)
                if revision.in_place and all(self._stays(ref, revision) for ref in _content(revision.checkpoint)):
                    self.forkable.add(number)
                if self._loads(revision):
                    self.loadable.add(number)
            else:
                self.whole[number] = revision
                self.rescued |= rescued

    def _loads(self, revision: Revision) -> bool:
        """Say whether a revision loads from where it lies, but for its execution state."""
        row, placed = revision.row, revision.placement
        if not revision.own or not self._names(row.manifest.pack, row.revision):
            return False
        try:
            read_manifest_at(self._environment, self.head, row)
        except DAMAGE:
            return False
        needed = (*replace(revision.checkpoint, execution_state=None).refs(), *(one.ref for one in placed.places))
        return all(any(self._lies(ref, one, row.revision) for one in places(ref, placed)) for ref in needed)

    def _lies(self, ref: BlobRef, extents: Sequence[Extent], number: int) -> bool:
        if self.stays(extents, number):
            return True
        return all(self._names(one.pack, number) for one in extents) and self._remains.lies(ref, extents)

    def _to_be_moved(self, revision: Revision) -> Iterator[BlobRef]:
        needed = set(revision.checkpoint.refs())
        for ref in revision.recorded():
            if not places(ref, revision.placement) or (ref in needed and not self._stays(ref, revision)):
                yield ref

    def _rescued(self, ref: BlobRef, revision: Revision) -> bytes:
        if ref in self.rescued:
            return self.rescued[ref]
        if ref in self._unread:
            raise LostError(self._unread[ref])
        try:
            return self._remains.read(ref, *places(ref, revision.placement))
        except LostError as error:
            try:
                return self._put_together(ref, revision)
            except LostError:
                self._unread[ref] = str(error)
                raise error from None

    def _put_together(self, ref: BlobRef, revision: Revision) -> bytes:
        """Return a segment of a log, from the other segments that hold its entries (rule 2)."""
        for name in ("graph", "history"):
            for first, segment in numbered(getattr(revision.checkpoint, name)):
                if segment.ref == ref:
                    data = self._proved(segment, self._options(segment, name, first, first + segment.count))
                    self.segments.keep(segment, data)
                    return data
        raise LostError(f"blob {ref.digest} is no segment of a log")

    def _proved(self, segment: Segment, options: Iterable[Sequence[Any]]) -> bytes:
        for entries in options:
            data = codec.encode(list(entries))
            if blob_ref(data) == segment.ref:
                return data
        raise LostError(f"nothing else holds the entries of segment {segment.ref.digest}")

    def _options(self, segment: Segment, name: str, start: int, end: int) -> Iterator[list[Any]]:
        """Yield entries that the segment from `start` to `end` may consist of."""
        tried: set[tuple[BlobRef, ...]] = set()
        others: list[Revision | FoundManifest] = [*self.known.values(), *self._remains.manifests]
        for other in others:
            log = getattr(other.checkpoint, name)
            refs = tuple(one.ref for _, one in overlapping(log, start, end))
            if refs in tried or segment.ref in refs:
                continue
            tried.add(refs)
            try:
                entries = self.segments.between(log, other.placement, start, end)
            except LostError:
                continue  # the next one; when there is none, that is said
            yield entries
            if name == "history" and end == self.head.revision and len(entries) == end - start - 1:
                rows = islice(last_rows(self.head, self.present.checkpoint.node_count), TRIES_MAX)
                yield from ([*entries, row.to_plain()] for row in rows)


def _by_pack(uses: Iterable[PackUse]) -> dict[str, list[PackUse]]:
    found: dict[str, list[PackUse]] = {}
    for use in uses:
        found.setdefault(use.pack, []).append(use)
    return found


def _content(checkpoint: SessionCheckpoint) -> list[BlobRef]:
    """Return what a fork takes over."""
    return list(replace(checkpoint, history=()).refs())


def _opened(stored: bytes, row: PlaceRow, key: str, *, in_place: bool) -> Revision:
    checkpoint = manifest_from(stored, row, key=key).checkpoint
    record, placed = open_manifest(stored, key=key)
    return Revision(row, record, checkpoint, Placement.decode(placed, key=key), own=True, in_place=in_place)
