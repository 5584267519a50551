"""`EnforcedStore`: a bucket as S3 keeps it for one role: each request is evaluated under the template's policies first.

A read takes what a read of an absent object takes (`infra.policies.requests`, rule 2), whether it is there or not.

    store = EnforcedStore(bucket, "agents", partial(policies.allow_all, "reader"))
    SnapshotRepository(store, create=False)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from storage.errors import PermissionDeniedError
from storage.store import (
    ByteRange,
    Create,
    DeleteFailure,
    ListedObject,
    ObjectMeta,
    ObjectStore,
    PutMode,
    Replace,
    StoredObject,
    Version,
)
from storage.unfinished import UnfinishedWrite, discard_in, unfinished_in

Allows = Callable[[str, str], bool]
"""From a request and the whole key, or prefix, whether all its actions are allowed."""


class EnforcedStore:
    """An `ObjectStore` in which somebody does what policies allow.

    Args:
        store: What lies in the bucket under `prefix`.
        prefix: Of the store's keys in the bucket.
        allows: Who asks, and what is allowed.
    """

    def __init__(self, store: ObjectStore, prefix: str, allows: Allows) -> None:
        self._store = store
        self._prefix = prefix
        self._allows = allows

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes."""
        self._check("get", key)
        return self._store.get(key, byte_range)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version."""
        self._check("stat", key)
        return self._store.stat(key)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data`."""
        verb = {Create: "put-create", Replace: "put-replace"}.get(type(mode), "put-overwrite")
        self._check(verb if isinstance(data, bytes) else "put-parts", key)
        return self._store.put(key, data, mode)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects."""
        self._check("list", prefix)
        return self._store.list(prefix, start_after=start_after)

    def delete(self, key: str) -> None:
        """Remove the object."""
        self._check("delete", key)
        self._store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects."""
        asked = list(keys)
        refused = [key for key in asked if not self._allows("delete", f"{self._prefix}/{key}")]
        failures = tuple(DeleteFailure(key, self._denied("delete", key)) for key in refused)
        return failures + self._store.delete_many(key for key in asked if key not in refused)

    def unfinished(self, prefix: str) -> Iterator[UnfinishedWrite]:
        """Yield uploads under way."""
        self._check("list-uploads", prefix)
        return unfinished_in(self._store, prefix)

    def discard(self, write: UnfinishedWrite) -> None:
        """End one of them."""
        self._check("abort-upload", write.key)
        discard_in(self._store, write)

    def _check(self, verb: str, key: str) -> None:
        if not self._allows(verb, f"{self._prefix}/{key}"):
            raise self._denied(verb, key)

    def _denied(self, verb: str, key: str) -> PermissionDeniedError:
        return PermissionDeniedError(key, f"the policies do not let this role {verb} it")
