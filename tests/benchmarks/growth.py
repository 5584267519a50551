"""How the cost of a commit grows with the length of a session. Prints one JSON object.

python -m tests.benchmarks.growth --execution-state-bytes 1048576 --turns 550
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.benchmarks.agent_turns import EXECUTION_STATE_BYTES, AgentTurns

WINDOW = 100  # turns averaged: now and then a commit merges packs, and uploads what it carries
EARLY, LATE = 50, 500
TURNS = LATE + WINDOW // 2


@dataclass(frozen=True, slots=True)
class Cost:
    """What one commit cost."""

    requests: int
    uploaded_bytes: int
    cpu_seconds: float


def run(repo: SnapshotRepository, turns: int, execution_state_bytes: int) -> list[Cost]:
    """Commit `turns` turns of one session; return what each cost, as the repository counts it."""
    state = PersistedSessionState(session_id="growth")
    costs = []
    for turn in AgentTurns(execution_state_bytes=execution_state_bytes).turns(turns):
        turn.apply(state)
        before, started = repo.metrics.snapshot(), time.process_time()
        repo.commit(state, execution_state=turn.execution_state)
        seconds, used = time.process_time() - started, repo.metrics.snapshot() - before
        costs.append(Cost(used.total_requests, used["put"].bytes_out, seconds))
    return costs


def window_around(costs: Sequence[Cost], turn: int, size: int = WINDOW) -> Sequence[Cost]:
    """Return the costs of so many turns around a turn (counted from 1)."""
    window = costs[turn - size // 2 : turn + size // 2]
    assert len(window) == size, f"turn {turn} is too near to the end"
    return window


def usual_upload(window: Sequence[Cost]) -> float:
    """Return what a commit uploads that merges nothing."""
    return median(cost.uploaded_bytes for cost in window)


def averaged(window: Sequence[Cost]) -> Cost:
    """Return the mean cost; of the requests the most."""
    return Cost(
        max(cost.requests for cost in window),
        round(mean(cost.uploaded_bytes for cost in window)),
        mean(cost.cpu_seconds for cost in window),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the workload and print its figures."""
    parser = argparse.ArgumentParser(description="What a commit costs as a session grows; one JSON object.")
    parser.add_argument("--execution-state-bytes", type=int, default=EXECUTION_STATE_BYTES)
    parser.add_argument(
        "--turns", type=int, default=TURNS, help=f"at least {TURNS} to compare turns {EARLY} and {LATE}"
    )
    parser.add_argument("--store", default="memory:", help="URL of an empty store")
    given = parser.parse_args(arguments)
    with SnapshotRepository.open(given.store) as repo:
        costs = run(repo, given.turns, given.execution_state_bytes)
        stored = repo.stats()
    size = min(WINDOW, given.turns // 2)
    last = min(LATE, given.turns - size // 2)
    windows = [window_around(costs, turn, size) for turn in (min(EARLY, last), last)]
    early, late = map(averaged, windows)
    figures = {
        "turns": given.turns,
        "execution_state_bytes": given.execution_state_bytes,
        "requests_first": costs[0].requests,
        "requests_steady_max": max(cost.requests for cost in costs[1:]),
        "uploaded_bytes_mean": round(mean(cost.uploaded_bytes for cost in costs)),
        "stored_bytes_per_turn": round((stored.packs_bytes + stored.heads_bytes) / given.turns),
        f"around_turn_{min(EARLY, last)}": asdict(early),
        f"around_turn_{last}": asdict(late),
        "usual_uploaded_bytes": list(map(usual_upload, windows)),
        "uploaded_ratio": round(late.uploaded_bytes / early.uploaded_bytes, 4),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
