"""`PrefixedStore` keeps the contract, beside other objects of the same bucket."""

from __future__ import annotations

import pytest

from storage import Create, ObjectStore
from storage.backends.memory import MemoryStore
from storage.testing.conformance import StoreConformance
from storage.wrappers.prefixed import PrefixedStore


class TestPrefixedStore(StoreConformance):
    @pytest.fixture
    def store(self) -> PrefixedStore:
        inner = MemoryStore()
        for key in ("in", "in-/a", "in0/a", "z"):
            inner.put(key, b"", Create())
        return PrefixedStore(inner, "in")

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        assert isinstance(store, PrefixedStore)
        assert isinstance(store._store, MemoryStore)
        kept = store._store._objects.get(f"in/{key}")
        return None if kept is None else kept.data
