"""Operations and their listeners: nothing happens unless somebody listens, and who listens can do no harm."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage import ByteRange, Create, Overwrite
from storage.backends.local import LocalStore
from storage.backends.memory import MemoryStore
from storage.backends.s3 import SINGLE_BYTES_MAX
from storage.errors import NotFoundError, PreconditionFailedError, UnavailableError
from storage.executor import InlineExecutor, NestingExecutor
from storage.observed import Listener, Operation, Request, begin, current, listen, stop_listening
from storage.store import LIST_PAGE_KEYS, Replace, StoredObject
from storage.testing.faults import FailBefore, FaultPlan, FaultyStore
from storage.unfinished import KeepsUnfinished, UnfinishedWrite
from storage.wrappers.observed import PARTS_BYTES, ObservedStore, observed

pytestmark = pytest.mark.usefixtures("nobody_listens")
Told = list[tuple[str, str, str]]


class Ears(Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.requests: Told = []
        self.failures: list[str] = []
        self.operations: list[Operation] = []

    def begun(self, operation: Operation) -> None:
        self.told.append(f"begun {operation.name}")

    def entered(self, operation: Operation) -> None:
        self.told.append(f"entered {operation.name}")

    def left(self, operation: Operation) -> None:
        self.told.append(f"left {operation.name}")

    def ended(self, operation: Operation) -> None:
        self.told.append(f"ended {operation.name}")
        self.operations.append(operation)

    def requested(self, operation: Operation | None, request: Request) -> None:
        self.requests.append((operation.name if operation else "", request.name, request.key))
        self.failures.append(request.failure)


@pytest.fixture
def ears() -> Iterator[Ears]:
    found = Ears()
    listen(found)
    yield found
    stop_listening(found)


def run(name: str, *stores: ObservedStore) -> Operation:
    """Run an operation that gets "a" of every store."""
    operation = begin(name, {}, lambda: 0.0)
    with operation.under_way():
        for store in stores:
            store.get("a")
    operation.end(None)
    return operation


@pytest.fixture
def store() -> ObservedStore:
    inside = MemoryStore()
    inside.put("a", b"1234", Create())
    return ObservedStore(inside)


def test_every_request_is_told_by_what_it_is(store: ObservedStore, ears: Ears) -> None:
    version = store.put("b", b"1", Create())
    store.put("b", b"2", Replace(version))
    store.put("b", b"3", Overwrite())
    store.put("c", io.BytesIO(b"4"), Create())
    store.get("b")
    store.stat("b")
    assert [row.key for row in store.list("", start_after="a")] == ["b", "c"]
    store.delete("b")
    assert store.delete_many(["c"]) == ()
    names = ["put-create", "put-replace", "put-overwrite", "put-create", "get", "stat", "list", "delete", "delete"]
    keys = ["b", "b", "b", "c", "b", "b", "", "b", "c"]
    told = [("", name, key) for name, key in zip(names, keys, strict=True)]
    assert ears.requests == told


def test_unfinished_writes_are_told_where_a_store_keeps_any(ears: Ears, tmp_path: Path) -> None:
    assert not isinstance(observed(MemoryStore()), KeepsUnfinished)
    store = observed(LocalStore(tmp_path))
    assert isinstance(store, KeepsUnfinished)
    assert list(store.unfinished("x/")) == []
    store.discard(UnfinishedWrite("", "0" * 32, datetime.now(UTC), None))
    assert ears.requests == [("", "list-uploads", "x/"), ("", "abort-upload", "")]


def test_what_goes_in_parts_is_told_apart(ears: Ears) -> None:
    assert PARTS_BYTES == SINGLE_BYTES_MAX
    store = ObservedStore(MemoryStore())
    store.put("whole", bytes(PARTS_BYTES), Create())
    store.put("bytes", bytes(PARTS_BYTES + 1), Create())
    store.put("stream", io.BytesIO(bytes(PARTS_BYTES + 1)), Create())
    assert [name for _, name, _ in ears.requests] == ["put-create", "put-parts", "put-parts"]


@pytest.mark.parametrize(("keys", "pages"), [(0, 1), (LIST_PAGE_KEYS, 1), (LIST_PAGE_KEYS + 1, 2)])
def test_a_listing_is_told_page_by_page(ears: Ears, keys: int, pages: int) -> None:
    inside = MemoryStore()
    for number in range(keys):
        inside.put(f"k/{number:05d}", b"", Create())
    store = ObservedStore(inside)
    assert len(list(store.list("k/"))) == keys
    assert ears.requests == [("", "list", "k/")] * pages
    store.delete_many(f"k/{number:05d}" for number in range(keys))
    assert len(ears.requests) - pages == -(-keys // LIST_PAGE_KEYS)


def test_a_batch_of_deletes_that_fails_is_told_so(ears: Ears) -> None:
    store = ObservedStore(FaultyStore(MemoryStore(), FaultPlan().on("delete_many", fault=FailBefore())))
    operation = begin("try", {}, lambda: 0.0)
    with operation.under_way():
        assert [failure.key for failure in store.delete_many(["a", "b"])] == ["a", "b"]
    assert operation.unavailable == 1
    assert ears.requests == [("try", "delete", "a")]


def test_a_request_that_fails_is_told_too(ears: Ears) -> None:
    store = ObservedStore(FaultyStore(MemoryStore(), FaultPlan().on("get", fault=FailBefore())))
    operation = begin("try", {}, lambda: 0.0)
    with operation.under_way():
        with pytest.raises(UnavailableError):
            store.get("a")
        with pytest.raises(NotFoundError):
            store.get("a")
    operation.end(None)
    assert ears.failures == ["UnavailableError", "NotFoundError"]
    assert (operation.unavailable, operation.traffic["get"].requests) == (1, 2)


def test_requests_belong_to_the_innermost_operation(store: ObservedStore, ears: Ears) -> None:
    outer = begin("outer", {}, lambda: 0.0)
    with outer.under_way():
        store.get("a")
        inner = run("inner", store, store)
    outer.end(None)
    store.get("a")
    assert inner.parent is outer
    assert [name for name, _, _ in ears.requests] == ["outer", "inner", "inner", ""]
    assert (outer.traffic["get"].requests, inner.traffic["get"].requests) == (1, 2)
    assert inner.traffic["get"].bytes_in == 8
    assert ears.told == [
        *("begun outer", "entered outer", "begun inner", "entered inner", "left inner", "ended inner"),
        *("left outer", "ended outer"),
    ]


class Meanwhile(MemoryStore):
    """Does something else in the midst of a get, as whoever comes between does."""

    def __init__(self, other: ObservedStore) -> None:
        super().__init__()
        self._other = other

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        self._other.get("a")
        return super().get(key, byte_range)


def test_what_goes_on_within_the_store_belongs_to_no_operation(store: ObservedStore, ears: Ears) -> None:
    between = ObservedStore(Meanwhile(store))
    between.put("a", b"", Create())
    operation = run("one", between)
    assert ears.requests[1:] == [("", "get", "a"), ("one", "get", "a")]
    assert operation.traffic["get"].requests == 1


def test_requests_of_its_threads_belong_to_an_operation(store: ObservedStore, ears: Ears) -> None:
    with NestingExecutor(4) as executor:
        operation = begin("many", {}, lambda: 0.0)
        with operation.under_way():
            nested = list(executor.map(lambda _: list(executor.map(store.get, ["a", "a"])), range(8)))
        operation.end(None)
        assert executor.submit(current).result() is None
    assert len(nested) == 8
    assert operation.traffic["get"].requests == 16
    assert {name for name, _, _ in ears.requests} == {"many"}


def test_a_request_that_is_sent_again_after_it_failed_is_a_retry(ears: Ears) -> None:
    plan = FaultPlan().on("put", "a", fault=FailBefore()).on("get", "a", fault=FailBefore())
    store = ObservedStore(FaultyStore(MemoryStore(), plan))
    operation = begin("try", {}, lambda: 0.0)
    with operation.under_way():
        for _ in range(3):  # unavailable, sent again and stored, then refused
            with suppress(UnavailableError, PreconditionFailedError):
                store.put("a", b"", Create())
        for key in "aaab":
            with suppress(UnavailableError, NotFoundError):
                store.get(key)
        store.put("a", b"", Overwrite())
    operation.end(None)
    assert ears.operations[0].retries == 3


def fail(name: str, error: Exception) -> Operation:
    """Return an operation that was ended by an error."""
    operation = begin(name, {}, lambda: 0.0)
    operation.end(error)
    return operation


def test_an_error_is_the_outcome_of_the_operation_that_it_arose_in(ears: Ears) -> None:
    passed_on, translated, own = KeyError("a"), ValueError("b"), OSError("c")
    translated.__cause__ = passed_on
    for error, is_own in ((passed_on, False), (translated, False), (own, True)):
        outer = begin("outer", {}, lambda: 0.0)
        with outer.under_way():
            assert fail("inner", passed_on).is_own_outcome
        outer.end(error)
        assert (outer.outcome, outer.is_own_outcome) == (type(error).__name__, is_own)
    assert len(ears.operations) == 6


class Deaf(Listener):
    """Raises whatever it hears."""

    def begun(self, operation: Operation) -> None:
        raise ValueError(operation.name)

    entered = left = ended = begun

    def requested(self, operation: Operation | None, request: Request) -> None:
        raise ValueError(operation, request)


def test_a_listener_that_raises_is_logged_once_and_harms_nobody(
    store: ObservedStore, ears: Ears, caplog: pytest.LogCaptureFixture
) -> None:
    deaf = Deaf()
    listen(deaf)
    with caplog.at_level(logging.ERROR, "snapshots"):
        run("one", store)
        run("two", store)
    stop_listening(deaf)
    (record,) = caplog.records
    assert record.getMessage() == "Deaf raised; it goes on hearing, its further errors are not logged"
    assert record.exc_info is not None
    assert [operation.name for operation in ears.operations] == ["one", "two"]


def test_an_operation_goes_on_with_those_who_heard_it_begin(ears: Ears) -> None:
    late = Ears()
    operation = begin("long", {}, lambda: 0.0)
    listen(late)
    operation.end(None)
    stop_listening(late)
    assert (len(ears.operations), late.operations) == (1, [])


def test_seconds_are_those_that_it_was_worked_on(ears: Ears) -> None:
    times = iter([1.0, 3.0, 10.0, 10.5])
    operation = begin("in steps", {}, lambda: next(times))
    for _ in range(2):
        with operation.under_way():
            pass
    operation.end(None)
    assert ears.operations[0].seconds == 2.5


def test_a_process_forked_in_the_midst_of_an_operation_is_no_part_of_it(store: ObservedStore, ears: Ears) -> None:
    operation = begin("forking", {}, lambda: 0.0)
    with operation.under_way():
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            is_none = current() is None
            store.get("a")
            operation.end(None)
            right = is_none and ears.requests == [("", "get", "a")] and not ears.operations
            os.write(writing, b"right" if right else b"wrong")
            os._exit(0)
        os.waitpid(child, 0)
    operation.end(None)
    said = os.read(reading, 10)
    os.close(reading)
    os.close(writing)
    assert said == b"right"
    assert (operation.traffic, len(ears.operations)) == ({}, 1)


def test_many_threads_count_for_one_operation(store: ObservedStore, ears: Ears) -> None:
    operation = begin("many", {}, lambda: 0.0)
    ready = threading.Barrier(4, timeout=30)

    def get(_: int) -> None:
        ready.wait()
        for _ in range(200):
            store.get("a")

    with NestingExecutor(4) as executor, operation.under_way():
        list(executor.map(get, range(4)))
    operation.end(None)
    assert operation.traffic["get"].requests == len(ears.requests) == 800


def test_without_listeners_nothing_is_told_or_counted(store: ObservedStore) -> None:
    operation = begin("unheard", {}, lambda: 0.0)
    with operation.under_way():
        store.get("a")
        store.put("b", b"", Create())
        assert [row.key for row in store.list("")] == ["a", "b"]
    assert operation.traffic == {}
    with InlineExecutor() as executor:
        assert executor.submit(current).result() is None
