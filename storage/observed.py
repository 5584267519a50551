"""Operations under way: what somebody asked for, and what it takes in requests, bytes and time. And who listens.

Rules:
1. While nobody listens nothing happens: no operation is made, no clock is asked, no context is set.
2. A request belongs to the innermost operation under way, also in the threads that work for it (`in_context`). One that
   is begun inside another is its child; what the child sends is not counted again for the parent.
3. Listeners are of the process, as those of `logging` are: who watches is not asked by who works. They hear of
   operations that begin after they came. What one of them raises never reaches the operation: it is logged as an
   error, once for each listener, since one that fails every time would fill the log.
4. A process that is forked in the midst of an operation is no part of it: what it sends is its own.

    listen(listener)
    operation = begin("commit", {"tenant": "default"}, monotonic)
    with operation.under_way(): ...
    operation.end(None)
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from storage.errors import PreconditionFailedError, UnavailableError

P = ParamSpec("P")
T = TypeVar("T")
Attribute = str | int
OK = "ok"
_MAY_BE_SENT_AGAIN = frozenset({PreconditionFailedError.__name__, UnavailableError.__name__})

logger = logging.getLogger("snapshots")


@dataclass(frozen=True, slots=True)
class Request:
    """One request, after it was answered or given up.

    Attributes:
        name: "get", "stat", "list", "put-create", "put-replace", "put-overwrite", "put-parts" (in several parts, where
            the store takes them), "delete", "list-uploads" or "abort-upload".
        key: Of the object; of a listing the prefix.
        bytes_in: Received from the store.
        bytes_out: Sent to it.
        failure: Name of the class of the error that it raised, "" for none.
    """

    name: str
    key: str
    bytes_in: int = 0
    bytes_out: int = 0
    failure: str = ""

    @property
    def verb(self) -> str:
        """Return what it is without how: "put", "get" …."""
        return self.name.partition("-")[0]


@dataclass(slots=True)
class Traffic:
    """What was sent with one verb.

    Attributes:
        requests: How many.
        bytes_in: Received from the store.
        bytes_out: Sent to it.
    """

    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Listener:
    """Hears of operations; override what is wanted. Called by whatever thread works, and must be safe for that."""

    def begun(self, operation: Operation) -> None:
        """Hear that an operation began."""

    def entered(self, operation: Operation) -> None:
        """Hear that the caller's thread works on it now: once, or for every item of one that yields items."""

    def left(self, operation: Operation) -> None:
        """Hear, in the same thread and context, that it does not any more."""

    def ended(self, operation: Operation) -> None:
        """Hear that it ended; everything about it is known now."""

    def requested(self, operation: Operation | None, request: Request) -> None:
        """Hear of a request and of the operation that it belongs to, None for a request without one."""


class Operation:
    """One operation, from its beginning to its end. Several threads may count for it.

    Attributes:
        name: What was asked for: "commit", "load" ….
        attributes: Ids and numbers, such as tenant, session and revision; never content.
        parent: The operation that it is part of, None for none.
        seconds: How long it was worked on, by the caller's thread; of one that yields items without the time between.
        traffic: Verb → what was sent with it.
        retries: Requests that were sent again after they had failed: a compare-and-swap that was lost, an answer that
            did not come. What a client of the store repeats by itself is not seen.
        unavailable: Requests that the store gave no usable answer to, those it asked to slow down included.
        outcome: "ok", or the name of the class of the error that it raised; "" while it is under way.
        is_own_outcome: Whether the outcome is not the one of an operation inside, passed on.
    """

    def __init__(
        self,
        name: str,
        attributes: dict[str, Attribute],
        parent: Operation | None,
        listeners: tuple[Listener, ...],
        monotonic: Callable[[], float],
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.parent = parent
        self.seconds = 0.0
        self.traffic: dict[str, Traffic] = {}
        self.retries = 0
        self.unavailable = 0
        self.outcome = ""
        self.is_own_outcome = True
        self._listeners = listeners
        self._monotonic = monotonic
        self._process_id = os.getpid()
        self._counting = threading.Lock()
        self._failed: set[tuple[str, str]] = set()  # verb and key of requests that may be sent again
        self._error_inside: BaseException | None = None

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Let what is sent meanwhile belong to it."""
        token = _CURRENT.set(self)
        started = self._monotonic()
        for listener in self._listeners:
            _tell(listener, listener.entered, self)
        try:
            yield
        finally:
            for listener in reversed(self._listeners):
                _tell(listener, listener.left, self)
            self.seconds += self._monotonic() - started
            if os.getpid() == self._process_id:
                _CURRENT.reset(token)

    def count(self, request: Request) -> None:
        """Add a request."""
        what = request.verb, request.key
        with self._counting:
            self.retries += what in self._failed
            if request.failure in _MAY_BE_SENT_AGAIN:
                self._failed.add(what)
            else:
                self._failed.discard(what)
            traffic = self.traffic.setdefault(request.verb, Traffic())
            traffic.requests += 1
            traffic.bytes_in += request.bytes_in
            traffic.bytes_out += request.bytes_out
            self.unavailable += request.failure == UnavailableError.__name__

    def end(self, error: BaseException | None) -> None:
        """Tell everybody what became of it; `error` is what it raised, None for nothing."""
        if os.getpid() != self._process_id:
            return  # Rule 4.
        self.outcome = OK if error is None else type(error).__name__
        self.is_own_outcome = error is None or not _comes_of(error, self._error_inside)
        self._error_inside = None
        if self.parent is not None and error is not None and not self.parent.outcome:
            self.parent._error_inside = error
        for listener in self._listeners:
            _tell(listener, listener.ended, self)


LISTENERS: list[Listener] = []
_CURRENT: ContextVar[Operation | None] = ContextVar("snapshots_operation", default=None)
_FAILED: set[int] = set()  # listeners that raised already, by identity


def _leave_to_the_parent_process() -> None:
    _CURRENT.set(None)


os.register_at_fork(after_in_child=_leave_to_the_parent_process)  # Rule 4.


def listen(listener: Listener) -> None:
    """Let a listener hear of every operation from now on, and of requests without one. Several may."""
    LISTENERS.append(listener)


def stop_listening(listener: Listener) -> None:
    """Let it hear no more; of operations under way it hears the end. Raises ValueError for one that does not listen."""
    LISTENERS.remove(listener)
    _FAILED.discard(id(listener))


def begin(name: str, attributes: dict[str, Attribute], monotonic: Callable[[], float]) -> Operation:
    """Return a new operation, a child of the one under way; `monotonic` gives seconds that never go back."""
    operation = Operation(name, attributes, _CURRENT.get(), tuple(LISTENERS), monotonic)
    for listener in operation._listeners:
        _tell(listener, listener.begun, operation)
    return operation


def current() -> Operation | None:
    """Return the innermost operation under way, None for none."""
    return _CURRENT.get()


@contextmanager
def within_the_store() -> Iterator[None]:
    """Let what a store does meanwhile, of itself, belong to no operation: in tests it may let others go first."""
    token = _CURRENT.set(None)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def requested(request: Request) -> None:
    """Count a request for the operation under way, and tell everybody who listens now."""
    operation = _CURRENT.get()
    if operation is not None:
        operation.count(request)
    for listener in tuple(LISTENERS):
        _tell(listener, partial(listener.requested, operation), request)


def in_context(function: Callable[P, T]) -> Callable[P, T]:
    """Return what calls `function` in another thread on behalf of the operation under way; itself if there is none."""
    return function if _CURRENT.get() is None else partial(copy_context().run, function)


def _comes_of(error: BaseException | None, inside: BaseException | None) -> bool:
    """Say whether an error is one that was raised inside, or was raised because of it."""
    while error is not None and error is not inside:
        error = error.__cause__
    return error is not None


def _tell(listener: Listener, hear: Callable[[T], None], what: T) -> None:
    """Tell a listener something (rule 3)."""
    try:
        hear(what)
    except Exception:
        if id(listener) not in _FAILED:
            _FAILED.add(id(listener))
            logger.exception(
                "%s raised; it goes on hearing, its further errors are not logged", type(listener).__name__
            )
