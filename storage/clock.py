"""Time and chance, behind one value: the only file that touches `time`, `random`, `uuid`, `secrets`.

Rules:
1. Instants are aware UTC. 2. Ids are 128 random bits in hex. 3. Nothing that protects data rests on a clock.

    clock = SystemClock()
    clock.now(), clock.new_id()
"""

from __future__ import annotations

import random
import secrets
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the project asks of time and chance; tests pass a manual one."""

    def now(self) -> datetime:
        """Return the present instant, aware UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a scale that never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def new_id(self) -> str:
        """Return 32 lowercase hex digits (128 bits) that nobody else has drawn."""
        ...

    def random(self) -> float:
        """Return a number in [0, 1), for jitter only."""
        ...


class SystemClock:
    """The machine's own clock and entropy."""

    def now(self) -> datetime:
        """Return the present instant, aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds on a scale that never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def new_id(self) -> str:
        """Return 32 lowercase hex digits from the operating system's entropy."""
        return secrets.token_hex(16)

    def random(self) -> float:
        """Return a number in [0, 1), for jitter only."""
        return random.random()  # noqa: S311  jitter, not a secret


def backoff_seconds(attempt: int, clock: Clock, *, base_seconds: float = 0.02, cap_seconds: float = 1.0) -> float:
    """Return a wait with full jitter before attempt `attempt` (1, 2, …).

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: full jitter needs the fewest calls.
    """
    ceiling = min(cap_seconds, base_seconds * float(1 << min(attempt, 16)))
    return clock.random() * ceiling
