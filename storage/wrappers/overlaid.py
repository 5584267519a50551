"""`OverlaidStore`: a store that shows a few more objects, read-only, which lie elsewhere.

Rules:
1. An object of the overlay is read like any other; it is not listed, and cannot be written or deleted here.
2. Everything else is the store's.

    store = OverlaidStore(MemoryStore(), {"packs/x": b"..."})
    store.get("packs/x", ByteRange(0, 2)).data
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

from storage.errors import CorruptObjectError
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

_VERSION = Version("overlay")


class OverlaidStore:
    """An `ObjectStore` with further objects.

    Args:
        store: Where the others are.
        objects: Their bytes, by key.
    """

    def __init__(self, store: ObjectStore, objects: Mapping[str, bytes]) -> None:
        self._store = store
        self._objects = objects

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        if key not in self._objects:
            return self._store.get(key, byte_range)
        data = self._objects[key]
        if byte_range is None:
            return StoredObject(data, _VERSION)
        if byte_range.start >= len(data):
            raise CorruptObjectError(key, f"{len(data)} bytes, which end before byte {byte_range.start}")
        return StoredObject(data[byte_range.start : byte_range.end], _VERSION)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        assert key not in self._objects, "Rule 1"
        return self._store.put(key, data, mode)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        if key not in self._objects:
            return self._store.stat(key)
        return ObjectMeta(key, len(self._objects[key]), _VERSION)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order, none of the overlay. See `ObjectStore.list`."""
        return self._store.list(prefix, start_after=start_after)

    def delete(self, key: str) -> None:
        """Remove an object. See `ObjectStore.delete`."""
        assert key not in self._objects, "Rule 1"
        self._store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects. See `ObjectStore.delete_many`."""
        return self._store.delete_many(keys)
