"""`LocalStore` keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage import ObjectStore
from storage.backends.limits import VERSION_BYTES
from storage.backends.local import LocalStore
from storage.testing.conformance import StoreConformance


class TestLocalStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "not" / "yet" / "there")

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        assert isinstance(store, LocalStore)
        path = store.root / key
        return path.read_bytes()[:-VERSION_BYTES] if path.is_file() else None
