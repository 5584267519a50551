"""Long work on no servers, done by a process of its own while the tests of this one go on.

A test that is marked `aside` is done there as a whole; others ask for what a search found (`Aside.result`). None needs
another, and what comes of one depends on nothing but its argument.
"""

from __future__ import annotations

import io
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

NICENESS = 5  # the servers of other tests come first
Argument = TypeVar("Argument")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """What a piece of work raised, as text: not every error can be sent from process to process."""

    text: str


class Aside:
    """Work under way, in the order in which it was begun.

    Args:
        pool: Does it.
    """

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self._begun: dict[Any, Future[Any]] = {}

    def begin(self, work: Callable[[Argument], Result], argument: Argument) -> None:
        """Begin a piece of work, once; both can be pickled."""
        if (work, argument) not in self._begun:
            self._begun[work, argument] = self._pool.submit(_told, work, argument)

    def result(self, work: Callable[[Argument], Result], argument: Argument) -> Result:
        """Return what came of it, begun or not. Raises AssertionError for what it raised."""
        self.begin(work, argument)
        found: Result | Failure = self._begun[work, argument].result()
        if isinstance(found, Failure):
            raise AssertionError(found.text)
        return found


def tested(test: Callable[[], None]) -> str:
    """Run a test without arguments; return what it printed."""
    with redirect_stdout(io.StringIO()) as printed:
        try:
            test()
        except Exception as error:
            error.add_note(printed.getvalue())
            raise
    return printed.getvalue()


def _told(work: Callable[[Argument], Result], argument: Argument) -> Result | Failure:
    try:
        return work(argument)
    except Exception:  # noqa: BLE001  raised again by whoever asks
        return Failure(traceback.format_exc())


def _prepared() -> None:
    warnings.simplefilter("error")
    os.nice(NICENESS)


@contextmanager
def another_process() -> Iterator[Aside]:
    """Give one process, which begins afresh; in the end what it has not begun is dropped."""
    pool = ProcessPoolExecutor(1, get_context("spawn"), _prepared)
    try:
        yield Aside(pool)
    finally:
        pool.shutdown(cancel_futures=True)
