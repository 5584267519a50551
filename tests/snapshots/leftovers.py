"""A store with everything that a collection meets: live sessions, a fork, a tombstone, an upload never published."""

from __future__ import annotations

import pytest

from snapshots import SnapshotRepository
from snapshots.layout import Layout
from storage.backends.memory import MemoryStore
from storage.testing.clock import ManualClock
from storage.testing.faults import CrashBefore, FaultyStore
from storage.testing.plan import Crash
from tests.integration.builders import check_every_revision, new_session, take_turn

LAYOUT = Layout("default")


class Place:
    """Two sessions, a fork, a tombstone whose packs nobody needs, and an upload that was never published."""

    def __init__(self) -> None:
        self.store = MemoryStore(ManualClock())
        self.faulty = FaultyStore(self.store)
        self.repo = SnapshotRepository(self.faulty, clock=ManualClock(seed=1), inline_limit_bytes=0)
        for name in ("s1", "s2", "gone"):
            state = new_session(name)
            for number in range(3):
                self.repo.commit(take_turn(state, f"{name}{number}"))
        self.repo.fork("s1", "c1", 2)
        self.repo.delete("gone")
        self.faulty.plan.on("put", LAYOUT.head("s2"), fault=CrashBefore())
        with pytest.raises(Crash):
            self.repo.commit(take_turn(self.repo.load("s2"), "never"))
        self.faulty.restart()
        self.faulty.plan.clear()

    def packs(self) -> list[str]:
        return [row.key for row in self.store.list(LAYOUT.packs)]

    def check_sessions(self) -> None:
        for name in ("s1", "s2", "c1"):
            check_every_revision(self.repo, name)
