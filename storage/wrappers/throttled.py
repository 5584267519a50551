"""`ThrottledStore`: a store that moves at most so many bytes a second, in both directions together.

Rules:
1. Whoever moves bytes waits afterwards until they would have been moved at that rate; nobody waits for listings.
2. All threads share one rate.

    store = ThrottledStore(store, bytes_per_second=10_000_000, clock=SystemClock())
"""

from __future__ import annotations

from threading import Lock
from typing import BinaryIO, cast

from storage.clock import Clock
from storage.store import (
    ByteRange,
    ObjectStore,
    PutMode,
    StoredObject,
    Version,
)
from storage.wrappers.metered import CountedReader
from storage.wrappers.passing import PassingStore


class ThrottledStore(PassingStore):
    """An `ObjectStore` that takes its time.

    Args:
        store: Where everything lies.
        bytes_per_second: The rate, at least 1.
        clock: What it waits by.
    """

    def __init__(self, store: ObjectStore, *, bytes_per_second: int, clock: Clock) -> None:
        if bytes_per_second < 1:
            raise ValueError(f"a rate of {bytes_per_second} bytes a second moves nothing")
        super().__init__(store)
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

    def _wait(self, size_bytes: int) -> None:
        with self._lock:
            now = self._clock.monotonic()
            self._free_at = max(self._free_at, now) + size_bytes / self._rate
            seconds = self._free_at - now
        if seconds > 0:
            self._clock.sleep(seconds)
