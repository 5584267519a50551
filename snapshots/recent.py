"""`Recent`: what was last used of some sessions, as many and as much as is allowed. Safe for threads.

Rules:
1. Nothing rests on it: what is kept is used again only if it is found to be so still, or if the store refuses what is
   stale.
2. What was used longest ago goes first.

    states = Recent(32)
    states.keep("s1", state)
    states.find("s1")  # None once 32 others were used since
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from snapshots.base import tracking_of
from snapshots.state import PersistedSessionState

T = TypeVar("T")
STATES_MAX = 32  # of sessions that a process keeps at hand
STATES_BYTES_MAX = 64 << 20  # of all of them, as they are stored; in memory they take several times that


class Recent(Generic[T]):
    """Values by session, those used last.

    Args:
        count_max: How many.
        bytes_max: Of what size together.
        size_of: The size of one in bytes, asked when it is kept.
    """

    def __init__(self, count_max: int, *, bytes_max: int = 0, size_of: Callable[[T], int] = lambda _: 0) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._size_of = size_of
        self._values: dict[str, tuple[T, int]] = {}  # the one used longest ago first
        self._changing = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def find(self, session_id: str) -> T | None:
        """Return what is kept of a session, None for nothing."""
        with self._changing:
            found = self._values.pop(session_id, None)
            if found is None:
                return None
            self._values[session_id] = found
            return found[0]

    def take(self, session_id: str) -> T | None:
        """Return what is kept of a session, and keep it no longer: whoever takes it has it alone."""
        with self._changing:
            found = self._values.pop(session_id, None)
            return None if found is None else found[0]

    def find_or_make(self, session_id: str, make: Callable[[], T]) -> T:
        """Return what is kept of a session, or what `make` returns, which is kept then; one for all threads."""
        with self._changing:
            found = self._values.get(session_id)
            return self._kept(session_id, make() if found is None else found[0])

    def keep(self, session_id: str, value: T) -> T:
        """Keep this of the session from now on, at the cost of what was used longest ago; return it.

        What is larger than all may be together is not kept.
        """
        with self._changing:
            return self._kept(session_id, value)

    def _kept(self, session_id: str, value: T) -> T:
        self._values.pop(session_id, None)
        size = self._size_of(value)
        if size > self._bytes_max:  # alone it is too much: the others stay
            return value
        self._values[session_id] = value, size
        while len(self._values) > self._count_max or sum(size for _, size in self._values.values()) > self._bytes_max:
            del self._values[next(iter(self._values))]
        return value


def recent_states() -> Recent[PersistedSessionState]:
    """Return what keeps states within the bounds of a process."""
    return Recent(STATES_MAX, bytes_max=STATES_BYTES_MAX, size_of=stored_bytes)


def stored_bytes(state: PersistedSessionState) -> int:
    """Return the size of a state's graph in the store; 0 for one that stands on nothing."""
    base = tracking_of(state).base
    return 0 if base is None else base.checkpoint.graph.ref.size_bytes
