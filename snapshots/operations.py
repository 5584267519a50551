"""What callers ask for, as operations that can be watched (`storage.observed`): each public entry point is one.

Rules:
1. It stands where all ways to the work meet, once: a commit of a `Writer`, of an update and of the repository is one
   "commit". Names of what lies beside the sessions have a prefix: "usage.append"; so have plans: "collect.plan".
2. While nobody listens a call is passed on, and that is all.
3. What is told of it are ids, numbers and the class of an error: never content, never an error's text, which may quote
   what somebody has given.
4. An operation that yields items is one operation from the first item to the last; what its caller does in between
   does not belong to it.

    @operation("rewind", "self._environment", "session_id", revision="head_revision")
    def rewind(self, session_id: str, revision: int) -> CommitResult: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from operator import attrgetter
from typing import Any, ParamSpec, TypeVar

from storage.clock import SystemClock
from storage.observed import LISTENERS, Attribute, Operation, begin

P = ParamSpec("P")
T = TypeVar("T")

TENANT = "tenant"
SESSION = "session_id"
REVISION = "revision"
_CLOCK = SystemClock()  # seconds are told, nothing rests on them; a clock of a repository may be one of a simulation


def operation(
    name: str, where: str, session: str = "", *, revision: str = ""
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function or method an operation.

    Args:
        name: Of the operation.
        where: Path to the `Environment` that it works in, from one of its parameters: "self._environment".
        session: Path to the id of its session, "" for none: "session_id", "state.session_id".
        revision: Path to the revision that it made, from what it returns; "" for none.
    """

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        attributes_of = _Attributes(function, where, session)

        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            if not LISTENERS:
                return function(*args, **kwargs)
            with _under_way(name, attributes_of(args, kwargs)) as running:
                result = function(*args, **kwargs)
                if revision:
                    running.attributes |= _told_values({REVISION: attrgetter(revision)(result)})
                return result

        return called

    return decorated


def yielding_operation(
    name: str, where: str, session: str = ""
) -> Callable[[Callable[P, Iterator[T]]], Callable[P, Iterator[T]]]:
    """Make a function that returns an iterator an operation, by rule 4; arguments as for `operation`."""

    def decorated(function: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
        attributes_of = _Attributes(function, where, session)

        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            items = function(*args, **kwargs)
            return _items(name, attributes_of(args, kwargs), items) if LISTENERS else items

        return called

    return decorated


@contextmanager
def operation_in(tenant: str, name: str) -> Iterator[None]:
    """Let what is done meanwhile be an operation on a store that is not open yet."""
    if not LISTENERS:
        yield
        return
    with _under_way(name, {TENANT: tenant}):
        yield


@contextmanager
def _under_way(name: str, attributes: dict[str, Attribute]) -> Iterator[Operation]:
    running = begin(name, attributes, _CLOCK.monotonic)
    try:
        with running.under_way():
            yield running
    except BaseException as error:
        running.end(error)
        raise
    running.end(None)


def _items(name: str, attributes: dict[str, Attribute], items: Iterator[T]) -> Iterator[T]:
    """Yield items by rule 4; who stops before the last one has asked for no more, and that is no failure."""
    running = begin(name, attributes, _CLOCK.monotonic)
    try:
        while True:
            with running.under_way():
                try:
                    item = next(items)
                except StopIteration:
                    break
            yield item
    except GeneratorExit:
        running.end(None)
        raise
    except BaseException as error:
        running.end(error)
        raise
    running.end(None)


class _Attributes:
    """Finds tenant and session among the arguments of a function."""

    def __init__(self, function: Callable[..., Any], where: str, session: str) -> None:
        self._paths = {TENANT: f"{where}.layout.tenant"} | ({SESSION: session} if session else {})
        self._signature = signature(function)
        parameters = self._signature.parameters
        unknown = [path for path in self._paths.values() if path.partition(".")[0] not in parameters]
        assert not unknown, f"{function.__qualname__} has no parameter for {unknown}"

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Attribute]:
        given = self._signature.bind_partial(*args, **kwargs)
        given.apply_defaults()
        found = {}
        for name, path in self._paths.items():
            parameter, _, rest = path.partition(".")
            value = given.arguments.get(parameter)
            found[name] = attrgetter(rest)(value) if rest else value
        return _told_values(found)


def _told_values(found: dict[str, Any]) -> dict[str, Attribute]:
    """Return those that there are: not every call is about a session, not every state stands on a revision."""
    return {name: value for name, value in found.items() if isinstance(value, str | int)}
