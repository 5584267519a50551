"""`Watch`: a store that looks at every head and pack that is written or deleted, and notes what is wrong at once.

Rules (the guarantees of the store, each a named check):
1. "nothing dangles": every pack that a head names is there, after every request; staged packs of reservations too.
2. "heads only rise": epoch, fence and revision never fall, a revision follows its predecessor (but for the first one
   that is published: a copy begins with many), a tombstone is final.
3. "a family stays": a head never changes its family. "heads are told apart": none is written twice with one write id.
4. "a copy goes on from itself": a head of a tenant that is copied to may leap, onto a later revision of the very
   history of which it had the beginning.
5. What was wrong is kept in `wrong`, whoever sent it and whatever the sender makes of the answer.

    watch = Watch(MemoryStore())
    …
    watch.check()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from snapshots.environment import Environment
from snapshots.head import LIVE, RESERVED, TOMBSTONE, Head
from snapshots.layout import Layout
from snapshots.roots import named_keys
from snapshots.testing.simulation.operations import HeadWritten
from snapshots.testing.simulation.satellite_watch import SatelliteWatch
from storage.errors import NotFoundError
from storage.executor import InlineExecutor
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
from storage.testing.clock import ManualClock

HOME = ("simulated", "default")
COPIES = Layout("copies")  # of the tenant that is copied to, in the same store
KNOWN_MAX = 20_000  # heads of some KiB; an exploration comes back to the same ones
_KNOWN: dict[tuple[str, bytes], tuple[Head, frozenset[str]]] = {}
Succeeds = Callable[[str, Head, Head], list[str]]
"""What is wrong with a head that follows another under one key."""


class Watch:
    """An `ObjectStore` around another that lies in this process.

    Args:
        store: Where everything lies. Whoever shares it must write through this watch alone.
        layout: The keys.
        instant: Tells the time; steps of a simulation, for instance.
        seen: Told of every head that is written, and at first of those that are there.
        succeeds: Says what is wrong with a head that follows another.

    Attributes:
        wrong: What was found, oldest first.
        written: Every head that was written, by key, oldest first.
        satellites: What lies beside heads and packs.
    """

    def __init__(
        self,
        store: ObjectStore,
        layout: Layout,
        instant: Callable[[], int] = lambda: 0,
        seen: Callable[[Head], None] = lambda _: None,
        succeeds: Succeeds | None = None,
    ) -> None:
        self.wrong: list[str] = []
        self.written: dict[str, list[HeadWritten]] = {}
        self._store = store
        self._layout = layout
        self._instant = instant
        self._seen = seen
        self._succeeds = succeeds or succession
        self._named: dict[str, frozenset[str]] = {}
        self._packs = {row.key for row in store.list(layout.packs)}
        self._bytes: dict[str, bytes] = {}
        self._deleted_sessions: set[str] = set()  # the session's part of their keys
        self.satellites = SatelliteWatch(layout, self.wrong, self.is_deleted)
        self.satellites.begin_with(store)
        for row in store.list(layout.heads):
            self._published(row.key, store.get(row.key).data)

    def check(self) -> None:
        """Raise AssertionError for what was found."""
        assert not self.wrong, "; ".join(self.wrong)

    def moved_to(self, store: ObjectStore) -> None:
        """Go on with what a power cut left, and compare it with what was seen: what was acknowledged must be there."""
        self._store = store
        self._packs = {row.key for row in store.list(self._layout.packs)}
        heads = {row.key: store.get(row.key).data for row in store.list(self._layout.heads)}
        self.wrong += [f"heads only rise: {key} is gone" for key in self._bytes if key not in heads]
        for key, data in heads.items():
            if self._bytes.get(key) != data:
                self._published(key, data)
        for key, named in self._named.items():
            self._check_there(key, named)
        self.satellites.moved_to(store)

    def is_deleted(self, key: str) -> bool:
        """Say whether the session to which a key belongs was deleted."""
        return self._layout.session_part(key) in self._deleted_sessions

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store an object and look at it. See `ObjectStore.put`."""
        version = self._store.put(key, data, mode)
        if key.startswith(self._layout.heads):
            assert isinstance(data, bytes), "a head is no stream"
            self._published(key, data)
        elif key.startswith(self._layout.packs):
            self._packs.add(key)
        elif self.satellites.has(key):
            assert isinstance(data, bytes), "a satellite is no stream"
            self.satellites.put(key, data)
        return version

    def delete(self, key: str) -> None:
        """Remove an object, and see who named it. See `ObjectStore.delete`."""
        self._store.delete(key)
        self._deleted(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove objects, and see who named them. See `ObjectStore.delete_many`."""
        every = tuple(keys)
        failures = self._store.delete_many(every)
        failed = {failure.key for failure in failures}
        for key in every:
            if key not in failed:
                self._deleted(key)
        return failures

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return an object. See `ObjectStore.get`."""
        return self._store.get(key, byte_range)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        return self._store.stat(key)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        return self._store.list(prefix, start_after=start_after)

    def _deleted(self, key: str) -> None:
        self._packs.discard(key)
        if key.startswith(self._layout.heads):
            self.wrong.append(f"heads only rise: {key} was deleted")
        for head, named in self._named.items():
            if key in named:
                self.wrong.append(f"nothing dangles: {key} was deleted, and {head} names it")
        if self.satellites.has(key):
            self.satellites.deleted(key)

    def _published(self, key: str, data: bytes) -> None:
        before = self._bytes.get(key)
        try:
            head, named = self._read(key, data)
        except NotFoundError as error:
            self.wrong.append(f"nothing dangles: {key} was published, and {error.key} is not there")
            return
        if before is not None:
            self.wrong += self._succeeds(key, Head.decode(before, key=key), head)
        self._bytes[key] = data
        self._named[key] = named
        if head.status == TOMBSTONE:
            self._deleted_sessions.add(self._layout.session_part(key))
        self._seen(head)
        self.written.setdefault(key, []).append(HeadWritten(self._instant(), head))
        self._check_there(key, named)

    def _read(self, key: str, data: bytes) -> tuple[Head, frozenset[str]]:
        """Return a head and what it names; the bytes of a head decide both, so they are worked out once."""
        known = _KNOWN.get((key, data))
        if known is None:
            head = Head.decode(data, key=key)
            if len(_KNOWN) >= KNOWN_MAX:
                _KNOWN.clear()
            known = _KNOWN[key, data] = head, packs_named(self._store, self._layout, head)
        return known

    def _check_there(self, key: str, named: frozenset[str]) -> None:
        lost = sorted(named - self._packs)
        if lost:
            self.wrong.append(f"nothing dangles: {key} names {lost}, which is not there")


def packs_named(store: ObjectStore, layout: Layout, head: Head) -> frozenset[str]:
    """Return the keys of the packs that a head names, read from a store without faults."""
    environment = Environment(store, layout, ManualClock(), InlineExecutor(), home=HOME)
    return named_keys(environment, head)


def succession(key: str, old: Head, new: Head) -> list[str]:
    """Return what is wrong with a head that follows another under one key (rules 2 and 3)."""
    found = _fallen(key, old, new)
    if new.revision - old.revision > 1 and old.status != RESERVED:
        found.append(f"heads only rise: {key} skipped a revision")
    return found


def succession_of_copies(key: str, old: Head, new: Head) -> list[str]:
    """Return the same for a head of a tenant that is copied to (rules 2 to 4)."""
    found = _fallen(key, old, new)
    if old.status == new.status == LIVE and new.commits.commit_id(old.revision) != old.commit_id:
        found.append(f"a copy goes on from itself: {key} has another revision {old.revision}")
    return found


def _fallen(key: str, old: Head, new: Head) -> list[str]:
    fell = [name for name in ("epoch", "fence", "revision") if getattr(new, name) < getattr(old, name)]
    found = [f"heads only rise: the {name} of {key} fell" for name in fell]
    if old.status == TOMBSTONE and new.status != TOMBSTONE:
        found.append(f"heads only rise: the tombstone {key} came back to life")
    if old.status == LIVE and new.status not in (LIVE, TOMBSTONE):
        found.append(f"heads only rise: {key} was live and is {new.status}")
    if new.write_id == old.write_id:
        found.append(f"heads are told apart: {key} was written twice with one write id")
    if old.family and new.family != old.family:
        found.append(f"a family stays: {key} changed its own")
    return found
