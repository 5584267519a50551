"""Sessions keep their contract on moto."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from snapshots import SnapshotRepository
from snapshots.testing.conformance import OpenRepository, SessionConformance
from tests.conformance.s3_behind import store_at


class TestSessionsOnMoto(SessionConformance):
    @pytest.fixture
    def open_repository(self, moto_url: str) -> Iterator[OpenRepository]:
        with ExitStack() as stores:
            yield lambda clock: SnapshotRepository(stores.enter_context(store_at(moto_url)), clock=clock, url=moto_url)
