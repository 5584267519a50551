"""The large-state workload is what its docstring says: sizes, volume of edits, and equal bytes for equal seeds."""

from __future__ import annotations

import itertools

import pytest

from snapshots import PersistedSessionState
from snapshots.benchmarks.large_state import EDITED, EXECUTION_STATE_BYTES, TRANSCRIPT_BYTES, LargeState, Revision

SMALL = 4 << 20
BLOCK = 64  # bytes that are found again only where they were copied


@pytest.fixture(scope="module")
def revisions() -> list[Revision]:
    return list(LargeState(seed=3, execution_state_bytes=SMALL).revisions(4))


def _new_bytes(old: bytes, new: bytes) -> int:
    """Count the bytes of `new` outside any block of `old`, wherever it stands now."""
    blocks = {old[start : start + BLOCK] for start in range(0, len(old), BLOCK)}
    count = position = 0
    while position < len(new):
        found = new[position : position + BLOCK] in blocks
        count += 0 if found else 1
        position += BLOCK if found else 1
    return count


def test_the_full_size_is_64_mib() -> None:
    assert EXECUTION_STATE_BYTES == 64 << 20


def test_equal_seeds_give_equal_revisions(revisions: list[Revision]) -> None:
    again = list(LargeState(seed=3, execution_state_bytes=SMALL).revisions(4))
    assert again == revisions
    other = LargeState(seed=4, execution_state_bytes=SMALL).revisions(1)
    assert next(other).execution_state != revisions[0].execution_state


def test_the_first_state_has_its_size_and_later_ones_drift_slowly(revisions: list[Revision]) -> None:
    sizes = [len(revision.execution_state) for revision in revisions]
    assert sizes[0] == SMALL
    for size, later in itertools.pairwise(sizes):
        assert 0 < abs(later - size) < EDITED * SMALL


def test_an_odd_size_is_kept() -> None:
    first = next(LargeState(execution_state_bytes=100_003).revisions(1))
    assert len(first.execution_state) == 100_003


def test_about_one_percent_is_new_in_each_revision(revisions: list[Revision]) -> None:
    pairs = itertools.pairwise(revision.execution_state for revision in revisions)
    shares = [_new_bytes(old, new) / len(new) for old, new in pairs]
    print([round(share, 5) for share in shares])
    for share in shares:
        assert 0.3 * EDITED < share < 1.3 * EDITED  # a delete adds none; an edit spoils the blocks at its ends


def test_the_transcript_grows_by_ten_and_a_half_kib(revisions: list[Revision]) -> None:
    for revision in revisions:
        grown = sum(len(line) for line in revision.transcript_lines())
        assert TRANSCRIPT_BYTES <= grown < TRANSCRIPT_BYTES + 200
    ids = [message.id for revision in revisions for message in revision.messages]
    assert len(set(ids)) == len(ids)


def test_revisions_can_be_applied_to_a_state(revisions: list[Revision]) -> None:
    state = PersistedSessionState(session_id="s")
    for revision in revisions:
        revision.apply(state)
    assert state.turn_index == len(revisions)
    assert [message.id for message in state.read_view().messages] == [
        message.id for revision in revisions for message in revision.messages
    ]
