"""`WrittenStore`: remembers how large the objects are that were written through it.

store = WrittenStore(open_store(url))
store.sizes.clear(); commit(); sum(store.sizes.values())
"""

from __future__ import annotations

from typing import BinaryIO

from storage.store import ObjectStore, PutMode, Version
from storage.wrappers.metered import MeteredStore


class WrittenStore(MeteredStore):
    """A metered store with the last size of every key that was written. For one writer at a time.

    Attributes:
        sizes: Key → bytes, for the writes that the store has confirmed.
    """

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.sizes: dict[str, int] = {}

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows, and note its size. See `ObjectStore.put`."""
        before = self.metrics.snapshot()["put"].bytes_out
        version = super().put(key, data, mode)
        self.sizes[key] = self.metrics.snapshot()["put"].bytes_out - before
        return version
