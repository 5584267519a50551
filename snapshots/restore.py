"""Restoring: a state from what a revision's manifest names (`snapshots.reading`).

Rules:
1. Manifest, logs and parts are read in one go; what was read of the parts stays at hand in the base.
2. What is stored and makes no state is `CorruptSnapshotError`.
3. The execution state is filled in only when asked for.

    loaded = load(environment, "s1", revision=None, execution_state=False)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Never, TypeVar

from snapshots import codec
from snapshots.base import Base
from snapshots.checkpoint import SessionCheckpoint
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, InvalidStateError
from snapshots.fields import Fields, text_of
from snapshots.logs import HeldLog, held_log
from snapshots.parts import Parts, held_part
from snapshots.reading import Blobs, HeadRead, base_from, manifest_of, pack_reader, retried_while_moving, revision_of
from snapshots.state import (
    PersistedSessionState,
    PluginSessionSnapshot,
    SessionGraph,
    SessionNodeRecord,
    ToolState,
    nodes_from_plain,
)
from storage.digest import BlobRef
from storage.heap import collector_paused


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


def load_from(environment: Environment, read: HeadRead, revision: int, *, execution_state: bool) -> Loaded:
    """Load a retained revision from a live head just read; for use within `retried_while_moving`."""
    reader = pack_reader(environment, read.head)
    manifest = manifest_of(environment, read.head, revision, reader)
    checkpoint = manifest.checkpoint
    if not execution_state:  # but for its name: another part may have the same bytes
        checkpoint = replace(checkpoint, execution_state=None)
    refs = [*checkpoint.refs(), *manifest.placement.refs()]
    blobs = Blobs(environment, read.head, manifest.placement, refs, reader)
    with collector_paused():
        base = base_from(environment, read, manifest, blobs)
        graph, nodes = _graph(manifest.checkpoint, blobs)
        base = replace(base, graph=graph, parts=_parts(manifest.checkpoint, blobs))
        return Loaded(_state(base, nodes, blobs, execution_state=execution_state), base)


def _parts(checkpoint: SessionCheckpoint, blobs: Blobs) -> Parts:
    parts = Parts()
    for kind, ref in checkpoint.parts().items():
        if ref is not None and blobs.has(ref):
            parts = parts.holding(kind, held_part(ref, blobs.bytes(ref)))
    return parts


def _state(base: Base, graph: SessionGraph, blobs: Blobs, *, execution_state: bool) -> PersistedSessionState:
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


def _graph(checkpoint: SessionCheckpoint, blobs: Blobs) -> tuple[HeldLog[Never], SessionGraph]:
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
    return Fields(plain, key=key, record="list of tombstoned nodes").rows("ids", text_of)


def _mapping(plain: Any) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise TypeError("not a node")
    return plain


Snapshot = TypeVar("Snapshot", ToolState, PluginSessionSnapshot)


def _snapshot(kind: type[Snapshot], ref: BlobRef | None, blobs: Blobs) -> Snapshot | None:
    return None if ref is None else snapshot_in(kind, blobs.bytes(ref), ref, key=blobs.key)


def snapshot_in(kind: type[Snapshot], data: bytes, ref: BlobRef, *, key: str) -> Snapshot:
    """Return a snapshot as it is stored. Raises CorruptSnapshotError."""
    try:
        return kind.model_validate(codec.decode(data, key=key))
    except ValueError as error:
        reason = f"a stored {kind.__name__} cannot be read ({error})"
        raise CorruptSnapshotError(key, reason, ref=ref.digest) from error
