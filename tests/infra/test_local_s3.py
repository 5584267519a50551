"""`python -m infra.local_s3` as somebody runs it: start, eval what it printed, use it, end it, nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.servers.process import LOOPBACK, answers, free_port
from tests.servers import processes_of

PATIENCE_SECONDS = 60.0
SNAPSHOTS = Path(sys.executable).with_name("snapshots")
SESSION = "marshmallow-1867"  # of the demonstration


@dataclass(frozen=True)
class Local:
    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    temporary: Path

    def wait_for(self, word: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while word not in self.err.read_text():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, self.err.read_text()
            time.sleep(0.02)  # between two looks at what it says

    def in_a_shell(self, command: str) -> str:
        """Return what a command prints in a new shell that has evaluated what the program printed."""
        nothing = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SNAPSHOTS_"))}
        script = f'eval "$(cat {self.out})"; {command}'
        return subprocess.run(["sh", "-ec", script], env=nothing, check=True, capture_output=True, text=True).stdout


@contextmanager
def local_s3(directory: Path, *arguments: str, program: Sequence[str] = ("-m", "infra.local_s3")) -> Iterator[Local]:
    temporary = directory / "tmp"
    temporary.mkdir()
    out, err = directory / "out", directory / "err"
    with out.open("wb") as output, err.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            env=os.environ | {"TMPDIR": str(temporary)},
            stdout=output,
            stderr=errors,
        )
    try:
        yield Local(process, out, err, temporary)
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def refused(directory: Path, *arguments: str, path: str | None = None) -> tuple[int, str, str]:
    environment = os.environ | {"TMPDIR": str(directory)} | ({"PATH": path} if path else {})
    command = [sys.executable, "-m", "infra.local_s3", *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    return run.returncode, run.stdout, run.stderr


@pytest.mark.parametrize(("server", "told"), [("ministack", signal.SIGINT), ("ceph", signal.SIGTERM)])
def test_it_is_started_used_and_ended_and_nothing_is_left(
    request: pytest.FixtureRequest, tmp_path: Path, server: str, told: signal.Signals
) -> None:
    if server == "ceph":
        request.getfixturevalue("ceph_installed")
    with local_s3(tmp_path, "--server", server, "--bucket", "my-agents") as local:
        local.wait_for("ready")
        local.wait_for("snapshots demo")
        assert SESSION in local.in_a_shell(f"{SNAPSHOTS} demo")
        local.process.send_signal(told)
        assert local.process.wait(PATIENCE_SECONDS) == 0
    assert [line.partition("=")[0] for line in local.out.read_text().splitlines()] == [
        "export AWS_ACCESS_KEY_ID",
        "export AWS_SECRET_ACCESS_KEY",
        "export AWS_SESSION_TOKEN",
        "export SNAPSHOTS_STORE",
    ]
    assert local.err.read_text().endswith("ended\n")
    assert list(local.temporary.iterdir()) == []
    assert processes_of(local.temporary) == []


def test_it_takes_the_port_and_leaves_the_directory_that_it_is_given(tmp_path: Path) -> None:
    port, logs = free_port(), tmp_path / "logs"
    with local_s3(tmp_path, "--server", "ministack", "--port", str(port), "--directory", str(logs)) as local:
        local.wait_for("ready")
        assert f"endpoint_url=http://{LOOPBACK}:{port}&" in local.out.read_text()
        assert processes_of(logs)
    assert not answers(f"http://{LOOPBACK}:{port}")
    assert [path.name for path in logs.rglob("*.log")] == ["ministack.log"]
    assert refused(tmp_path, "--directory", str(logs)) == (1, "", f"error: {logs} is not empty: name a new directory\n")


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = refused(tmp_path, "--server", "ministack", "--port", str(port))
    assert (code, out) == (1, "")
    assert f"port {port}" in err
    assert "choose another" in err
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_is_none_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    code, out, err = refused(tmp_path, "--server", "ministack", "--bucket", "A")
    assert (code, out) == (1, "")
    assert "error: bucket 'A'" in err
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_missing_is_said_with_its_installation(tmp_path: Path) -> None:
    code, out, err = refused(tmp_path, "--server", "ceph", path=str(tmp_path))
    assert (code, out) == (1, "")
    assert "apt-get install" in err


def test_without_ceph_it_is_ministack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with local_s3(tmp_path) as local:
        local.wait_for("ready: ministack")


def test_a_server_that_dies_is_said(tmp_path: Path) -> None:
    impatient = "import sys, infra.local_s3 as it; it.LOOK_SECONDS = 0.1; sys.exit(it.main(sys.argv[1:]))"
    with local_s3(tmp_path, "--server", "ministack", program=("-c", impatient)) as local:
        local.wait_for("ready")
        (server,) = processes_of(local.temporary / "local-s3-")
        os.kill(server, signal.SIGKILL)
        assert local.process.wait(PATIENCE_SECONDS) == 1
    assert "does not answer any more" in local.err.read_text()
    assert list(local.temporary.iterdir()) == []
