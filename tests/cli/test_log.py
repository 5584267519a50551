"""`--log`: lines of JSON in a file or on stderr, beside what the command says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snapshots.cli.exits import USAGE
from storage.observed import LISTENERS
from tests.cli.conftest import Command


def operations_in(lines: str) -> list[str]:
    return [json.loads(line)["operation"] for line in lines.splitlines()]


def test_lines_are_appended_to_a_file(filled: Command, tmp_path: Path) -> None:
    log = tmp_path / "snapshots.log"
    filled("--log", str(log), "log", "marshmallow-1867")
    filled("ls", f"--log={log}")
    filled("ls")
    assert operations_in(log.read_text()) == ["open", "history", "open", "sessions"]


def test_a_dash_is_stderr(filled: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = LISTENERS[:]
    monkeypatch.setenv("SNAPSHOTS_LOG", "-")
    assert operations_in(filled("ls").err) == ["open", "sessions"]
    assert before == LISTENERS


def test_a_file_that_cannot_be_written_is_an_error_of_usage(cli: Command, tmp_path: Path) -> None:
    outcome = cli("--log", str(tmp_path), "ls", code=USAGE)
    assert outcome.err.startswith("error: cannot write the log ")
    assert outcome.err.strip().endswith("Is a directory; see snapshots --help")
