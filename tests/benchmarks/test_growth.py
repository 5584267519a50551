"""Requests and bytes of a commit do not grow with the session. Counts and ratios are gated, never seconds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.benchmarks.agent_turns import AgentTurns
from tests.benchmarks.growth import EARLY, LATE, TURNS, averaged, main, run, usual_upload, window_around

EXECUTION_STATE_BYTES = 64 << 10
GROWTH_MAX = 1.1
MERGED_GROWTH_MAX = 1.4  # ten times as many turns: what is merged, is merged about one time more


@pytest.mark.parametrize("place", ["memory", "file", "ministack"])
def test_a_steady_commit_takes_two_requests_and_the_first_three(
    request: pytest.FixtureRequest, tmp_path: Path, place: str
) -> None:
    urls = {"memory": "memory:", "file": f"file:{tmp_path / 'store'}"}
    with SnapshotRepository.open(urls.get(place) or request.getfixturevalue("ministack_url")) as repo:
        costs = run(repo, 40, EXECUTION_STATE_BYTES)
    assert [cost.requests for cost in costs] == [3] + [2] * 39


def test_uploads_do_not_grow_with_the_session() -> None:
    with SnapshotRepository.open("memory:") as repo:
        costs = run(repo, TURNS, EXECUTION_STATE_BYTES)
    assert {cost.requests for cost in costs[1:]} == {2}
    early, late = (window_around(costs, turn) for turn in (EARLY, LATE))
    means = [averaged(window).uploaded_bytes for window in (early, late)]
    print({"around turn 50": means[0], "around turn 500": means[1], "ratio": round(means[1] / means[0], 4)})
    assert usual_upload(late) <= GROWTH_MAX * usual_upload(early)
    assert means[1] <= MERGED_GROWTH_MAX * means[0]


def test_the_figures_are_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--turns", "20", "--execution-state-bytes", "8192"])
    figures = json.loads(capsys.readouterr().out)
    assert (figures["turns"], figures["requests_first"], figures["requests_steady_max"]) == (20, 3, 2)
    assert figures["around_turn_15"]["uploaded_bytes"] > 0


def test_equal_seeds_give_equal_turns_of_the_described_size() -> None:
    first, again = (list(AgentTurns(seed=3).turns(3)) for _ in range(2))
    assert first == again
    assert first != list(AgentTurns(seed=4).turns(3))
    for turn, later in itertools.pairwise(first):
        assert len(turn.execution_state) == 1 << 20
        pages = [
            start
            for start in range(0, 1 << 20, 4096)
            if turn.execution_state[start : start + 4096] != later.execution_state[start : start + 4096]
        ]
        assert 1 <= len(pages) <= 5
        changed = [name for name, tool in turn.tool_state.tools.items() if later.tool_state.tools[name] != tool]
        assert len(changed) == 2
        assert 20_000 < len(turn.tool_state.model_dump_json()) < 40_000
        assert [len(record.output.model_dump_json()) > 1000 for record in turn.tool_calls] == [True, True]


def test_a_turn_is_five_nodes() -> None:
    state = PersistedSessionState(session_id="s")
    for turn in AgentTurns(execution_state_bytes=8192).turns(4):
        turn.apply(state)
    assert len(state.session_graph.nodes) == 20
    state.session_graph.check()
    assert state.turn_index == 4
