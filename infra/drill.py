"""How long a restore takes: a fleet is made, backed up, lost and restored, and the restored one is compared.

Rules:
1. The steps are those of RECOVERY.md, "The whole store is lost", by the functions that the commands call.
2. A difference between backup and restored store is an error, not a figure.

    python -m infra.drill --sessions 1000 --turns 5     # a table; seconds belong to the machine
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.benchmarks.agent_turns import AgentTurns
from snapshots.benchmarks.meters import MB, Cost, metering
from snapshots.errors import InvalidStateError
from snapshots.maintenance.copy.compare import Difference, verify_copy
from snapshots.maintenance.copy.fleet import execute, plan_copy
from snapshots.maintenance.findings import Finding
from snapshots.maintenance.verify import verify

EXECUTION_BYTES = 64 << 10  # of each session; five of its pages change in a turn


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the drill: its name, how many sessions it dealt with, and what it cost at the store that it fills."""

    name: str
    sessions: int
    cost: Cost

    def row(self) -> str:
        """Return the row of the table."""
        moved = (self.cost.uploaded_bytes + self.cost.downloaded_bytes) / MB
        return f"| {self.name} | {self.sessions:,} | {moved:,.1f} MB | {self.cost.wall_seconds:.2f} s |"


def begin(repo: SnapshotRepository, sessions: int, turns: int) -> None:
    """Commit so many sessions of so many agent turns."""
    for number in range(sessions):
        state = PersistedSessionState(session_id=f"session-{number:06d}")
        for turn in AgentTurns(number, EXECUTION_BYTES).turns(turns):
            turn.apply(state)
            repo.commit(state, execution_state=turn.execution_state)
    repo.drain()


def drill(directory: Path, sessions: int, turns: int) -> Iterator[Step]:
    """Make, back up, lose and restore a fleet below `directory`; yield each step as it is done.

    Raises:
        InvalidStateError: What was restored differs from the backup, or is damaged.
    """
    live, backup, restored = (f"file:{directory / name}" for name in ("live", "backup", "restored"))
    with SnapshotRepository.open(live) as source, SnapshotRepository.open(backup) as target:
        begin(source, sessions, turns)
        yield _copied("back up", source, target)
    shutil.rmtree(directory / "live")
    with SnapshotRepository.open(backup) as source, SnapshotRepository.open(restored) as target:
        yield _copied("restore", source, target)
        with metering(target.metrics) as costs:
            differences = [str(one) for one in verify_copy(source, target) if isinstance(one, Difference)]
        _nothing(differences)
        yield Step("verify-copy", sessions, costs[0])
        with metering(target.metrics) as costs:
            findings = [str(one) for one in verify(target) if isinstance(one, Finding)]
        _nothing(findings)
        yield Step("verify", sessions, costs[0])


def _copied(name: str, source: SnapshotRepository, target: SnapshotRepository) -> Step:
    with metering(target.metrics) as costs:
        report = execute(plan_copy(source, target))
    _nothing([str(one) for one in report.not_copied])
    return Step(name, len(report.copied), costs[0])


def _nothing(found: Sequence[str]) -> None:
    if found:
        raise InvalidStateError(f"the drill failed: {found[0]}, and {len(found) - 1} more")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the drill in a temporary directory and print the table."""
    parser = argparse.ArgumentParser(description="How long backup, restore and the checks take, in a directory.")
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5, help="of each")
    given = parser.parse_args(arguments)
    print("| step | sessions | bytes at the store it fills or checks | time |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        for step in drill(Path(directory), given.sessions, given.turns):
            print(step.row())
    return 0


if __name__ == "__main__":
    sys.exit(main())
