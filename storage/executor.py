"""`InlineExecutor`: an executor without threads. What is submitted has been run when `submit` returns.

Rules:
1. Everything runs in the caller's thread, in the order of submission: equal calls, equal order of requests.
2. An `Exception` goes into the future; anything stronger (a crash, an interrupt) passes straight through `submit`.

    with InlineExecutor() as executor:
        assert list(executor.map(str, [1, 2])) == ["1", "2"]
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

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
