"""ministack, an imitation of AWS in memory: the smallest server that keeps every condition, one request at a time.

with ministack_running(directory) as endpoint:
    create_bucket(endpoint, "agents")
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.servers.process import LOOPBACK, Command, ServerMissingError, one_process

INSTALL = "pip install ministack"


@contextmanager
def ministack_running(directory: Path, port: int | None = None) -> Iterator[str]:
    """Run ministack, S3 only, on loopback only; yield its endpoint.

    Args:
        directory: As in `started`.
        port: As in `started`.

    Raises:
        ServerMissingError: It is not installed.
        PortTakenError: Somebody listens on `port`.
        ServerStartError: It did not start.
    """
    if importlib.util.find_spec("ministack") is None:
        raise ServerMissingError(f"ministack is not installed: {INSTALL}")

    def command(port: int) -> Command:
        environment = {
            "BIND_HOST": LOOPBACK,
            "GATEWAY_PORT": str(port),
            "SERVICES": "s3",
            "IOT_MTLS_ENABLED": "0",  # which would listen on every address
            "LOG_LEVEL": "WARNING",
        }
        return Command([sys.executable, "-m", "ministack"], environment)

    with one_process("ministack", command, directory, port) as endpoint:
        yield endpoint
