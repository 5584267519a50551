"""`ManualClock`: time that moves only when told to, and chance that follows from a seed.

Rules:
1. `sleep` returns at once: it moves the clock and is recorded. 2. Equal seeds draw equal ids and numbers.

    clock = ManualClock(seed=7)
    clock.sleep(2.5)
    clock.advance(60)
    assert clock.sleeps == [2.5]
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from storage.testing.draws import Draws

START = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A `Clock` for tests.

    Args:
        start: First instant, aware.
        seed: Of ids and random numbers.
    """

    def __init__(self, start: datetime = START, seed: int = 0) -> None:
        if start.tzinfo is None:
            raise ValueError("start must be an aware instant")
        self.sleeps: list[float] = []
        self._start = start.astimezone(UTC)
        self._elapsed_seconds = 0.0
        self._ids = Draws(f"id {seed}")
        self._numbers = Draws(f"number {seed}")
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the instant that the clock was moved to."""
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Return the seconds since the start."""
        with self._lock:
            return self._elapsed_seconds

    def sleep(self, seconds: float) -> None:
        """Move the clock and record the wait; take no time."""
        self.sleeps.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        if seconds < 0:
            raise ValueError("time does not go back")
        with self._lock:
            self._elapsed_seconds += seconds

    def new_id(self) -> str:
        """Return the next 32 hex digits of this seed."""
        return self._ids.hex_id()

    def random(self) -> float:
        """Return the next number in [0, 1) of this seed."""
        return self._numbers.random()
