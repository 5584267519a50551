"""Sessions as they were when this process last appended to them, so that the next append has nothing to read.

Rules:
1. Nothing rests on them: a commit on one that is not the present revision any more is refused by the store.
2. Whoever takes one has it alone, and puts it back only after a commit that was confirmed.

    warm = sessions.take("s1")
    sessions.keep(warm)
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Self

from snapshots.base import tracking_of
from snapshots.portable.conversion import event_bodies
from snapshots.state import PersistedSessionState

SESSIONS_MAX = 32
BYTES_MAX = 64 << 20  # of all their graphs, as they are stored; in memory they take several times that


@dataclass(frozen=True, slots=True)
class WarmSession:
    """A state that stands on a revision, and the ids of its events."""

    state: PersistedSessionState
    event_ids: set[str]

    @classmethod
    def of(cls, state: PersistedSessionState) -> Self:
        """Return a state as it was loaded."""
        return cls(state, {body["id"] for body in event_bodies(state)})

    @property
    def size_bytes(self) -> int:
        """Size of its graph in the store."""
        base = tracking_of(self.state).base
        return 0 if base is None else sum(segment.ref.size_bytes for segment in base.checkpoint.graph)

    def with_event(self, event_id: str) -> Self:
        """Take note of an event that was appended."""
        self.event_ids.add(event_id)
        return self


class WarmSessions:
    """At most SESSIONS_MAX sessions and BYTES_MAX; what was not used longest goes first. Safe for threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._sessions: OrderedDict[str, tuple[WarmSession, int]] = OrderedDict()

    def take(self, session_id: str) -> WarmSession | None:
        """Return a session, which is not here any more then; None for one that is not here."""
        with self._mutex:
            warm, _ = self._sessions.pop(session_id, (None, 0))
        return warm

    def keep(self, warm: WarmSession) -> None:
        """Put a session back."""
        with self._mutex:
            self._sessions.pop(warm.state.session_id, None)
            self._sessions[warm.state.session_id] = warm, warm.size_bytes
            while len(self._sessions) > SESSIONS_MAX or sum(size for _, size in self._sessions.values()) > BYTES_MAX:
                self._sessions.popitem(last=False)

    def forget(self, session_id: str) -> None:
        """Drop a session."""
        self.take(session_id)
