"""Fixtures of the command's tests: the command in this process, and a store that a demo has filled."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from snapshots import SnapshotRepository
from snapshots.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def record(self) -> dict[str, Any]:
        (row,) = self.rows
        return row

    @property
    def error(self) -> dict[str, Any]:
        (line,) = self.err.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found


Command = Callable[..., Outcome]
Answering = Callable[[str], None]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Give a function after which somebody sits at a terminal who answers the next question so."""
    return lambda answer: monkeypatch.setattr(sys, "stdin", _Terminal(f"{answer}\n"))


def at_terminal(*arguments: str, code: int = 0) -> str:
    """Return all that somebody sees who runs the command at a terminal."""
    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        [str(Path(sys.executable).with_name("snapshots")), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "400"},
    )
    os.close(theirs)
    shown = read_to_the_end(ours)
    assert started.wait(timeout=60) == code, shown
    return shown.replace("\r\n", "\n")


def read_to_the_end(terminal: int) -> str:
    """Return what is written to the other side of a terminal, until that is closed."""
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # that is how a terminal ends
            piece = b""
        if not piece:
            break
        shown += piece
    os.close(terminal)
    return shown.decode()


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    found = f"file:{tmp_path / 'store'}"
    monkeypatch.setenv("SNAPSHOTS_STORE", found)
    monkeypatch.delenv("SNAPSHOTS_TENANT", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return found


@pytest.fixture
def cli(url: str, capsys: pytest.CaptureFixture[str]) -> Command:  # noqa: ARG001  for its effect
    """Give the command, run in this process on a store of its own; it checks the exit code."""

    def run(*arguments: str, code: int = 0) -> Outcome:
        capsys.readouterr()
        found = main(arguments)
        captured = capsys.readouterr()
        outcome = Outcome(found, captured.out, captured.err)
        assert outcome.code == code, outcome
        return outcome

    return run


@pytest.fixture
def filled(cli: Command) -> Command:
    """Give the command on a store that holds the demo's session, `marshmallow-1867`, of 11 revisions."""
    cli("--quiet", "demo")
    return cli


@pytest.fixture
def with_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command put a pack into the store with each commit, however small."""
    opened = partial(SnapshotRepository, inline_limit_bytes=0)
    monkeypatch.setattr("snapshots.cli.invocation.SnapshotRepository", opened)
