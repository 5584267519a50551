"""Reading: head, manifest, logs, parts; and from them a state.

Read order (FORMAT.md): head → manifest (in the head, or in its pack) → everything else at once.

Rules:
1. Every record says whose it is or is named by a digest; both are checked. A surprise is `CorruptSnapshotError`.
2. An object that is missing: read the head again. If the head is still the same it is corruption; otherwise someone
   moved on, and the load starts again.
3. A revision that is not the head's is found through the log of places.

    loaded = load(environment, "s1", revision=None)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from snapshots import codec, history, placement
from snapshots.base import Base
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
from snapshots.logs import LoadedSegment, Log, Segment, entries_of
from snapshots.placement import ManifestPlace, Placement, open_manifest
from snapshots.state import (
    PersistedSessionState,
    PluginSessionSnapshot,
    SessionGraph,
    SessionNodeRecord,
    ToolState,
    nodes_from_plain,
)
from storage.digest import BlobRef, verify
from storage.errors import CorruptObjectError, NotFoundError
from storage.packs import read_blobs
from storage.store import ByteRange, Version

T = TypeVar("T")
LOAD_ATTEMPTS_MAX = 5  # how often a load starts again because the session moved on under it


@dataclass(frozen=True, slots=True)
class HeadRead:
    """A head and the version it was read at."""

    head: Head
    version: Version


def read_head(environment: Environment, session_id: str) -> HeadRead | None:
    """Read a head, whatever its status; None if there is none. Raises CorruptSnapshotError, UnavailableError."""
    register = environment.register(session_id)
    try:
        stored = register.read()
    except NotFoundError:
        return None
    except CorruptObjectError as error:
        raise CorruptSnapshotError(register.key, error.reason) from error
    head = Head.decode(stored.data, key=register.key)
    tenant = environment.layout.tenant
    if (head.session_id, head.tenant) != (session_id, tenant):
        whose = f"session {head.session_id!r} of tenant {head.tenant!r}"
        raise CorruptSnapshotError(register.key, f"this is the head of {whose}, moved here from its own key")
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


@dataclass(frozen=True, slots=True)
class Manifest:
    """Checkpoint and placement of one revision."""

    checkpoint: SessionCheckpoint
    checkpoint_ref: BlobRef
    placement: Placement


def read_manifest(environment: Environment, head: Head) -> Manifest:
    """Return the manifest of a live head; a request only when it is too large to stand in the head."""
    assert head.manifest is not None, "a live head names a manifest"
    assert head.checkpoint_ref is not None, "a live head names a checkpoint"
    if head.inline_manifest:
        key = environment.layout.head(head.session_id)
        return _manifest(head.inline_manifest, head.checkpoint_ref, head.revision, key)
    return _manifest_at(environment, head, head.manifest, head.checkpoint_ref, head.revision)


def _manifest_at(environment: Environment, head: Head, place: ManifestPlace, ref: BlobRef, revision: int) -> Manifest:
    key = environment.layout.pack(head.family, place.pack)
    stored = environment.store.get(key, ByteRange(place.offset, place.stored_bytes)).data
    return _manifest(stored, ref, revision, key)


def _manifest(stored: bytes, ref: BlobRef, revision: int, key: str) -> Manifest:
    record, places = open_manifest(stored, key=key)
    verify(record, ref, key=key)
    checkpoint = SessionCheckpoint.decode(record, key=key)
    if checkpoint.revision != revision:
        raise CorruptSnapshotError(key, f"a checkpoint of revision {checkpoint.revision} where {revision} was expected")
    placed = Placement.decode(places, key=key)
    _check_placed(checkpoint, placed, key)
    return Manifest(checkpoint, ref, placed)


def _check_placed(checkpoint: SessionCheckpoint, placed: Placement, key: str) -> None:
    for ref in (*checkpoint.refs(), *(segment.ref for segment in placed.places)):
        extents = placed.extents.get(ref.digest)
        if extents is None or sum(extent.length for extent in extents) != ref.size_bytes:
            raise CorruptSnapshotError(key, "the placement does not say where a whole blob lies", ref=ref.digest)


class _Blobs:
    """Blobs of one revision, read together."""

    def __init__(self, environment: Environment, head: Head, placement: Placement, refs: Iterable[BlobRef]) -> None:
        self.key = environment.layout.head(head.session_id)
        wanted = {}
        for ref in refs:
            wanted[ref] = placement.extents[ref.digest]
        self._data = read_blobs(
            environment.store, wanted, lambda name: environment.layout.pack(head.family, name), environment.executor
        )

    def bytes(self, ref: BlobRef) -> bytes:
        return self._data[ref]

    def rows(self, segment: Segment, parse: Callable[[Any], T]) -> tuple[T, ...]:
        plain = {"rows": codec.decode(self._data[segment.ref], key=self.key)}
        rows = Fields(plain, key=self.key, record="segment of a log").rows("rows", parse)
        if len(rows) != segment.count:
            raise CorruptSnapshotError(self.key, f"a segment has {len(rows)} entries, declares {segment.count}")
        return rows

    def log(self, segments: Iterable[Segment], parse: Callable[[Any], T]) -> Log[T]:
        return tuple(LoadedSegment(segment, self.rows(segment, parse)) for segment in segments)


def _history_of(blobs: _Blobs, checkpoint: SessionCheckpoint) -> Log[HistoryRow]:
    log = blobs.log(checkpoint.history, history.row_from_plain)
    try:
        check_history(entries_of(log), checkpoint.revision)
    except ValueError as error:
        raise CorruptSnapshotError(blobs.key, str(error)) from error
    return log


def _base(environment: Environment, read: HeadRead, manifest: Manifest, blobs: _Blobs) -> Base:
    log = _history_of(blobs, manifest.checkpoint)
    return Base(
        home=environment.home,
        head=read.head,
        version=read.version,
        checkpoint=manifest.checkpoint,
        checkpoint_ref=manifest.checkpoint_ref,
        placement=manifest.placement,
        history=log,
        places=blobs.log(manifest.placement.places, placement.row_from_plain),
        ledger=tuple(ledger_along(entries_of(log), manifest.checkpoint.revision)),
    )


def read_base(environment: Environment, read: HeadRead) -> Base:
    """Return the base of a live head: manifest and logs, without nodes and parts."""
    manifest = read_manifest(environment, read.head)
    segments = (*manifest.checkpoint.history, *manifest.placement.places)
    blobs = _Blobs(environment, read.head, manifest.placement, [segment.ref for segment in segments])
    return _base(environment, read, manifest, blobs)


def read_history(environment: Environment, head: Head) -> list[HistoryRow]:
    """Return all rows of a live head's history, oldest first."""
    manifest = read_manifest(environment, head)
    refs = [segment.ref for segment in manifest.checkpoint.history]
    blobs = _Blobs(environment, head, manifest.placement, refs)
    return entries_of(_history_of(blobs, manifest.checkpoint))


def _manifest_of(environment: Environment, head: Head, revision: int) -> Manifest:
    present = read_manifest(environment, head)
    if revision == head.revision:
        return present
    if not head.floor <= revision < head.revision:
        raise RevisionNotFoundError(head.session_id, revision)
    segments = present.placement.places
    blobs = _Blobs(environment, head, present.placement, [segment.ref for segment in segments])
    for row in entries_of(blobs.log(segments, placement.row_from_plain)):
        if row.revision == revision:  # Rule 3.
            return _manifest_at(environment, head, row.manifest, row.checkpoint_ref, revision)
    raise CorruptSnapshotError(blobs.key, f"the log of places has no row for revision {revision}")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A revision as it was loaded: the state, and what it stands on."""

    state: PersistedSessionState
    base: Base


def load(environment: Environment, session_id: str, *, revision: int | None, execution_state: bool) -> Loaded:
    """Load a revision; the present one for None.

    Raises:
        SessionNotFoundError: No such session (a reservation counts as none).
        SessionDeletedError: The session was deleted.
        RevisionNotFoundError: No such revision, or retention dropped it.
        CorruptSnapshotError: Something is missing or altered.
        UnavailableError: The store did not answer.
    """

    def once(read: HeadRead) -> Loaded:
        wanted = read.head.revision if revision is None else revision
        return _load_once(environment, read, wanted, execution_state=execution_state)

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


def _load_once(environment: Environment, read: HeadRead, revision: int, *, execution_state: bool) -> Loaded:
    manifest = _manifest_of(environment, read.head, revision)
    checkpoint = manifest.checkpoint
    parts = [checkpoint.tool_state, checkpoint.plugin_snapshot]
    if execution_state:
        parts.append(checkpoint.execution_state)
    segments = (*checkpoint.graph, *checkpoint.history, *manifest.placement.places)
    refs = [segment.ref for segment in segments] + [part for part in parts if part is not None]
    blobs = _Blobs(environment, read.head, manifest.placement, refs)
    base = _base(environment, read, manifest, blobs)
    return Loaded(_state(base, blobs, execution_state=execution_state), base)


def _state(base: Base, blobs: _Blobs, *, execution_state: bool) -> PersistedSessionState:
    checkpoint, small = base.checkpoint, base.checkpoint.small
    inline = checkpoint.execution_state if execution_state else None
    return PersistedSessionState(
        session_id=base.head.session_id,
        policy=small.policy,
        session_graph=_graph(checkpoint, blobs),
        turn_index=small.turn.turn_index,
        token_usage=small.turn.token_usage,
        last_prompt_usage=small.turn.last_prompt_usage,
        mode_turn_options=small.turn.mode_turn_options,
        tool_state_ref=checkpoint.tool_state,
        tool_state_generation=small.tool_state_generation,
        tool_state_snapshot=_snapshot(ToolState, checkpoint.tool_state, blobs),
        plugin_snapshot_ref=checkpoint.plugin_snapshot,
        plugin_snapshot_revision=small.plugin_snapshot_revision,
        plugin_snapshot=_snapshot(PluginSessionSnapshot, checkpoint.plugin_snapshot, blobs),
        execution_state_ref=checkpoint.execution_state,
        execution_state_snapshot=None if inline is None else blobs.bytes(inline),
        token_ledger=list(base.ledger),
        checkpoint_ref=base.checkpoint_ref,
        head_revision=base.revision,
    )


def _graph(checkpoint: SessionCheckpoint, blobs: _Blobs) -> SessionGraph:
    plain: list[Any] = []
    for segment in checkpoint.graph:
        plain += blobs.rows(segment, _mapping)
    try:
        nodes: list[SessionNodeRecord] = nodes_from_plain(plain)
        return SessionGraph.from_nodes(nodes, checkpoint.small.leaf_node_id, committed=True)
    except (InvalidStateError, ValueError) as error:
        raise CorruptSnapshotError(blobs.key, f"the stored graph breaks its own rules ({error})") from error


def _mapping(plain: Any) -> Mapping[str, Any]:
    if not isinstance(plain, dict):
        raise TypeError("not a node")
    return plain


Snapshot = TypeVar("Snapshot", ToolState, PluginSessionSnapshot)


def _snapshot(kind: type[Snapshot], ref: BlobRef | None, blobs: _Blobs) -> Snapshot | None:
    if ref is None:
        return None
    try:
        return kind.model_validate(codec.decode(blobs.bytes(ref), key=blobs.key))
    except ValueError as error:
        reason = f"a stored {kind.__name__} cannot be read ({error})"
        raise CorruptSnapshotError(blobs.key, reason, ref=ref.digest) from error
