"""Gates on counts: what a commit costs does not grow with the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.growth import mean_upload, run

STATE_BYTES = 64 << 10


def test_a_turn_uploads_at_turn_500_what_it_does_at_turn_50() -> None:
    costs = run("memory:", 504, STATE_BYTES)
    early, late = mean_upload(costs, 56), mean_upload(costs, 504)  # turns 49-56 and 497-504, one log merge in each
    assert late <= 1.1 * early
    assert early > STATE_BYTES / 2  # the random half alone: the bytes are really counted
    assert (costs[0].requests, {cost.requests for cost in costs[1:]}) == (3, {2})


def test_steady_commits_take_two_requests_on_disk(tmp_path: Path) -> None:
    costs = run(f"file:{tmp_path}/store", 12, STATE_BYTES)
    assert [cost.requests for cost in costs] == [3] + [2] * 11


@pytest.mark.usefixtures("s3_credentials")
def test_steady_commits_take_two_requests_on_s3(ministack_url: str) -> None:
    costs = run(ministack_url, 12, STATE_BYTES)
    assert [cost.requests for cost in costs] == [3] + [2] * 11
