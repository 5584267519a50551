"""`Request`: what an actor asks of its store, as a value; carrying it out, and foreseeing what it will come to.

Rules:
1. Whatever a store answers or raises is an `Outcome`; nothing of it is interpreted here.
2. An outcome's `token` says all that the actor learns; equal tokens after equal requests, equal knowledge.
   Versions stand for contents: a `MemoryStore` makes them from nothing else.
3. `foresee` changes nothing: reads are made, writes are tried on a store that holds only the keys concerned.

    outcome = carry_out(store, Request("get", ("a",)))
    outcome.token
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from storage.backends.memory import MemoryStore
from storage.errors import InvalidKeyError, NotFoundError
from storage.store import CONDITIONAL_BYTES_MAX, Create, ObjectStore, Overwrite, PutMode, Version
from storage.testing.clock import ManualClock
from storage.testing.plan import Verb

_WRITES = frozenset({"put", "delete", "delete_many"})
_CLOCK = ManualClock()


class Request(NamedTuple):
    """One request. `detail` is the range of a get, data and mode of a put, `start_after` of a listing."""

    verb: Verb
    keys: tuple[str, ...]
    detail: Any = None

    @property
    def writes(self) -> bool:
        """Say whether it can change the store."""
        return self.verb in _WRITES

    @property
    def key(self) -> str:
        """Return what it is about, for people."""
        return ", ".join(self.keys)


class Outcome(NamedTuple):
    """What a request came to: a value, or the error that the actor is to see (`Crash`: its process ends); its token."""

    value: Any
    error: BaseException | None
    token: Hashable


def carry_out(store: ObjectStore, request: Request) -> Outcome:
    """Send `request` to `store`. Does not raise what the store raises: that is an outcome."""
    try:
        value, token = _ANSWERS[request.verb](store, request)
    except Exception as error:  # noqa: BLE001  handed to the actor, who is the caller
        return Outcome(None, error, (type(error).__name__, str(error)))
    return Outcome(value, None, token)


def changes(request: Request, outcome: Outcome) -> Mapping[str, Version | None]:
    """Return the version that each changed key has afterwards, None for what is gone."""
    if outcome.error is not None or not request.writes:
        return {}
    if request.verb == "put":
        return {request.keys[0]: outcome.value}
    return dict.fromkeys(request.keys)


def foresee(store: ObjectStore, request: Request) -> Outcome:
    """Return what `request` would come to now."""
    return carry_out(_copy_of(store, request.keys) if request.writes else store, request)


def _copy_of(store: ObjectStore, keys: tuple[str, ...]) -> MemoryStore:
    copy = MemoryStore(_CLOCK)
    for key in keys:
        try:
            data = store.get(key).data
        except (NotFoundError, InvalidKeyError):
            continue
        copy.put(key, data, Create() if len(data) > CONDITIONAL_BYTES_MAX else Overwrite())
    return copy


Answer = tuple[Any, Hashable]


def _get(store: ObjectStore, request: Request) -> Answer:
    found = store.get(request.keys[0], request.detail)
    return found, found.version


def _put(store: ObjectStore, request: Request) -> Answer:
    mode: PutMode
    data, mode = request.detail
    version = store.put(request.keys[0], data, mode)
    return version, version


def _stat(store: ObjectStore, request: Request) -> Answer:
    found = store.stat(request.keys[0])
    return found, found.version


def _list(store: ObjectStore, request: Request) -> Answer:
    rows = tuple(store.list(request.keys[0], start_after=request.detail))
    return rows, rows


def _delete(store: ObjectStore, request: Request) -> Answer:
    store.delete(request.keys[0])
    return None, None


def _delete_many(store: ObjectStore, request: Request) -> Answer:
    failures = store.delete_many(request.keys)
    return failures, tuple((failure.key, str(failure.error)) for failure in failures)


_ANSWERS: Mapping[Verb, Callable[[ObjectStore, Request], Answer]] = {
    "get": _get,
    "put": _put,
    "stat": _stat,
    "list": _list,
    "delete": _delete,
    "delete_many": _delete_many,
}
