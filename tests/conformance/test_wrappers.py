"""Wrappers with nothing to do keep the contract."""

from __future__ import annotations

import pytest

from storage import ObjectStore
from storage.backends.memory import MemoryStore
from storage.testing.clock import ManualClock
from storage.testing.conformance import StoreConformance
from storage.testing.faults import FaultyStore
from storage.wrappers.metered import MeteredStore
from storage.wrappers.throttled import ThrottledStore


def raw_in(store: object, key: str) -> bytes | None:
    assert isinstance(store, MemoryStore)
    kept = store._objects.get(key)
    return None if kept is None else kept.data


class TestMeteredStore(StoreConformance):
    @pytest.fixture
    def store(self) -> MeteredStore:
        return MeteredStore(MemoryStore())

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        assert isinstance(store, MeteredStore)
        return raw_in(store._store, key)


class TestFaultyStore(StoreConformance):
    @pytest.fixture
    def store(self) -> FaultyStore:
        return FaultyStore(MemoryStore())

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        assert isinstance(store, FaultyStore)
        return raw_in(store._store, key)


class TestThrottledStore(StoreConformance):
    @pytest.fixture
    def store(self) -> ThrottledStore:
        return ThrottledStore(MemoryStore(), bytes_per_second=1, clock=ManualClock())

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        assert isinstance(store, ThrottledStore)
        return raw_in(store._store, key)
