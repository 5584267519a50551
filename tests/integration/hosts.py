"""Processes of `tests.integration.owner`: told, heard, stopped, killed; every wait is bounded, every end is by pid.

with running_host(url, "host-a", effects) as host:
    host.ask("acquire")
    host.ask("turn", "turn-1")
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ANSWER_SECONDS_MAX = 60.0  # a busy machine; 0.1 s is usual


class NoAnswerError(Exception):
    """Nothing was heard in time."""


class Host:
    """One process that owns a session, or did.

    Attributes:
        name: The owner's name.
    """

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def tell(self, verb: str, *arguments: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([verb, *arguments]) + "\n")
        self._process.stdin.flush()

    def answer(self, *, seconds: float = ANSWER_SECONDS_MAX) -> dict[str, Any]:
        """Return the next answer. Raises NoAnswerError."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise NoAnswerError(f"{self.name} said nothing for {seconds} s") from None
        assert line, f"{self.name} ended, see its traceback"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, verb: str, *arguments: object) -> dict[str, Any]:
        self.tell(verb, *arguments)
        return self.answer()

    def stop(self) -> None:
        """Stop the process wherever it is; return when it stands still."""
        self._process.send_signal(signal.SIGSTOP)
        self.await_stopped()

    def await_stopped(self) -> None:
        """Wait until the process, which has said that it stops, stands still."""
        found = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert found is not None
        assert found.si_code == os.CLD_STOPPED, f"{self.name} ended"

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> list[dict[str, Any]]:
        """Kill the process at once; return what it said that nobody heard."""
        self._process.send_signal(signal.SIGKILL)
        assert self._process.wait(ANSWER_SECONDS_MAX) == -signal.SIGKILL
        self._reader.join(ANSWER_SECONDS_MAX)
        lines = [self._lines.get() for _ in range(self._lines.qsize())]
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def leave(self) -> None:
        """Let the process end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(ANSWER_SECONDS_MAX) == 0

    def end(self) -> None:
        """End the process, however it stands."""
        self._process.kill()
        self._process.wait()
        self._reader.join(ANSWER_SECONDS_MAX)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # a line that the process did not live to read

    def _read(self) -> None:
        """Pass every line on, "" at the end."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")


@contextmanager
def running_host(url: str, name: str, effects: Path) -> Iterator[Host]:
    """Run a host on the store at `url`, which exists; it ends with this context at the latest."""
    command = [sys.executable, "-m", "tests.integration.owner", url, name, str(effects)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    host = Host(name, process)
    try:
        yield host
    finally:
        host.end()


def spin(seconds: float) -> None:
    """Let time pass; a sleep would favour the moments at which the scheduler lets go."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass
