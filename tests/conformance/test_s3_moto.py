"""`S3Store` keeps the contract on moto."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage import ObjectStore
from storage.backends.s3 import S3Store
from storage.testing.conformance import StoreConformance
from tests.conformance.s3_behind import raw_get, store_at


class TestS3StoreOnMoto(StoreConformance):
    @pytest.fixture
    def store(self, moto_url: str) -> Iterator[S3Store]:
        with store_at(moto_url) as opened:
            yield opened

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        return raw_get(store, key)
