"""Four runtimes save one session from stale copies while a user edits its title: no message and no edit is lost.

How often each saves comes from the environment:
`SNAPSHOTS_SAVES=100 python -m pytest tests/integration/test_runtime_saves.py -s`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from snapshots import SnapshotRepository
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from tests.integration.builders import SESSION, check_every_revision
from tests.integration.saver import messages_of

SAVES = int(os.environ.get("SNAPSHOTS_SAVES", "25"))
RUNTIMES = ("north", "east", "south", "west")
ROOT = Path(__file__).parents[2]
END_SECONDS = 60.0 + 4.0 * SAVES
FIRST = {"id": "first", "role": "user", "content": "hello"}


class Process:
    """A process of `tests.integration.saver`."""

    def __init__(self, url: str, role: str, name: str, count: int) -> None:
        self.name = name
        command = [sys.executable, "-m", "tests.integration.saver", url, role, name, str(count)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def told(self) -> Iterator[dict[str, Any]]:
        """Yield what it tells, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):  # else it was killed amid a line
                yield json.loads(line)

    def finish(self) -> list[dict[str, Any]]:
        """Return all that it told since; it must end well."""
        told = list(self.told())
        assert self.process.wait(END_SECONDS) == 0
        return told

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def at_work(url: str, wanted: Sequence[tuple[str, str, int]]) -> Iterator[list[Process]]:
    """Give processes of these roles and names, all started at one moment."""
    with ExitStack() as stack:
        processes = [Process(url, *one) for one in wanted]
        for process in processes:
            stack.callback(process.end)
        for process in processes:
            process.start()
        yield processes


@pytest.fixture
def repo(shared_url: str) -> Iterator[SnapshotRepository]:
    with SnapshotRepository.open(shared_url) as opened:
        first = RuntimeSession(session_id=SESSION, title="untouched", messages=[FIRST])
        RuntimeSessionStore(opened).save_runtime_session(first)
        yield opened


def check_messages(repo: SnapshotRepository, saved: dict[str, list[str]]) -> RuntimeSession:
    """Check that each confirmed message is there once, as it was said, in its runtime's order; return the session."""
    stored = RuntimeSessionStore(repo).load_runtime_session(SESSION)
    by_id = {message["id"]: message for message in stored.messages}
    assert len(by_id) == len(stored.messages)
    assert stored.messages[0] == FIRST
    for name, ids in saved.items():
        mine = [one for one in by_id if one.startswith(f"{name}-")]
        said = [message for number in range((len(mine) + 1) // 2) for message in messages_of(name, number)]
        assert [by_id[one] for one in mine] == said
        assert mine[: len(ids)] == ids
    return stored


def test_stale_saves_and_title_edits_lose_nothing(shared_url: str, repo: SnapshotRepository) -> None:
    roles = [*(("runtime", name, SAVES) for name in RUNTIMES), ("user", "title", SAVES)]
    with at_work(shared_url, roles) as processes:
        told = {process.name: process.finish() for process in processes}
    costs = {name: lines.pop() for name, lines in told.items()}
    saved = {name: [one for line in told[name] for one in line["saved"]] for name in RUNTIMES}
    assert all(len(ids) == 2 * SAVES for ids in saved.values())
    stored = check_messages(repo, saved)
    assert len(stored.messages) == 1 + 2 * SAVES * len(RUNTIMES)
    assert (stored.title, stored.title_version, stored.metadata_version) == (f"title {SAVES - 1}", SAVES, SAVES)
    assert stored.metadata["by"] in RUNTIMES
    check_every_revision(repo, SESSION)
    runtimes = [costs[name] for name in RUNTIMES]
    print(
        {
            "saves": SAVES * len(RUNTIMES),
            "gets per save": round(sum(one["get"] for one in runtimes) / (SAVES * len(RUNTIMES)), 1),
            "puts per save": round(sum(one["put"] for one in runtimes) / (SAVES * len(RUNTIMES)), 1),
            "requests per edit": round((costs["title"]["get"] + costs["title"]["put"]) / SAVES, 1),
            "repeated by the caller": sum(one["repeats"] for one in costs.values()),
            "revisions": len(repo.history(SESSION)),
        }
    )


def test_a_runtime_that_is_killed_loses_nothing_that_was_confirmed(shared_url: str, repo: SnapshotRepository) -> None:
    count = max(8, SAVES // 4)
    with at_work(shared_url, [("runtime", name, count) for name in RUNTIMES[:3]]) as (killed, *others):
        saved: dict[str, list[str]] = {killed.name: []}
        for line in killed.told():
            saved[killed.name] += line["saved"]
            if len(saved[killed.name]) == 6:  # three saves; the next one is under way
                break
        killed.process.kill()
        saved[killed.name] += [one for line in killed.told() for one in line.get("saved", ())]
        saved |= {other.name: [one for line in other.finish()[:-1] for one in line["saved"]] for other in others}
    assert killed.process.wait(END_SECONDS) < 0
    check_messages(repo, saved)
    check_every_revision(repo, SESSION)
    RuntimeSessionStore(repo).save_runtime_session(RuntimeSession(session_id=SESSION))  # whatever it left behind
