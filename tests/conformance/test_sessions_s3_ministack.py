"""Sessions keep their contract on ministack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from snapshots import SnapshotRepository
from snapshots.testing.conformance import OpenRepository, SessionConformance
from tests.conformance.s3_behind import store_at


class TestSessionsOnMinistack(SessionConformance):
    @pytest.fixture
    def open_repository(self, ministack_url: str) -> Iterator[OpenRepository]:
        with ExitStack() as stores:
            yield lambda clock: SnapshotRepository(
                stores.enter_context(store_at(ministack_url)), clock=clock, url=ministack_url
            )
