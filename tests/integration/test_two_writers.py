"""Two processes commit at one moment: one wins, the other learns of it, nothing is lost.

The number of rounds comes from the environment: `SNAPSHOTS_ROUNDS=500 python -m pytest tests/integration -k round`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from snapshots import SnapshotRepository
from tests.integration.builders import check_every_revision, message_ids, new_session, usage_of

ROUNDS = int(os.environ.get("SNAPSHOTS_ROUNDS", "50"))  # at each place: some hundred at all of them
ROOT = Path(__file__).parents[2]
END_SECONDS = 30.0


class Writer:
    """A process of `tests.integration.writer`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def running_writer(url: str) -> Iterator[Writer]:
    command = [sys.executable, "-m", "tests.integration.writer", url]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Writer(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(END_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def repo(shared_url: str) -> Iterator[SnapshotRepository]:
    with SnapshotRepository.open(shared_url) as opened:
        yield opened


@pytest.fixture
def writers(shared_url: str, repo: SnapshotRepository) -> Iterator[tuple[Writer, Writer]]:  # noqa: ARG001  the store exists before they open it
    with ExitStack() as stack:
        first, second = (stack.enter_context(running_writer(shared_url)) for _ in range(2))
        yield first, second


def race(writers: tuple[Writer, Writer], lines: tuple[str, str], first: int) -> list[dict[str, Any]]:
    """Let both prepare, then both commit; `first` hears the word a moment before the other."""
    for writer, line in zip(writers, lines, strict=True):
        writer.tell(line)
    assert [writer.answer() for writer in writers] == [{"ready": True}] * 2
    writers[first].tell("go")
    writers[1 - first].tell("go")
    return [writer.answer() for writer in writers]


def winner_of(answers: list[dict[str, Any]], *, expected: int | None, actual: int) -> int:
    """Return who won, having checked that exactly one did and that the other was told what happened."""
    won = [number for number, answer in enumerate(answers) if answer["won"]]
    assert len(won) == 1, answers
    assert answers[won[0]]["revision"] == actual
    assert answers[1 - won[0]] == {"won": False, "expected": expected, "actual": actual}
    return won[0]


def test_of_two_commits_one_wins_each_round(repo: SnapshotRepository, writers: tuple[Writer, Writer]) -> None:
    repo.commit(new_session("s1", "start0"))
    names, ids = ["start0"], [repo.history("s1")[0].commit_id]
    for number in range(ROUNDS):
        lines = (f"join s1 left{number}", f"join s1 right{number}")
        answers = race(writers, lines, number % 2)
        won = winner_of(answers, expected=number + 1, actual=number + 2)
        names.append(f"{('left', 'right')[won]}{number}")
        ids.append(answers[won]["commit_id"])
    assert [row.commit_id for row in repo.history("s1")] == ids
    state = repo.load("s1")
    assert message_ids(state) == names
    assert sum(usage_of(state).values()) == len(names)
    check_every_revision(repo, "s1")
    print({"rounds": ROUNDS, "won by the left one": sum(name.startswith("left") for name in names)})


def test_of_two_creators_one_wins_each_round(repo: SnapshotRepository, writers: tuple[Writer, Writer]) -> None:
    left = 0
    for number in range(ROUNDS):
        lines = (f"create fresh-{number} left", f"create fresh-{number} right")
        answers = race(writers, lines, number % 2)
        won = winner_of(answers, expected=None, actual=1)
        (row,) = repo.history(f"fresh-{number}")
        assert row.commit_id == answers[won]["commit_id"]
        assert message_ids(repo.load(f"fresh-{number}")) == [("left", "right")[won]]
        left += won == 0
    assert repo.stats().sessions["live"] == ROUNDS
    assert repo.stats().sessions["reserved"] == 0
    print({"rounds": ROUNDS, "won by the left one": left})
