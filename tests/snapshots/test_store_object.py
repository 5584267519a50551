"""The store object: what makes a place a store, and what is refused to be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snapshots import SnapshotRepository, codec
from snapshots.errors import CorruptSnapshotError, StoreNotFoundError, UnsupportedSchemaError
from snapshots.fields import NEWEST_VERSION, STORE_VERSIONS
from snapshots.layout import STORE_KEY
from storage.backends.memory import MemoryStore
from storage.errors import InvalidKeyError, PermissionDeniedError, UnavailableError
from storage.store import Create, Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import Delay, Deny, FailBefore, Fault, FaultyStore, LoseAnswer, OwnRetry, Truncate
from tests.integration.builders import WatchedStore, new_session, raw_head


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def opened(store: Any, *, create: bool = True) -> None:
    SnapshotRepository(store, create=create, clock=ManualClock(), url="memory:").close()


def test_a_store_is_created_once_and_found_afterwards(store: MemoryStore) -> None:
    opened(store)
    first = store.get(STORE_KEY)
    opened(store)
    opened(store, create=False)
    assert store.get(STORE_KEY) == first


def test_where_there_is_none_it_is_made_only_on_request(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError) as caught:
        opened(store, create=False)
    assert caught.value.url == "memory:"
    assert list(store.list("")) == []
    with pytest.raises(StoreNotFoundError):
        SnapshotRepository.open(f"file:{tmp_path / 'none'}", create=False)
    for create in (True, False):
        with pytest.raises(StoreNotFoundError, match="there is no store here"):
            SnapshotRepository.open(f"archive:{tmp_path / 'none'}", create=create)
    assert not (tmp_path / "none").exists()


def test_of_two_who_create_it_both_go_on(store: MemoryStore) -> None:
    watched = WatchedStore(store)
    watched.act(2, lambda: opened(store))
    opened(watched)
    assert [verb for verb, _ in watched.requests][:2] == ["get", "put"]


@pytest.mark.parametrize("version", [3, 0, None, "1"])
def test_a_store_of_another_format_is_not_touched(store: MemoryStore, version: Any) -> None:
    opened(store)
    plain = codec.decode(store.get(STORE_KEY).data, key=STORE_KEY)
    data = codec.encode({**plain, "schema_version": version})
    store.put(STORE_KEY, data, Overwrite())
    with pytest.raises(UnsupportedSchemaError) as caught:
        opened(store)
    assert caught.value.found == version
    assert store.get(STORE_KEY).data == data


@pytest.mark.parametrize("version", STORE_VERSIONS)
def test_a_store_of_an_earlier_version_is_opened_and_its_heads_have_it(store: MemoryStore, version: int) -> None:
    opened(store)
    plain = codec.decode(store.get(STORE_KEY).data, key=STORE_KEY)
    assert plain["schema_version"] == NEWEST_VERSION
    data = codec.encode({**plain, "schema_version": version})
    store.put(STORE_KEY, data, Overwrite())
    with SnapshotRepository(store, clock=ManualClock()) as repo:
        repo.commit(new_session())
        assert repo.environment.schema_version == version
    assert raw_head(store).schema_version == version
    assert store.get(STORE_KEY).data == data


@pytest.mark.parametrize("data", [b"", b"\xa0", b"nonsense", b"\xf6"])
def test_an_unreadable_store_object_is_not_replaced(store: MemoryStore, data: bytes) -> None:
    store.put(STORE_KEY, data, Create())
    with pytest.raises((CorruptSnapshotError, UnsupportedSchemaError)):
        opened(store)
    assert store.get(STORE_KEY).data == data


def test_another_digest_algorithm_is_refused(store: MemoryStore) -> None:
    opened(store)
    plain = codec.decode(store.get(STORE_KEY).data, key=STORE_KEY)
    store.put(STORE_KEY, codec.encode({**plain, "digest_algorithm": "sha256"}), Overwrite())
    with pytest.raises(CorruptSnapshotError, match="digest"):
        opened(store)


def test_a_cut_store_object_is_corruption(store: MemoryStore) -> None:
    opened(store)
    faulty = FaultyStore(store)
    faulty.plan.on("get", fault=Truncate(9))
    with pytest.raises(CorruptSnapshotError):
        opened(faulty)


@pytest.mark.parametrize("fault", [LoseAnswer(), OwnRetry(), FailBefore("unknown"), FailBefore("no"), Delay()])
def test_an_answer_lost_while_creating_is_settled(store: MemoryStore, fault: Fault) -> None:
    faulty = FaultyStore(store)
    faulty.plan.on("put", fault=fault)
    with SnapshotRepository(faulty, clock=ManualClock()) as repo:
        faulty.release()
        assert repo.commit(new_session()).head_revision == 1
    opened(store, create=False)


def test_a_store_that_does_not_answer_or_refuses_says_so(store: MemoryStore) -> None:
    faulty = FaultyStore(store)
    faulty.plan.on("get", fault=FailBefore())
    with pytest.raises(UnavailableError):
        opened(faulty)
    faulty.plan.clear()
    faulty.plan.on("get", fault=Deny())
    with pytest.raises(PermissionDeniedError):
        opened(faulty)


@pytest.mark.parametrize("tenant", ["", "a\nb", "x" * 513])
def test_what_is_no_tenant_is_refused_before_anything_is_sent(store: MemoryStore, tenant: str) -> None:
    watched = WatchedStore(store)
    with pytest.raises(InvalidKeyError, match="tenant"):
        SnapshotRepository(watched, tenant=tenant)
    assert watched.requests == []


def test_a_store_object_that_the_disk_damaged_is_corruption(tmp_path: Path) -> None:
    url = f"file:{tmp_path}"
    SnapshotRepository.open(url).close()
    (path,) = (path for path in tmp_path.rglob("~store*") if path.is_file())
    path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(CorruptSnapshotError) as caught:
        SnapshotRepository.open(url)
    assert caught.value.key == STORE_KEY


def test_a_field_of_a_later_version_is_refused(store: MemoryStore) -> None:
    opened(store)
    plain = codec.decode(store.get(STORE_KEY).data, key=STORE_KEY)
    store.put(STORE_KEY, codec.encode({**plain, "later": 1}), Overwrite())
    with pytest.raises(UnsupportedSchemaError, match="later"):
        opened(store)
