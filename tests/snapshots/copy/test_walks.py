"""Whatever sessions went through, in either store, a copy of them is whole, and what it says is what was committed."""

from __future__ import annotations

import pytest

from tests.snapshots.copy.walks import Walk


@pytest.mark.parametrize("seed", range(8))
def test_copies_stay_whole_whatever_happens_in_either_store(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(3):
        for _ in range(20):
            walk.step()
        walk.check()
    assert walk.did["fresh"]
