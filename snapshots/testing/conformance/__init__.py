"""`SessionConformance`: what a session may rely on, as tests; every backend passes the same ones.

Rules:
1. A sub-class gives a fixture `open_repository`, which opens a repository with a given clock: always at one place,
   which is empty at the start of each test. Two of them are two hosts.
2. No test knows a backend, or looks behind the repository. What one host does is read back by the other.
3. Time passes when a test says so. Threads are real.
4. The tests carry the names by which the conformance of such stores is known elsewhere.

    class TestInMemory(SessionConformance):
        @pytest.fixture
        def open_repository(self):
            store = MemoryStore()
            return lambda clock: SnapshotRepository(store, clock=clock)
"""

from __future__ import annotations

from snapshots.testing.conformance.children import ChildConformance
from snapshots.testing.conformance.commits import CommitConformance
from snapshots.testing.conformance.history import HistoryConformance
from snapshots.testing.conformance.hosts import OpenRepository
from snapshots.testing.conformance.turns import TurnConformance

__all__ = [
    "ChildConformance",
    "CommitConformance",
    "HistoryConformance",
    "OpenRepository",
    "SessionConformance",
    "TurnConformance",
]


class SessionConformance(CommitConformance, TurnConformance, ChildConformance, HistoryConformance):
    """Sub-class once per backend."""
