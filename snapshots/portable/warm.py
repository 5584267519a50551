"""`WarmSession`: a session as it was when this process last appended to it: the next append has nothing to read.

Rules:
1. Nothing rests on it: a commit on one that is not the present revision any more is refused by the store.
2. Whoever takes one has it alone, and puts it back only after a commit that was confirmed.

    sessions = warm_sessions()
    warm = sessions.take("s1")
    sessions.keep("s1", warm)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from snapshots.portable.session import Session
from snapshots.recent import STATES_BYTES_MAX, STATES_MAX, Recent, stored_bytes
from snapshots.state import PersistedSessionState


@dataclass(frozen=True, slots=True)
class WarmSession:
    """A state that stands on a revision, and the ids of its events."""

    state: PersistedSessionState
    event_ids: set[str]

    @classmethod
    def of(cls, state: PersistedSessionState, session: Session) -> Self:
        """Return a state as it was loaded, and the session that it holds."""
        return cls(state, {event.id for event in session.events})

    def with_event(self, event_id: str) -> Self:
        """Take note of an event that was appended."""
        self.event_ids.add(event_id)
        return self


def warm_sessions() -> Recent[WarmSession]:
    """Return what keeps them within the bounds of a process."""
    return Recent(STATES_MAX, bytes_max=STATES_BYTES_MAX, size_of=lambda warm: stored_bytes(warm.state))
