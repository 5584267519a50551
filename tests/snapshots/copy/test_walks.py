"""Whatever sessions went through, in either store, a copy of them is whole, and what it says is what was committed."""

from __future__ import annotations

import pytest

from snapshots.maintenance.copy import session
from storage import pack_copies
from tests.snapshots.copy.walks import Walk


@pytest.mark.aside
@pytest.mark.parametrize("seed", [*range(3), 133])
def test_copies_stay_whole_whatever_happens_in_either_store(seed: int) -> None:
    walked(seed)


@pytest.mark.aside
@pytest.mark.parametrize("seed", [*range(4, 7), 100])
def test_so_do_copies_in_many_pieces(seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "PACK_BYTES", 6_000)
        patch.setattr(session, "WHOLE_BYTES_MAX", 4_000)
        patch.setattr(pack_copies, "WHOLE_BYTES_MAX", 4_000)
        walked(seed)


def walked(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(3):
        for _ in range(20):
            walk.step()
        walk.check()
    assert walk.did["fresh"]
