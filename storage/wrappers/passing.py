"""`PassingStore`: passes everything on to the store within. What a wrapper begins with that alters a verb or two.

class LoudStore(PassingStore):
    def delete(self, key: str) -> None:
        print(key)
        super().delete(key)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from storage.server import ServerWithin
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
from storage.unfinished import UnfinishedWrite, discard_in, unfinished_in


class PassingStore(ServerWithin):
    """An `ObjectStore` that is another one."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        return self._store.get(key, byte_range)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        return self._store.put(key, data, mode)

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

    def unfinished(self, prefix: str) -> Iterator[UnfinishedWrite]:
        """Yield the unfinished writes of the store within, if it keeps any. See `KeepsUnfinished.unfinished`."""
        return unfinished_in(self._store, prefix)

    def discard(self, write: UnfinishedWrite) -> None:
        """Discard an unfinished write. See `KeepsUnfinished.discard`."""
        discard_in(self._store, write)
