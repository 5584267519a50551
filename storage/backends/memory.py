"""`MemoryStore`: the reference. A dict behind a lock; what the other backends are compared with.

Rules:
1. One lock around "decide and write". 2. Versions come from content, as on S3 servers that use MD5 for ETags.
3. Nothing is kept after the process; each `MemoryStore` is a store of its own.

    store = MemoryStore()
    store.put("a/b", b"one", Create())
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from storage.backends.limits import check_condition, check_put, content_version, pieces
from storage.clock import Clock, SystemClock
from storage.errors import CorruptObjectError, InvalidKeyError, NotFoundError
from storage.keys import check_key, check_prefix
from storage.store import (
    ByteRange,
    DeleteFailure,
    ListedObject,
    ObjectMeta,
    PutMode,
    StoredObject,
    Version,
)


@dataclass(frozen=True, slots=True)
class _Kept:
    data: bytes
    version: Version
    modified_at: datetime


class MemoryStore:
    """An `ObjectStore` in this process.

    Args:
        clock: Gives the times that listings show.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._objects: dict[str, _Kept] = {}

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        kept = self._find(key)
        if byte_range is None:
            return StoredObject(kept.data, kept.version)
        if byte_range.start >= len(kept.data):
            raise CorruptObjectError(key, f"has {len(kept.data)} bytes, the range begins at {byte_range.start}")
        return StoredObject(kept.data[byte_range.start : byte_range.end], kept.version)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        check_put(key, data, mode)
        content = data if isinstance(data, bytes) else b"".join(pieces(data))
        kept = _Kept(content, content_version(content), self._clock.now())
        with self._lock:
            present = self._objects.get(key)
            check_condition(key, mode, None if present is None else present.version)
            self._objects[key] = kept
        return kept.version

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        kept = self._find(key)
        return ObjectMeta(key, len(kept.data), kept.version)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        check_prefix(prefix)
        with self._lock:
            keys = sorted(key for key in self._objects if key.startswith(prefix))
        return self._rows(keys[bisect.bisect_right(keys, start_after) :])

    def delete(self, key: str) -> None:
        """Remove the object; silent if nothing is there."""
        check_key(key)
        with self._lock:
            self._objects.pop(key, None)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects; return those that could not be removed."""
        failures = []
        for key in keys:
            try:
                self.delete(key)
            except InvalidKeyError as error:
                failures.append(DeleteFailure(key, error))
        return tuple(failures)

    def _find(self, key: str) -> _Kept:
        check_key(key)
        with self._lock:
            kept = self._objects.get(key)
        if kept is None:
            raise NotFoundError(key)
        return kept

    def _rows(self, keys: Iterable[str]) -> Iterator[ListedObject]:
        for key in keys:
            with self._lock:
                kept = self._objects.get(key)
            if kept is not None:
                yield ListedObject(key, len(kept.data), kept.modified_at)
