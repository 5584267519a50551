"""Something done in a process of its own: its peak of memory is its own, and what it imports.

Rules:
1. What it tells on the way and what it raises come back as if it had been done here. A class of errors of ours keeps
   message and attributes.
2. Interrupted, it is waited for: it may have to remove something.

    peak = alone(measure, "agent-turns", progress=progress)
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from snapshots.maintenance.progress import Progress
from storage.clock import SystemClock
from storage.errors import rebuilt

T = TypeVar("T")
TOLD_SECONDS = 0.1  # between two tellings
_PROCESSES = multiprocessing.get_context("spawn")  # nothing of this process's memory or imports


class AloneError(RuntimeError):
    """The process ended without an answer, killed perhaps. Remedy: look for memory; run it again."""


@dataclass(frozen=True, slots=True)
class _Told:
    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class _Failed:
    kind: type[Exception]
    message: str
    facts: dict[str, Any]

    def error(self) -> Exception:
        """Return the error again."""
        return rebuilt(self.kind, (self.message,), self.facts)


@dataclass(frozen=True, slots=True)
class _Done:
    value: Any


def alone(function: Callable[..., T], *arguments: Any, progress: Progress) -> T:
    """Return what `function(*arguments, progress=…)` returns in a new process; all of these can be pickled.

    Raises:
        AloneError: The process ended without an answer.
        And as the function.
    """
    ours, theirs = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_run, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        answer = _answer(ours, progress)
    finally:
        process.join()
        ours.close()
    if isinstance(answer, _Failed):
        raise answer.error()
    value: T = answer.value
    return value


def _answer(connection: Connection, progress: Progress) -> _Done | _Failed:
    while True:
        try:
            said = connection.recv()
        except EOFError:
            raise AloneError(
                "the process of the measure ended without an answer, most likely killed for want of memory: "
                "run this measure alone, or a smaller one (--revisions, --sessions)"
            ) from None
        if isinstance(said, _Told):
            progress(said.what, said.done, said.total)
            continue
        assert isinstance(said, _Done | _Failed), "there is nothing else to say"
        return said


def _run(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        connection.send(_Done(function(*arguments, progress=_Teller(connection))))
    except KeyboardInterrupt:
        return  # the parent has been interrupted as well
    except Exception as error:  # noqa: BLE001  handed to the parent, which raises it
        connection.send(_Failed(type(error), str(error), dict(vars(error))))


class _Teller:
    """Tells the parent, ten times a second at most: telling is no part of the work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._clock = SystemClock()
        self._told_at = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self._clock.monotonic()
        if now - self._told_at >= TOLD_SECONDS:
            self._told_at = now
            self._connection.send(_Told(what, done, total))
