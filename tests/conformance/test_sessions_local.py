"""Sessions keep their contract in a directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapshots import SnapshotRepository
from snapshots.testing.conformance import OpenRepository, SessionConformance
from storage.backends.local import LocalStore


class TestSessionsInADirectory(SessionConformance):
    @pytest.fixture
    def open_repository(self, tmp_path: Path) -> OpenRepository:
        return lambda clock: SnapshotRepository(LocalStore(tmp_path / "sessions"), clock=clock)
