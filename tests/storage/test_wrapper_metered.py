"""The meter counts what a bill would count."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage import ByteRange, Create, Overwrite
from storage.backends.memory import MemoryStore
from storage.errors import NotFoundError, PreconditionFailedError, UnavailableError
from storage.testing.faults import CutList, FailBefore, FaultyStore, On
from storage.wrappers.metered import MeteredStore, VerbCount


@pytest.fixture
def store() -> MeteredStore:
    return MeteredStore(MemoryStore())


def test_puts_and_gets_count_requests_and_bytes(store: MeteredStore) -> None:
    store.put("a", b"12345", Create())
    store.put("b", io.BytesIO(b"123"), Create())
    store.get("a")
    store.get("a", ByteRange(1, 2))
    store.stat("a")
    store.delete("a")
    seen = store.metrics.snapshot()
    assert seen["put"] == VerbCount(requests=2, bytes_out=8)
    assert seen["get"] == VerbCount(requests=2, bytes_in=7)
    assert seen["stat"] == seen["delete"] == VerbCount(requests=1)
    assert seen.total_requests == 6
    assert seen.total == VerbCount(requests=6, bytes_in=7, bytes_out=8)


def test_failures_are_requests_too(store: MeteredStore) -> None:
    store.put("a", b"1", Create())
    with pytest.raises(PreconditionFailedError):
        store.put("a", b"22", Create())
    with pytest.raises(NotFoundError):
        store.get("b")
    seen = store.metrics.snapshot()
    assert seen["put"] == VerbCount(requests=2, bytes_out=3, failures=1)
    assert seen["get"] == VerbCount(requests=1, failures=1)


@pytest.mark.parametrize(("keys", "pages"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (2000, 2)])
def test_a_listing_counts_one_request_per_page(store: MeteredStore, keys: int, pages: int) -> None:
    for number in range(keys):
        store.put(f"a/{number}", b"", Overwrite())
    assert len(list(store.list("a/"))) == keys
    assert store.metrics.snapshot()["list"].requests == pages


@pytest.mark.parametrize(("keys", "batches"), [(0, 0), (1, 1), (1000, 1), (1001, 2)])
def test_a_batch_delete_counts_one_request_per_thousand(store: MeteredStore, keys: int, batches: int) -> None:
    store.delete_many(f"a/{number}" for number in range(keys))
    assert store.metrics.snapshot()["delete_many"] == VerbCount(requests=batches)


def test_a_listing_not_begun_costs_nothing(store: MeteredStore) -> None:
    store.list("a/")
    assert store.metrics.snapshot().total_requests == 0


def test_failed_listings_and_deletes_are_counted() -> None:
    rules = [On("list", fault=CutList()), On("delete_many", "a", FailBefore())]
    store = MeteredStore(FaultyStore.script(MemoryStore(), rules))
    with pytest.raises(UnavailableError):
        list(store.list(""))
    assert [failure.key for failure in store.delete_many(["a", "b"])] == ["a"]
    seen = store.metrics.snapshot()
    assert seen["list"].failures == seen["delete_many"].failures == 1


def test_two_snapshots_subtract_and_stay_as_they_were(store: MeteredStore) -> None:
    store.put("a", b"1", Create())
    before = store.metrics.snapshot()
    store.get("a")
    used = store.metrics.snapshot() - before
    assert used.total_requests == 1
    assert used["put"] == VerbCount()
    assert before.total_requests == 1


def test_no_count_is_lost_between_threads(store: MeteredStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [store.put("a", b"1", Overwrite()) for _ in range(200)], range(8)))
    assert store.metrics.snapshot()["put"] == VerbCount(requests=1600, bytes_out=1600)
