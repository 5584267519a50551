"""Many writers on one head, against as many on one bare object (`snapshots.benchmarks.contention`), on servers and in
processes. Prints JSON, one object per server and variant.

python -m tests.benchmarks.contention --writers 8 --seconds 10
python -m tests.benchmarks.contention --servers file --variants threads
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from unittest.mock import patch

from infra.servers.ministack import ministack_running
from infra.servers.process import server_environment
from snapshots.benchmarks.contention import (
    READY_SECONDS,
    ROUNDS,
    Contender,
    Outcome,
    Run,
    by_verb,
    compared,
    in_threads,
)
from snapshots.maintenance.progress import quiet
from storage.backends import open_store
from tests.servers import new_bucket_url

SERVERS = ("file", "ministack")


def in_processes(make: Callable[[], Contender], writers: int, seconds: float) -> Outcome:
    """Write with processes, each of which has a contender of its own."""
    spawning = multiprocessing.get_context("spawn")
    ready = spawning.Barrier(writers)
    pipes = [spawning.Pipe(duplex=False) for _ in range(writers)]
    processes = [
        spawning.Process(target=_write_alone, args=(make, writer, seconds, ready, sending))
        for writer, (_, sending) in enumerate(pipes)
    ]
    for process, (_, sending) in zip(processes, pipes, strict=True):
        process.start()
        sending.close()  # so that a process that dies is an end of file
    try:
        found: list[Outcome] = [receiving.recv() for receiving, _ in pipes]
    finally:
        for process, (receiving, _) in zip(processes, pipes, strict=True):
            receiving.close()
            process.join()
    return sum((outcome for outcome in found[1:]), start=found[0])


def _write_alone(
    make: Callable[[], Contender], writer: int, seconds: float, ready: Barrier, sending: Connection
) -> None:
    contender = make()
    before = contender.metrics.snapshot()
    ready.wait(READY_SECONDS)
    written = contender.write(writer, seconds)
    used = contender.metrics.snapshot() - before
    contender.close()
    sending.send(Outcome((written,), by_verb(used)))
    sending.close()


VARIANTS: Mapping[str, Run] = {"threads": in_threads, "processes": in_processes}


@contextmanager
def places(server: str, directory: Path) -> Iterator[Iterator[str]]:
    """Give URLs of new stores on one server, which runs meanwhile."""
    if server == "file":
        yield (f"file:{directory / str(number)}" for number in range(1 << 30))
        return
    with patch.dict(os.environ, server_environment(), clear=True), ministack_running(directory) as endpoint:
        yield (new_bucket_url(endpoint) for _ in range(1 << 30))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what was asked for and print the figures."""
    parser = argparse.ArgumentParser(description="Writers on one head against a bare compare-and-swap loop; JSON.")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each side, for each server and variant")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    given = parser.parse_args(arguments)
    found = []
    for server in given.servers:
        with tempfile.TemporaryDirectory() as directory, places(server, Path(directory)) as urls:
            for variant in given.variants:
                stores = [partial(open_store, url) for url in islice(urls, 2 * ROUNDS)]
                figures = compared(stores, VARIANTS[variant], given.writers, given.seconds, quiet)
                found.append({"server": server, "variant": variant} | figures)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
