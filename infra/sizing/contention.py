"""Writers of one head that share nothing, and how long a fleet's operations wait: measured on a store that is late.

Rules:
1. Every writer has a repository of its own, as processes have: no queue puts them in order.
2. A request takes DELAY_SECONDS and more, so that waiting, and not this machine, is what is measured.

    contended(writers=4, seconds=2)["attempts_per_commit"]
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from infra.sizing.delayed import DelayedStore
from infra.sizing.fleet_work import OPERATIONS, done
from infra.sizing.fleets import Fleet, fill
from snapshots.benchmarks.contention import READY_SECONDS, Contender, Outcome, bare, by_verb, ours
from snapshots.benchmarks.meters import metering_process
from snapshots.benchmarks.places import MEMORY, Place
from storage.backends.memory import MemoryStore
from storage.store import ObjectStore

DELAY_SECONDS = 0.010


def strangers(make: Callable[[], Contender], writers: int, seconds: float) -> Outcome:
    """Write with threads that have a contender each."""
    contenders = [make() for _ in range(writers)]
    before = [one.metrics.snapshot() for one in contenders]
    ready = threading.Barrier(writers)

    def write(writer: int) -> Any:
        ready.wait(READY_SECONDS)
        return contenders[writer].write(writer, seconds)

    with ThreadPoolExecutor(writers) as pool:
        written = tuple(pool.map(write, range(writers)))
    used = sum((by_verb(one.metrics.snapshot() - was) for one, was in zip(contenders, before, strict=True)), Counter())
    for one in contenders:
        one.close()
    return Outcome(written, used)


def contended(writers: int, seconds: float) -> dict[str, float]:
    """Return rates, attempts and requests of so many strangers on one head, and of as many on one bare object."""
    our, kept = ours(_opener(), strangers, writers, seconds)
    assert kept.in_history == len(our.acknowledged), "what was acknowledged stands in the session once"
    other = bare(_opener(), strangers, writers, seconds, size_bytes=kept.head_bytes)
    return {"writers": writers} | _figures("", our) | _figures("bare_", other)


def _opener() -> Callable[[], ObjectStore]:
    store = DelayedStore(MemoryStore(), DELAY_SECONDS)
    return lambda: store


def _figures(prefix: str, outcome: Outcome) -> dict[str, float]:
    commits = len(outcome.acknowledged)
    refused = outcome.requests["put refused"]
    requests = sum(count for verb, count in outcome.requests.items() if " " not in verb)
    return {
        f"{prefix}commits_per_second": round(commits / outcome.seconds, 1),
        f"{prefix}attempts_per_commit": round((commits + refused) / commits, 2),
        f"{prefix}requests_per_commit": round(requests / commits, 2),
    }


def waited(name: str, fleet: Fleet) -> float:
    """Return the seconds that an operation takes on a store that is late by DELAY_SECONDS with every request."""
    store, copy = MemoryStore(), MemoryStore()
    with Place(store, MEMORY).repository(inline_limit_bytes=0) as repo:
        fill(repo, fleet)
    assert name in OPERATIONS, "an operation has a name"
    late, copied = (Place(DelayedStore(one, DELAY_SECONDS), MEMORY) for one in (store, copy))
    with copied.repository():  # the other store exists
        pass
    with metering_process() as used:
        done(name, late, copied, fleet)
    return used["wall_seconds"] - 2 * DELAY_SECONDS  # both repositories were opened within
