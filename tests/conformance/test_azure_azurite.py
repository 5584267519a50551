"""`CloudStore` keeps the contract on Azurite, with the protocol of Azure."""

from __future__ import annotations

import pytest

from storage import ObjectStore
from storage.backends.cloud import CloudStore
from storage.testing.conformance import StoreConformance
from storage.testing.conformance_load import VersionsOfPuts
from tests.conformance.cloud_behind import raw_get, store_at


class TestCloudStoreOnAzurite(VersionsOfPuts, StoreConformance):
    @pytest.fixture
    def store(self, azurite_url: str) -> CloudStore:
        return store_at(azurite_url)

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        return raw_get(store, key)
