"""Verifying the revisions of one session: that each loads whole, and that they belong together.

Rules:
1. A revision is judged against the head that names it: its place, its history and its packs stand there.
2. A blob that is damaged is one finding; what would have to be decoded from it is then not looked at.
3. Of the records of two revisions what both name is decoded once.

    present = read_present(environment, head, blobs)
    found = RevisionCheck(present, blobs, subject).findings(row, stored)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from snapshots import codec, history, placement
from snapshots.checkpoint import SessionCheckpoint
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, InvalidStateError
from snapshots.fields import Fields
from snapshots.head import RING_MAX, Head, StampRow
from snapshots.history import COMMIT, FORK, REPLACE, HistoryRow, check_history, lineage
from snapshots.logs import Segment
from snapshots.maintenance.blobs import Blobs, Fault
from snapshots.maintenance.findings import DAMAGE, Finding, Subject, What
from snapshots.placement import PackUse, Placement, PlaceRow
from snapshots.restore import Manifest, manifest_from, named_by, read_manifest
from snapshots.roots import kept_packs
from snapshots.state import (
    PluginSessionSnapshot,
    SessionGraph,
    SessionNodeRecord,
    TokenUsage,
    ToolState,
    nodes_from_plain,
)
from storage.digest import BlobRef

T = TypeVar("T")
COUNT_MAX = (1 << 60) - 1  # of each sum over a ledger, as commits keep it


class DamagedError(Exception):
    """Something that all of a session stands on is damaged; carries the finding, never leaves this package."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.reason)


@dataclass(frozen=True, slots=True)
class Present:
    """What a live head says of all revisions.

    Attributes:
        head: The head.
        manifest: Of its present revision.
        history: Rows of all revisions, oldest first; empty if the log is damaged.
        places: Rows by revision; those of damaged segments are missing.
        uses: Every pack that a retained revision needs, with the revisions that do, as far as `places` tells.
        damage: What is wrong with these logs.
    """

    head: Head
    history: tuple[HistoryRow, ...]
    places: Mapping[int, PlaceRow]
    uses: tuple[PackUse, ...]
    damage: tuple[Finding, ...]

    def retained(self) -> list[PlaceRow]:
        """Return the rows of the revisions that retention keeps, oldest first."""
        return [row for number, row in sorted(self.places.items()) if self.head.retains(number)]

    def first_need(self, use: PackUse) -> int:
        """Return the first retained revision that needs a pack."""
        last = use.last_revision or self.head.revision
        numbers = range(use.first_revision, min(last, self.head.revision) + 1)
        return next((number for number in numbers if self.head.retains(number)), self.head.revision)


def read_present(environment: Environment, head: Head, blobs: Blobs, subject: Subject) -> Present:
    """Read manifest and logs of a live head.

    Raises:
        DamagedError: The manifest is missing or unreadable.
        UnavailableError: The store did not answer.
    """
    try:
        manifest = read_manifest(environment, head)
    except DAMAGE as error:
        raise DamagedError(subject.found(error, What.MANIFEST)) from error
    reader, placed = _Records(blobs), manifest.placement
    segments = (*manifest.checkpoint.history, *placed.places)
    faults = blobs.verify(placed, [segment.ref for segment in segments])
    damage = [subject.found(fault, What.HISTORY, ref=ref.digest) for ref, fault in faults.items()]

    def sound(what: What, segments: Sequence[Segment], read: Callable[[], tuple[T, ...]]) -> tuple[T, ...]:
        if any(segment.ref in faults for segment in segments):
            return ()
        try:
            return read()
        except DAMAGE as error:
            damage.append(subject.found(error, what))
            return ()

    rows = sound(What.HISTORY, manifest.checkpoint.history, lambda: reader.history(manifest))
    places = [named_by(head)]
    first = 1
    for segment in placed.places:  # each for itself: where the others are damaged, its rows still lead on
        places += sound(What.PLACES, [segment], lambda: reader.places(placed, segment, first))  # noqa: B023  called at once
        first += segment.count
    if first != head.revision:
        damage.append(subject.finding(What.PLACES, f"the log of places ends at {first - 1} of {head.revision}"))
    uses = [
        use for use in (*placed.packs, *(use for row in places for use in row.ended)) if any(kept_packs(head, [use]))
    ]
    return Present(head, rows, {row.revision: row for row in places}, tuple(uses), tuple(damage))


class _Records:
    """Records decoded from verified blobs; rule 3."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._known: dict[BlobRef, tuple[Any, ...]] = {}

    def forget_all_but(self, manifest: Manifest) -> None:
        """Drop what this revision does not name."""
        segments = (*manifest.checkpoint.graph, *manifest.checkpoint.history, *manifest.placement.places)
        named = {segment.ref for segment in segments}
        self._known = {ref: rows for ref, rows in self._known.items() if ref in named}

    def plain(self, ref: BlobRef, placed: Placement) -> Any:
        """Return the decoded blob."""
        return codec.decode(self._blobs.record(ref, placed), key=self.key_of(ref, placed))

    def key_of(self, ref: BlobRef, placed: Placement) -> str:
        """Return the key of the pack in which a blob begins, "" for an empty one."""
        extents = placed.extents[ref.digest]
        return self._blobs.key_of(extents[0].pack) if extents else ""

    def history(self, manifest: Manifest) -> tuple[HistoryRow, ...]:
        """Return all rows up to the manifest's revision, the one beside the log too."""
        stored = self._log(manifest.checkpoint.history, manifest.placement, history.row_from_plain)
        overrides = manifest.overrides
        rows = stored if overrides is None else (*stored, overrides.row(manifest.checkpoint.node_count))
        try:
            check_history(rows, manifest.checkpoint.revision)
        except ValueError as error:
            raise CorruptSnapshotError("", str(error)) from error
        return rows

    def places(self, placed: Placement, segment: Segment, first: int) -> tuple[PlaceRow, ...]:
        """Return the rows of a segment of the log of places, which begins with revision `first`."""
        rows = self._rows(segment, placed, placement.row_from_plain)
        if [row.revision for row in rows] != list(range(first, first + segment.count)):
            raise CorruptSnapshotError("", f"a segment of the log of places does not run on from revision {first}")
        return rows

    def nodes(self, checkpoint: SessionCheckpoint, placed: Placement) -> list[SessionNodeRecord]:
        """Return the nodes of a graph, in order."""
        return [node for segment in checkpoint.graph for node in self._nodes(segment, placed)]

    def _nodes(self, segment: Segment, placed: Placement) -> Sequence[SessionNodeRecord]:
        if segment.ref not in self._known:
            plain = self.plain(segment.ref, placed)
            if not isinstance(plain, list) or len(plain) != segment.count:
                raise CorruptSnapshotError(self.key_of(segment.ref, placed), f"not a segment of {segment.count} nodes")
            self._known[segment.ref] = tuple(nodes_from_plain(plain))
        return cast(Sequence[SessionNodeRecord], self._known[segment.ref])

    def _log(self, segments: Sequence[Segment], placed: Placement, parse: Callable[[Any], T]) -> tuple[T, ...]:
        return tuple(row for segment in segments for row in self._rows(segment, placed, parse))

    def _rows(self, segment: Segment, placed: Placement, parse: Callable[[Any], T]) -> tuple[T, ...]:
        if segment.ref not in self._known:
            fields = Fields(
                {"rows": self.plain(segment.ref, placed)},
                key=self.key_of(segment.ref, placed),
                record="segment of a log",
            )
            rows = fields.rows("rows", parse)
            if len(rows) != segment.count:
                raise fields.wrong(f"has {len(rows)} entries, declares {segment.count}")
            self._known[segment.ref] = rows
        return self._known[segment.ref]


class RevisionCheck:
    """Verifies revisions of one session, one after another, best in their order.

    Args:
        blobs: Of the session's family.
        subject: The session.
    """

    def __init__(self, blobs: Blobs, subject: Subject) -> None:
        self._blobs = blobs
        self._session = subject
        self._records = _Records(blobs)

    def findings(self, present: Present, row: PlaceRow, stored: bytes) -> list[Finding]:
        """Return what is wrong with the revision whose place is `row`; `stored` is what lies there."""
        subject = replace(self._session, revision=row.revision)
        key = self._blobs.key_of(row.manifest.pack)
        try:
            manifest = manifest_from(stored, row, key=key)
        except DAMAGE as error:
            return [subject.found(error, What.MANIFEST)]
        found = [] if self._is_the_heads(present, row, stored) else [self._another_manifest(subject, key)]
        return [*found, *self._packs(present, row, manifest, subject), *self._content(present, manifest, subject)]

    def _is_the_heads(self, present: Present, row: PlaceRow, stored: bytes) -> bool:
        head = present.head
        return row.revision != head.revision or not head.inline_manifest or head.inline_manifest == stored

    def _another_manifest(self, subject: Subject, key: str) -> Finding:
        return subject.finding(What.MANIFEST, "the manifest in the pack is not the one in the head", key=key)

    def _packs(self, present: Present, row: PlaceRow, manifest: Manifest, subject: Subject) -> Iterator[Finding]:
        if len(present.places) < present.head.revision:
            return  # what the missing rows name is not known
        extents = manifest.placement.extents.values()
        needed = {row.manifest.pack, *(extent.pack for many in extents for extent in many)}
        for pack in sorted(needed.difference(use.pack for use in present.uses if _covers(use, row.revision))):
            reason = "the revision needs this pack, and the head does not keep it for that"
            yield subject.finding(What.PACKS, reason, key=self._blobs.key_of(pack))

    def _content(self, present: Present, manifest: Manifest, subject: Subject) -> Iterator[Finding]:
        checkpoint, placed = manifest.checkpoint, manifest.placement
        refs = [*checkpoint.refs(), *(segment.ref for segment in placed.places)]
        faults = self._blobs.verify(placed, refs, streamed=checkpoint.execution_state)
        for ref, fault in faults.items():
            yield subject.found(fault, What.ALTERED, ref=ref.digest)
        self._records.forget_all_but(manifest)
        for what, needed, check in (
            (What.HISTORY, checkpoint.history, lambda: self._history(present, manifest)),
            (What.PLACES, placed.places, lambda: self._places(manifest)),
            (What.GRAPH, checkpoint.graph, lambda: self._graph(present, manifest)),
        ):
            if not any(segment.ref in faults for segment in needed):  # Rule 2.
                yield from _checked(subject, what, check)
        yield from self._parts(manifest, faults, subject)

    def _history(self, present: Present, manifest: Manifest) -> str:
        rows = self._records.history(manifest)
        return (
            ""
            if not present.history or rows == present.history[: len(rows)]
            else "its history is not the beginning of the session's"
        )

    def _places(self, manifest: Manifest) -> str:
        first = 1
        for segment in manifest.placement.places:
            self._records.places(manifest.placement, segment, first)
            first += segment.count
        return ""

    def _graph(self, present: Present, manifest: Manifest) -> str:
        checkpoint, placed = manifest.checkpoint, manifest.placement
        nodes = self._records.nodes(checkpoint, placed)
        hidden = checkpoint.tombstones
        tombstoned = () if hidden is None else _texts(self._records.plain(hidden, placed))
        SessionGraph.from_nodes(nodes, checkpoint.small.leaf_node_id, committed=True, tombstoned=tombstoned)
        for row in present.history[checkpoint.revision - 1 : checkpoint.revision]:
            if row.node_count != len(nodes):
                return f"{len(nodes)} nodes, where the history says {row.node_count}"
        return ""

    def _parts(self, manifest: Manifest, faults: dict[BlobRef, Fault], subject: Subject) -> Iterator[Finding]:
        checkpoint, placed = manifest.checkpoint, manifest.placement
        for ref, kind in ((checkpoint.tool_state, ToolState), (checkpoint.plugin_snapshot, PluginSessionSnapshot)):
            if ref is None or ref in faults:
                continue
            try:
                kind.model_validate(self._records.plain(ref, placed))
            except DAMAGE as error:
                yield subject.found(error, What.PART, ref=ref.digest)
            except ValueError as error:
                reason = f"a stored {kind.__name__} cannot be read ({error})"
                yield subject.finding(What.PART, reason, key=self._records.key_of(ref, placed), ref=ref.digest)


def _covers(use: PackUse, revision: int) -> bool:
    return use.first_revision <= revision and (use.last_revision == 0 or revision <= use.last_revision)


def _texts(plain: Any) -> list[str]:
    if not isinstance(plain, list) or not all(isinstance(one, str) for one in plain):
        raise ValueError("the tombstoned nodes are no list of ids")
    return plain


def _checked(subject: Subject, what: What, check: Callable[[], str]) -> Iterator[Finding]:
    try:
        reason = check()
    except DAMAGE as error:
        yield subject.found(error, what)
    except (InvalidStateError, ValueError) as error:
        yield subject.finding(what, f"it breaks its own rules ({error})")
    else:
        if reason:
            yield subject.finding(what, reason)


def head_findings(present: Present, subject: Subject) -> Iterator[Finding]:
    """Yield what does not fit together in a head and the logs that it names."""
    head, rows = present.head, present.history
    if not rows:
        return
    ids = [row.commit_id for row in rows]
    first = head.commits.first_revision
    if head.commits.commit_ids != tuple(ids[first - 1 :]) or head.commit_id != ids[-1]:
        yield subject.finding(What.RING, "the commit ids in the head are not the history's last")
    stamped = [StampRow(row.revision, row.stamp) for row in lineage(rows, len(rows)) if row.stamp is not None]
    if head.stamps != tuple(reversed(stamped[:RING_MAX])):
        yield subject.finding(What.RING, "the turns in the head are not the last of the lineage")
    yield from _history_findings(rows, subject)


def _history_findings(rows: Sequence[HistoryRow], subject: Subject) -> Iterator[Finding]:
    seen: set[str] = set()
    for row in rows:
        about = replace(subject, revision=row.revision)
        if row.commit_id in seen:
            yield about.finding(What.HISTORY, f"commit {row.commit_id} stands in the history twice")
        seen.add(row.commit_id)
        if not _parent_fits(row):
            yield about.finding(What.HISTORY, f"revision {row.parent} is no parent of a {row.kind} at {row.revision}")
        if row.kind not in (COMMIT, REPLACE) and row.usage:
            yield about.finding(What.LEDGER, f"a {row.kind} adds usage")
    for name, total in _sums(rows).items():
        if total > COUNT_MAX:
            yield subject.finding(What.LEDGER, f"{name} of the ledger add up to {total}, over {COUNT_MAX}")


def _sums(rows: Sequence[HistoryRow]) -> dict[str, int]:
    """Return the sums over the ledger of the last revision, in integers of any size."""
    sums = dict.fromkeys(TokenUsage.model_fields, 0)
    for row in lineage(rows, len(rows)):
        for entry in row.usage:
            for name in sums:
                sums[name] += getattr(entry.usage, name)
        if row.kind == REPLACE:
            break
    return sums


def _parent_fits(row: HistoryRow) -> bool:
    if row.kind == FORK:
        return row.revision == 1 and row.parent == 0
    return row.parent == row.revision - 1 if row.kind in (COMMIT, REPLACE) else row.parent >= 1
