"""Executors: one without threads, and one with threads that never wait for each other.

Rules:
1. In an `InlineExecutor` everything runs in the caller's thread, in the order of submission: equal calls, equal order
   of requests. An `Exception` goes into the future; anything stronger (a crash, an interrupt) passes through `submit`.
2. In a `NestingExecutor` what one of its own threads submits runs there and then: a pool whose threads all wait for
   what they have submitted to it would wait for ever. `drain` waits for all that others have submitted.
3. What a thread does for an operation that is watched counts as that operation's (`storage.observed`).

    with InlineExecutor() as executor:
        assert list(executor.map(str, [1, 2])) == ["1", "2"]
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import Any, ParamSpec, TypeVar

from storage.observed import in_context

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """An `Executor` that runs each call where it is submitted."""

    def __init__(self) -> None:
        self._ended = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn` now; return its outcome as a future that is done.

        Raises:
            RuntimeError: The executor was shut down, as of any executor.
        """
        if self._ended:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  the future is where a caller of an executor looks for it
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  nothing is pending
        """Take no more calls."""
        self._ended = True


class NestingExecutor(ThreadPoolExecutor):
    """Threads, and calls that may submit further calls and wait for them (rule 2).

    Args:
        max_workers: How many threads.
        thread_name_prefix: What their names begin with.
    """

    def __init__(self, max_workers: int, thread_name_prefix: str = "") -> None:
        super().__init__(max_workers, thread_name_prefix=thread_name_prefix, initializer=self._mark_thread)
        self._own = threading.local()
        self._inline = InlineExecutor()
        self._under_way: set[Future[Any]] = set()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let a thread run `fn`; the caller's own if it is one of these.

        Raises:
            RuntimeError: The executor was shut down.
        """
        if getattr(self._own, "is_worker", False):
            return self._inline.submit(fn, *args, **kwargs)
        future = super().submit(in_context(fn), *args, **kwargs)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def drain(self) -> None:
        """Wait until nothing is under way of what was submitted before; errors stay in their futures."""
        wait(self._under_way.copy())

    def _mark_thread(self) -> None:
        self._own.is_worker = True
