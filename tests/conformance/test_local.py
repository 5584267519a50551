"""`LocalStore` keeps the contract, on the real disk and on the simulated one (which so is shown to be like it)."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage import ObjectStore
from storage.backends.local import TRAILER_BYTES, LocalStore
from storage.testing.conformance import StoreConformance
from storage.testing.disk import SimulatedDisk


class TestLocalStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "not" / "yet" / "there")

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        assert isinstance(store, LocalStore)
        path = store.root / key
        return path.read_bytes()[:-TRAILER_BYTES] if path.is_file() else None


class TestLocalStoreOnASimulatedDisk(StoreConformance):
    @pytest.fixture
    def store(self) -> LocalStore:
        return LocalStore(Path("/deep/down"), disk=SimulatedDisk())

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        assert isinstance(store, LocalStore)
        assert isinstance(store._disk, SimulatedDisk)
        path = store.root / key
        content = store._disk._live.get(path.parent, {}).get(path.name)
        return None if content is None else content[:-TRAILER_BYTES]
