"""Rounds: how many requests of an operation had to wait for one another, however many went side by side.

Rules:
1. A request belongs to the round after the last one whose answer its caller had waited for.
2. Calls that were handed to an executor together begin in one round. What one of them hands on in turn runs within it,
   one after the other, as in `NestingExecutor`.
3. All runs in the caller's thread, in the order of submission: equal operations, equal counts. How many threads there
   are is not counted: with eight of them a round of 22 requests takes as long as three.

    rounds = Rounds()
    with SnapshotRepository(rounds.counting(store)) as repo:
        load(rounds.environment(repo), "s1")
    print(rounds.count)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import BinaryIO, ParamSpec, TypeVar

from snapshots.environment import Environment, HasEnvironment
from storage.executor import InlineExecutor
from storage.store import (
    ByteRange,
    DeleteFailure,
    ListedObject,
    ObjectMeta,
    ObjectStore,
    PutMode,
    StoredObject,
    Version,
)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Rounds:
    """The count.

    Attributes:
        count: Rounds so far, of what was waited for.
    """

    count: int = 0

    def counting(self, store: ObjectStore) -> ObjectStore:
        """Return the store, each of whose requests is a round for its caller."""
        return _CountingStore(store, self)

    def environment(self, of: HasEnvironment) -> Environment:
        """Return the environment of a repository on a counting store, with an executor that knows rounds."""
        return replace(of.environment, executor=_RoundsExecutor(self))


class _Joined(Future[T]):
    """A future that is done; who asks for its result has waited until the round that it ended in."""

    def __init__(self, done: Future[T], rounds: Rounds, ended: int) -> None:
        super().__init__()
        self._done = done
        self._rounds = rounds
        self._ended = ended

    def result(self, timeout: float | None = None) -> T:
        self._rounds.count = max(self._rounds.count, self._ended)
        return self._done.result(timeout)


class _RoundsExecutor(Executor):
    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._inline = InlineExecutor()
        self._is_within = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._is_within:
            return self._inline.submit(fn, *args, **kwargs)
        begun = self._rounds.count
        self._is_within = True
        try:
            done = self._inline.submit(fn, *args, **kwargs)
        finally:
            self._is_within = False
        joined = _Joined(done, self._rounds, self._rounds.count)
        self._rounds.count = begun  # its caller has not waited yet
        return joined


class _CountingStore:
    """An `ObjectStore` in which each request is a round; of a listing, its beginning."""

    def __init__(self, store: ObjectStore, rounds: Rounds) -> None:
        self._store = store
        self._rounds = rounds

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        self._rounds.count += 1
        return self._store.get(key, byte_range)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        self._rounds.count += 1
        return self._store.put(key, data, mode)

    def stat(self, key: str) -> ObjectMeta:
        self._rounds.count += 1
        return self._store.stat(key)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        self._rounds.count += 1
        return self._store.list(prefix, start_after=start_after)

    def delete(self, key: str) -> None:
        self._rounds.count += 1
        self._store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        self._rounds.count += 1
        return self._store.delete_many(keys)
