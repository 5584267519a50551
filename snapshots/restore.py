"""Reading: head, manifest, logs, parts; and from them a state.

Read order (FORMAT.md): head → manifest (in the head, or in its pack) → everything else at once.

Rules:
1. Every record says whose it is or is named by a digest; both are checked. A surprise is `CorruptSnapshotError`.
2. An object that is missing: read the head again. If the head is still the same it is corruption; otherwise someone
   moved on, and the load starts again.
3. A revision that is not the head's is found through the log of places; its row n is revision n. The head says where
   which rows lie.
4. The first revision of a fork is the manifest of its base with the overrides that stand beside it.

    loaded = load(environment, "s1", revision=None)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from typing import Any, Never, TypeVar

from snapshots import codec, history, placement
from snapshots.base import Base, FullManifest
from snapshots.checkpoint import SessionCheckpoint
from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    InvalidStateError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionMovedError,
    SessionNotFoundError,
)
from snapshots.fields import Fields
from snapshots.head import LIVE, MOVED, RESERVED, TOMBSTONE, Head
from snapshots.history import HistoryRow, check_history, ledger_along
from snapshots.logs import HeldLog, LogRef, held_log
from snapshots.overrides import Overrides
from snapshots.parts import Parts, held_part
from snapshots.pins import find_pin
from snapshots.placement import (
    ManifestPlace,
    Placement,
    PlaceRow,
    decode_placement,
    open_manifest,
    unseal_manifest,
)
from snapshots.state import (
    PersistedSessionState,
    PluginSessionSnapshot,
    SessionGraph,
    SessionNodeRecord,
    ToolState,
    nodes_from_plain,
)
from snapshots.stretches import Stretch, place_in, stretch_with
from storage.digest import BlobRef, verify
from storage.errors import CorruptObjectError, NotFoundError
from storage.heap import collector_paused
from storage.pack_reader import PackReader
from storage.store import Version
from storage.wrappers.overlaid import OverlaidStore

T = TypeVar("T")
LOAD_ATTEMPTS_MAX = 5  # how often a load starts again because the session moved on under it


@dataclass(frozen=True, slots=True)
class HeadRead:
    """A head and the version it was read at."""

    head: Head
    version: Version


def read_head(environment: Environment, session_id: str) -> HeadRead | None:
    """Read a head, whatever its status; None if there is none. Raises CorruptSnapshotError, UnavailableError."""
    try:
        return head_at(environment, environment.layout.head(session_id))
    except NotFoundError:
        return None


def head_at(environment: Environment, key: str) -> HeadRead:
    """Read the head under a key that was listed; heads are never deleted.

    Raises:
        NotFoundError: There is none.
        CorruptSnapshotError: It cannot be read, or is another session's.
        UnavailableError: The store did not answer.
    """
    try:
        stored = environment.store.get(key)
    except CorruptObjectError as error:
        raise CorruptSnapshotError(key, error.reason) from error
    head = Head.decode(stored.data, key=key)
    if head.tenant != environment.layout.tenant or environment.layout.head(head.session_id) != key:
        whose = f"session {head.session_id!r} of tenant {head.tenant!r}"
        raise CorruptSnapshotError(key, f"this is the head of {whose}, moved here from its own key")
    return HeadRead(head, stored.version)


def read_live_head(environment: Environment, session_id: str) -> HeadRead:
    """Read the head of a session that can be used.

    Raises:
        SessionNotFoundError: There is none, or only a reservation.
        SessionDeletedError: A tombstone.
        SessionMovedError: It lives elsewhere.
    """
    read = read_head(environment, session_id)
    if read is None or read.head.status == RESERVED:
        raise SessionNotFoundError(session_id)
    if read.head.status == TOMBSTONE:
        raise SessionDeletedError(session_id)
    if read.head.status == MOVED:
        raise SessionMovedError(session_id, read.head.destination)
    assert read.head.status == LIVE
    return read


def revision_of(head: Head, revision: int | str | None, now: datetime) -> int:
    """Return the number of a revision that retention keeps.

    Args:
        head: A live head.
        revision: A number, the name of a pin, or None for the present one.
        now: Decides whether a pin has expired.

    Raises:
        RevisionNotFoundError: No such revision or pin, or retention dropped it, or the pin has expired.
    """
    if revision is None:
        return head.revision
    if isinstance(revision, str):
        pin = find_pin(head.pins, revision)
        if pin is None:
            reason = "a number is given as an integer" if revision.isdecimal() else ""
            raise RevisionNotFoundError(head.session_id, revision, reason=reason)
        if pin.expires_at is not None and pin.expired(now):
            reason = f"it named revision {pin.revision} and expired at {pin.expires_at.isoformat()}"
            raise RevisionNotFoundError(head.session_id, revision, reason=reason)
        return pin.revision
    if not head.retains(revision):
        reason = "retention or a repair dropped it" if 1 <= revision <= head.revision else ""
        raise RevisionNotFoundError(head.session_id, revision, reason=reason)
    return revision


@dataclass(frozen=True, slots=True)
class Manifest:
    """Checkpoint and placement of one revision; both as the overrides of a fork leave them."""

    checkpoint: SessionCheckpoint
    checkpoint_ref: BlobRef
    placement: Placement
    overrides: Overrides | None
    full: FullManifest | None


def named_by(head: Head) -> PlaceRow:
    """Return where a live head says that its present revision lies."""
    assert head.manifest is not None, "a live head names a manifest"
    assert head.checkpoint_ref is not None, "a live head names a checkpoint"
    return PlaceRow(head.revision, head.checkpoint_ref, head.manifest, head.overrides, ())


def with_tail(environment: Environment, head: Head) -> Environment:
    """Return an environment in which the packs that lie in a head are read like any other."""
    if not head.tail:
        return environment
    packs = {environment.layout.pack(head.family, pack.name): pack.data for pack in head.tail}
    return replace(environment, store=OverlaidStore(environment.store, packs))


def pack_reader(environment: Environment, head: Head) -> PackReader:
    """Return what reads from the packs of a head's family, and from its tail."""
    store = with_tail(environment, head).store
    return PackReader(store, cache(partial(environment.layout.pack, head.family)), environment.executor)


def read_manifest(
    environment: Environment, head: Head, reader: PackReader | None = None, known: FullManifest | None = None
) -> Manifest:
    """Return the manifest of a live head; a request only when it is too large to stand in the head.

    Args:
        environment: Where to read.
        head: A live head.
        reader: What to read with, None for one of its own.
        known: A manifest that this one may be compressed against, None if none is known.
    """
    named = named_by(head)
    if head.inline_manifest:
        key = environment.layout.head(head.session_id)
        return manifest_from(unseal_manifest(head.inline_manifest, key=key), named, key=key)
    return read_manifest_at(environment, head, named, reader, known)


def read_manifest_at(
    environment: Environment,
    head: Head,
    row: PlaceRow,
    reader: PackReader | None = None,
    known: FullManifest | None = None,
) -> Manifest:
    """Return the manifest that lies where `row` says, in a pack of the head's family: one round of requests."""
    raw, against = _manifest_runs(reader or pack_reader(environment, head), row.manifest, known)
    manifest = manifest_from(raw, row, key=environment.layout.pack(head.family, row.manifest.pack))
    if row.manifest.against is None or row.overrides is not None or row.manifest.moved:
        return manifest
    if known is not None and known.place == row.manifest.against:
        return replace(manifest, full=known)
    key = environment.layout.pack(head.family, row.manifest.against.pack)
    numbers = decode_placement(open_manifest(against, key=key)[1], key=key)[1]
    return replace(manifest, full=FullManifest(row.manifest.against, against, numbers))


def read_manifest_bytes(environment: Environment, head: Head, row: PlaceRow) -> bytes:
    """Return the bytes of the manifest that lies where `row` says: one round of requests."""
    return _manifest_runs(pack_reader(environment, head), row.manifest)[0]


def _manifest_runs(reader: PackReader, place: ManifestPlace, known: FullManifest | None = None) -> tuple[bytes, bytes]:
    """Return the bytes of a manifest, and of the one that it was compressed against. Raises CorruptObjectError."""
    if known is not None and known.place == place.against:
        (own,) = reader.runs([(place.pack, place.offset, place.stored_bytes)])
        return unseal_manifest(own, key=reader.key_of(place.pack), against=known.raw), known.raw
    own, *against = reader.runs([(run.pack, run.offset, run.stored_bytes) for run in place.runs()])
    before = b""
    if place.against is not None:
        before = unseal_manifest(against[0], key=reader.key_of(place.against.pack))
    return unseal_manifest(own, key=reader.key_of(place.pack), against=before), before


def manifest_from(raw: bytes, row: PlaceRow, *, key: str) -> Manifest:
    """Return the manifest of a revision from its bytes, checked against what names it."""
    record, places = open_manifest(raw, key=key)
    overrides = row.overrides
    verify(record, row.checkpoint_ref if overrides is None else overrides.base_ref, key=key)
    checkpoint = SessionCheckpoint.decode(record, key=key)
    expected = row.revision if overrides is None else overrides.base_revision
    if checkpoint.revision != expected:
        raise CorruptSnapshotError(key, f"a checkpoint of revision {checkpoint.revision} where {expected} was expected")
    written, numbers = decode_placement(places, key=key)
    placed = row.manifest.moved.placement(written)
    _check_placed(checkpoint, placed, key)
    if overrides is not None:
        if overrides.checkpoint_ref() != row.checkpoint_ref:
            raise CorruptSnapshotError(key, "a fork's overrides do not match its checkpoint")
        checkpoint = overrides.applied(checkpoint)
        placed = placed.narrowed(checkpoint.refs(), row.manifest)
    moved = placed is not written  # then its numbers are of frames that lie elsewhere now
    full = None if moved or row.manifest.against is not None else FullManifest(row.manifest, raw, numbers)
    return Manifest(checkpoint, row.checkpoint_ref, placed, overrides, full)


def _check_placed(checkpoint: SessionCheckpoint, placed: Placement, key: str) -> None:
    for ref in (*checkpoint.refs(), *placed.refs()):
        extents = placed.extents.get(ref.digest)
        if extents is None or sum(extent.length for extent in extents) != ref.size_bytes:
            raise CorruptSnapshotError(key, "the placement does not say where a whole blob lies", ref=ref.digest)


class _Blobs:
    """Blobs of one revision, read together."""

    def __init__(
        self,
        environment: Environment,
        head: Head,
        placement: Placement,
        refs: Iterable[BlobRef],
        reader: PackReader | None = None,
    ) -> None:
        self.key = environment.layout.head(head.session_id)
        reader = reader or pack_reader(environment, head)
        self._data = reader.blobs({ref: placement.extents[ref.digest] for ref in refs})

    def bytes(self, ref: BlobRef) -> bytes:
        return self._data[ref]

    def has(self, ref: BlobRef) -> bool:
        return ref in self._data

    def log(self, at: LogRef, parse: Callable[[Any], T]) -> HeldLog[T]:
        """Return a log of rows."""
        data = self._data[at.ref] if at.count else b""
        plain = {"rows": codec.decode_entries(data, at.count, key=self.key)}
        return held_log(at, data, Fields(plain, key=self.key, record="log").rows("rows", parse))


def _rows_of(manifest: Manifest, log: HeldLog[HistoryRow], key: str) -> tuple[HistoryRow, ...]:
    """Return the rows that stand beside the log; check that both together are the whole history."""
    overrides = manifest.overrides
    unstored = () if overrides is None else (overrides.row(manifest.checkpoint.node_count),)
    try:
        check_history([*log.entries, *unstored], manifest.checkpoint.revision)
    except ValueError as error:
        raise CorruptSnapshotError(key, str(error)) from error
    return unstored


def _base(environment: Environment, read: HeadRead, manifest: Manifest, blobs: _Blobs) -> Base:
    log = blobs.log(manifest.checkpoint.history, history.row_from_plain)
    unstored = _rows_of(manifest, log, blobs.key)
    return Base(
        home=environment.home,
        head=read.head,
        version=read.version,
        checkpoint=manifest.checkpoint,
        checkpoint_ref=manifest.checkpoint_ref,
        placement=manifest.placement,
        history=log,
        unstored=unstored,
        places=blobs.log(manifest.placement.places, placement.row_from_plain),
        ledger=tuple(ledger_along([*log.entries, *unstored], manifest.checkpoint.revision)),
        full=manifest.full,
    )


def read_base(environment: Environment, read: HeadRead) -> Base:
    """Return the base of a live head: manifest and logs of rows, without nodes and parts."""
    manifest = read_manifest(environment, read.head)
    refs = [log.ref for log in (manifest.checkpoint.history, manifest.placement.places) if log.count]
    return _base(environment, read, manifest, _Blobs(environment, read.head, manifest.placement, refs))


def read_history(environment: Environment, head: Head) -> list[HistoryRow]:
    """Return all rows of a live head's history, oldest first."""
    manifest = read_manifest(environment, head)
    at = manifest.checkpoint.history
    blobs = _Blobs(environment, head, manifest.placement, [at.ref] if at.count else [])
    log = blobs.log(at, history.row_from_plain)
    return [*log.entries, *_rows_of(manifest, log, blobs.key)]


def read_place(environment: Environment, head: Head, revision: int, reader: PackReader | None = None) -> PlaceRow:
    """Return where a retained revision lies: rule 3, one request for an older one.

    Args:
        environment: Where to read.
        head: A live head.
        revision: What `revision_of` returned for this head.
        reader: What reads, None for one of its own.
    """
    if revision == head.revision:
        return named_by(head)
    stretch = stretch_with(head.stretches, revision)
    if stretch is None:
        rows = read_places(environment, head, read_manifest(environment, head, reader).placement)
    else:
        rows = _rows_in(environment, head, stretch, reader)
    try:
        return place_in(rows, revision)
    except ValueError as error:
        raise CorruptSnapshotError(environment.layout.head(head.session_id), str(error)) from error


def _rows_in(environment: Environment, head: Head, stretch: Stretch, reader: PackReader | None) -> Sequence[PlaceRow]:
    """Return the rows of a stretch of the log of places: one round of requests, mostly a single one."""
    data = (reader or pack_reader(environment, head)).pieces(stretch.extents)
    key = environment.layout.head(head.session_id)
    plain = {"rows": codec.decode_entries(data, stretch.count, key=key)}
    return Fields(plain, key=key, record="log of places").rows("rows", placement.row_from_plain)


def read_places(environment: Environment, head: Head, present: Placement) -> Sequence[PlaceRow]:
    """Return the rows of all earlier revisions, oldest first."""
    blobs = _Blobs(environment, head, present, present.refs())
    return blobs.log(present.places, placement.row_from_plain).entries


def manifest_of(environment: Environment, head: Head, revision: int, reader: PackReader) -> Manifest:
    """Return the manifest of a retained revision, as its blobs lie now."""
    if revision == head.revision:
        if head.reads and not head.inline_manifest:
            reader.fetch(head.reads)
        return read_manifest(environment, head, reader)
    return read_manifest_at(environment, head, read_place(environment, head, revision, reader), reader)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A revision as it was loaded: the state, and what it stands on."""

    state: PersistedSessionState
    base: Base


def load(environment: Environment, session_id: str, *, revision: int | str | None, execution_state: bool) -> Loaded:
    """Load a revision, by number or pin; the present one for None.

    Raises:
        SessionNotFoundError: No such session (a reservation counts as none).
        SessionDeletedError: The session was deleted.
        RevisionNotFoundError: No such revision, or retention dropped it.
        CorruptSnapshotError: Something is missing or altered.
        UnavailableError: The store did not answer.
    """

    def once(read: HeadRead) -> Loaded:
        wanted = revision_of(read.head, revision, environment.clock.now())
        return load_from(environment, read, wanted, execution_state=execution_state)

    return retried_while_moving(environment, session_id, once)


def retried_while_moving(environment: Environment, session_id: str, read_from: Callable[[HeadRead], T]) -> T:
    """Return `read_from(head)`; by rule 2 again when something is missing because the session moved on."""
    read = read_live_head(environment, session_id)
    for _ in range(LOAD_ATTEMPTS_MAX):
        try:
            return read_from(read)
        except NotFoundError as error:
            again = read_live_head(environment, session_id)
            if again.version == read.version:
                raise CorruptSnapshotError(error.key, "this object is missing, though the head names it") from error
            read = again
        except CorruptObjectError as error:
            raise CorruptSnapshotError(error.key, error.reason) from error
    raise CorruptSnapshotError(
        environment.layout.head(session_id), f"objects were missing in {LOAD_ATTEMPTS_MAX} loads of a moving session"
    )


def load_from(environment: Environment, read: HeadRead, revision: int, *, execution_state: bool) -> Loaded:
    """Load a retained revision from a live head just read; for use within `retried_while_moving`."""
    reader = pack_reader(environment, read.head)
    manifest = manifest_of(environment, read.head, revision, reader)
    checkpoint = manifest.checkpoint
    if not execution_state:  # but for its name: another part may have the same bytes
        checkpoint = replace(checkpoint, execution_state=None)
    refs = [*checkpoint.refs(), *manifest.placement.refs()]
    blobs = _Blobs(environment, read.head, manifest.placement, refs, reader)
    with collector_paused():
        base = _base(environment, read, manifest, blobs)
        graph, nodes = _graph(manifest.checkpoint, blobs)
        base = replace(base, graph=graph, parts=_parts(manifest.checkpoint, blobs))
        return Loaded(_state(base, nodes, blobs, execution_state=execution_state), base)


def _parts(checkpoint: SessionCheckpoint, blobs: _Blobs) -> Parts:
    parts = Parts()
    for kind, ref in checkpoint.parts().items():
        if ref is not None and blobs.has(ref):
            parts = parts.holding(kind, held_part(ref, blobs.bytes(ref)))
    return parts


def _state(base: Base, graph: SessionGraph, blobs: _Blobs, *, execution_state: bool) -> PersistedSessionState:
    checkpoint = base.checkpoint
    inline = checkpoint.execution_state if execution_state else None
    return state_of(
        base,
        graph,
        tool_state=_snapshot(ToolState, checkpoint.tool_state, blobs),
        plugin_snapshot=_snapshot(PluginSessionSnapshot, checkpoint.plugin_snapshot, blobs),
        execution_state=None if inline is None else blobs.bytes(inline),
    )


def state_of(
    base: Base,
    graph: SessionGraph,
    *,
    tool_state: ToolState | None,
    plugin_snapshot: PluginSessionSnapshot | None,
    execution_state: bytes | None = None,
) -> PersistedSessionState:
    """Return the state of a revision: the snapshots inline, everything else from its checkpoint.

    Args:
        base: The revision.
        graph: Its graph.
        tool_state: Its tool state, None where it has none.
        plugin_snapshot: Its plugin snapshot, None where it has none.
        execution_state: Its execution state, None where it has none or it is not filled in.
    """
    checkpoint, small = base.checkpoint, base.checkpoint.small
    return PersistedSessionState(
        session_id=base.head.session_id,
        policy=small.policy,
        session_graph=graph,
        turn_index=small.turn.turn_index,
        token_usage=small.turn.token_usage,
        last_prompt_usage=small.turn.last_prompt_usage,
        mode_turn_options=small.turn.mode_turn_options,
        tool_state_ref=checkpoint.tool_state,
        tool_state_generation=small.tool_state_generation,
        tool_state_snapshot=tool_state,
        plugin_snapshot_ref=checkpoint.plugin_snapshot,
        plugin_snapshot_revision=small.plugin_snapshot_revision,
        plugin_snapshot=plugin_snapshot,
        execution_state_ref=checkpoint.execution_state,
        execution_state_snapshot=execution_state,
        token_ledger=list(base.ledger),
        checkpoint_ref=base.checkpoint_ref,
        head_revision=base.revision,
    )


def _graph(checkpoint: SessionCheckpoint, blobs: _Blobs) -> tuple[HeldLog[Never], SessionGraph]:
    at = checkpoint.graph
    data = blobs.bytes(at.ref) if at.count else b""
    tombstoned = b"" if checkpoint.tombstones is None else blobs.bytes(checkpoint.tombstones)
    with graph_kept_whole(blobs.key):
        graph = SessionGraph.from_nodes(
            nodes_in(data, at.count, key=blobs.key),
            checkpoint.small.leaf_node_id,
            committed=True,
            tombstoned=tombstoned_in(tombstoned, key=blobs.key),
        )
    return held_log(at, data, ()), graph


@contextmanager
def graph_kept_whole(key: str) -> Iterator[None]:
    """Turn what a graph says of nodes that do not fit into CorruptSnapshotError."""
    try:
        yield
    except (InvalidStateError, ValueError) as error:
        raise CorruptSnapshotError(key, f"the stored graph breaks its own rules ({error})") from error


def nodes_in(data: bytes, count: int, *, key: str) -> list[SessionNodeRecord]:
    """Return nodes as they are stored. Raises CorruptSnapshotError; InvalidStateError for what is no node."""
    plain = Fields({"nodes": codec.decode_entries(data, count, key=key)}, key=key, record="graph")
    return nodes_from_plain(list(plain.rows("nodes", _mapping)))


def tombstoned_in(data: bytes, *, key: str) -> tuple[str, ...]:
    """Return the ids of tombstoned nodes as they are stored, none for no bytes. Raises CorruptSnapshotError."""
    if not data:
        return ()
    plain = {"ids": codec.decode(data, key=key)}
    return Fields(plain, key=key, record="list of tombstoned nodes").rows("ids", _text)


def _text(plain: Any) -> str:
    if not isinstance(plain, str):
        raise TypeError("not an id")
    return plain


def _mapping(plain: Any) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise TypeError("not a node")
    return plain


Snapshot = TypeVar("Snapshot", ToolState, PluginSessionSnapshot)


def _snapshot(kind: type[Snapshot], ref: BlobRef | None, blobs: _Blobs) -> Snapshot | None:
    return None if ref is None else snapshot_in(kind, blobs.bytes(ref), ref, key=blobs.key)


def snapshot_in(kind: type[Snapshot], data: bytes, ref: BlobRef, *, key: str) -> Snapshot:
    """Return a snapshot as it is stored. Raises CorruptSnapshotError."""
    try:
        return kind.model_validate(codec.decode(data, key=key))
    except ValueError as error:
        reason = f"a stored {kind.__name__} cannot be read ({error})"
        raise CorruptSnapshotError(key, reason, ref=ref.digest) from error
