"""The searches of these tests, done by a process of their own while the tests of this one go on.

None needs another, and what comes of one depends on nothing but its argument.
"""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

NICENESS = 5  # the servers of other tests come first
Wanted = TypeVar("Wanted")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """What a search raised, as text: not every error can be sent from process to process."""

    text: str


class Searches:
    """Searches under way, in the order in which they were begun.

    Args:
        pool: Does them.
    """

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self._begun: dict[Any, Future[Any]] = {}

    def begin(self, search: Callable[[Wanted], Result], wanted: Wanted) -> None:
        """Begin a search, once."""
        if (search, wanted) not in self._begun:
            self._begun[search, wanted] = self._pool.submit(_told, search, wanted)

    def result(self, search: Callable[[Wanted], Result], wanted: Wanted) -> Result:
        """Return what came of a search, begun or not. Raises AssertionError for what it raised."""
        self.begin(search, wanted)
        found: Result | Failure = self._begun[search, wanted].result()
        if isinstance(found, Failure):
            raise AssertionError(found.text)
        return found


def _told(search: Callable[[Wanted], Result], wanted: Wanted) -> Result | Failure:
    try:
        return search(wanted)
    except Exception:  # noqa: BLE001  raised again by whoever asks
        return Failure(traceback.format_exc())


def _prepared() -> None:
    warnings.simplefilter("error")
    os.nice(NICENESS)


@contextmanager
def another_process() -> Iterator[Searches]:
    """Give searches in one process, which begins afresh; in the end those that it has not begun are dropped."""
    pool = ProcessPoolExecutor(1, get_context("spawn"), _prepared)
    try:
        yield Searches(pool)
    finally:
        pool.shutdown(cancel_futures=True)
