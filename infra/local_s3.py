"""A local S3 to try the software on: `python -m infra.local_s3` starts one and stays until it is told to end.

Rules:
1. Standard output has lines of a shell alone, those to export; everything else is on standard error.
2. Ctrl-C and SIGTERM end it: its processes by their ids, then what it wrote, unless it was given a directory.
3. It listens on loopback only, and keeps nothing: both servers hold their objects in memory.

    python -m infra.local_s3 > local.env &
    eval "$(cat local.env)"  # once it says that it is ready
    snapshots demo
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

from infra.servers import ceph, ministack
from infra.servers.buckets import BucketError, create_bucket
from infra.servers.process import CREDENTIALS, PortTakenError, ServerMissingError, ServerStartError, answers

Server = Literal["ceph", "ministack"]
LOOK_SECONDS = 5.0  # between two looks whether it still answers
EXIT_FAILED = 1


class LocalS3Error(Exception):
    """It cannot be started, or has ended by itself. Do what the message says."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0 when it was told to end, 1 for a failure."""
    options = _parser().parse_args(arguments)
    stop = _until_told()
    try:
        with _directory(options.directory) as directory:
            _serve(options.server or _installed(), directory, options, stop)
    except (BucketError, LocalS3Error, PortTakenError, ServerMissingError, ServerStartError) as error:
        _say(f"error: {error}")
        return EXIT_FAILED
    return 0


def exports(endpoint: str, bucket: str) -> str:
    """Return the lines that a shell needs to use a bucket there."""
    values = {
        "AWS_ACCESS_KEY_ID": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        "AWS_SESSION_TOKEN": "",  # another's would be sent with these keys
        "SNAPSHOTS_STORE": f"s3://{bucket}/dev?endpoint_url={endpoint}&region={CREDENTIALS['AWS_DEFAULT_REGION']}",
    }
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.local_s3", description="A local S3, until Ctrl-C.")
    parser.add_argument("--server", choices=("ceph", "ministack"), help="default: ceph where it is installed")
    parser.add_argument("--port", type=int, help="of 127.0.0.1; default: any free one")
    parser.add_argument("--bucket", default="agents", help="which is created; default: %(default)s")
    parser.add_argument("--directory", type=Path, help="for logs, empty, and left there; default: a temporary one")
    return parser


def _until_told() -> threading.Event:
    """Return what is set by Ctrl-C and SIGTERM; nothing is interrupted, so nothing is left half started."""
    stop = threading.Event()

    def told(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  what a handler is given
        stop.set()

    signal.signal(signal.SIGINT, told)
    signal.signal(signal.SIGTERM, told)
    return stop


def _installed() -> Server:
    try:
        ceph.check_installed()
    except ServerMissingError:
        return "ministack"
    return "ceph"


@contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    if given is None:
        with tempfile.TemporaryDirectory(prefix="local-s3-") as temporary:
            yield Path(temporary)
        return
    try:
        given.mkdir(parents=True, exist_ok=True)
        used = any(given.iterdir())
    except OSError as error:
        raise LocalS3Error(f"{given} cannot be used ({error.strerror}): name another directory") from error
    if used:
        raise LocalS3Error(f"{given} is not empty: name a new directory")
    yield given.absolute()


def _serve(server: Server, directory: Path, options: argparse.Namespace, stop: threading.Event) -> None:
    _say(f"starting {server} …")
    running = ceph.ceph_running if server == "ceph" else ministack.ministack_running
    with running(directory, options.port) as endpoint:
        create_bucket(endpoint, options.bucket)
        print(exports(endpoint, options.bucket), end="", flush=True)
        _say(f"ready: {server} at {endpoint}, logs under {directory}.")
        _say("In another shell, with the lines above: snapshots demo. Ctrl-C ends it.")
        while not stop.wait(LOOK_SECONDS):
            if not answers(endpoint):
                raise LocalS3Error(f"{server} at {endpoint} does not answer any more; start again")
    _say("ended")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
