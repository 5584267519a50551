"""moto, an imitation of S3 for unit tests, one request at a time: it says nothing about many writers at once.

with moto_running(directory) as endpoint:
    create_bucket(endpoint, "agents")
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.servers.process import LOOPBACK, Command, one_process


@contextmanager
def moto_running(directory: Path) -> Iterator[str]:
    """Run moto, one request at a time; yield its endpoint. Raises what `one_process` does.

    Its own `moto_server` has a thread per request, but checks a condition and writes without a lock between, and
    closes the body of a replaced object while another thread sends it: races would fail now and then.
    """

    def command(port: int) -> Command:
        program = (
            "from moto.server import DomainDispatcherApplication, create_backend_app\n"
            "from werkzeug.serving import run_simple\n"
            f"run_simple('{LOOPBACK}', {port}, DomainDispatcherApplication(create_backend_app), threaded=False)"
        )
        return Command([sys.executable, "-c", program])

    with one_process("moto", command, directory) as endpoint:
        yield endpoint
