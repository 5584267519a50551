"""What a commit gives back: the new revision and the refs it stands on. Pure.

state.apply_persisted_commit_result(result)
"""

from __future__ import annotations

from pydantic import Field

from snapshots.state.turn import PersistedTurnState
from snapshots.state.values import U64, Ref, Value, omit_none


class CommitManifest(Value):
    """The parts of a revision that are blobs of their own, with its turn state."""

    turn_state: PersistedTurnState = Field(default_factory=PersistedTurnState)
    tool_state_ref: Ref | None = omit_none()
    plugin_snapshot_ref: Ref | None = omit_none()
    plugin_snapshot_revision: U64 | None = omit_none()
    execution_state_ref: Ref | None = omit_none()


class CommitResult(Value):
    """A commit that was applied.

    Attributes:
        head_revision: The new revision: 1, 2, 3 …
        checkpoint_ref: The revision's checkpoint; equal in every store.
        commit_id: Id of the commit, the same for every retry of it.
        uploaded_bytes: Bytes sent for it.
        requests: Requests made for it.
    """

    head_revision: U64
    checkpoint_ref: Ref
    manifest: CommitManifest
    commit_id: str
    uploaded_bytes: U64 = 0
    requests: U64 = 0


RuntimeCommitResult = CommitResult
