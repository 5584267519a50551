"""`SessionQueues`: callers of one process that write the same session go one after the other, in the order they came.

Rules:
1. It saves them conflicts with each other, nothing more: what protects the data is the compare-and-swap of the store.
2. So nobody waits for ever. Who has come through a queue already does not wait in another one, of whatever session; who
   has waited for WAIT_SECONDS_MAX goes ahead. Callers that need each other go on, and meet as strangers do.
3. Nothing stays of a session that nobody writes.

    queues = SessionQueues()
    with queues.one_at_a_time("s1"): ...
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

WAIT_SECONDS_MAX = 10.0  # a queue of a hundred callers at a store that takes 0.1 s each


class SessionQueues:
    """One queue for each session that somebody writes. Safe for threads; its length is the number of queues."""

    def __init__(self, wait_seconds_max: float = WAIT_SECONDS_MAX) -> None:
        self._wait_seconds_max = wait_seconds_max
        self._changing = threading.Lock()
        self._queues: dict[str, list[threading.Event]] = {}  # who came first stands first; it was told to go
        self._within = threading.local()

    def __len__(self) -> int:
        return len(self._queues)

    @contextmanager
    def one_at_a_time(self, session_id: str) -> Iterator[None]:
        """Run the block while no other one of this session runs, but for rule 2."""
        if getattr(self._within, "block", False):
            yield
            return
        mine = self._stand_in_line(session_id)
        try:
            mine.wait(self._wait_seconds_max)
            self._within.block = True
            yield
        finally:
            self._within.block = False
            self._leave(session_id, mine)

    def _stand_in_line(self, session_id: str) -> threading.Event:
        mine = threading.Event()
        with self._changing:
            queue = self._queues.setdefault(session_id, [])
            queue.append(mine)
            queue[0].set()
        return mine

    def _leave(self, session_id: str, mine: threading.Event) -> None:
        with self._changing:
            queue = self._queues[session_id]
            queue.remove(mine)
            if queue:
                queue[0].set()
            else:
                del self._queues[session_id]
