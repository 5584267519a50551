"""`MemoryStore` keeps the contract."""

from __future__ import annotations

import pytest

from storage import ObjectStore
from storage.backends.memory import MemoryStore
from storage.testing.conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        assert isinstance(store, MemoryStore)
        kept = store._objects.get(key)
        return None if kept is None else kept.data
