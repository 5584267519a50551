"""`observed`: a store that tells who listens of every request, and counts it for the operation under way.

Rules:
1. A request is told once it was answered or given up, also if it failed; a listing page by page of 1,000 keys, when the
   page is asked for. `delete_many` is one request "delete" for every 1,000 keys or part, told under the first of them
   when all were answered; as failed, if one of its keys was given back.
2. A write that a store takes in several requests (`PARTS_BYTES`) is one "put-parts".
3. While nobody listens it only passes on.

    store = observed(MemoryStore())
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from typing import BinaryIO, TypeVar, cast

from storage.observed import LISTENERS, Request, requested, within_the_store
from storage.server import Attempt, ServerWithin, Variant, attempt_on
from storage.store import (
    LIST_PAGE_KEYS,
    ByteRange,
    Create,
    DeleteFailure,
    ListedObject,
    ObjectMeta,
    ObjectStore,
    Overwrite,
    PutMode,
    StoredObject,
    Version,
)
from storage.unfinished import KeepsUnfinished, UnfinishedWrite, discard_in, unfinished_in
from storage.wrappers.metered import CountedReader

PARTS_BYTES = 16 << 20  # more than that goes in parts, where the store takes parts (`storage.backends.s3`)


Row = TypeVar("Row", ListedObject, UnfinishedWrite)


class _End:
    """Behind the last row."""


_END = _End()


class _Counts:
    """What went each way so far, and whether anything was asked at all."""

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.is_sent = True

    def add_sent(self, size_bytes: int) -> None:
        self.sent += size_bytes


class ObservedStore(ServerWithin):
    """An `ObjectStore` that tells of what passes through it; `observed` makes one."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        if not LISTENERS:
            return self._store.get(key, byte_range)
        with _told("get", key) as counts:
            found = self._store.get(key, byte_range)
            counts.received = len(found.data)
        return found

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        if not LISTENERS:
            return self._store.put(key, data, mode)
        with _told(_name_of(mode), key, streams=not isinstance(data, bytes)) as counts:
            if isinstance(data, bytes):
                counts.sent = len(data)
                return self._store.put(key, data, mode)
            return self._store.put(key, cast(BinaryIO, CountedReader(data, counts.add_sent)), mode)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        if not LISTENERS:
            return self._store.stat(key)
        with _told("stat", key):
            return self._store.stat(key)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        rows = self._store.list(prefix, start_after=start_after)
        return _paged(rows, "list", prefix) if LISTENERS else rows

    def attempt(self, key: str, data: bytes, variant: Variant, version: Version) -> Attempt:
        """Try a variant on the store within. See `Server.attempt`."""
        if not LISTENERS:
            return attempt_on(self._store, key, data, variant, version)
        with _told("put-replace", key) as counts:
            counts.sent = len(data)
            return attempt_on(self._store, key, data, variant, version)

    def delete(self, key: str) -> None:
        """Remove the object; silent if nothing is there."""
        if not LISTENERS:
            return self._store.delete(key)
        with _told("delete", key):
            return self._store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects; return those that could not be removed."""
        if not LISTENERS:
            return self._store.delete_many(keys)
        sent: list[list[str]] = []
        failures: tuple[DeleteFailure, ...] = ()
        failure = ""
        try:
            failures = self._store.delete_many(_batched(keys, sent))
        except Exception as error:
            failure = type(error).__name__
            raise
        finally:
            failed = {one.key: type(one.error).__name__ for one in failures}
            for batch in sent:
                told = failure or next((failed[key] for key in batch if key in failed), "")
                requested(Request("delete", batch[0], failure=told))
        return failures


class _ObservedKeeper(ObservedStore):
    """One that keeps unfinished writes; who asks a store whether it does is to hear of the store within."""

    def unfinished(self, prefix: str) -> Iterator[UnfinishedWrite]:
        """Yield the unfinished writes of the store within. See `KeepsUnfinished.unfinished`."""
        rows = unfinished_in(self._store, prefix)
        return _paged(rows, "list-uploads", prefix) if LISTENERS else rows

    def discard(self, write: UnfinishedWrite) -> None:
        """Discard an unfinished write. See `KeepsUnfinished.discard`."""
        if not LISTENERS:
            return discard_in(self._store, write)
        with _told("abort-upload", write.key):
            return discard_in(self._store, write)


def observed(store: ObjectStore) -> ObservedStore:
    """Return a store that tells of what passes through it to `store`, with the abilities that this one has."""
    return _ObservedKeeper(store) if isinstance(store, KeepsUnfinished) else ObservedStore(store)


def _name_of(mode: PutMode) -> str:
    if isinstance(mode, Create):
        return "put-create"
    return "put-overwrite" if isinstance(mode, Overwrite) else "put-replace"


@contextmanager
def _told(name: str, key: str, *, streams: bool = False) -> Iterator[_Counts]:
    """Tell of a request; one that `streams` may itself read, for its operation, what it sends."""
    counts = _Counts()
    failure = ""
    try:
        with nullcontext() if streams else within_the_store():
            yield counts
    except Exception as error:
        failure = type(error).__name__
        raise
    finally:
        if counts.is_sent:
            in_parts = name == "put-create" and counts.sent > PARTS_BYTES
            request = Request("put-parts" if in_parts else name, key, counts.received, counts.sent, failure)
            requested(request)


def _paged(rows: Iterator[Row], name: str, prefix: str) -> Iterator[Row]:
    """Yield the rows of a listing; a page is told when its first row was answered, or failed to be."""
    for index in count():
        if index % LIST_PAGE_KEYS:
            row = next(rows, _END)
        else:
            with _told(name, prefix) as counts:
                row = next(rows, _END)
                counts.is_sent = index == 0 or row is not _END
        if isinstance(row, _End):
            return
        yield row


def _batched(keys: Iterable[str], sent: list[list[str]]) -> Iterator[str]:
    """Yield keys on their way into requests of LIST_PAGE_KEYS each, and note in `sent` which go together."""
    for index, key in enumerate(keys):
        if index % LIST_PAGE_KEYS == 0:
            sent.append([])
        sent[-1].append(key)
        yield key
