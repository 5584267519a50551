"""`ArchiveWriter` keeps the contract while it is written; what becomes of it can only be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import ObjectStore
from storage.backends.archive import ArchiveWriter
from storage.testing.conformance import StoreConformance


class TestArchiveWriter(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ArchiveWriter]:
        with ArchiveWriter(tmp_path / "a.snapshots") as writer:
            yield writer

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        assert isinstance(store, ArchiveWriter)
        row = store._rows.get(key)
        (part,) = store.path.parent.glob(".archive.*.part")
        return None if row is None else part.read_bytes()[row.offset : row.end]
