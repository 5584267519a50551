"""`collector_paused`: many objects made at once without Python's cycle collector walking through them as they come.

Rules:
1. What is made while it pauses is kept: a collector that finds nothing to free took a third of a large load's time.
2. It runs again, if it ran before, once the last of those threads that paused it is done; in a forked child at once.
3. What was made meanwhile counts as old then, so that the next collection of new objects does not walk through it
   either. Not where somebody has frozen objects of his own: these would be thawed.

    with collector_paused():
        nodes = parse(data)

Source: the documentation of `gc`: `freeze` takes all objects from the collector, `unfreeze` puts them among the oldest.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Pauses:
    """The blocks that the threads of this process are in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._ran = False

    def begin(self) -> None:
        with self._lock:
            if not self._count:
                self._ran = gc.isenabled()
                gc.disable()
            self._count += 1

    def end(self) -> None:
        with self._lock:
            self._count = max(0, self._count - 1)  # forked inside a block, the child is in none
            if not self._count and self._ran:
                if not gc.get_freeze_count():  # Rule 3.
                    gc.freeze()
                    gc.unfreeze()
                gc.enable()

    def forget(self) -> None:
        """Begin anew in a forked child, where the other threads are gone."""
        self._lock = threading.Lock()
        if self._count and self._ran:
            gc.enable()
        self._count = 0


_PAUSES = _Pauses()
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_PAUSES.forget)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector for this block, which makes objects that are kept and ends soon."""
    _PAUSES.begin()
    try:
        yield
    finally:
        _PAUSES.end()
