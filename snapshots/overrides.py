"""`Overrides`: how a fork's first revision differs from the revision it was forked from. Pure.

A fork stores nothing: its head names the manifest of the revision it came from, and these few fields.

Rules:
1. What is forked has its own history, beginning with one row, and an empty ledger; the rest is the base's.
2. The fork's `checkpoint_ref` is the digest of base ref and overrides: equal wherever the fork is kept.
3. A fork of such a fork rests on the same base; the overrides are merged.

    overrides.applied(base_checkpoint), overrides.checkpoint_ref()
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from snapshots import codec
from snapshots.checkpoint import SessionCheckpoint, policy_from_plain
from snapshots.fields import (
    SCHEMA_VERSION,
    columns,
    id_bytes,
    id_text,
    instant,
    is_whole,
    micros,
    ref_from_plain,
    ref_to_plain,
)
from snapshots.history import FORK, HistoryRow
from snapshots.logs import NO_LOG
from snapshots.state import SessionPolicy
from storage.digest import BlobRef, blob_ref

OVERRIDES_BYTES_MAX = 8 << 10  # of a head; a fork that changes more stores a checkpoint of its own
INHERIT, FRESH = "inherit", "fresh"  # what becomes of the plugin snapshot


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a fork's first revision does not take from its base.

    Attributes:
        base_ref: Checkpoint of the revision it was forked from.
        base_revision: Its number there.
        commit_id: Commit that made the fork.
        created_at: When.
        plugins: "inherit", or "fresh": without the plugin snapshot.
        policy: Policy of its own, None for the base's.
        policy_session_id: Session id within the policy, "" for the base's.
    """

    base_ref: BlobRef
    base_revision: int
    commit_id: str
    created_at: datetime
    plugins: str = INHERIT
    policy: SessionPolicy | None = None
    policy_session_id: str = ""

    def on(self, before: Overrides | None) -> Overrides:
        """Return these overrides for a source that has overrides itself (rule 3)."""
        if before is None:
            return self
        return replace(
            self,
            base_ref=before.base_ref,
            base_revision=before.base_revision,
            plugins=FRESH if FRESH in (self.plugins, before.plugins) else INHERIT,
            policy=self.policy or before.policy,
            policy_session_id=self.policy_session_id or ("" if self.policy else before.policy_session_id),
        )

    def applied(self, base: SessionCheckpoint) -> SessionCheckpoint:
        """Return the fork's first revision (rule 1)."""
        policy = self.policy or base.small.policy
        if self.policy_session_id:
            policy = policy.model_copy(update={"session_id": self.policy_session_id})
        fresh = self.plugins == FRESH
        return replace(
            base,
            revision=1,
            history=NO_LOG,
            small=replace(
                base.small,
                policy=policy,
                plugin_snapshot_revision=None if fresh else base.small.plugin_snapshot_revision,
            ),
            plugin_snapshot=None if fresh else base.plugin_snapshot,
        )

    def row(self, node_count: int) -> HistoryRow:
        """Return the first row of the fork's history; its first commit stores it."""
        return HistoryRow(1, 0, FORK, self.commit_id, self.created_at, None, node_count, ())

    def checkpoint_ref(self) -> BlobRef:
        """Return the digest of base ref and overrides (rule 2)."""
        return blob_ref(self.encode())

    def encode(self) -> bytes:
        """Return the bytes whose digest is `checkpoint_ref`."""
        return codec.encode({"schema_version": SCHEMA_VERSION, "fork": self.to_plain()})

    def to_plain(self) -> list[Any]:
        """Return the fields in order."""
        return [
            ref_to_plain(self.base_ref),
            self.base_revision,
            id_bytes(self.commit_id),
            micros(self.created_at),
            self.plugins,
            None if self.policy is None else self.policy.model_dump(),
            self.policy_session_id,
        ]


def overrides_from_plain(plain: Any) -> Overrides:
    """Return the overrides that `to_plain` wrote. Raises ValueError, TypeError."""
    base_ref, revision, commit_id, created, plugins, policy, session_id = columns(plain, 7)
    if not is_whole(revision, 1) or plugins not in (INHERIT, FRESH) or not isinstance(session_id, str):
        raise ValueError("not the overrides of a fork")
    return Overrides(
        base_ref=ref_from_plain(base_ref),
        base_revision=revision,
        commit_id=id_text(commit_id),
        created_at=instant(created),
        plugins=plugins,
        policy=None if policy is None else policy_from_plain(policy),
        policy_session_id=session_id,
    )
