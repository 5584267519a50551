"""`CloudStore` keeps the contract over the memory store of obstore: what it makes of answers, without a server."""

from __future__ import annotations

import pytest
from obstore.store import MemoryStore

from storage import ObjectStore
from storage.backends.cloud import CloudStore
from storage.testing.conformance import StoreConformance
from storage.testing.conformance_load import VersionsOfPuts


class TestCloudStoreInMemory(VersionsOfPuts, StoreConformance):
    @pytest.fixture
    def store(self) -> CloudStore:
        kept = MemoryStore()
        return CloudStore("memory", once=kept, retrying=kept, token="e_tag", place="memory")

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        assert isinstance(store, CloudStore)
        try:
            return bytes(store._once.get(key).bytes())
        except FileNotFoundError:
            return None
