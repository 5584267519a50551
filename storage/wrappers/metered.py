"""`MeteredStore`: counts requests and bytes, by verb.

Rules:
1. A call that reaches the store is a request, also when it fails; a listing is one per page of 1,000 keys or part of
   it, `delete_many` one per 1,000 keys or part. A multipart upload counts as one put.
   A listing of unfinished writes counts as one listing, discarding one as a delete.
2. `bytes_in` came from the store, `bytes_out` went to it; the bytes of a write that failed are counted.

    store = MeteredStore(MemoryStore())
    before = store.metrics.snapshot()
    used = store.metrics.snapshot() - before
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import BinaryIO, cast

from storage.server import Attempt, ServerWithin, Variant
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
from storage.unfinished import KeepsUnfinished, UnfinishedWrite, discard_in

VERBS = ("get", "put", "stat", "list", "delete", "delete_many")


@dataclass(frozen=True, slots=True)
class VerbCount:
    """What one verb cost.

    Attributes:
        requests: Calls, or pages of a listing, or batches of deletes.
        bytes_in: Bytes received from the store.
        bytes_out: Bytes sent to it.
        failures: Calls that raised; for `delete_many`, keys that it gave back.
    """

    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    failures: int = 0

    def __add__(self, other: VerbCount) -> VerbCount:
        return self._combine(other, 1)

    def __sub__(self, other: VerbCount) -> VerbCount:
        return self._combine(other, -1)

    def _combine(self, other: VerbCount, sign: int) -> VerbCount:
        return VerbCount(
            self.requests + sign * other.requests,
            self.bytes_in + sign * other.bytes_in,
            self.bytes_out + sign * other.bytes_out,
            self.failures + sign * other.failures,
        )


def _no_counts() -> MappingProxyType[str, VerbCount]:
    return MappingProxyType(dict.fromkeys(VERBS, VerbCount()))


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """The counts at one instant, or the difference of two. `verbs` has all six verbs."""

    verbs: MappingProxyType[str, VerbCount] = field(default_factory=_no_counts)

    def __getitem__(self, verb: str) -> VerbCount:
        return self.verbs[verb]

    def __sub__(self, earlier: MetricsSnapshot) -> MetricsSnapshot:
        return MetricsSnapshot(MappingProxyType({verb: self.verbs[verb] - earlier.verbs[verb] for verb in VERBS}))

    @property
    def total(self) -> VerbCount:
        """Return the sum over all verbs."""
        return sum(self.verbs.values(), VerbCount())

    @property
    def total_requests(self) -> int:
        """Return the requests of all verbs."""
        return self.total.requests


class Metrics:
    """Counters that several threads may add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(VERBS, VerbCount())

    def add(self, verb: str, *, requests: int = 0, bytes_in: int = 0, bytes_out: int = 0, failures: int = 0) -> None:
        """Add to the counts of `verb`."""
        with self._lock:
            self._counts[verb] += VerbCount(requests, bytes_in, bytes_out, failures)

    def snapshot(self) -> MetricsSnapshot:
        """Return the counts as they are now."""
        with self._lock:
            return MetricsSnapshot(MappingProxyType(dict(self._counts)))


class MeteredStore(ServerWithin):
    """An `ObjectStore` that counts what passes through it, in `metrics`."""

    def __init__(self, store: ObjectStore, metrics: Metrics | None = None) -> None:
        self._store = store
        self.metrics = metrics or Metrics()

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        with self._request("get"):
            found = self._store.get(key, byte_range)
        self.metrics.add("get", bytes_in=len(found.data))
        return found

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        with self._request("put"):
            if isinstance(data, bytes):
                self.metrics.add("put", bytes_out=len(data))
                return self._store.put(key, data, mode)
            counting = CountedReader(data, lambda count: self.metrics.add("put", bytes_out=count))
            return self._store.put(key, cast(BinaryIO, counting), mode)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        with self._request("stat"):
            return self._store.stat(key)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        return self._counted_rows(self._store.list(prefix, start_after=start_after))

    def delete(self, key: str) -> None:
        """Remove the object; silent if nothing is there."""
        with self._request("delete"):
            self._store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects; return those that could not be removed."""
        with self._failing("delete_many"):
            failures = self._store.delete_many(self._counted_keys(keys))
        self.metrics.add("delete_many", failures=len(failures))
        return failures

    def unfinished(self, prefix: str) -> Iterator[UnfinishedWrite]:
        """Yield the unfinished writes of the store within, if it keeps any. See `KeepsUnfinished.unfinished`."""
        return self._counted_writes(self._store, prefix) if isinstance(self._store, KeepsUnfinished) else iter(())

    def discard(self, write: UnfinishedWrite) -> None:
        """Discard an unfinished write. See `KeepsUnfinished.discard`."""
        with self._request("delete"):
            discard_in(self._store, write)

    def attempt(self, key: str, data: bytes, variant: Variant, version: Version) -> Attempt:
        """Try a variant on the store within: a put. See `Server.attempt`."""
        with self._request("put"):
            self.metrics.add("put", bytes_out=len(data))
            return super().attempt(key, data, variant, version)

    def _counted_writes(self, store: KeepsUnfinished, prefix: str) -> Iterator[UnfinishedWrite]:
        with self._request("list"):
            yield from store.unfinished(prefix)

    def _counted_keys(self, keys: Iterable[str]) -> Iterator[str]:
        for index, key in enumerate(keys):
            if index % LIST_PAGE_KEYS == 0:
                self.metrics.add("delete_many", requests=1)
            yield key

    def _counted_rows(self, rows: Iterator[ListedObject]) -> Iterator[ListedObject]:
        self.metrics.add("list", requests=1)
        with self._failing("list"):
            for index, row in enumerate(rows):
                if index and index % LIST_PAGE_KEYS == 0:
                    self.metrics.add("list", requests=1)
                yield row

    @contextmanager
    def _request(self, verb: str) -> Iterator[None]:
        self.metrics.add(verb, requests=1)
        with self._failing(verb):
            yield

    @contextmanager
    def _failing(self, verb: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.metrics.add(verb, failures=1)
            raise


class CountedReader:
    """A readable stream that reports how much was read of it."""

    def __init__(self, stream: BinaryIO, report: Callable[[int], None]) -> None:
        self._stream = stream
        self._report = report

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes of the stream, all of it below 0, and report how many they are."""
        data = self._stream.read(size)
        self._report(len(data))
        return data
