"""`SessionCheckpoint`: the logical record of one revision. No place, no session id, no epoch. Pure.

Rules:
1. Its `BlobRef` is `checkpoint_ref`, the state digest: equal wherever the revision is kept.
2. Every blob that a load needs is named here; where it lies is the placement's business.
3. Encoding is deterministic: equal records have equal bytes.

    checkpoint.encode(), SessionCheckpoint.decode(data, key="…")
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from snapshots import codec
from snapshots.errors import CorruptSnapshotError
from snapshots.fields import SCHEMA_VERSION, Fields, is_whole, ref_from_plain, ref_to_plain, text_of
from snapshots.logs import NO_LOG, LogRef, log_ref_from_plain
from snapshots.parts import EXECUTION_STATE, PLUGIN_SNAPSHOT, TOMBSTONES, TOOL_STATE
from snapshots.state import CommitManifest, ModeTurnOptions, PersistedTurnState, SessionPolicy, TokenUsage
from storage.digest import BlobRef

# Declared size by kind: what a reader is ready to hold in memory for one blob.
RECORD_BLOB_BYTES_MAX = 1 << 30  # graph, history, tool state, plugin snapshot
EXECUTION_STATE_BYTES_MAX = 1 << 36  # opaque; its pack still fits one upload of 10,000 parts of 8 MiB


@dataclass(frozen=True, slots=True)
class SmallFields:
    """What is kept in the checkpoint itself."""

    policy: SessionPolicy
    turn: PersistedTurnState
    leaf_node_id: str | None
    tool_state_generation: int | None
    plugin_snapshot_revision: int | None

    def to_plain(self) -> dict[str, Any]:
        """Return the fields as a plain map."""
        return {
            "policy": self.policy.model_dump(),
            "turn": self.turn.model_dump(),
            "leaf": self.leaf_node_id,
            "tool_state_generation": self.tool_state_generation,
            "plugin_snapshot_revision": self.plugin_snapshot_revision,
        }


@dataclass(frozen=True, slots=True)
class SessionCheckpoint:
    """One revision.

    Attributes:
        revision: Its number.
        small: Policy, turn state, leaf, counters.
        graph: Log of the graph's nodes.
        history: Log of the history up to and with this revision.
        tool_state: Blob of the tool state.
        plugin_snapshot: Blob of the plugin snapshot.
        execution_state: Blob of the execution state.
        tombstones: Blob with the ids of the graph's tombstoned nodes.
    """

    revision: int
    small: SmallFields
    graph: LogRef = NO_LOG
    history: LogRef = NO_LOG
    tool_state: BlobRef | None = None
    plugin_snapshot: BlobRef | None = None
    execution_state: BlobRef | None = None
    tombstones: BlobRef | None = None

    @property
    def node_count(self) -> int:
        """Return the number of nodes of the graph."""
        return self.graph.count

    def parts(self) -> dict[str, BlobRef | None]:
        """Return the parts by kind, None for one that it does not have."""
        return {
            TOOL_STATE: self.tool_state,
            PLUGIN_SNAPSHOT: self.plugin_snapshot,
            EXECUTION_STATE: self.execution_state,
            TOMBSTONES: self.tombstones,
        }

    def refs(self) -> Iterator[BlobRef]:
        """Yield every blob that this revision needs."""
        yield from (log.ref for log in (self.graph, self.history) if log.count)
        yield from (part for part in self.parts().values() if part is not None)

    def manifest(self) -> CommitManifest:
        """Return what a commit's result says of this revision."""
        return CommitManifest(
            turn_state=self.small.turn,
            tool_state_ref=self.tool_state,
            plugin_snapshot_ref=self.plugin_snapshot,
            plugin_snapshot_revision=self.small.plugin_snapshot_revision,
            execution_state_ref=self.execution_state,
        )

    def encode(self) -> bytes:
        """Return the bytes whose digest is `checkpoint_ref`."""
        return codec.encode(
            {
                "schema_version": SCHEMA_VERSION,
                "revision": self.revision,
                **self.small.to_plain(),
                "graph": self.graph.to_plain(),
                "history": self.history.to_plain(),
                "tool_state": _optional_ref(self.tool_state),
                "plugin_snapshot": _optional_ref(self.plugin_snapshot),
                "execution_state": _optional_ref(self.execution_state),
                "tombstones": _optional_ref(self.tombstones),
            }
        )

    @classmethod
    def decode(cls, data: bytes, *, key: str) -> SessionCheckpoint:
        """Return the record that `encode` wrote. Raises CorruptSnapshotError, UnsupportedSchemaError."""
        fields = Fields(codec.decode(data, key=key), key=key, record="checkpoint")
        fields.schema()
        small = SmallFields(
            policy=fields.parsed("policy", policy_from_plain, fields.value("policy")),
            turn=fields.parsed("turn", _turn, fields.value("turn")),
            leaf_node_id=fields.optional("leaf", text_of),
            tool_state_generation=fields.optional("tool_state_generation", _count),
            plugin_snapshot_revision=fields.optional("plugin_snapshot_revision", _count),
        )
        checkpoint = cls(
            revision=fields.integer("revision", 1),
            small=small,
            graph=fields.parsed("graph", log_ref_from_plain, fields.value("graph")),
            history=fields.parsed("history", log_ref_from_plain, fields.value("history")),
            tool_state=fields.optional("tool_state", ref_from_plain),
            plugin_snapshot=fields.optional("plugin_snapshot", ref_from_plain),
            execution_state=fields.optional("execution_state", ref_from_plain),
            tombstones=fields.optional("tombstones", ref_from_plain),
        )
        fields.nothing_else()
        checkpoint._check_sizes(key)
        return checkpoint

    def _check_sizes(self, key: str) -> None:
        records = replace(self, execution_state=None)
        limits = [(ref, RECORD_BLOB_BYTES_MAX) for ref in records.refs()]
        if self.execution_state is not None:
            limits.append((self.execution_state, EXECUTION_STATE_BYTES_MAX))
        for ref, limit in limits:
            if ref.size_bytes > limit:
                raise CorruptSnapshotError(key, f"a blob declares {ref.size_bytes} bytes, over {limit}", ref=ref.digest)


def _optional_ref(ref: BlobRef | None) -> list[Any] | None:
    return None if ref is None else ref_to_plain(ref)


def _count(value: Any) -> int:
    if not is_whole(value):
        raise ValueError("not a count")
    return int(value)


def policy_from_plain(plain: Any) -> SessionPolicy:
    """Return the policy that a record holds. Raises ValueError."""
    return SessionPolicy.model_validate(plain, strict=True)  # what was written needs no conversion


def _turn(plain: Any) -> PersistedTurnState:
    return PersistedTurnState.model_validate(plain, strict=True)


_NOTHING = SmallFields(
    SessionPolicy(),
    PersistedTurnState(
        turn_index=0, token_usage=TokenUsage(), last_prompt_usage=None, mode_turn_options=ModeTurnOptions()
    ),
    None,
    None,
    None,
)
UNBORN = SessionCheckpoint(revision=0, small=_NOTHING)
"""What a session is before its first revision. Never encoded."""
