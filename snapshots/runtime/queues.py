"""`SessionQueues`: callers of one process that save the same session go one after the other.

Rules:
1. It saves them conflicts with each other, nothing more: what protects the data is the compare-and-swap of the store.
2. Nothing stays of a session that nobody saves.

    queues = SessionQueues()
    with queues.turn("s1"): ...
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Queue:
    def __init__(self) -> None:
        self.first = threading.Lock()
        self.callers = 0


class SessionQueues:
    """One queue for each session that somebody saves. Safe for threads; its length is the number of queues."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._queues: dict[str, _Queue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    @contextmanager
    def turn(self, session_id: str) -> Iterator[None]:
        """Run the block while nobody else is in one of this session; who waits goes in no order in particular."""
        with self._changing:
            queue = self._queues.setdefault(session_id, _Queue())
            queue.callers += 1
        try:
            with queue.first:
                yield
        finally:
            with self._changing:
                queue.callers -= 1
                if not queue.callers:
                    del self._queues[session_id]
