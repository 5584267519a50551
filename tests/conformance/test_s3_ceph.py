"""`S3Store` keeps the contract on Ceph, where many requests are carried out at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage import ObjectStore
from storage.backends.s3 import S3Store
from storage.testing.conformance import StoreConformance
from tests.conformance.s3_behind import raw_get, store_at


class TestS3StoreOnCeph(StoreConformance):
    @pytest.fixture
    def store(self, ceph_url: str) -> Iterator[S3Store]:
        with store_at(ceph_url) as opened:
            yield opened

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        return raw_get(store, key)
