"""What one verification or repair remembers, within bounds. Safe for threads.

Rules:
1. What was used longest ago is forgotten first; then it is read again.
2. That something is missing is never remembered.

    memory = Memory()
    memory.frames.keep(named("s1", "pack", "0"), data, len(data))
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

from storage.digest import short_hash
from storage.errors import CorruptObjectError

V = TypeVar("V")
VERDICTS_MAX = 1 << 20  # blobs and packs remembered as verified: about 150 MiB
FRAMES_BYTES_MAX = 64 << 20  # of frames as they are stored: the next revision, or a fork, has most of them too
MANIFESTS_BYTES_MAX = 64 << 20  # of manifests that others were compressed against
NAMES_MAX = 1 << 20  # names of packs in remembered listings
LOCKS = 64  # more than threads


class Remembered(Generic[V]):
    """Values by key up to a total weight (rule 1)."""

    def __init__(self, weight_max: int) -> None:
        self._weight_max = weight_max
        self._weight = 0
        self._values: OrderedDict[bytes, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: bytes) -> V | None:
        """Return the value, None if it is not remembered."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def keep(self, key: bytes, value: V, weight: int = 1) -> None:
        """Remember a value, unless it is heavier than all together may be."""
        if weight > self._weight_max:
            return
        with self._lock:
            _, before = self._values.pop(key, (value, 0))
            self._values[key] = (value, weight)
            self._weight += weight - before
            while self._weight > self._weight_max:
                _, (_, oldest) = self._values.popitem(last=False)
                self._weight -= oldest


Frames = Remembered[bytes | CorruptObjectError]


class Memory:
    """What one verification remembers.

    Attributes:
        verdicts: Key and reason of what is wrong with a blob or pack, both "" for nothing.
        frames: Frames as they are stored, or why one cannot be read.
        manifests: Bytes of manifests that others were compressed against.
        listings: Names of a family's packs.
        firsts: Whether the head of a family's first session is there.
    """

    def __init__(self) -> None:
        self.verdicts: Remembered[tuple[tuple[str, str], ...]] = Remembered(VERDICTS_MAX)
        self.frames: Frames = Remembered(FRAMES_BYTES_MAX)
        self.manifests: Remembered[bytes] = Remembered(MANIFESTS_BYTES_MAX)
        self.listings: Remembered[frozenset[str]] = Remembered(NAMES_MAX)
        self.firsts: Remembered[bool] = Remembered(VERDICTS_MAX)
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def alone_in(self, family: str) -> threading.Lock:
        """Return what to hold while a family is verified: its sessions share blobs, which are then read once."""
        return self._locks[named(family)[0] % LOCKS]


def named(*words: object) -> bytes:
    """Return the key under which something is remembered."""
    return short_hash(repr(words).encode(errors="surrogatepass"))
