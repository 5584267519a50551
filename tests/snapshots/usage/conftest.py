"""The bench of every test here."""

from __future__ import annotations

import pytest

from tests.snapshots.usage.bench import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()
