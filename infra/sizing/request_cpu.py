"""What a request costs the client: CPU of a GET and a PUT of a small object by boto3, from a server that does nothing.

Rules:
1. The server is a process of its own on loopback, ended by its own id; its CPU is not counted.
2. It keeps no condition and no object. Nothing but this measure talks to it.

    request_cpu(count=500)["get_ms"]
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from unittest.mock import patch

from snapshots.benchmarks.meters import metering_process
from storage.backends import open_store
from storage.store import Create

BODY = b"x" * 1024  # as large as a small session's head
WARM_UP = 50
_PROCESSES = multiprocessing.get_context("spawn")


class _Nothing(BaseHTTPRequestHandler):
    """Answers every GET with BODY, every PUT with an ETag."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement of its first half

    def do_GET(self) -> None:
        self._answer(BODY)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _serve(telling: Connection) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Nothing) as server:
        telling.send(server.server_address[1])
        server.serve_forever()


@contextmanager
def serving() -> Iterator[str]:
    """Give the endpoint of a server that does nothing; it ends with the block."""
    hearing, telling = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_serve, args=(telling,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{hearing.recv()}"
    finally:
        process.terminate()
        process.join()


def request_cpu(count: int) -> dict[str, float]:
    """Return the CPU of one GET and of one PUT in milliseconds, the mean of `count` of each, one after the other."""
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    with patch.dict(os.environ, keys), serving() as endpoint:
        store = open_store(f"s3://bucket/prefix?endpoint_url={endpoint}&region=us-east-1")
        for _ in range(WARM_UP):
            store.get("heads/00/s1")
        with metering_process() as reading:
            for _ in range(count):
                store.get("heads/00/s1")
        with metering_process() as writing:
            for _ in range(count):
                store.put("heads/00/s1", BODY, Create())
    return {
        "get_ms": round(reading["cpu_seconds"] * 1000 / count, 2),
        "put_ms": round(writing["cpu_seconds"] * 1000 / count, 2),
    }
