"""`Recent`: what was last used of some sessions, as many as are allowed.

states = Recent(32)
states.keep("s1", state)
states.find("s1")  # None once 32 others were used since
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by session, those used last. Safe for threads.

    Args:
        count_max: How many.
    """

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._values: dict[str, T] = {}  # the one used longest ago first
        self._changing = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def find(self, session_id: str) -> T | None:
        """Return what is kept of a session, None for nothing."""
        with self._changing:
            found = self._values.pop(session_id, None)
            if found is not None:
                self._values[session_id] = found
            return found

    def find_or_make(self, session_id: str, make: Callable[[], T]) -> T:
        """Return what is kept of a session, or what `make` returns, which is kept then; one for all threads."""
        with self._changing:
            found = self._values.pop(session_id, None)
            return self._kept(session_id, make() if found is None else found)

    def keep(self, session_id: str, value: T) -> T:
        """Keep this of the session from now on, at the cost of the one used longest ago; return it."""
        with self._changing:
            return self._kept(session_id, value)

    def _kept(self, session_id: str, value: T) -> T:
        self._values.pop(session_id, None)
        self._values[session_id] = value
        if len(self._values) > self._count_max:
            del self._values[next(iter(self._values))]
        return value
