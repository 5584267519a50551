"""What operations cost while nobody listens: what is in the way of a call, and of a request.

python -m tests.benchmarks.unwatched
"""

from __future__ import annotations

from collections.abc import Callable
from timeit import repeat

from snapshots import SnapshotRepository
from snapshots.operations import operation
from snapshots.telemetry.opentelemetry import instrument
from storage import Create
from storage.backends.memory import MemoryStore
from storage.wrappers.observed import ObservedStore
from tests.integration.builders import SESSION, new_session

CALLS, ROUNDS = 20_000, 7


def microseconds(function: Callable[[], object], calls: int = CALLS) -> float:
    """Return what one call takes, in the fastest of some rounds."""
    return min(repeat(function, number=calls, repeat=ROUNDS)) / calls * 1e6


def main() -> None:
    """Print what a call and a request take, and what it is beside a read of a head."""

    def plain(session_id: str) -> str:
        return session_id

    decorated = operation("nothing", "session_id")(plain)
    inside = MemoryStore()
    inside.put("a", b"1", Create())
    observed = ObservedStore(inside)
    call = microseconds(lambda: decorated("s")) - microseconds(lambda: plain("s"))
    request = microseconds(lambda: observed.get("a")) - microseconds(lambda: inside.get("a"))
    with SnapshotRepository(MemoryStore()) as repo:
        repo.commit(new_session(SESSION, "one"))
        unwatched = microseconds(lambda: repo.pins(SESSION), calls=1000)
        stop = instrument()
        watched = microseconds(lambda: repo.pins(SESSION), calls=1000)
        stop()
    print(f"nobody listens: {call:.2f} us more per call, {request:.2f} us more per request")
    print(f"a read of a head in memory: {unwatched:.0f} us unwatched, {watched:.0f} us watched by OpenTelemetry's API")


if __name__ == "__main__":
    main()
