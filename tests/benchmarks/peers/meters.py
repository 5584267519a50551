"""What is counted: botocore's HTTP requests and bytes; CPU, wall time and memory of this process or of a command."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.httpsession import URLLib3Session

CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step cost. Memory is the most that was resident meanwhile."""

    requests: int
    uploaded_bytes: int
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int


@dataclass(slots=True)
class Meter:
    """Counts since it was last cleared. If commands ran, CPU, wall time and memory are theirs alone."""

    requests: int = 0
    uploaded_bytes: int = 0
    commands: list[Cost] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_request(self, uploaded_bytes: int) -> None:
        """Count a request."""
        with self._lock:
            self.requests += 1
            self.uploaded_bytes += uploaded_bytes

    @contextmanager
    def measuring(self) -> Iterator[list[Cost]]:
        """Give a list that holds the cost of the block when it has ended."""
        costs: list[Cost] = []
        self.requests, self.uploaded_bytes, self.commands = 0, 0, []
        _forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        yield costs
        own = Cost(0, 0, time.process_time() - cpu, time.perf_counter() - wall, _resident("VmHWM"))
        parts = self.commands or [own]
        costs.append(
            Cost(
                requests=self.requests,
                uploaded_bytes=self.uploaded_bytes,
                cpu_seconds=sum(part.cpu_seconds for part in parts),
                wall_seconds=sum(part.wall_seconds for part in parts),
                peak_bytes=max(part.peak_bytes for part in parts),
            )
        )


METER = Meter()


def count_requests() -> None:
    """From now on count every request that botocore sends, repeated ones too."""
    send = URLLib3Session.send

    def counted(session: URLLib3Session, request: Any) -> Any:
        METER.add_request(_body_bytes(request))
        return send(session, request)

    URLLib3Session.send = counted  # type: ignore[method-assign,assignment]  # the one place that all clients go through


def run_command(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
    """Run a command and count what it costs, its own descendants included.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(CHILD), *command],
        cwd=directory,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    used = json.loads(done.stdout)
    METER.commands.append(Cost(0, 0, used["cpu_seconds"], wall, used["peak_bytes"]))


def resident_bytes() -> int:
    """Return what of this process is in memory."""
    return _resident("VmRSS")


def _resident(name: str) -> int:
    # Not ru_maxrss: it starts at the size of the parent at the fork.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/self/status")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _body_bytes(request: Any) -> int:
    for name in ("Content-Length", "X-Amz-Decoded-Content-Length"):
        if (length := request.headers.get(name)) is not None:
            return int(length)
    if request.body:
        raise RuntimeError(f"a body of unknown length: {request.method} {request.url}")
    return 0
