"""`Settings`: how large the measures are.

Settings(turns=200).lengths == (50, 200)
"""

from __future__ import annotations

from dataclasses import dataclass

from snapshots.benchmarks.places import MEMORY

LENGTHS = (50, 200, 1000)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a measure works with.

    Attributes:
        store: URL of the store; "memory:" for one in memory, or in a temporary directory where a measure needs that.
        turns: Turns of the longest session.
        revisions: Of the large state.
        state_bytes: Size of the large state's execution state.
        sessions: Of a collection.
        seconds: That each side of a contention writes.
        writers: Of a contention.
        seed: Of the workloads.
    """

    store: str = MEMORY
    turns: int = LENGTHS[-1]
    revisions: int = 200
    state_bytes: int = 64 << 20
    sessions: int = 100_000
    seconds: float = 10.0
    writers: int = 8
    seed: int = 7

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the lengths at which sessions are looked at: 50, 200 and 1,000 turns as far as asked for."""
        return (*(length for length in LENGTHS if length < self.turns), self.turns)

    def session_turns(self, usual: int) -> int:
        """Return the turns of a session that has `usual` of them unless fewer were asked for."""
        return min(usual, self.turns)
