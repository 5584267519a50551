"""Many writers on one head, against as many on one bare object. Prints JSON, one object per server and variant.

Ours: each writer appends a message by `repo.update`, over and over. Bare: each reads an object of the head's size,
counts one on, and replaces it if it has not changed, through the same store and with the same back-off, except that
nobody tells it how many won meanwhile. The two take turns.

python -m tests.benchmarks.contention --writers 8 --seconds 10
python -m tests.benchmarks.contention --servers file --variants threads
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.errors import RevisionConflictError
from snapshots.layout import Layout
from snapshots.update import LOST_SECONDS_MIN
from storage.backends import open_store
from storage.clock import SystemClock, backoff_seconds
from storage.errors import PreconditionFailedError
from storage.store import Create, Replace
from storage.wrappers.metered import MeteredStore, Metrics, MetricsSnapshot
from tests.integration.builders import message, message_ids, new_session
from tests.servers import clean_environment, ministack_running, new_bucket_url

SESSION, KEY = "contended", "bare"
ROUNDS = 2  # ours and bare take turns so often
READY_SECONDS = 120.0  # for all writers to be there
COUNT_DIGITS = 20
SERVERS = ("file", "ministack")
VARIANTS = ("threads", "processes")


@dataclass(frozen=True, slots=True)
class Written:
    """What one writer did.

    Attributes:
        acknowledged: Names of what was confirmed: of messages, or of values.
        attempts: How often something was tried.
        gave_up: How often `update` was refused for good.
        seconds: From the first attempt to the last answer.
    """

    acknowledged: tuple[str, ...]
    attempts: int
    gave_up: int
    seconds: float


class Contender(Protocol):
    """One kind of writing; opened once in each process, used by all of its threads."""

    @property
    def metrics(self) -> Metrics:
        """Return the counts of its requests."""
        ...

    def write(self, writer: int, seconds: float) -> Written:
        """Write for so long."""
        ...

    def close(self) -> None:
        """Let go of what it has."""
        ...


class Ours:
    """`repo.update`, again and again."""

    def __init__(self, url: str) -> None:
        self._repo = SnapshotRepository.open(url, create=False)
        self.metrics = self._repo.metrics

    def write(self, writer: int, seconds: float) -> Written:
        acknowledged: list[str] = []
        attempts: list[str] = []
        gave_up = 0
        started = time.monotonic()
        while time.monotonic() < started + seconds:
            name = f"{writer}-{len(acknowledged)}-{gave_up}"

            def append(state: PersistedSessionState, name: str = name) -> None:
                attempts.append(name)
                state.append_session_nodes([message(name)])

            try:
                self._repo.update(SESSION, append)
            except RevisionConflictError:
                gave_up += 1
            else:
                acknowledged.append(name)
        return Written(tuple(acknowledged), len(attempts), gave_up, time.monotonic() - started)

    def close(self) -> None:
        self._repo.close()


class Bare:
    """GET and conditional PUT of one object that counts."""

    def __init__(self, url: str) -> None:
        self._store = MeteredStore(open_store(url))
        self.metrics = self._store.metrics
        self._clock = SystemClock()

    def write(self, writer: int, seconds: float) -> Written:
        acknowledged: list[str] = []
        attempts = failures = 0
        started = time.monotonic()
        while time.monotonic() < started + seconds or failures:
            began = time.monotonic()
            stored = self._store.get(KEY)
            attempts += 1
            try:
                self._store.put(KEY, self._next(stored.data), Replace(stored.version))
            except PreconditionFailedError:
                failures += 1
                lost_seconds = max(LOST_SECONDS_MIN, time.monotonic() - began)
                self._clock.sleep(backoff_seconds(failures, self._clock, base_seconds=lost_seconds))
            else:
                failures = 0
                acknowledged.append(f"{writer}-{len(acknowledged)}")
        return Written(tuple(acknowledged), attempts, 0, time.monotonic() - started)

    def _next(self, value: bytes) -> bytes:
        """Return the value that counts one on, with fresh bytes of the same number."""
        head = f"{int(value[:COUNT_DIGITS]) + 1:0{COUNT_DIGITS}}{self._clock.new_id()}".encode()
        return head + value[len(head) :]

    def close(self) -> None:
        """Let go of nothing: a store has no end."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What all writers of one round did."""

    written: tuple[Written, ...]
    requests: Counter[str]

    @property
    def acknowledged(self) -> list[str]:
        return [name for one in self.written for name in one.acknowledged]

    @property
    def seconds(self) -> float:
        return max(one.seconds for one in self.written)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.written + other.written, self.requests + other.requests)


def in_threads(make: Callable[[], Contender], writers: int, seconds: float) -> Outcome:
    """Write with threads of this process, which share one contender."""
    contender = make()
    ready = threading.Barrier(writers)
    before = contender.metrics.snapshot()

    def write(writer: int) -> Written:
        ready.wait(READY_SECONDS)
        return contender.write(writer, seconds)

    with ThreadPoolExecutor(writers) as pool:
        written = tuple(pool.map(write, range(writers)))
    used = contender.metrics.snapshot() - before
    contender.close()
    return Outcome(written, _by_verb(used))


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
    sending.send(Outcome((written,), _by_verb(used)))
    sending.close()


def _by_verb(used: MetricsSnapshot) -> Counter[str]:
    """Return the requests by verb, and the refused PUTs as such."""
    counts = Counter({verb: count.requests for verb, count in used.verbs.items() if count.requests})
    counts["put refused"] = used["put"].failures
    return counts


RUNS = {"threads": in_threads, "processes": in_processes}


@dataclass(frozen=True, slots=True)
class Kept:
    """What is stored of what was acknowledged.

    Attributes:
        in_history: How many acknowledged messages stand in the session exactly once.
        unacknowledged: How many messages and revisions there are beyond those.
        head_bytes: Size of the head in the end.
    """

    in_history: int
    unacknowledged: int
    head_bytes: int


def ours(url: str, variant: str, writers: int, seconds: float) -> tuple[Outcome, Kept]:
    """Return what the writers of a new session did, and what it holds."""
    with SnapshotRepository.open(url) as repo:
        repo.commit(new_session(SESSION))
        outcome = RUNS[variant](partial(Ours, url), writers, seconds)
        stored = Counter(message_ids(repo.load(SESSION)))
        commits = {row.commit_id for row in repo.history(SESSION)}
    acknowledged = outcome.acknowledged
    head_bytes = len(open_store(url).get(Layout("default").head(SESSION)).data)
    beyond = max(stored.total(), len(commits) - 1) - len(acknowledged)
    return outcome, Kept(sum(stored[name] == 1 for name in acknowledged), beyond, head_bytes)


def bare(url: str, variant: str, writers: int, seconds: float, size_bytes: int) -> Outcome:
    """Return what the writers of a new object did. Raises AssertionError if it lost or doubled a count."""
    store = open_store(url)
    store.put(KEY, b"0" * size_bytes, Create())
    outcome = RUNS[variant](partial(Bare, url), writers, seconds)
    assert int(store.get(KEY).data[:COUNT_DIGITS]) == len(outcome.acknowledged), "the store keeps its conditions"
    return outcome


def compared(urls: Iterator[str], variant: str, writers: int, seconds: float) -> dict[str, Any]:
    """Return the figures of ours and bare, each of which writes for `seconds` altogether, in places of their own."""
    our_rounds, bare_rounds, kept = [], [], []
    for _ in range(ROUNDS):
        outcome, found = ours(next(urls), variant, writers, seconds / ROUNDS)
        our_rounds.append(outcome)
        kept.append(found)
        bare_rounds.append(bare(next(urls), variant, writers, seconds / ROUNDS, found.head_bytes))
    our, other = _figures(our_rounds), _figures(bare_rounds)
    return {
        "variant": variant,
        "writers": writers,
        "ours_per_second": our["per_second"],
        "bare_per_second": other["per_second"],
        "ratio": round(our["per_second"] / other["per_second"], 3),
        "acknowledged": our["acknowledged"],
        "in_history": sum(found.in_history for found in kept),
        "unacknowledged": sum(found.unacknowledged for found in kept),
        "gave_up": sum(one.gave_up for outcome in our_rounds for one in outcome.written),
        "requests_per_success": our["requests_per_success"],
        "head_bytes": max(found.head_bytes for found in kept),
        "ours": our,
        "bare": other,
    }


def _figures(rounds: Sequence[Outcome]) -> dict[str, Any]:
    acknowledged = sum(len(outcome.acknowledged) for outcome in rounds)
    requests = sum((outcome.requests for outcome in rounds), Counter[str]())
    attempts = sum(one.attempts for outcome in rounds for one in outcome.written)
    each = {verb: round(number / acknowledged, 2) for verb, number in sorted(requests.items())}
    return {
        "per_second": round(acknowledged / sum(outcome.seconds for outcome in rounds), 1),
        "acknowledged": acknowledged,
        "attempts_per_success": round(attempts / acknowledged, 2),
        "requests_per_success": round(sum(n for verb, n in requests.items() if " " not in verb) / acknowledged, 2),
        "by_verb": each,
    }


@contextmanager
def places(server: str, directory: Path) -> Iterator[Iterator[str]]:
    """Give URLs of new stores on one server, which runs meanwhile."""
    if server == "file":
        yield (f"file:{directory / str(number)}" for number in range(1 << 30))
        return
    with patch.dict(os.environ, clean_environment(), clear=True), ministack_running(directory) as endpoint:
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
                figures = compared(urls, variant, given.writers, given.seconds)
                found.append({"server": server} | figures)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
