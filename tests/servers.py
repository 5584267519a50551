"""Real S3 servers on loopback, each a process of its own: started when a test asks, ended by its process id.

with moto_running(directory) as endpoint:
    store = open_store(new_bucket_url(endpoint))
"""

from __future__ import annotations

import functools
import http.client
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import boto3

READY_SECONDS = 60.0  # a busy machine; 2 s is usual
END_SECONDS = 10.0
STARTS_MAX = 3  # a free port may be taken between the look and the start
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
NOT_FOR_TESTS = (
    *("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    *("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
)
Command = Callable[[int], tuple[list[str], dict[str, str]]]
"""From a port to arguments and environment."""
_numbers = itertools.count(1)


def clean_environment() -> dict[str, str]:
    """Return this process's environment with test credentials and without proxies or profiles."""
    return {name: value for name, value in os.environ.items() if name not in NOT_FOR_TESTS} | CREDENTIALS


@contextmanager
def moto_running(directory: Path) -> Iterator[str]:
    """Run moto, one request at a time; yield its endpoint.

    Its own `moto_server` has a thread per request, but checks a condition and writes without a lock between, and
    closes the body of a replaced object while another thread sends it: races would fail now and then.
    """

    def command(port: int) -> tuple[list[str], dict[str, str]]:
        program = (
            "from moto.server import DomainDispatcherApplication, create_backend_app\n"
            "from werkzeug.serving import run_simple\n"
            f"run_simple('127.0.0.1', {port}, DomainDispatcherApplication(create_backend_app), threaded=False)"
        )
        return [sys.executable, "-c", program], {}

    with running("moto", command, directory) as endpoint:
        yield endpoint


@contextmanager
def ministack_running(directory: Path) -> Iterator[str]:
    """Run ministack, S3 only, on loopback only; yield its endpoint."""

    def command(port: int) -> tuple[list[str], dict[str, str]]:
        environment = {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "SERVICES": "s3",
            "IOT_MTLS_ENABLED": "0",
            "LOG_LEVEL": "WARNING",
        }
        return [sys.executable, "-m", "ministack"], environment

    with running("ministack", command, directory) as endpoint:
        yield endpoint


def new_bucket_url(endpoint: str, prefix: str = "agents") -> str:
    """Create a bucket that no other test has; return the URL of a store in it."""
    bucket = f"test-{os.getpid()}-{next(_numbers)}"
    with closing(_signing().client("s3", endpoint_url=endpoint)) as client:
        client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}/{prefix}?endpoint_url={endpoint}&region=us-east-1"


def free_port() -> int:
    """Return a port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process by its id; return when it has ended."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running(name: str, command: Command, directory: Path) -> Iterator[str]:
    """Run a server by its command on a free port; yield its endpoint, and end it by its process id."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"{name}.log"
    process, endpoint = _start(command, directory, log)
    try:
        yield endpoint
    finally:
        end(process)


def _start(command: Command, directory: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    for _ in range(STARTS_MAX):
        port = free_port()
        arguments, extra = command(port)
        environment = clean_environment() | {"HOME": str(directory), "TMPDIR": str(directory)} | extra
        with log.open("wb") as output:
            process = subprocess.Popen(
                arguments, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        endpoint = f"http://127.0.0.1:{port}"
        if _ready(process, endpoint):
            return process, endpoint
        end(process)
    raise RuntimeError(f"{arguments} did not start:\n{log.read_text(errors='replace')[-4000:]}")


def _ready(process: subprocess.Popen[bytes], endpoint: str) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if answers(endpoint):
            return True
        time.sleep(0.05)  # between two requests to see whether it answers
    return False


@functools.cache
def _signing() -> boto3.session.Session:
    """Return a session with the test credentials: it costs 60 ms, a client of it 4 ms."""
    return boto3.session.Session(
        CREDENTIALS["AWS_ACCESS_KEY_ID"],
        CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
    )
