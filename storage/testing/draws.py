"""`Draws`: numbers that look random and follow from a seed. Pure; equal on every platform and Python version.

Rules:
1. The n-th draw depends on seed and n only. 2. Safe to use from several threads (their order then decides).

    draws = Draws(7)
    draws.random(), draws.below(10), draws.hex_id()
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TypeVar

from storage.digest import short_hash

T = TypeVar("T")
_FRACTION_BITS = 53  # what a float holds exactly


class Draws:
    """A stream of draws from `seed`."""

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self._lock = threading.Lock()
        self._count = 0

    def random(self) -> float:
        """Return a number in [0, 1)."""
        return (int.from_bytes(self._next()[:8], "big") >> (64 - _FRACTION_BITS)) / float(1 << _FRACTION_BITS)

    def below(self, limit: int) -> int:
        """Return a whole number in 0..limit-1."""
        return int.from_bytes(self._next(), "big") % limit

    def pick(self, options: Sequence[T]) -> T:
        """Return one of `options`, which must not be empty."""
        return options[self.below(len(options))]

    def hex_id(self) -> str:
        """Return 32 hex digits."""
        return self._next().hex()

    def _next(self) -> bytes:
        with self._lock:
            self._count += 1
            count = self._count
        return short_hash(f"{self.seed}/{count}".encode())
