"""Azurite ends when its tests do, and whoever lacks it is told how to get it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.servers.process import ServerMissingError
from tests.azurite import INSTALL, azurite_running

ROOT = Path(__file__).parents[2]


def test_without_the_program_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerMissingError) as caught, azurite_running(tmp_path / "server"):
        pass
    assert INSTALL in str(caught.value)


@pytest.mark.parametrize(("all_servers", "code"), [("", 0), ("1", 1)])
def test_a_missing_azurite_is_skipped_unless_all_servers_are_wanted(
    tmp_path: Path, all_servers: str, code: int
) -> None:
    environment = os.environ | {"PATH": str(tmp_path), "SNAPSHOTS_ALL_SERVERS": all_servers}
    folder = ROOT / "tests" / "conformance"
    one = f"{folder / 'test_azure_azurite.py'}::TestCloudStoreOnAzurite::test_stat_tells_size_and_version"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", one], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == code, run.stdout + run.stderr
    assert ("1 error" if all_servers else "1 skipped") in run.stdout
    assert INSTALL in run.stdout


def test_ci_and_the_readme_install_what_the_error_names() -> None:
    assert INSTALL in (ROOT / ".ci" / "run").read_text()
    assert INSTALL in (ROOT / "tests" / "README.md").read_text()
