"""Sessions keep their contract in memory."""

from __future__ import annotations

import pytest

from snapshots import SnapshotRepository
from snapshots.testing.conformance import OpenRepository, SessionConformance
from storage.backends.memory import MemoryStore


class TestSessionsInMemory(SessionConformance):
    @pytest.fixture
    def open_repository(self) -> OpenRepository:
        store = MemoryStore()
        return lambda clock: SnapshotRepository(store, clock=clock)
