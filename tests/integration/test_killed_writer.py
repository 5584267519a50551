"""A writer is killed at random moments, again and again: what it acknowledged is there, and the run goes on.

The number of kills comes from the environment: `SNAPSHOTS_KILLS=100 python -m pytest tests/integration -k killed`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from snapshots import PersistedSessionState, SnapshotRepository
from storage.testing.draws import Draws
from tests.integration.builders import check_every_revision
from tests.integration.turns import main, take

KILLS = int(os.environ.get("SNAPSHOTS_KILLS", "10"))
KILL_SECONDS_MAX = 0.08  # some ten turns
SEED = 20260101
ROOT = Path(__file__).parents[2]
SESSION = "killed"


def start(url: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration.turns", url, SESSION, str(count)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def killed_after(process: subprocess.Popen[str], seconds: float) -> list[int]:
    """Kill the process in a moment; return the revisions that it acknowledged before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass  # a sleep would favour the moments at which the scheduler lets go
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    lines = output.splitlines(keepends=True)
    return [int(line) for line in lines if line.endswith("\n")]


def content(repo: SnapshotRepository, revision: int | None = None) -> dict[str, Any]:
    """Return everything of a revision but ids and times that its writer drew."""
    return described(repo.load(SESSION, revision, execution_state=True))


def described(state: PersistedSessionState) -> dict[str, Any]:
    return {
        "messages": state.read_view().messages,
        "tools": state.tool_state_snapshot,
        "plugins": state.plugin_snapshot,
        "execution": state.execution_state_snapshot,
        "ledger": state.token_ledger,
        "turn": state.turn_state(),
        "policy": state.policy,
        "revision": state.head_revision,
    }


class Expected:
    """What each revision must be, worked out without a store."""

    def __init__(self) -> None:
        self._state = PersistedSessionState(session_id=SESSION)
        self._execution: bytes | None = None
        self._made: list[dict[str, Any]] = []

    def at(self, revision: int) -> dict[str, Any]:
        while len(self._made) < revision:
            turn = len(self._made) + 1
            self._execution = take(self._state, turn) or self._execution
            now = described(self._state)
            self._made.append({**now, "execution": self._execution, "revision": turn})
        return self._made[revision - 1]


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    url, draws, expected = f"file:{tmp_path / 'store'}", Draws(SEED), Expected()
    acknowledged, unacknowledged = 0, 0
    for kill in range(KILLS):
        lines = killed_after(start(url, 1_000_000), draws.random() * KILL_SECONDS_MAX)
        acknowledged = max([acknowledged, *lines])
        with SnapshotRepository.open(url, create=False) as repo:
            revision = len(repo.history(SESSION)) if acknowledged else 0
            assert revision >= acknowledged, f"seed {SEED}, kill {kill}"
            unacknowledged += revision > acknowledged
            for one in {*lines, revision} - {0}:
                assert content(repo, one) == expected.at(one), f"seed {SEED}, kill {kill}, revision {one}"
            acknowledged = revision
    with SnapshotRepository.open(url, create=False) as repo:
        reached = acknowledged + 5
        main(url, SESSION, reached)
        check_every_revision(repo, SESSION)
        assert [row.revision for row in repo.history(SESSION)] == list(range(1, reached + 1))
        assert all(content(repo, one) == expected.at(one) for one in range(1, reached + 1))
        end = content(repo)
    undisturbed = f"file:{tmp_path / 'undisturbed'}"
    main(undisturbed, SESSION, reached)
    with SnapshotRepository.open(undisturbed, create=False) as repo:
        assert content(repo) == end
    print({"kills": KILLS, "seed": SEED, "turns": reached, "applied but not acknowledged": unacknowledged})
