"""What it costs to copy a fleet from a directory to a server: all of it, what is new of it, and when nothing is.

Sessions of an agent's turns (`snapshots.benchmarks.agent_turns`), one in four of them forked and the fork gone on by a
turn. They are copied; then one in a hundred goes on by a turn, and they are copied again; and once more.

    python -m tests.benchmarks.copies
    python -m tests.benchmarks.copies --sessions 20 --turns 4 --json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

from infra.servers.ministack import ministack_running
from infra.servers.process import server_environment
from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.benchmarks.agent_turns import AgentTurns, Turn
from snapshots.maintenance.copy.compare import Difference, verify_copy
from snapshots.maintenance.copy.fleet import CopyReport, execute, plan_copy
from storage.wrappers.metered import VERBS, MetricsSnapshot
from tests.servers import new_bucket_url

SESSIONS, TURNS = 200, 10
FORKED, GO_ON = 4, 100  # one session in so many
EXECUTION_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Copied:
    """What one run did, and what it cost at either store.

    Attributes:
        name: Which run.
        report: What became of the sessions.
        source: Requests and bytes there.
        destination: Requests and bytes there.
        committed_bytes: Uploaded to the source since the run before.
        seconds: How long it took, the plan included.
    """

    name: str
    report: CopyReport
    source: MetricsSnapshot
    destination: MetricsSnapshot
    committed_bytes: int
    seconds: float

    @property
    def changed(self) -> int:
        """Return how many sessions were copied, or had anything new."""
        return len(self.report.copied)

    def figures(self) -> dict[str, Any]:
        """Return what is printed."""
        return {
            "run": self.name,
            "sessions": len(self.report.sessions),
            "changed": self.changed,
            "seconds": round(self.seconds, 2),
            "committed_bytes": self.committed_bytes,
            "read_bytes": self.source["get"].bytes_in + self.destination["get"].bytes_in,
            "uploaded_bytes": self.destination["put"].bytes_out,
            "source": requests_of(self.source),
            "destination": requests_of(self.destination),
        }


def requests_of(used: MetricsSnapshot) -> dict[str, int]:
    """Return the requests by verb, those that came."""
    return {verb: used[verb].requests for verb in VERBS if used[verb].requests}


class Fleet:
    """Sessions of a store that go on.

    Args:
        repo: Where they are.
    """

    def __init__(self, repo: SnapshotRepository) -> None:
        self._repo = repo
        self._names: list[str] = []
        self._turns: dict[str, Iterator[Turn]] = {}

    def begin(self, sessions: int, turns: int) -> None:
        """Commit so many sessions of so many turns, forks besides."""
        for number in range(sessions):
            name = f"session-{number:04d}"
            self._turns[name] = AgentTurns(number, EXECUTION_BYTES).turns(1 << 30)
            self._names.append(name)
            state = PersistedSessionState(session_id=name)
            for turn in islice(self._turns[name], turns):
                turn.apply(state)
                self._repo.commit(state, execution_state=turn.execution_state)
            if number % FORKED == 0:
                self._repo.fork(name, f"{name}/fork", 1 + turns // 2)
                self._take_turn(f"{name}/fork", next(self._turns[name]))
        self._repo.drain()

    def go_on(self) -> None:
        """Take a turn of one session in a hundred, of one at least."""
        for name in self._names[::GO_ON]:
            self._take_turn(name, next(self._turns[name]))
        self._repo.drain()

    def _take_turn(self, name: str, turn: Turn) -> None:
        state = self._repo.load(name)
        turn.apply(state)
        self._repo.commit(state, execution_state=turn.execution_state)


def run(source: SnapshotRepository, destination: SnapshotRepository, sessions: int, turns: int) -> Iterator[Copied]:
    """Copy a fleet, what is new of it, and nothing; yield what each cost. The copy is compared in the end."""
    fleet = Fleet(source)
    before = source.metrics.snapshot()
    fleet.begin(sessions, turns)
    yield _copied("everything", source, destination, before)
    before = source.metrics.snapshot()
    fleet.go_on()
    yield _copied("what is new", source, destination, before)
    yield _copied("nothing", source, destination, source.metrics.snapshot())
    differences = [str(one) for one in verify_copy(source, destination) if isinstance(one, Difference)]
    assert differences == [], differences


def _copied(name: str, source: SnapshotRepository, destination: SnapshotRepository, before: MetricsSnapshot) -> Copied:
    there, here = source.metrics.snapshot(), destination.metrics.snapshot()
    begun = time.perf_counter()
    report = execute(plan_copy(source, destination))
    seconds = time.perf_counter() - begun
    assert not report.not_copied, report.not_copied
    return Copied(
        name,
        report,
        source.metrics.snapshot() - there,
        destination.metrics.snapshot() - here,
        (there - before)["put"].bytes_out,
        seconds,
    )


@contextmanager
def places(directory: Path) -> Iterator[tuple[str, str]]:
    """Give the URLs of two empty stores: in a directory, and on a server, which runs meanwhile."""
    with patch.dict(os.environ, server_environment(), clear=True), ministack_running(directory) as endpoint:
        yield f"file:{directory / 'source'}", new_bucket_url(endpoint)


def table(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table of these figures."""
    head = ("run", "sessions", "changed", "seconds", "committed", "read", "uploaded", "requests: source", "destination")
    rows = [head]
    for one in found:
        kinds = [
            ", ".join(f"{count} {verb}" for verb, count in one[side].items()) for side in ("source", "destination")
        ]
        sizes = [f"{one[name] / 1000:,.0f} kB" for name in ("committed_bytes", "read_bytes", "uploaded_bytes")]
        rows.append((one["run"], str(one["sessions"]), str(one["changed"]), str(one["seconds"]), *sizes, *kinds))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy a fleet three times and print the figures."""
    parser = argparse.ArgumentParser(description="What a copy costs, and the next ones; a table.")
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--turns", type=int, default=TURNS, help="of each")
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    given = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as directory,
        places(Path(directory)) as (there, here),
        SnapshotRepository.open(there) as source,
        SnapshotRepository.open(here) as destination,
    ):
        found = [one.figures() for one in run(source, destination, given.sessions, given.turns)]
    if given.json:
        print(json.dumps({"sessions": given.sessions, "turns": given.turns, "runs": found}, indent=2))
        return
    for line in table(found):
        print(line)


if __name__ == "__main__":
    main()
