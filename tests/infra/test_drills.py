"""The drills of RECOVERY.md run as they stand there, and end as they say."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import snapshots.cli
from infra import drill
from snapshots.errors import InvalidStateError
from tests.infra.documents import drills

DRILLS = drills()
IN_A_SHELL = "store"  # one of them is run by bash itself; the others by this process, which is ten times as fast


def test_there_are_drills() -> None:
    assert set(DRILLS) == {"store", "returned", "replica", "damaged", "deleted", "versions", "host", "moved"}


@pytest.mark.aside
def test_a_store_that_is_lost_is_restored_in_a_shell() -> None:
    script = "\n".join(["set -euo pipefail", *(line.command for line in DRILLS[IN_A_SHELL])])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as directory:
        run = subprocess.run(
            ["bash", "-c", script],
            cwd=directory,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("1 session, 11 revisions compared: no difference") == 2
    assert "marshmallow-1867" in run.stdout.splitlines()[-2]


@pytest.mark.parametrize("name", sorted(set(DRILLS) - {IN_A_SHELL}))
def test_a_drill_ends_as_its_page_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in DRILLS[name]:
        first, _, rest = line.command.partition(" ")
        if first == "export":
            monkeypatch.setenv(*rest.split("=", 1))
        elif first == "snapshots":
            code = snapshots.cli.main(line.command.split()[1:])
            assert code == line.code, (line.command, capsys.readouterr())
        else:
            subprocess.run(["bash", "-euo", "pipefail", "-c", line.command], check=True, timeout=60)


def test_a_drill_measures_each_step_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = list(drill.drill(tmp_path, sessions=2, turns=2))
    assert [step.name for step in steps] == ["back up", "restore", "verify-copy", "verify"]
    assert [step.sessions for step in steps] == [2] * 4
    assert not (tmp_path / "live").exists()
    assert steps[1].cost.uploaded_bytes > 0
    drill.main(["--sessions", "1", "--turns", "1"])
    assert capsys.readouterr().out.count("\n") == 6


def test_a_restored_store_that_differs_is_an_error() -> None:
    with pytest.raises(InvalidStateError, match="the drill failed: this, and 1 more"):
        drill._nothing(["this", "that"])
