"""Wrappers with nothing to do keep the contract."""

from __future__ import annotations

from typing import BinaryIO

import pytest

from storage import ObjectStore
from storage.backends.limits import check_put
from storage.backends.memory import MemoryStore
from storage.server import ServerFacts
from storage.store import Overwrite, PutMode, Version
from storage.testing.clock import ManualClock
from storage.testing.conformance import StoreConformance
from storage.testing.faults import FaultyStore
from storage.wrappers.metered import MeteredStore
from storage.wrappers.one_writer import OneWriterStore
from storage.wrappers.passing import PassingStore
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


class TestOneWriterStore(StoreConformance):
    """One that looks first, before a server that would lose work; in one process it keeps the contract."""

    @pytest.fixture
    def store(self) -> OneWriterStore:
        looking = OneWriterStore(KeepsNoConditions(MemoryStore()))
        looking.adapt(ServerFacts(keeps_conditions=False))
        return looking

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        assert isinstance(store, OneWriterStore)
        assert isinstance(store._store, KeepsNoConditions)
        return raw_in(store._store._store, key)


class KeepsNoConditions(PassingStore):
    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        check_put(key, data, mode)
        return super().put(key, data, Overwrite() if isinstance(data, bytes) and len(data) < 8 << 20 else mode)
