"""Many writers on one head, against as many on one bare object.

Ours: each writer appends a message by `repo.update`, over and over. Bare: each reads an object of the head's size,
counts one on, and replaces it if it has not changed, through the same store and with the same back-off, except that
nobody tells it how many won meanwhile. The two take turns.

contention(Settings(writers=4, seconds=2), quiet)["ours_over_bare"]
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from snapshots import Message, Part, PersistedSessionState, SnapshotRepository
from snapshots.benchmarks.meters import Figure, Figures, ratio, requests
from snapshots.benchmarks.places import Place, new_shared_place
from snapshots.benchmarks.settings import Settings
from snapshots.errors import RevisionConflictError
from snapshots.layout import Layout
from snapshots.maintenance.progress import Progress
from snapshots.rivalry import LOST_SECONDS_MIN
from storage.clock import SystemClock, backoff_seconds
from storage.errors import PreconditionFailedError
from storage.store import Create, ObjectStore, Replace
from storage.wrappers.metered import MeteredStore, Metrics, MetricsSnapshot

SESSION, KEY = "contended", "bare"
ROUNDS = 2  # ours and bare take turns so often
READY_SECONDS = 120.0  # for all writers to be there
COUNT_DIGITS = 20

_clock = SystemClock()


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

    def __init__(self, store: ObjectStore) -> None:
        self._repo = SnapshotRepository(store, create=False)
        self.metrics = self._repo.metrics

    def write(self, writer: int, seconds: float) -> Written:
        """Write for so long."""
        acknowledged: list[str] = []
        attempts: list[str] = []
        gave_up = 0
        started = _clock.monotonic()
        while _clock.monotonic() < started + seconds:
            name = f"{writer}-{len(acknowledged)}-{gave_up}"

            def append(state: PersistedSessionState, name: str = name) -> None:
                attempts.append(name)
                state.append_session_nodes([_message(name)])

            try:
                self._repo.update(SESSION, append)
            except RevisionConflictError:
                gave_up += 1
            else:
                acknowledged.append(name)
        return Written(tuple(acknowledged), len(attempts), gave_up, _clock.monotonic() - started)

    def close(self) -> None:
        """Let go of what it has."""
        self._repo.close()


class Bare:
    """GET and conditional PUT of one object that counts."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = MeteredStore(store)
        self.metrics = self._store.metrics

    def write(self, writer: int, seconds: float) -> Written:
        """Write for so long."""
        acknowledged: list[str] = []
        attempts = failures = 0
        started = _clock.monotonic()
        while _clock.monotonic() < started + seconds or failures:
            began = _clock.monotonic()
            stored = self._store.get(KEY)
            attempts += 1
            try:
                self._store.put(KEY, self._next(stored.data), Replace(stored.version))
            except PreconditionFailedError:
                failures += 1
                lost_seconds = max(LOST_SECONDS_MIN, _clock.monotonic() - began)
                _clock.sleep(backoff_seconds(failures, _clock, base_seconds=lost_seconds))
            else:
                failures = 0
                acknowledged.append(f"{writer}-{len(acknowledged)}")
        return Written(tuple(acknowledged), attempts, 0, _clock.monotonic() - started)

    def _next(self, value: bytes) -> bytes:
        """Return the value that counts one on, with fresh bytes of the same number."""
        head = f"{int(value[:COUNT_DIGITS]) + 1:0{COUNT_DIGITS}}{_clock.new_id()}".encode()
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
        """Return all names that were confirmed."""
        return [name for one in self.written for name in one.acknowledged]

    @property
    def seconds(self) -> float:
        """Return how long the slowest was at it."""
        return max(one.seconds for one in self.written)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.written + other.written, self.requests + other.requests)


Run = Callable[[Callable[[], Contender], int, float], Outcome]
"""Lets so many writers write for so many seconds."""


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
    return Outcome(written, by_verb(used))


def by_verb(used: MetricsSnapshot) -> Counter[str]:
    """Return the requests by verb, and the refused PUTs as such."""
    counts = Counter({verb: count.requests for verb, count in used.verbs.items() if count.requests})
    counts["put refused"] = used["put"].failures
    return counts


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


def ours(opened: Callable[[], ObjectStore], run: Run, writers: int, seconds: float) -> tuple[Outcome, Kept]:
    """Return what the writers of a new session did, and what it holds.

    Args:
        opened: Opens an empty store, always the same; called in each process.
        run: How they write.
        writers: How many.
        seconds: For how long.
    """
    store = opened()
    with SnapshotRepository(store) as repo:
        repo.commit(PersistedSessionState(session_id=SESSION))
        outcome = run(partial(_ours, opened), writers, seconds)
        messages = repo.load(SESSION).read_view().messages
        stored = Counter(one.id for one in messages)
        commits = {row.commit_id for row in repo.history(SESSION)}
    acknowledged = outcome.acknowledged
    head_bytes = len(store.get(Layout("default").head(SESSION)).data)
    beyond = max(stored.total(), len(commits) - 1) - len(acknowledged)
    return outcome, Kept(sum(stored[name] == 1 for name in acknowledged), beyond, head_bytes)


def bare(opened: Callable[[], ObjectStore], run: Run, writers: int, seconds: float, *, size_bytes: int) -> Outcome:
    """Return what the writers of a new object did. Raises AssertionError if it lost or doubled a count."""
    store = opened()
    store.put(KEY, b"0" * size_bytes, Create())
    outcome = run(partial(_bare, opened), writers, seconds)
    assert int(store.get(KEY).data[:COUNT_DIGITS]) == len(outcome.acknowledged), "the store keeps its conditions"
    return outcome


def _ours(opened: Callable[[], ObjectStore]) -> Contender:
    return Ours(opened())


def _bare(opened: Callable[[], ObjectStore]) -> Contender:
    return Bare(opened())


def compared(
    stores: Sequence[Callable[[], ObjectStore]], run: Run, writers: int, seconds: float, progress: Progress
) -> dict[str, Any]:
    """Return the figures of ours and bare, each of which writes for `seconds` altogether.

    Args:
        stores: Two empty ones for each of the ROUNDS.
        run: How they write.
        writers: How many on either side.
        seconds: For how long.
        progress: Told of every round.
    """
    our_rounds, bare_rounds, kept = [], [], []
    for number in range(ROUNDS):
        mine, other = stores[2 * number : 2 * number + 2]
        outcome, found = ours(mine, run, writers, seconds / ROUNDS)
        our_rounds.append(outcome)
        kept.append(found)
        bare_rounds.append(bare(other, run, writers, seconds / ROUNDS, size_bytes=found.head_bytes))
        progress("rounds of writers", number + 1, ROUNDS)
    our, bares = _figures(our_rounds), _figures(bare_rounds)
    return {
        "writers": writers,
        "ours_per_second": our["per_second"],
        "bare_per_second": bares["per_second"],
        "ratio": round(our["per_second"] / bares["per_second"], 3),
        "acknowledged": our["acknowledged"],
        "in_history": sum(found.in_history for found in kept),
        "unacknowledged": sum(found.unacknowledged for found in kept),
        "gave_up": sum(one.gave_up for outcome in our_rounds for one in outcome.written),
        "requests_per_success": our["requests_per_success"],
        "head_bytes": max(found.head_bytes for found in kept),
        "ours": our,
        "bare": bares,
    }


def _figures(rounds: Sequence[Outcome]) -> dict[str, Any]:
    acknowledged = sum(len(outcome.acknowledged) for outcome in rounds)
    counted = sum((outcome.requests for outcome in rounds), Counter[str]())
    attempts = sum(one.attempts for outcome in rounds for one in outcome.written)
    each = {verb: round(number / acknowledged, 2) for verb, number in sorted(counted.items())}
    return {
        "per_second": round(acknowledged / sum(outcome.seconds for outcome in rounds), 1),
        "acknowledged": acknowledged,
        "attempts_per_success": round(attempts / acknowledged, 2),
        "requests_per_success": round(sum(n for verb, n in counted.items() if " " not in verb) / acknowledged, 2),
        "by_verb": each,
    }


def contention(settings: Settings, progress: Progress) -> Figures:
    """Let `settings.writers` threads write on one head for `settings.seconds`, and on one bare object for as long."""
    with new_shared_place(settings.store) as place:
        stores = [partial(_within, place, f"place-{number}") for number in range(2 * ROUNDS)]
        found = compared(stores, in_threads, settings.writers, settings.seconds, progress)
    assert found["in_history"] == found["acknowledged"], "what was acknowledged stands in the session once"
    assert found["unacknowledged"] == 0, "nothing else does"
    return {
        "writers": Figure(found["writers"], "writers"),
        "acknowledged": Figure(found["acknowledged"], "commits"),
        "in_history_once": Figure(found["in_history"], "commits"),
        "ours_per_second": Figure(found["ours_per_second"], "commits/s"),
        "bare_per_second": Figure(found["bare_per_second"], "writes/s"),
        "ours_over_bare": ratio(found["ours_per_second"], found["bare_per_second"]),
        "requests_per_commit": requests(found["requests_per_success"]),
        "gave_up": Figure(found["gave_up"], "updates"),
    }


def _within(place: Place, prefix: str) -> ObjectStore:
    return place.within(prefix).store


def _message(name: str) -> Message:
    return Message(id=name, role="User", parts=(Part(id=f"{name}.p0", kind="Text", content=f"text of {name}"),))
