"""A Ceph node starts whole or leaves nothing running, and whoever lacks it is told how to get it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.servers.ceph import INSTALL, PROGRAMS, ceph_running
from infra.servers.process import STARTS_MAX, ServerMissingError, ServerStartError
from tests.servers import processes_of

ROOT = Path(__file__).parents[2]


def test_without_a_program_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerMissingError) as caught, ceph_running(tmp_path / "node"):
        pass
    assert INSTALL in str(caught.value)
    assert all(program in str(caught.value) for program in PROGRAMS)


@pytest.mark.parametrize(("all_servers", "code"), [("", 0), ("1", 1)])
def test_a_missing_ceph_is_skipped_unless_all_servers_are_wanted(tmp_path: Path, all_servers: str, code: int) -> None:
    environment = os.environ | {"PATH": str(tmp_path), "SNAPSHOTS_ALL_SERVERS": all_servers}
    one = f"{ROOT / 'tests/conformance/test_s3_ceph.py'}::TestS3StoreOnCeph::test_stat_tells_size_and_version"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", one], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == code, run.stdout + run.stderr
    assert ("1 error" if all_servers else "1 skipped") in run.stdout
    assert INSTALL in run.stdout


def test_ci_installs_what_the_error_names() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert INSTALL in script
    assert " ".join(PROGRAMS) in script
    assert "export SNAPSHOTS_ALL_SERVERS=1" in script


@pytest.mark.usefixtures("ceph_installed")
def test_a_start_that_fails_half_way_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bin" / "radosgw"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no gateway today\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}{os.pathsep}{os.environ['PATH']}")
    node = tmp_path / "node"
    with pytest.raises(ServerStartError, match="no gateway today"), ceph_running(node):
        pass
    assert len(list(node.glob("start-*/ceph-osd.log"))) == STARTS_MAX
    assert processes_of(node) == []


@pytest.mark.usefixtures("ceph_installed")
def test_a_node_runs_as_three_processes_and_ends_them(tmp_path: Path) -> None:
    with ceph_running(tmp_path / "node"):
        assert len(processes_of(tmp_path / "node")) == 3
    assert processes_of(tmp_path / "node") == []
