"""Processes append to one usage log while another merges and collects: every line once, each writer's in order.

The figure: SNAPSHOTS_USAGE_PROCESSES=8 SNAPSHOTS_USAGE_LINES=1000 python -m pytest tests/integration -k every_line -s
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from snapshots import SnapshotRepository
from snapshots.maintenance.collect import execute, plan_collect
from snapshots.usage import UsageLog, compact
from storage.testing.draws import Draws
from tests.integration.appender import SESSION

PROCESSES = int(os.environ.get("SNAPSHOTS_USAGE_PROCESSES", "4"))
LINES = int(os.environ.get("SNAPSHOTS_USAGE_LINES", "100"))  # of each
NEVER_DONE = 1_000_000  # lines that a process appends until it is killed
ROOT = Path(__file__).parents[2]
END_SECONDS = 60.0 + PROCESSES * LINES  # a busy machine; some milliseconds for each line are usual


class Process:
    """A process of `tests.integration.appender`."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self.acknowledged: list[int] = []
        self.ended: dict[str, Any] = {}
        self._process = process

    def hear(self, lines: int) -> None:
        """Take in so many of its lines, fewer if it ends."""
        assert self._process.stdout is not None
        for _ in range(lines):
            said = self._process.stdout.readline()
            if not said.endswith("\n"):
                break
            if said.startswith("{"):
                self.ended = json.loads(said)
            else:
                self.acknowledged.append(int(said))

    def kill(self) -> None:
        """Kill it at once, and take in what it had said."""
        self._process.send_signal(signal.SIGKILL)
        assert self._process.wait(END_SECONDS) == -signal.SIGKILL
        self.hear(LINES + 1)

    def leave(self) -> None:
        """Let it come to its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.hear(LINES + 1)
        assert self._process.wait(END_SECONDS) == 0, f"{self.name} failed, see its traceback"


@contextmanager
def running(url: str, *arguments: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "tests.integration.appender", url, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Process(" ".join(arguments), process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def repo(shared_url: str) -> Iterator[SnapshotRepository]:
    with SnapshotRepository.open(shared_url) as opened:
        yield opened


def rows(repo: SnapshotRepository) -> dict[str, list[int]]:
    """Return what the log holds of each writer, in the order in which it is read."""
    found: dict[str, list[int]] = {}
    for row in UsageLog(repo, SESSION).read():
        found.setdefault(row.value["writer"], []).append(row.value["n"])
    return found


def segments_stored(repo: SnapshotRepository) -> int:
    environment = repo.environment
    return sum(row.key.endswith(".zst") for row in environment.store.list(environment.layout.usage(SESSION)))


@pytest.mark.figure
@pytest.mark.timeout(2 * END_SECONDS + 120)
def test_every_line_of_every_process_is_there_once(shared_url: str, repo: SnapshotRepository) -> None:
    begun = time.monotonic()
    with ExitStack() as stack:
        care = stack.enter_context(running(shared_url, "care"))
        writers = [stack.enter_context(running(shared_url, "append", f"w{n}", str(LINES))) for n in range(PROCESSES)]
        for writer in writers:
            writer.leave()
        seconds = time.monotonic() - begun
        care.leave()
    assert rows(repo) == {f"w{n}": list(range(LINES)) for n in range(PROCESSES)}
    live, stored = len(UsageLog(repo, SESSION).segments()), segments_stored(repo)
    compact(repo, SESSION)
    execute(plan_collect(repo))
    assert rows(repo) == {f"w{n}": list(range(LINES)) for n in range(PROCESSES)}
    assert segments_stored(repo) == len(UsageLog(repo, SESSION).segments())
    lines = PROCESSES * LINES
    print(
        {
            "store": shared_url.partition(":")[0],
            "processes": PROCESSES,
            "lines": lines,
            "seconds": round(seconds, 1),
            "requests per line": round(sum(writer.ended["requests"] for writer in writers) / lines, 2),
            "merged and collected by another": care.ended,
            "segments live, stored": (live, stored),
            "segments after care": segments_stored(repo),
            "merges that failed": [one for writer in writers if (one := writer.ended["upkeep_failure"])],
        }
    )


@pytest.mark.timeout(2 * END_SECONDS + 120)
def test_what_a_killed_process_was_told_is_there_once(shared_url: str, repo: SnapshotRepository) -> None:
    draws = Draws(shared_url)
    with ExitStack() as stack:
        care = stack.enter_context(running(shared_url, "care"))
        counts = [NEVER_DONE if n % 2 == 0 else LINES for n in range(PROCESSES)]
        writers = [
            stack.enter_context(running(shared_url, "append", f"w{n}", str(count))) for n, count in enumerate(counts)
        ]
        victims = writers[::2]
        for victim in victims:
            victim.hear(1 + draws.below(max(LINES // 2, 1)))
            victim.kill()
        for writer in writers:
            if writer not in victims:
                writer.leave()
        care.leave()
    found = rows(repo)
    for number, writer in enumerate(writers):
        told, there = writer.acknowledged, found[f"w{number}"]
        assert told == list(range(len(told)))
        assert there[: len(told)] == told
        assert there[len(told) :] in ([], [len(told)]) if writer in victims else there == list(range(LINES))
    assert max(Counter(n for numbers in found.values() for n in numbers).values()) <= PROCESSES
    assert all(len(victim.acknowledged) < NEVER_DONE for victim in victims)
    UsageLog(repo, SESSION).append('{"writer": "later", "n": 0}')
    assert rows(repo) == {**found, "later": [0]}
    compact(repo, SESSION)
    execute(plan_collect(repo))
    assert segments_stored(repo) == len(UsageLog(repo, SESSION).segments())
    assert rows(repo) == {**found, "later": [0]}
    print({"killed after": [len(victim.acknowledged) for victim in victims]})


def test_a_forked_process_loses_none_of_its_lines_and_none_of_its_parents(tmp_path: Path) -> None:
    url, count = f"file:{tmp_path}/store", 20
    with SnapshotRepository.open(url) as repo, running(url, "fork", str(count)) as process:
        process.leave()
        assert process.ended["child"] == 0
        ids = [row.row_id for row in UsageLog(repo, SESSION).read()]
        assert len(ids) == 3 * count
        assert set(process.ended["ids"]) < set(ids)
        assert len({row_id.partition("-")[0] for row_id in ids}) == 2
