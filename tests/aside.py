"""Long work on no servers, done by a process of its own while the tests of this one go on.

A test that is marked `aside` is done there as a whole; others ask for what a search found (`Aside.result`). None needs
another, and what comes of one depends on nothing but its argument.
"""

from __future__ import annotations

import gc
import io
import os
import sys
import threading
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


def run_test(test: Callable[[], object]) -> str:
    """Run a test with the arguments it has; return what it printed."""
    with redirect_stdout(io.StringIO()) as printed:
        try:
            test()
        except BaseException as error:
            error.add_note(printed.getvalue())
            raise
    return printed.getvalue()


def _told(work: Callable[[Argument], Result], argument: Argument) -> Result | Failure:
    try:
        with _nothing_unseen():
            return work(argument)
    except BaseException:  # noqa: BLE001  raised again by whoever asks; pytest's own outcomes are no Exception
        return Failure(traceback.format_exc())


@contextmanager
def _nothing_unseen() -> Iterator[None]:
    """Raise AssertionError for what was raised where nobody could catch it: in a thread, in a finaliser."""
    unseen: list[str] = []

    def of_a_thread(told: threading.ExceptHookArgs) -> None:
        unseen.extend(traceback.format_exception(told.exc_type, told.exc_value, told.exc_traceback))

    def of_a_finaliser(told: sys.UnraisableHookArgs) -> None:
        unseen.append(f"{told.err_msg}: {told.object!r}\n")
        unseen.extend(traceback.format_exception(told.exc_type, told.exc_value, told.exc_traceback))

    before = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = of_a_thread, of_a_finaliser
    try:
        yield
        gc.collect()
    finally:
        threading.excepthook, sys.unraisablehook = before
    assert not unseen, "".join(unseen)


def _prepared() -> None:
    warnings.simplefilter("error")
    os.nice(NICENESS)


@contextmanager
def another_process() -> Iterator[Aside]:
    """Give one process, which begins afresh; in the end most of what it has not begun is dropped."""
    pool = ProcessPoolExecutor(1, get_context("spawn"), _prepared)
    try:
        yield Aside(pool)
    finally:
        pool.shutdown(cancel_futures=True)
