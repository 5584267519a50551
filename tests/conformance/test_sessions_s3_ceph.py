"""Sessions keep their contract on Ceph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from snapshots import SnapshotRepository
from snapshots.testing.conformance import OpenRepository, SessionConformance
from tests.conformance.s3_behind import store_at


class TestSessionsOnCeph(SessionConformance):
    @pytest.fixture
    def open_repository(self, ceph_url: str) -> Iterator[OpenRepository]:
        with ExitStack() as stores:
            yield lambda clock: SnapshotRepository(stores.enter_context(store_at(ceph_url)), clock=clock, url=ceph_url)
