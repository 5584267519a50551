"""Verifying the revisions of one session: that each loads whole, and that they belong together.

Rules:
1. A revision is judged against the head that names it: its place, its history and its packs stand there.
2. A blob that is damaged is one finding for each pack concerned; what would have to be decoded from it is then not
   looked at.
3. Logs are read as they grow (`snapshots.maintenance.grown`): what the logs of two revisions share is decoded once.

    logs = Logs(blobs)
    present = read_present(environment, head, logs, subject)
    found = RevisionCheck(logs, subject).findings(present, row, raw)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from snapshots import codec, history, placement
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, InvalidStateError, UnsupportedSchemaError
from snapshots.fields import Fields
from snapshots.head import RING_MAX, Head, StampRow
from snapshots.history import COMMIT, FORK, REPLACE, HistoryRow, check_history, lineage
from snapshots.logs import LogRef, encode_rows
from snapshots.maintenance.blobs import Blobs, Faults
from snapshots.maintenance.entries import entries_in
from snapshots.maintenance.findings import DAMAGE, Finding, Subject, What
from snapshots.maintenance.grown import GrownLog, ReadLog
from snapshots.maintenance.needs import books_of, packs_needed
from snapshots.maintenance.pieces import readable_runs
from snapshots.placement import PackUse, Placement, PlaceRow, unseal_manifest
from snapshots.reading import Manifest, manifest_from, named_by, read_manifest
from snapshots.roots import kept_packs
from snapshots.state import (
    PluginSessionSnapshot,
    SessionGraph,
    SessionNodeRecord,
    TokenUsage,
    ToolState,
    nodes_from_plain,
)
from snapshots.stretches import Stretch, stretch_with
from storage.digest import BlobRef
from storage.extents import Extent, Spliceable

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
        history: Rows of all revisions, oldest first; empty if the log is damaged.
        places: Rows by revision, as they lie now; those that cannot be read are missing.
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


class Logs:
    """The logs of one session, and its blobs.

    Args:
        blobs: Of the session's family.

    Attributes:
        blobs: As given.
    """

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self._graph = GrownLog(blobs, _nodes)
        self._history = GrownLog(blobs, _parsing(history.row_from_plain))
        self._places = GrownLog(blobs, _parsing(placement.row_from_plain))

    def graph(self, manifest: Manifest) -> ReadLog[SessionNodeRecord]:
        """Read the nodes of a revision."""
        return self._read(self._graph, manifest.checkpoint.graph, manifest.placement)

    def history(self, manifest: Manifest) -> ReadLog[HistoryRow]:
        """Read the rows up to a revision, without the one that stands beside the log."""
        return self._read(self._history, manifest.checkpoint.history, manifest.placement)

    def places(self, manifest: Manifest) -> ReadLog[PlaceRow]:
        """Read where the revisions before this one lie."""
        return self._read(self._places, manifest.placement.places, manifest.placement)

    def unread(self, manifest: Manifest) -> list[Extent]:
        """Return the pieces of the logs of a revision that no other revision had so far."""
        checkpoint, placed = manifest.checkpoint, manifest.placement
        logs = ((self._graph, checkpoint.graph), (self._history, checkpoint.history), (self._places, placed.places))
        return [one for log, at in logs for one in log.unread(_extents(at, placed))]

    def _read(self, log: GrownLog[T], at: LogRef, placed: Placement) -> ReadLog[T]:
        return log.read(at, _extents(at, placed))


def _extents(at: LogRef, placed: Placement) -> tuple[Extent, ...]:
    return placed.extents[at.ref.digest] if at.count else ()


def _parsing(parse: Callable[[Any], T]) -> Callable[[list[Any], str], Sequence[T]]:
    return lambda plain, key: Fields({"rows": plain}, key=key, record="log").rows("rows", parse)


def _nodes(plain: list[Any], key: str) -> Sequence[SessionNodeRecord]:
    return nodes_from_plain(list(Fields({"nodes": plain}, key=key, record="graph").rows("nodes", _mapping)))


def _mapping(plain: Any) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise TypeError("not a node")
    return plain


def read_present(environment: Environment, head: Head, logs: Logs, subject: Subject) -> Present:
    """Read manifest and logs of a live head.

    Raises:
        DamagedError: The manifest is missing or unreadable.
        UnavailableError: The store did not answer.
    """
    try:
        manifest = read_manifest(environment, head)
    except DAMAGE as error:
        raise DamagedError(subject.found(error, What.MANIFEST)) from error
    damage: list[Finding] = []

    def sound(what: What, log: ReadLog[T], ref: BlobRef, check: Callable[[Sequence[T]], Sequence[T]]) -> Sequence[T]:
        damage.extend(subject.found(fault, what, ref=ref.digest) for fault in log.faults)
        if log.faults:
            return ()
        try:
            return check(log.entries())
        except DAMAGE as error:
            damage.append(subject.found(error, what))
            return ()

    placed, past = manifest.placement, manifest.checkpoint.history
    history_log, places_log = logs.history(manifest), logs.places(manifest)
    rows = sound(What.HISTORY, history_log, past.ref, lambda stored: _whole_history(stored, manifest))
    places = sound(What.PLACES, places_log, placed.places.ref, _whole_places)
    if places_log.faults:
        places = _intact(logs.blobs, placed, head.revision)
    if placed.places.count + 1 != head.revision:
        damage.append(
            subject.finding(What.PLACES, f"the log of places ends at {placed.places.count} of {head.revision}")
        )
    elif not places_log.faults:
        damage += _stretches(head, places, placed, subject)
    damage += _reads(head, manifest, logs.blobs, subject)
    books = books_of(places)
    uses = [use for use in (*placed.packs, *books.ended) if any(kept_packs(head, [use]))]
    by_revision = {row.revision: row for row in (*books.rows, named_by(head))}
    return Present(head, tuple(rows), by_revision, tuple(uses), tuple(damage))


def _reads(head: Head, manifest: Manifest, blobs: Blobs, subject: Subject) -> Iterator[Finding]:
    """Yield the packs that a load reads at once and that nothing keeps for it."""
    assert head.manifest is not None, "a live head names a manifest"
    needed = packs_needed(head.manifest, manifest.placement.extents.values())
    for pack in sorted({read.pack for read in head.reads} - needed.keys()):
        reason = "a load reads this pack, and the head does not keep it for that"
        yield subject.finding(What.PACKS, reason, key=blobs.key_of(pack))


def _stretches(head: Head, rows: Sequence[PlaceRow], placed: Placement, subject: Subject) -> Iterator[Finding]:
    """Yield what is wrong with where the head says that older revisions are found."""
    stretches = head.stretches
    if not stretches:
        return
    log = Spliceable(placed.extents[placed.places.ref.digest])
    if any(stretch != _as_it_is(stretch, rows, log) for stretch in stretches):
        yield subject.finding(What.PLACES, "the head says wrongly where rows of the log of places lie")
        return
    made = {move.into: stretch_with(stretches, row.revision) for row in rows for move in row.moved}
    made |= {row.manifest.pack: stretch_with(stretches, row.revision) for row in rows}
    apart = [row for row in rows for move in row.moved if not _together(row, made.get(move.pack))]
    if apart:
        reason = f"the log of places tells of a move at revision {apart[0].revision}, apart from whom it concerns"
        yield subject.finding(What.PLACES, reason)


def _as_it_is(stretch: Stretch, rows: Sequence[PlaceRow], log: Spliceable) -> Stretch | None:
    """Return a stretch of the log as it really lies, None if there are no such rows."""
    last = stretch.first_revision - 1 + stretch.count
    if last > len(rows):
        return None
    position = len(encode_rows(rows[: stretch.first_revision - 1]))
    length = len(encode_rows(rows[stretch.first_revision - 1 : last]))
    return Stretch(stretch.first_revision, stretch.count, position, tuple(log.between(position, length)))


def _together(row: PlaceRow, made_in: Stretch | None) -> bool:
    """Say whether a row lies in the stretch in which a pack was made that it tells to have moved, if that is known."""
    return made_in is None or row.revision in made_in


def _whole_history(stored: Sequence[HistoryRow], manifest: Manifest) -> tuple[HistoryRow, ...]:
    """Return all rows up to the manifest's revision, the one beside the log too."""
    beside = () if manifest.overrides is None else (manifest.overrides.row(manifest.checkpoint.node_count),)
    rows = (*stored, *beside)
    try:
        check_history(rows, manifest.checkpoint.revision)
    except ValueError as error:
        raise CorruptSnapshotError("", str(error)) from error
    return rows


def _whole_places(rows: Sequence[PlaceRow]) -> Sequence[PlaceRow]:
    if [row.revision for row in rows] != list(range(1, len(rows) + 1)):
        raise CorruptSnapshotError("", "the log of places does not run on from revision 1")
    return rows


def _intact(blobs: Blobs, placed: Placement, revision: int) -> list[PlaceRow]:
    """Return the rows of a damaged log of places that can be read: they still lead on to their revisions."""
    rows: list[PlaceRow] = []
    for run in readable_runs(blobs.pieces, _extents(placed.places, placed)):
        for plain in entries_in(run, key=""):
            try:
                (row,) = _parsing(placement.row_from_plain)([plain], "")
            except (CorruptSnapshotError, UnsupportedSchemaError):
                break  # what stands behind a gap need not begin with a row
            if (rows[-1].revision if rows else 0) < row.revision < revision:
                rows.append(row)
    return rows


class RevisionCheck:
    """Verifies revisions of one session, one after another, best in their order.

    Args:
        logs: Of the session.
        subject: The session.
    """

    def __init__(self, logs: Logs, subject: Subject) -> None:
        self._logs = logs
        self._blobs = logs.blobs
        self._session = subject

    def findings(self, present: Present, row: PlaceRow, raw: bytes) -> list[Finding]:
        """Return what is wrong with the revision whose place is `row`; `raw` is the manifest that lies there."""
        subject = replace(self._session, revision=row.revision)
        key = self._blobs.key_of(row.manifest.pack)
        try:
            manifest = manifest_from(raw, row, key=key)
        except DAMAGE as error:
            return [subject.found(error, What.MANIFEST)]
        found = [] if self._is_the_heads(present, row, raw) else [self._another_manifest(subject, key)]
        return [*found, *self._packs(present, row, manifest, subject), *self._content(present, manifest, subject)]

    def _is_the_heads(self, present: Present, row: PlaceRow, raw: bytes) -> bool:
        head = present.head
        if row.revision != head.revision or not head.inline_manifest:
            return True
        return unseal_manifest(head.inline_manifest, key=self._session.key) == raw

    def _another_manifest(self, subject: Subject, key: str) -> Finding:
        return subject.finding(What.MANIFEST, "the manifest in the pack is not the one in the head", key=key)

    def _packs(self, present: Present, row: PlaceRow, manifest: Manifest, subject: Subject) -> Iterator[Finding]:
        if len(present.places) < present.head.revision:
            return  # what the missing rows name is not known
        needed = packs_needed(row.manifest, manifest.placement.extents.values())
        for pack in sorted(needed.keys() - {use.pack for use in present.uses if _covers(use, row.revision)}):
            reason = "the revision needs this pack, and the head does not keep it for that"
            yield subject.finding(What.PACKS, reason, key=self._blobs.key_of(pack))

    def _content(self, present: Present, manifest: Manifest, subject: Subject) -> Iterator[Finding]:
        checkpoint, placed = manifest.checkpoint, manifest.placement
        parts = [ref for ref in checkpoint.parts().values() if ref is not None]
        along = self._logs.unread(manifest)
        faults = self._blobs.verify(placed, parts, streamed=checkpoint.execution_state, along=along)
        for ref, many in faults.items():
            yield from (subject.found(fault, What.ALTERED, ref=ref.digest) for fault in many)
        rows, places, nodes = self._logs.history(manifest), self._logs.places(manifest), self._logs.graph(manifest)
        for what, log, at, check in (
            (What.HISTORY, rows, checkpoint.history, lambda: self._history(present, manifest, rows.entries())),
            (What.PLACES, places, placed.places, lambda: self._places(places.entries())),
            (What.GRAPH, nodes, checkpoint.graph, lambda: self._graph(present, manifest, nodes.entries(), faults)),
        ):
            yield from (subject.found(fault, What.ALTERED, ref=at.ref.digest) for fault in log.faults)
            if not log.faults:  # Rule 2.
                yield from _checked(subject, what, check)
        yield from self._parts(manifest, faults, subject)

    def _history(self, present: Present, manifest: Manifest, stored: Sequence[HistoryRow]) -> str:
        rows = _whole_history(stored, manifest)
        return (
            ""
            if not present.history or rows == present.history[: len(rows)]
            else "its history is not the beginning of the session's"
        )

    def _places(self, rows: Sequence[PlaceRow]) -> str:
        _whole_places(rows)
        return ""

    def _graph(
        self,
        present: Present,
        manifest: Manifest,
        nodes: Sequence[SessionNodeRecord],
        faults: Mapping[BlobRef, Faults],
    ) -> str:
        checkpoint, placed = manifest.checkpoint, manifest.placement
        hidden = checkpoint.tombstones
        if hidden in faults:
            return ""  # Rule 2.
        tombstoned = () if hidden is None else _texts(self._plain(hidden, placed))
        SessionGraph.from_nodes(list(nodes), checkpoint.small.leaf_node_id, committed=True, tombstoned=tombstoned)
        for row in present.history[checkpoint.revision - 1 : checkpoint.revision]:
            if row.node_count != len(nodes):
                return f"{len(nodes)} nodes, where the history says {row.node_count}"
        return ""

    def _parts(self, manifest: Manifest, faults: Mapping[BlobRef, Faults], subject: Subject) -> Iterator[Finding]:
        checkpoint, placed = manifest.checkpoint, manifest.placement
        for ref, kind in ((checkpoint.tool_state, ToolState), (checkpoint.plugin_snapshot, PluginSessionSnapshot)):
            if ref is None or ref in faults:
                continue
            try:
                kind.model_validate(self._plain(ref, placed))
            except DAMAGE as error:
                yield subject.found(error, What.PART, ref=ref.digest)
            except ValueError as error:
                reason = f"a stored {kind.__name__} cannot be read ({error})"
                yield subject.finding(What.PART, reason, key=self._key_of(ref, placed), ref=ref.digest)

    def _plain(self, ref: BlobRef, placed: Placement) -> Any:
        return codec.decode(self._blobs.record(ref, placed), key=self._key_of(ref, placed))

    def _key_of(self, ref: BlobRef, placed: Placement) -> str:
        """Return the key of the pack in which a blob ends, "" for an empty one."""
        extents = placed.extents[ref.digest]
        return self._blobs.key_of(extents[-1].pack) if extents else ""


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
