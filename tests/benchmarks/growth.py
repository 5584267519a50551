"""Figures: what a turn costs as a session grows. Prints JSON.

python -m tests.benchmarks.growth --turns 500 --execution-state-bytes 65536
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass

import snapshots
from snapshots import PersistedSessionState, SnapshotRepository
from storage.backends import open_store
from tests.benchmarks.agent_turns import AgentTurns

WINDOW = 8  # turns on which a log merge falls exactly once: single turns are uneven


@dataclass(frozen=True, slots=True)
class TurnCost:
    """What one commit cost."""

    requests: int
    uploaded_bytes: int
    cpu_seconds: float


def run(url: str, turns: int, execution_state_bytes: int) -> list[TurnCost]:
    """Commit the workload to a fresh store; return the cost of each turn, the first included."""
    costs = []
    with SnapshotRepository(open_store(url)) as repo:
        state = PersistedSessionState(session_id="agent-turns")
        for turn in AgentTurns(execution_state_bytes=execution_state_bytes).turns(turns):
            begin = time.process_time()
            turn.apply(state)
            result = repo.commit(state, turn.stamp, turn.execution_state)
            costs.append(TurnCost(result.requests, result.uploaded_bytes, time.process_time() - begin))
    return costs


def mean_upload(costs: list[TurnCost], last_turn: int) -> float:
    """Return the mean bytes uploaded in the WINDOW turns that end with turn `last_turn` (1, 2, …)."""
    window = costs[last_turn - WINDOW : last_turn]
    assert len(window) == WINDOW
    return sum(cost.uploaded_bytes for cost in window) / WINDOW


def figures(costs: list[TurnCost], early: int, late: int) -> dict[str, object]:
    """Return the figures of a run: turn `early` against turn `late`."""
    steady = costs[1:]
    return {
        "turns": len(costs),
        "requests_first": costs[0].requests,
        "requests_steady": sorted({cost.requests for cost in steady}),
        f"uploaded_bytes_turn_{early}": round(mean_upload(costs, early)),
        f"uploaded_bytes_turn_{late}": round(mean_upload(costs, late)),
        "ratio": round(mean_upload(costs, late) / mean_upload(costs, early), 3),
        "uploaded_bytes_mean": round(sum(cost.uploaded_bytes for cost in costs) / len(costs)),
        "uploaded_bytes_max_steady": max(cost.uploaded_bytes for cost in steady),
        "cpu_ms_mean": round(1000 * sum(cost.cpu_seconds for cost in costs) / len(costs), 2),
        "first": asdict(costs[0]),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="What a turn costs as a session grows.")
    parser.add_argument("--store", default="memory:")
    parser.add_argument("--turns", type=int, default=504)
    parser.add_argument("--execution-state-bytes", type=int, default=64 << 10)
    given = parser.parse_args()
    costs = run(given.store, given.turns, given.execution_state_bytes)
    about = {"version": snapshots.__version__, "python": platform.python_version(), "machine": platform.machine()}
    size = {"store": given.store, "execution_state_bytes": given.execution_state_bytes}
    print(json.dumps({**about, **size, **figures(costs, 56, given.turns // WINDOW * WINDOW)}, indent=1))


if __name__ == "__main__":
    main()
