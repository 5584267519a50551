"""Sessions keep their contract on Azurite."""

from __future__ import annotations

import pytest

from snapshots import SnapshotRepository
from snapshots.testing.conformance import OpenRepository, SessionConformance
from tests.conformance.cloud_behind import store_at


class TestSessionsOnAzurite(SessionConformance):
    @pytest.fixture
    def open_repository(self, azurite_url: str) -> OpenRepository:
        return lambda clock: SnapshotRepository(store_at(azurite_url), clock=clock, url=azurite_url)
