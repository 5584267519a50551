"""A trial: a store as it would be with a few objects more, to be verified before any of them is written.

Rules:
1. Nothing is ever written. Objects on trial hide those of the store; a listing shows the store alone.

    verify(replace(environment, store=TrialStore(environment.store, {key: data})))
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

_VERSION = Version("on trial")


class TrialStore:
    """An `ObjectStore` that can only be read.

    Args:
        store: What is there.
        objects: What is on trial, by key.
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
            raise CorruptObjectError(key, f"has {len(data)} bytes, asked for those from {byte_range.start}")
        return StoredObject(data[byte_range.start : byte_range.end], _VERSION)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        if key not in self._objects:
            return self._store.stat(key)
        return ObjectMeta(key, len(self._objects[key]), _VERSION)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield the objects of the store (rule 1). See `ObjectStore.list`."""
        return self._store.list(prefix, start_after=start_after)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:  # noqa: ARG002  the protocol's
        """Refuse (rule 1)."""
        raise AssertionError(f"a trial writes nothing, and was asked to write {key}")

    def delete(self, key: str) -> None:
        """Refuse (rule 1)."""
        raise AssertionError(f"a trial deletes nothing, and was asked to delete {key}")

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Refuse (rule 1)."""
        raise AssertionError(f"a trial deletes nothing, and was asked to delete {list(keys)}")
