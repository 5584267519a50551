"""A session store for AI agents: content-addressed revisions on S3-compatible storage, committed by compare-and-swap.

from snapshots import PersistedSessionState, SnapshotRepository

with SnapshotRepository.open("file:sessions") as repo:
    state = PersistedSessionState(session_id="s1")
    repo.commit(state)
"""

import logging

from snapshots.repository import SnapshotRepository
from snapshots.sessions import RevisionInfo, SessionInfo, StoreStats
from snapshots.stamps import TurnStamp
from snapshots.state import (
    CommitResult,
    Message,
    Part,
    PersistedSessionState,
    PluginSessionSnapshot,
    ResumeReport,
    SessionGraph,
    SessionPolicy,
    TokenLedgerEntry,
    TokenUsage,
    ToolState,
)

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what is logged is shown where somebody asks for it

__all__ = [
    "CommitResult",
    "Message",
    "Part",
    "PersistedSessionState",
    "PluginSessionSnapshot",
    "ResumeReport",
    "RevisionInfo",
    "SessionGraph",
    "SessionInfo",
    "SessionPolicy",
    "SnapshotRepository",
    "StoreStats",
    "TokenLedgerEntry",
    "TokenUsage",
    "ToolState",
    "TurnStamp",
]
