"""`FaultyStore`: a store that fails as planned. What can happen between us and a server, on demand.

Rules:
1. The plan decides (`storage.testing.plan`); a request that no rule hits passes unchanged.
2. A delayed write is not lost: it is applied, with its own condition, at `release()` or after n further requests.
3. After a crash the store answers nothing: every further request raises `Crash` until `restart()`.
4. A listing counts as one request, when its first row is asked for. A fault on `delete_many` hits the matching keys
   one by one (what fails is returned), and the rest is deleted.
5. Unfinished writes are those of the store within: listing them is a "list" of the prefix, discarding one a "delete" of
   its key. A store without the ability sees no request.

    plan = FaultPlan(seed=7)
    plan.on("put", "heads/", nth=2, fault=LoseAnswer())
    store = FaultyStore(MemoryStore(), plan)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeVar

from storage.backends.limits import pieces
from storage.errors import (
    NotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    UnavailableError,
)
from storage.store import (
    ByteRange,
    DeleteFailure,
    ListedObject,
    ObjectMeta,
    ObjectStore,
    Overwrite,
    PutMode,
    StoredObject,
    Version,
)
from storage.testing.plan import (
    Altered,
    Crash,
    CrashAfter,
    CrashBefore,
    CutList,
    Delay,
    Deny,
    FailBefore,
    Fault,
    FaultPlan,
    FlipBit,
    IgnoreCondition,
    LoseAnswer,
    Meanwhile,
    Missing,
    On,
    OwnRetry,
    Repeat,
    Truncate,
    Verb,
)
from storage.unfinished import KeepsUnfinished, UnfinishedWrite, discard_in

__all__ = [
    "Altered",
    "Crash",
    "CrashAfter",
    "CrashBefore",
    "CutList",
    "Delay",
    "Deny",
    "FailBefore",
    "Fault",
    "FaultPlan",
    "FaultyStore",
    "FlipBit",
    "IgnoreCondition",
    "LoseAnswer",
    "Meanwhile",
    "Missing",
    "On",
    "OwnRetry",
    "Repeat",
    "Request",
    "Truncate",
    "Verb",
]

T = TypeVar("T")
Outcome = Version | StorageError | None
"""What a delayed write came to: the version stored, the error, or None for a delete."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request that a `FaultyStore` saw; `number` counts from 1, `fault` is None if it passed."""

    number: int
    verb: Verb
    keys: tuple[str, ...]
    fault: Fault | None


@dataclass(frozen=True, slots=True)
class _Held:
    due_number: int | None
    act: Callable[[], Version | None]


class FaultyStore:
    """An `ObjectStore` around another, failing as `plan` says.

    Attributes:
        plan: May be changed at any time.
        log: Every request so far, oldest first.
    """

    def __init__(self, store: ObjectStore, plan: FaultPlan | None = None) -> None:
        self.plan = plan or FaultPlan()
        self.log: list[Request] = []
        self._store = store
        self._held: list[_Held] = []
        self._crashed = False
        self._lock = threading.Lock()

    @classmethod
    def script(cls, store: ObjectStore, rules: Iterable[On]) -> FaultyStore:
        """Return a store that fails by these rules only."""
        return cls(store, FaultPlan(rules=rules))

    def release(self) -> tuple[Outcome, ...]:
        """Apply every write still held back, oldest first; return what each came to."""
        with self._lock:
            held, self._held = self._held, []
        return tuple(_outcome(late.act) for late in held)

    def restart(self) -> None:
        """Answer again after a crash, as to a new process. Writes held back stay under way."""
        self._crashed = False

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        with self._request("get", key) as rule:
            found = self._carry_out(rule, key, lambda: self._store.get(key, byte_range))
            return replace(found, data=_damaged(found.data, rule))

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        with self._request("put", key) as rule:
            # A held or repeated stream must be at hand again when it is applied.
            content = data if rule is None or isinstance(data, bytes) else b"".join(pieces(data))
            effective = Overwrite() if rule and isinstance(rule.fault, IgnoreCondition) else mode
            return self._carry_out(rule, key, lambda: self._store.put(key, content, effective))

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        with self._request("stat", key) as rule:
            return self._carry_out(rule, key, lambda: self._store.stat(key))

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        with self._request("list", prefix) as rule:
            rows = self._carry_out(rule, prefix, lambda: self._store.list(prefix, start_after=start_after))
            cut = rule.fault if rule and isinstance(rule.fault, CutList) else None
            for index, row in enumerate(rows):
                if cut and index >= cut.rows:
                    break
                yield row
            if cut:
                raise UnavailableError(prefix, "injected: the listing was cut", applied="no")

    def delete(self, key: str) -> None:
        """Remove the object; silent if nothing is there."""
        with self._request("delete", key) as rule:
            self._carry_out(rule, key, lambda: self._store.delete(key))

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects; return those that could not be removed."""
        every = tuple(keys)
        with self._request("delete_many", *every) as rule:
            if rule is None:
                return self._store.delete_many(every)
            hit = [key for key in every if rule.key_part in key]
            failed = [failure for key in hit if (failure := self._delete_hit(rule, key))]
            return (*failed, *self._store.delete_many(key for key in every if rule.key_part not in key))

    def unfinished(self, prefix: str) -> Iterator[UnfinishedWrite]:
        """Yield the unfinished writes of the store within, if it keeps any. See `KeepsUnfinished.unfinished`."""
        if not isinstance(self._store, KeepsUnfinished):
            return
        store = self._store
        with self._request("list", prefix) as rule:
            yield from self._carry_out(rule, prefix, lambda: store.unfinished(prefix))

    def discard(self, write: UnfinishedWrite) -> None:
        """Discard an unfinished write. See `KeepsUnfinished.discard`."""
        with self._request("delete", write.key) as rule:
            self._carry_out(rule, write.key, lambda: discard_in(self._store, write))

    def _delete_hit(self, rule: On, key: str) -> DeleteFailure | None:
        try:
            self._carry_out(rule, key, lambda: self._store.delete(key))
        except StorageError as error:
            return DeleteFailure(key, error)
        return None

    @contextmanager
    def _request(self, verb: Verb, *keys: str) -> Iterator[On | None]:
        with self._lock:
            if self._crashed:
                raise Crash(f"{verb} {' '.join(keys)[:80]} after the crash")
            rule = self.plan.choose(verb, keys)
            self.log.append(Request(len(self.log) + 1, verb, keys, rule.fault if rule else None))
        left = False
        try:
            yield rule
        except GeneratorExit:  # a listing that nobody reads on: it may be ended in the midst of another request
            left = True
            raise
        finally:
            if not left:
                self._release_due()

    def _carry_out(self, rule: On | None, key: str, act: Callable[[], T]) -> T:
        fault = rule.fault if rule else None
        match fault:
            case FailBefore(applied, reason):
                raise UnavailableError(key, reason, applied=applied)
            case LoseAnswer():
                _quietly(act)
                raise UnavailableError(key, "injected: the answer was lost", applied="unknown")
            case Delay(after_requests):
                self._hold(act, after_requests)
                raise UnavailableError(key, "injected: timed out", applied="unknown")
            case Repeat(after_requests):
                result = act()
                self._hold(act, after_requests)  # what was refused for good is not delivered again
                return result
            case OwnRetry():
                act()
                raise PreconditionFailedError(key, "injected: a hidden retry met its own write")
            case Missing():
                raise NotFoundError(key)
            case Deny():
                raise PermissionDeniedError(key, "injected: credentials expired")
            case Meanwhile(action):
                action()
            case CrashBefore():
                self._crash(key)
            case CrashAfter():
                _quietly(act)
                self._crash(key)
        return act()

    def _crash(self, key: str) -> None:
        self._crashed = True
        raise Crash(key)

    def _hold(self, act: Callable[[], object], after_requests: int | None) -> None:
        def apply() -> Version | None:
            result = act()
            return Version(result) if isinstance(result, str) else None

        with self._lock:
            due = None if after_requests is None else len(self.log) + after_requests
            self._held.append(_Held(due, apply))

    def _release_due(self) -> None:
        with self._lock:
            number = len(self.log)
            due = [late for late in self._held if late.due_number is not None and late.due_number <= number]
            self._held = [late for late in self._held if late not in due]
        for late in due:
            _outcome(late.act)


def _quietly(act: Callable[[], object]) -> None:
    with suppress(StorageError):
        act()


def _outcome(act: Callable[[], Version | None]) -> Outcome:
    try:
        return act()
    except StorageError as error:
        return error


def _damaged(data: bytes, rule: On | None) -> bytes:
    match rule.fault if rule else None:
        case Truncate(kept_bytes):
            return data[:kept_bytes]
        case Altered(change):
            return change(data)
        case FlipBit(bit) if data:
            position, shift = divmod(bit % (len(data) * 8), 8)
            return data[:position] + bytes([data[position] ^ (1 << shift)]) + data[position + 1 :]
    return data
