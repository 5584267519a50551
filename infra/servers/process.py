"""Running a server: its processes are started on free loopback ports, waited for, and ended by their ids.

Rules:
1. Everything that a server writes lies under the directory that it is given.
2. Its processes are ended by their ids, the last one first, also when a later one did not start.
3. A free port may be taken between the look and the start: then all is tried again, with other ports.

    def command(port: int) -> Command:
        return Command([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)])

    with one_process("files", command, directory) as endpoint:
        ...
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
READY_SECONDS = 60.0  # a busy machine; 2 s is usual
END_SECONDS = 10.0
LOOK_SECONDS = 0.02  # between two looks whether a server is ready
STARTS_MAX = 3
LOG_CHARACTERS = 4000  # of its end, in an error
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test:tester",  # Swift wants an account and a user; the others take anything
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
NOT_INHERITED = (
    *("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)


class ServerMissingError(Exception):
    """A program that the server needs is not installed. Install it as the message says."""


class ServerStartError(Exception):
    """A process of the server ended, or did not answer in time. The end of its log is in the message."""


class PortTakenError(Exception):
    """Somebody listens on the port that was asked for. Choose another one."""


@dataclass(frozen=True, slots=True)
class Command:
    """Arguments, the program first, and what is added to the environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def server_environment() -> dict[str, str]:
    """Return this process's environment with the servers' credentials and without proxies or profiles."""
    return {name: value for name, value in os.environ.items() if name not in NOT_INHERITED} | CREDENTIALS


def program(name: str, install: str) -> str:
    """Return the path of an installed program, those that came with a Python package included.

    Raises:
        ServerMissingError: It is not installed; `install` is the command that does it.
    """
    found = shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))
    if found is None:
        raise ServerMissingError(f"{name} is not installed: {install}")
    return found


def free_port() -> int:
    """Return a port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def check_free(port: int) -> None:
    """Raise PortTakenError if somebody listens on this port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: who closed lately is no matter
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise PortTakenError(f"port {port} cannot be used ({error.strerror}): choose another") from error


def listens(port: int) -> bool:
    """Say whether somebody accepts connections on this port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def answers(endpoint: str) -> bool:
    """Say whether a server answers there, whatever it answers."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def end(process: subprocess.Popen[bytes], patience_seconds: float = END_SECONDS) -> None:
    """End a process by its id, by force if it takes longer; return when it has ended."""
    process.terminate()
    try:
        process.wait(patience_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Processes:
    """The processes of one server, a context manager that ends them.

    Args:
        home: Where they work; made here. Their logs are beside what they write.

    Attributes:
        environment: Of what is started from now on; at first `server_environment` with a home under `home`.
        patience_seconds: How long each may take to end.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        temporary = home / "tmp"
        temporary.mkdir(parents=True)
        self.environment = server_environment() | {"HOME": str(home), "TMPDIR": str(temporary)}
        self.patience_seconds = END_SECONDS
        self._running: dict[Path, subprocess.Popen[bytes]] = {}  # by log, in the order of the start
        self._to_end = ExitStack()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._to_end.close()

    def run(self, *arguments: str) -> None:
        """Run a command to its end. Raises ServerStartError if it fails, or takes longer than READY_SECONDS."""
        log = self.home / "commands.log"
        with log.open("ab") as output:
            try:
                done = subprocess.run(
                    arguments,
                    cwd=self.home,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=READY_SECONDS,
                )
            except subprocess.TimeoutExpired:
                raise ServerStartError(f"{' '.join(arguments)} took {READY_SECONDS} s: {_tail(log)}") from None
        if done.returncode:
            raise ServerStartError(f"{' '.join(arguments)} ended with {done.returncode}: {_tail(log)}")

    def start(self, name: str, *arguments: str) -> None:
        """Start a process that stays, and writes `NAME.log`."""
        log = self.home / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                arguments,
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._to_end.callback(lambda: end(process, self.patience_seconds))
        self._running[log] = process

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return when it is ready. Raises ServerStartError if one of the processes ended, or after READY_SECONDS."""
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            ended = [log for log, process in self._running.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                log = (ended or list(self._running))[-1]
                raise ServerStartError(f"{log.stem} {'ended' if ended else 'is not ready'}: {_tail(log)}")
            time.sleep(LOOK_SECONDS)


@contextmanager
def started(start: Callable[[Processes, int], str], directory: Path, port: int | None = None) -> Iterator[str]:
    """Start a server under `directory`; yield the endpoint, and end it afterwards.

    Args:
        start: Starts it on the port, waits until it answers and returns its endpoint.
        directory: Made if need be; each attempt has a new directory in it.
        port: Of the endpoint; default: any free one.

    Raises:
        PortTakenError: Somebody listens on `port`.
        ServerStartError: It did not start, however often it was tried.
    """
    for attempt in range(1, STARTS_MAX + 1):
        if port is not None:
            check_free(port)
        with Processes(directory / f"start-{attempt}") as processes:
            try:
                endpoint = start(processes, free_port() if port is None else port)
            except ServerStartError:
                if attempt == STARTS_MAX:
                    raise
                continue
            yield endpoint
            return


@contextmanager
def one_process(
    name: str, command: Callable[[int], Command], directory: Path, port: int | None = None
) -> Iterator[str]:
    """Run a server that is one process; yield its endpoint. Arguments and errors are those of `started`.

    Args:
        name: Of its log.
        command: From a port to what is run.
        directory: As in `started`.
        port: As in `started`.
    """

    def start(processes: Processes, chosen: int) -> str:
        endpoint = f"http://{LOOPBACK}:{chosen}"
        asked = command(chosen)
        processes.environment |= asked.environment
        processes.start(name, *asked.arguments)
        processes.wait_until(lambda: answers(endpoint))
        return endpoint

    with started(start, directory, port) as endpoint:
        yield endpoint


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-LOG_CHARACTERS:]
