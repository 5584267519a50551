"""A large execution state passes through little memory, both ways. Every bound is lowered, so a small one is large."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.digest import Hasher
from tests.benchmarks.streams import STEPS, Blocks, BlockStream, run

MIB, DIVISOR = 128, 16
SIZE = MIB << 20


def test_memory_does_not_grow_with_the_state(tmp_path: Path) -> None:
    steps = {step["step"]: step for step in run(f"file:{tmp_path}", MIB, DIVISOR)}
    assert list(steps) == [step.__name__ for step in STEPS]
    nothing = steps.pop("empty")["peak_bytes"]
    beyond = {name: step["peak_bytes"] - nothing - step.get("own_bytes", 0) for name, step in steps.items()}
    print({name: peak >> 20 for name, peak in beyond.items()})
    assert max(beyond.values()) < SIZE // 2
    assert steps["second"]["uploaded_bytes"] < SIZE // 10, "what differs, and the cuts around it"
    assert steps["third"]["own_requests"] == 2
    for name in ("by_open", "by_read"):
        assert steps[name]["requests"] < 5 * SIZE // (16 << 20) * DIVISOR


@pytest.mark.parametrize("edits", [0, 2])
def test_equal_seeds_give_equal_streams_of_which_little_was_edited(edits: int) -> None:
    first, second = Hasher(), Hasher()
    for block in Blocks(3, edits):
        first.update(block)
    stream = BlockStream(Blocks(3, edits))
    while piece := stream.read(70_001):
        second.update(piece)
    assert first.ref() == second.ref()
    assert abs(first.size_bytes - (3 << 20)) <= 0.02 * edits * (3 << 20)
