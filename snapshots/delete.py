"""Deleting a session: its head becomes a tombstone, by compare-and-swap. No head is ever removed.

Rules:
1. A tombstone keeps epoch, fence and the ring of commit ids, and is final: the id is spent.
2. It names nothing, so the next collection takes what it named before.

    delete(environment, "s1")
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from snapshots.environment import Environment
from snapshots.errors import SessionDeletedError
from snapshots.head import TOMBSTONE, Head
from snapshots.reading import read_live_head
from snapshots.rewrite import rewrite_head
from snapshots.state import ROOT

TOMBSTONE_BYTES_MAX = 8 << 10  # it stays for ever


def delete(environment: Environment, session_id: str) -> None:
    """Publish a tombstone; see `SnapshotRepository.delete`."""
    at, state_id = environment.clock.now(), environment.clock.new_id()
    read = read_live_head(environment, session_id)
    try:
        rewrite_head(
            environment, read, lambda head: tombstone(head, state_id=state_id, at=at), limit_bytes=TOMBSTONE_BYTES_MAX
        )
    except SessionDeletedError:
        return  # by us, or by somebody else: what was asked for is so


def tombstone(head: Head, *, state_id: str, at: datetime) -> Head:
    """Return the last state of a live head (rule 1)."""
    return replace(
        head,
        status=TOMBSTONE,
        state_id=state_id,
        holder=None,
        checkpoint_ref=None,
        manifest=None,
        inline_manifest=b"",
        reads=(),
        stretches=(),
        tail=(),
        kept=(),
        pins=(),
        overrides=None,
        relation=ROOT,
        updated_at=at,
    )
