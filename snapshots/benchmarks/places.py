"""Where a measure stores: an empty place of its own, gone afterwards.

Rules:
1. A place within a store of somebody's is a prefix that nobody has used. Only what lies below it is removed.
2. What is stored is what a listing shows, everything counted.

    with new_place("s3://bucket/prefix") as place:
        with place.repository() as repo: ...
        place.stored_bytes()
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snapshots import SnapshotRepository
from storage.backends import object_url, open_store
from storage.clock import SystemClock
from storage.store import ObjectStore
from storage.unfinished import discard_in, unfinished_in
from storage.wrappers.prefixed import PrefixedStore

MEMORY = "memory:"
IN_MEMORY = Path("/dev/shm")  # noqa: S108  a directory of our own is made in it


@dataclass(frozen=True, slots=True)
class Place:
    """An empty store.

    Attributes:
        store: The store.
        url: Of the store that it lies in.
        prefix: Under which it lies there, "" for all of that store.
    """

    store: ObjectStore
    url: str
    prefix: str = ""

    def repository(self, *, inline_limit_bytes: int | None = None) -> SnapshotRepository:
        """Open a repository here, as another process would: with nothing remembered."""
        if inline_limit_bytes is None:
            return SnapshotRepository(self.store, url=self.url)
        return SnapshotRepository(self.store, url=self.url, inline_limit_bytes=inline_limit_bytes)

    def within(self, prefix: str) -> Place:
        """Return a place in this one, which goes with it."""
        return Place(PrefixedStore(self.store, prefix), self.url, f"{self.prefix}/{prefix}".removeprefix("/"))

    def stored_bytes(self) -> int:
        """Return the size of all objects."""
        return sum(row.size_bytes for row in self.store.list(""))


def place_at(url: str, prefix: str = "") -> Place:
    """Return the place there, opened anew: another process gets at it by this."""
    store = open_store(url)
    return Place(PrefixedStore(store, prefix) if prefix else store, url, prefix)


@contextmanager
def new_place(url: str) -> Iterator[Place]:
    """Make a place in the store at `url`; remove it when the block ends, however it ends.

    Raises:
        InvalidKeyError: Not the URL of a store.
        PermissionDeniedError, UnavailableError: From the removal: what is left lies under `bench-…`.
    """
    if url == MEMORY:
        yield place_at(url)
        return
    place = place_at(url, f"bench-{SystemClock().new_id()}")
    try:
        yield place
    finally:
        _remove(place)


@contextmanager
def new_shared_place(url: str, *, size_bytes: int = 0) -> Iterator[Place]:
    """Make a place that other processes can use: as `new_place`, but in a temporary directory instead of in memory.

    Args:
        url: As for `new_place`.
        size_bytes: Of what will lie there. Where a file system in memory has room for it the directory is made there,
            so that a disk's speed is in no figure; 0 for the usual place, where files are synced to a disk.
    """
    if url != MEMORY:
        with new_place(url) as place:
            yield place
        return
    has_room = size_bytes and IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > size_bytes
    with tempfile.TemporaryDirectory(prefix="snapshots-bench-", dir=IN_MEMORY if has_room else None) as directory:
        yield place_at(f"file:{directory}")


def _remove(place: Place) -> None:
    if place.url.startswith("file:"):
        directory = Path(object_url(place.url, place.prefix))
        if directory.is_dir():  # it is not, where the store would not be written to
            shutil.rmtree(directory)
        return
    failures = place.store.delete_many(row.key for row in place.store.list(""))
    for write in unfinished_in(place.store, ""):
        discard_in(place.store, write)
    if failures:
        raise failures[0].error
