"""A store of very many small sessions, made quickly: one is committed, the others are its bytes under other names."""

from __future__ import annotations

from dataclasses import replace

from snapshots import SnapshotRepository
from snapshots.layout import Layout, pack_name
from storage.backends.memory import MemoryStore
from storage.store import Create
from storage.testing.clock import ManualClock
from tests.integration.builders import new_session, raw_head, take_turn

LAYOUT = Layout("default")
TURNS = 2  # packs of each; the log of places is in one of them


def crowd(count: int, *, garbage_in: int) -> MemoryStore:
    """Return a store of `count` families of one session each; so many of them have a pack that nobody names."""
    store, clock = MemoryStore(ManualClock()), ManualClock(seed=3)
    with SnapshotRepository(store, clock=clock, inline_limit_bytes=0) as repo:
        state = new_session("s0")
        for turn in range(TURNS):
            repo.commit(take_turn(state, f"turn{turn}"))
    head = raw_head(store, "s0")
    packs = {row.key.rpartition("/")[2]: store.get(row.key).data for row in store.list(LAYOUT.packs)}
    for number in range(1, count):
        name = f"s{number}"
        another = replace(head, session_id=name, family=name, write_id=clock.new_id())
        store.put(LAYOUT.head(name), another.encode(), Create())
        for pack, data in packs.items():
            store.put(LAYOUT.pack(name, pack), data, Create())
    for number in range(garbage_in):
        store.put(LAYOUT.pack(f"s{number}", pack_name(clock.new_id(), clock.new_id())), b"never named", Create())
    return store


def repository(store: MemoryStore) -> SnapshotRepository:
    """Return a repository that does one request at a time."""
    return SnapshotRepository(store, clock=ManualClock(seed=4), inline_limit_bytes=0)
