"""`DelayedStore`: a store in memory that answers as late as one behind a network, for measures of waiting.

Rules:
1. Every request takes at least so long: half of it before the store does it, half after. A listing takes it per page.

    store = DelayedStore(MemoryStore(), 0.01)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from storage.clock import SystemClock
from storage.store import (
    LIST_PAGE_KEYS,
    ByteRange,
    DeleteFailure,
    ListedObject,
    ObjectMeta,
    ObjectStore,
    PutMode,
    StoredObject,
    Version,
)


class DelayedStore:
    """An `ObjectStore` whose requests take a while.

    Args:
        store: What answers.
        seconds: How long a request takes at least.
    """

    def __init__(self, store: ObjectStore, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._clock = SystemClock()

    @contextmanager
    def _request(self) -> Iterator[None]:
        self._clock.sleep(self._seconds / 2)
        yield
        self._clock.sleep(self._seconds / 2)

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes. See `ObjectStore.get`."""
        with self._request():
            return self._store.get(key, byte_range)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        with self._request():
            return self._store.put(key, data, mode)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        with self._request():
            return self._store.stat(key)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order, each page late. See `ObjectStore.list`."""
        self._clock.sleep(self._seconds)
        for number, row in enumerate(self._store.list(prefix, start_after=start_after)):
            if number and number % LIST_PAGE_KEYS == 0:
                self._clock.sleep(self._seconds)
            yield row

    def delete(self, key: str) -> None:
        """Remove the object. See `ObjectStore.delete`."""
        with self._request():
            self._store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects. See `ObjectStore.delete_many`."""
        with self._request():
            return self._store.delete_many(keys)
