"""`PrefixedStore`: a store inside another, under a prefix of keys.

Rules:
1. Keys go in without the prefix and come out (listings, delete failures) without it.
2. Errors keep the full key: whoever looks into the bucket needs that one.

    store = PrefixedStore(MemoryStore(), "team-a/agents")
    store.put("a/b", b"one", Create())  # stored under "team-a/agents/a/b"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO

from storage.keys import check_key, check_prefix
from storage.server import Attempt, ServerWithin, Variant
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


class PrefixedStore(ServerWithin):
    """An `ObjectStore` whose keys all lie under `prefix` of another store.

    Args:
        store: Where the objects are.
        prefix: One or more key segments, without a slash at either end.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = check_key(prefix) + "/"

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        return self._store.get(self._prefix + key, byte_range)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        return self._store.put(self._prefix + key, data, mode)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        return replace(self._store.stat(self._prefix + key), key=key)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        check_prefix(prefix)
        rows = self._store.list(self._prefix + prefix, start_after=self._prefix + start_after if start_after else "")
        return (replace(row, key=row.key.removeprefix(self._prefix)) for row in rows)

    def delete(self, key: str) -> None:
        """Remove the object; silent if nothing is there."""
        self._store.delete(self._prefix + key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects; return those that could not be removed, by the keys that were given."""
        failures = self._store.delete_many(self._prefix + key for key in keys)
        return tuple(replace(failure, key=failure.key.removeprefix(self._prefix)) for failure in failures)

    def unfinished(self, prefix: str) -> Iterator[UnfinishedWrite]:
        """Yield the unfinished writes of the store within, if it keeps any. See `KeepsUnfinished.unfinished`."""
        check_prefix(prefix)
        writes = unfinished_in(self._store, self._prefix + prefix)
        return (replace(write, key=write.key.removeprefix(self._prefix)) for write in writes)

    def discard(self, write: UnfinishedWrite) -> None:
        """Discard an unfinished write. See `KeepsUnfinished.discard`."""
        discard_in(self._store, replace(write, key=self._prefix + write.key if write.key else ""))

    def attempt(self, key: str, data: bytes, variant: Variant, version: Version) -> Attempt:
        """Try a variant on the store within. See `Server.attempt`."""
        return super().attempt(self._prefix + key, data, variant, version)
