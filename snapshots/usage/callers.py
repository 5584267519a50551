"""Callers of one process who append to one usage log: one of them writes for all that wait.

Rules:
1. Lines are written in the order in which their callers came, those of one caller together, and once.
2. Whoever has the turn writes for those in front, as many as one segment may hold. However that ends, the turn is given
   back: nobody waits for a caller that was interrupted.
3. Each caller is told its own outcome. What became of lines whose writing was interrupted nobody can tell, and that is
   said; what nobody has begun to write stays in line, except that of a caller who was interrupted.

    callers = Callers(key, write)
    row_ids = callers.served(lines)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice

from snapshots.usage.rows import Line
from snapshots.usage.segments import SEGMENT_BYTES_MAX
from storage.errors import UnavailableError

ID_BYTES_MAX = 96  # what an id of ours and a line's end add


def stored_size(line: Line) -> int:
    """Return how many bytes a line may have as it is stored."""
    return len(line.text) + ID_BYTES_MAX


class _Waiting:
    """Lines of one caller, and what became of them."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        self.outcome: Future[tuple[str, ...]] = Future()
        self.raw_bytes = sum(map(stored_size, lines))


class Callers:
    """Those who append to one log. Safe for threads, not for a child process (`UsageLog` makes it another one).

    Args:
        key: Of the log's index, for errors.
        write: Writes lines, all of them or none; returns the ids of their rows, in order.
    """

    def __init__(self, key: str, write: Callable[[Sequence[Line]], Sequence[str]]) -> None:
        self._key = key
        self._write = write
        # Entered by itself, not as the condition: an interrupt may come between a condition's own exit and the lock's.
        self._mutex = threading.RLock()
        self._turn = threading.Condition(self._mutex)
        self._waiting: deque[_Waiting] = deque()  # those whose lines are being written included
        self._leader: _Waiting | None = None  # whose caller has the turn
        self._begun: Sequence[_Waiting] = ()  # what it has begun to write

    def served(self, lines: Sequence[Line]) -> tuple[str, ...]:
        """Return the ids of the rows that lines have become. Raises whatever writing them raised."""
        mine = _Waiting(lines)
        try:
            with self._mutex:
                self._waiting.append(mine)
            while not mine.outcome.done():
                self._take_turn(mine)
        finally:
            with self._mutex, suppress(ValueError):  # Rule 3.
                self._waiting.remove(mine)
            self._give_back(mine)
        return mine.outcome.result()

    def _take_turn(self, mine: _Waiting) -> None:
        """Wait until lines can be written, and write those in front, unless `mine` are settled before."""
        try:
            with self._mutex:
                self._turn.wait_for(lambda: mine.outcome.done() or self._leader is None)
                if mine.outcome.done():
                    return
                self._leader = mine
                group = self._front()
            self._serve(group)
        finally:
            self._give_back(mine)

    def _front(self) -> Sequence[_Waiting]:
        """Return those whose lines go together (rule 2)."""
        room = SEGMENT_BYTES_MAX
        for count, one in enumerate(self._waiting):
            room -= one.raw_bytes
            if room < 0 and count:
                return list(islice(self._waiting, count))
        return list(self._waiting)

    def _serve(self, group: Sequence[_Waiting]) -> None:
        self._begun = group
        try:
            ids = iter(self._write([line for one in group for line in one.lines]))
            for one in group:
                one.outcome.set_result(tuple(islice(ids, len(one.lines))))
        except Exception as error:  # noqa: BLE001  each caller is told, in its own thread
            _fail(group, error)

    def _give_back(self, mine: _Waiting) -> None:
        """Give the turn back, if it is the caller's; what is begun and not settled was interrupted (rule 3).

        Interrupted itself, it is called once more.
        """
        with self._mutex:
            if self._leader is not mine:
                return
            _fail(self._begun, UnavailableError(self._key, "the thread that wrote for all was interrupted"))
            while self._waiting and self._waiting[0].outcome.done():
                self._waiting.popleft()
            self._turn.notify_all()
            self._begun = ()
            self._leader = None


def _fail(group: Sequence[_Waiting], error: Exception) -> None:
    """Tell those that were told nothing yet."""
    for one in group:
        if not one.outcome.done():
            one.outcome.set_exception(error)
