"""`ThrottledStore`: a store that moves at most so many bytes a second, in both directions together.

Rules:
1. Whoever moves bytes waits afterwards until they would have been moved at that rate; nobody waits for listings.
2. All threads share one rate.

    store = ThrottledStore(store, bytes_per_second=10_000_000, clock=SystemClock())
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from threading import Lock
from typing import BinaryIO, cast

from storage.clock import Clock
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
from storage.wrappers.metered import CountedReader


class ThrottledStore:
    """An `ObjectStore` that takes its time.

    Args:
        store: Where everything lies.
        bytes_per_second: The rate, at least 1.
        clock: What it waits by.
    """

    def __init__(self, store: ObjectStore, *, bytes_per_second: int, clock: Clock) -> None:
        if bytes_per_second < 1:
            raise ValueError(f"a rate of {bytes_per_second} bytes a second moves nothing")
        self._store = store
        self._rate = bytes_per_second
        self._clock = clock
        self._lock = Lock()
        self._free_at = clock.monotonic()  # when the next bytes may be moved

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        found = self._store.get(key, byte_range)
        self._wait(len(found.data))
        return found

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        if isinstance(data, bytes):
            version = self._store.put(key, data, mode)
            self._wait(len(data))
            return version
        return self._store.put(key, cast("BinaryIO", CountedReader(data, self._wait)), mode)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        return self._store.stat(key)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        return self._store.list(prefix, start_after=start_after)

    def delete(self, key: str) -> None:
        """Remove an object. See `ObjectStore.delete`."""
        self._store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects. See `ObjectStore.delete_many`."""
        return self._store.delete_many(keys)

    def _wait(self, size_bytes: int) -> None:
        with self._lock:
            now = self._clock.monotonic()
            self._free_at = max(self._free_at, now) + size_bytes / self._rate
            seconds = self._free_at - now
        if seconds > 0:
            self._clock.sleep(seconds)
