"""`Content`: what a commit has to store, worked out from a state and the revision it stands on. Pure.

Rules:
1. Of every pair of ref and snapshot the snapshot wins and becomes a new blob, unless the base has it already; else the
   ref carries over, and must be the base's.
2. Work is in proportion to what is new: only nodes after the committed ones are checked and encoded.
3. The graph starts afresh when it must (`graph_replace_required`, anything but appending, or no base).

    content = content_of(state, base.checkpoint, base.ledger, execution_state=None)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snapshots import codec
from snapshots.checkpoint import EXECUTION_STATE_BYTES_MAX, RECORD_BLOB_BYTES_MAX, SessionCheckpoint, SmallFields
from snapshots.errors import InvalidStateError, LimitExceededError
from snapshots.fields import ref_to_plain
from snapshots.history import COMMIT, REPLACE
from snapshots.parts import SpooledPart
from snapshots.state import (
    PersistedSessionState,
    SessionGraph,
    SessionNodeRecord,
    TokenLedgerEntry,
    TokenUsage,
    ToolState,
    diff_token_ledger,
    nodes_to_plain,
)
from storage.digest import BlobRef, Digest, blob_ref, digest


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a revision: the ref of its blob, and the bytes where they are new; of a large one a `SpooledPart`."""

    ref: BlobRef
    data: bytes | SpooledPart | None


@dataclass(frozen=True, slots=True)
class Content:
    """Everything a commit stores, but for its identity.

    Attributes:
        small: What stands in the checkpoint itself.
        nodes: How many nodes the graph has.
        new_nodes: Those to store: the last ones, or all when the graph starts afresh.
        new_bytes: The same, encoded.
        fresh_graph: Whether it does.
        tool_state: Part, None for none.
        plugin_snapshot: Part, None for none.
        execution_state: Part, None for none.
        tombstones: Part, None for none.
        usage: What is added to the ledger.
        ledger: The ledger afterwards.
        kind: Kind of the row in the history; "replace": ledger and graph start afresh with this revision.
        parent: Revision whose content it builds on, 0 for none.
    """

    small: SmallFields
    nodes: int
    new_nodes: Sequence[SessionNodeRecord]
    new_bytes: bytes
    fresh_graph: bool
    tool_state: Part | None
    plugin_snapshot: Part | None
    execution_state: Part | None
    tombstones: Part | None
    usage: tuple[TokenLedgerEntry, ...]
    ledger: tuple[TokenLedgerEntry, ...]
    kind: str
    parent: int

    def adds_to(self, checkpoint: SessionCheckpoint) -> bool:
        """Say whether storing this changes anything of the revision that it stands on."""
        parts = (self.tool_state, self.plugin_snapshot, self.execution_state, self.tombstones)
        refs = [None if part is None else part.ref for part in parts]
        held = [checkpoint.tool_state, checkpoint.plugin_snapshot, checkpoint.execution_state, checkpoint.tombstones]
        return self.fresh_graph or bool(self.new_nodes or self.usage) or (self.small, refs) != (checkpoint.small, held)

    def digest(self) -> Digest:
        """Return the digest by which a repeated commit is known to be the same."""
        return digest(codec.encode([*self._described(), self.new_bytes]))

    def turn_hash(self) -> str:
        """Return the content hash of a stamp that has none: the new parts without ids and times."""
        small = {**self.small.to_plain(), "leaf": None}
        described = [small, *self._described()[1:]]
        return digest(codec.encode([*described, [_without_ids(node) for node in nodes_to_plain(self.new_nodes)]]))

    def _described(self) -> list[Any]:
        parts = [self.tool_state, self.plugin_snapshot, self.execution_state, self.tombstones]
        refs = [None if part is None else ref_to_plain(part.ref) for part in parts]
        return [self.small.to_plain(), refs, [entry.model_dump() for entry in self.usage], self.fresh_graph]


def content_of(
    state: PersistedSessionState,
    checkpoint: SessionCheckpoint,
    ledger: Sequence[TokenLedgerEntry],
    *,
    execution_state: bytes | SpooledPart | None,
    replaces: bool = False,
) -> Content:
    """Return what committing `state` on a revision has to store.

    Args:
        state: The state; it is not changed.
        checkpoint: The revision it stands on, `UNBORN` for none.
        ledger: The token ledger of that revision.
        execution_state: New execution state; None for the state's own.
        replaces: Whether the state has no past of its own, so that ledger and graph start afresh.

    Raises:
        InvalidStateError: A broken graph, a ledger that decreased, a ref that the session does not hold.
    """
    fresh = replaces or state.graph_replace_required or not _continues(state.session_graph, checkpoint)
    if fresh:
        state.session_graph.check()
    else:
        state.session_graph.check_new()
    before = () if replaces else ledger
    nodes = state.session_graph.nodes
    new_nodes = nodes if fresh else nodes[state.session_graph.committed_count :]
    held = state.execution_state_snapshot if execution_state is None else execution_state
    return Content(
        small=SmallFields(
            policy=state.policy,
            turn=state.turn_state(),
            leaf_node_id=state.session_graph.leaf_node_id,
            tool_state_generation=_generation(state),
            plugin_snapshot_revision=_plugin_revision(state),
        ),
        nodes=len(nodes),
        new_nodes=new_nodes,
        new_bytes=_encoded_nodes(new_nodes, behind=0 if fresh else checkpoint.graph.ref.size_bytes),
        fresh_graph=fresh,
        tool_state=_part(
            "tool_state", _encoded(state.tool_state_snapshot), state.tool_state_ref, checkpoint.tool_state
        ),
        plugin_snapshot=_part(
            "plugin_snapshot", _encoded(state.plugin_snapshot), state.plugin_snapshot_ref, checkpoint.plugin_snapshot
        ),
        execution_state=_part("execution_state", held, state.execution_state_ref, checkpoint.execution_state),
        tombstones=_part("tombstones", _tombstones(state.session_graph), None, checkpoint.tombstones),
        usage=_ledger_delta(before, state.token_ledger),
        ledger=tuple(state.token_ledger),
        kind=REPLACE if replaces else COMMIT,
        parent=checkpoint.revision,
    )


def content_again(checkpoint: SessionCheckpoint, ledger: Sequence[TokenLedgerEntry], *, kind: str) -> Content:
    """Return what storing the content of an earlier revision again has to store: nothing new.

    Args:
        checkpoint: The revision.
        ledger: Its token ledger.
        kind: "rewind" or "restore".
    """
    return Content(
        small=checkpoint.small,
        nodes=checkpoint.node_count,
        new_nodes=(),
        new_bytes=b"",
        fresh_graph=False,
        tool_state=_again(checkpoint.tool_state),
        plugin_snapshot=_again(checkpoint.plugin_snapshot),
        execution_state=_again(checkpoint.execution_state),
        tombstones=_again(checkpoint.tombstones),
        usage=(),
        ledger=tuple(ledger),
        kind=kind,
        parent=checkpoint.revision,
    )


def _again(ref: BlobRef | None) -> Part | None:
    return None if ref is None else Part(ref, None)


def _tombstones(graph: SessionGraph) -> bytes | None:
    node_ids = graph.tombstoned_node_ids
    return codec.encode(list(node_ids)) if node_ids else None


def _continues(graph: SessionGraph, checkpoint: SessionCheckpoint) -> bool:
    """Say whether the graph is the checkpoint's with nodes appended.

    A graph that was shared with, or taken from, another state may have been marked as committed there.
    """
    return graph.only_appended and checkpoint.revision > 0 and graph.committed_count == checkpoint.node_count


def _generation(state: PersistedSessionState) -> int | None:
    if state.tool_state_snapshot is not None:
        return state.tool_state_snapshot.generation
    return None if state.tool_state_ref is None else state.tool_state_generation


def _plugin_revision(state: PersistedSessionState) -> int | None:
    held = state.plugin_snapshot is not None or state.plugin_snapshot_ref is not None
    return state.plugin_snapshot_revision if held else None


def _encoded_nodes(nodes: Sequence[SessionNodeRecord], *, behind: int) -> bytes:
    """Return the bytes of nodes that are appended to a log of `behind` bytes, which must stay readable."""
    data = codec.encode_entries(nodes_to_plain(nodes))
    if behind + len(data) > RECORD_BLOB_BYTES_MAX:
        raise LimitExceededError(f"graph of {RECORD_BLOB_BYTES_MAX} bytes", behind + len(data))
    return data


def _encoded(snapshot: ToolState | Any | None) -> bytes | None:
    return None if snapshot is None else codec.encode(snapshot.model_dump())


def _part(name: str, data: bytes | SpooledPart | None, ref: BlobRef | None, held: BlobRef | None) -> Part | None:
    if data is not None:
        limit = EXECUTION_STATE_BYTES_MAX if name == "execution_state" else RECORD_BLOB_BYTES_MAX
        size = len(data) if isinstance(data, bytes) else data.ref.size_bytes
        if size > limit:
            raise LimitExceededError(f"{name} of {limit} bytes", size)
        found = blob_ref(data) if isinstance(data, bytes) else data.ref
        return Part(found, None if found == held else data)  # Rule 1.
    if ref is None:
        return None
    if ref != held:
        raise InvalidStateError(
            f"{name}_ref names a blob that this revision of the session does not hold; "
            f"load the state from here, or give the {name}_snapshot inline"
        )
    return Part(ref, None)


def _ledger_delta(
    before: Sequence[TokenLedgerEntry], after: Sequence[TokenLedgerEntry]
) -> tuple[TokenLedgerEntry, ...]:
    _check_sums(after)
    order = {entry.key: index for index, entry in reversed(list(enumerate(after)))}
    delta = diff_token_ledger(before, after)
    return tuple(sorted(delta, key=lambda entry: order[entry.key]))  # so that a reload gives the rows in this order


def _check_sums(ledger: Sequence[TokenLedgerEntry]) -> None:
    """Check that the grand total, and so every sum over any of the rows, fits in 64 bits."""
    for name in TokenUsage.model_fields:
        total = sum(abs(getattr(entry.usage, name)) for entry in ledger)
        if total > _COUNT_MAX:
            raise LimitExceededError(f"token ledger with sums of {name} up to {_COUNT_MAX}", total)


_COUNT_MAX = (1 << 60) - 1  # four counts of it still add up within 64 bits
_IDS = frozenset({"node_id", "parent_node_id", "timestamp"})


def _without_ids(plain: Mapping[str, Any]) -> dict[str, Any]:
    scrubbed = {name: value for name, value in plain.items() if name not in _IDS}
    message = scrubbed.get("event", {}).get("Conversation") if scrubbed.get("kind") == "event" else None
    if message is not None:
        parts = [{**part, "id": None} for part in message.get("parts", ())]
        scrubbed["event"] = {"Conversation": {**message, "id": None, "parts": parts}}
    return scrubbed
