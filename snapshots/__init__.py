"""A session store for AI agents: content-addressed revisions on S3-compatible storage, committed by compare-and-swap.

Rules:
1. Importing this loads nothing else; a public name brings its module with it when it is first asked for.
2. What is logged is shown where somebody asks for it: the logger `snapshots` has a handler that drops.

from snapshots import PersistedSessionState, SnapshotRepository

with SnapshotRepository.open("file:sessions") as repo:
    state = PersistedSessionState(session_id="s1")
    repo.commit(state)
"""

TYPE_CHECKING = False  # what checkers take for typing's own, which would load as much as all the rest here
if TYPE_CHECKING:
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

_HOMES = {
    "CommitResult": "snapshots.state",
    "Message": "snapshots.state",
    "Part": "snapshots.state",
    "PersistedSessionState": "snapshots.state",
    "PluginSessionSnapshot": "snapshots.state",
    "ResumeReport": "snapshots.state",
    "RevisionInfo": "snapshots.sessions",
    "SessionGraph": "snapshots.state",
    "SessionInfo": "snapshots.sessions",
    "SessionPolicy": "snapshots.state",
    "SnapshotRepository": "snapshots.repository",
    "StoreStats": "snapshots.sessions",
    "TokenLedgerEntry": "snapshots.state",
    "TokenUsage": "snapshots.state",
    "ToolState": "snapshots.state",
    "TurnStamp": "snapshots.stamps",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _public(name: str) -> object:
    """Return a public name, and keep it (rule 1, PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib
    import logging

    logger = logging.getLogger(__name__)
    if not logger.handlers:  # rule 2
        logger.addHandler(logging.NullHandler())
    found: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


if not TYPE_CHECKING:  # a checker would take it for a promise that there is every name
    __getattr__ = _public
