"""`OneWriterStore` costs nothing until it is needed; `ReadOnlyStore` lets nothing through that writes."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.backends.memory import MemoryStore
from storage.errors import PermissionDeniedError, PreconditionFailedError
from storage.server import ServerFacts, Variant, allows_one_writer, attempt_on
from storage.store import CONDITIONAL_BYTES_MAX, Create, Overwrite, Replace, Version
from storage.unfinished import UnfinishedWrite
from storage.wrappers.metered import MeteredStore
from storage.wrappers.one_writer import OneWriterStore
from storage.wrappers.prefixed import PrefixedStore
from storage.wrappers.read_only import ReadOnlyStore
from tests.storage.servers_that import (
    GoodServer,
    IgnoresCreate,
    IgnoresReplace,
    KnowsNoCreate,
    KnowsNoReplace,
    LooksThenWrites,
)

NO_CONDITIONS = ServerFacts(keeps_conditions=False)


def test_it_looks_only_when_it_was_told_that_it_must() -> None:
    metered = MeteredStore(MemoryStore())
    store = OneWriterStore(metered)
    store.put("a", b"one", Create())
    assert metered.metrics.snapshot()["stat"].requests == 0
    store.adapt(NO_CONDITIONS)
    store.put("b", b"one", Create())
    assert metered.metrics.snapshot()["stat"].requests == 1
    store.put("c", b"one", Overwrite())
    assert metered.metrics.snapshot()["stat"].requests == 1


@pytest.mark.parametrize("kind", [IgnoresCreate, IgnoresReplace, KnowsNoReplace])
def test_what_it_sees_it_keeps(kind: type[GoodServer]) -> None:
    store = OneWriterStore(kind())
    store.adapt(NO_CONDITIONS)
    version = store.put("a", b"one", Create())
    with pytest.raises(PreconditionFailedError):
        store.put("a", b"two", Create())
    with pytest.raises(PreconditionFailedError):
        store.put("a", b"two", Replace(Version("0" * 32)))
    with pytest.raises(PreconditionFailedError):
        store.put("b", b"two", Replace(version))
    store.put("a", b"two", Replace(version))
    assert store.get("a").data == b"two"
    store.put("pack", io.BytesIO(b"from a stream"), Create())
    assert store.get("pack").data == b"from a stream"


def test_whatever_is_around_it_it_is_found() -> None:
    assert allows_one_writer(MeteredStore(PrefixedStore(OneWriterStore(GoodServer()), "a")))
    assert not allows_one_writer(MeteredStore(GoodServer()))
    assert not allows_one_writer(MemoryStore())


def test_a_reader_is_told_why_and_what_would_help() -> None:
    within = MemoryStore()
    within.put("a", b"one", Create())
    store = ReadOnlyStore(within, "for readers", remedy="ask the operator")
    for write in (
        lambda: store.put("a", b"two", Overwrite()),
        lambda: store.delete("a"),
        lambda: store.discard(UnfinishedWrite("a", "id", within.list("").__next__().modified_at, None)),
    ):
        with pytest.raises(PermissionDeniedError, match="for readers; ask the operator"):
            write()
    assert [failure.key for failure in store.delete_many(["a", "b"])] == ["a", "b"]
    assert store.get("a").data == b"one"
    assert [row.key for row in store.list("")] == ["a"]


def test_it_streams_to_a_server_that_knows_no_create() -> None:
    store = OneWriterStore(KnowsNoCreate())
    store.adapt(NO_CONDITIONS)
    store.put("pack", io.BytesIO(b"from a stream"), Create())
    assert store.get("pack").data == b"from a stream"
    with pytest.raises(PreconditionFailedError):
        store.put("pack", io.BytesIO(b"another"), Create())


@pytest.mark.parametrize("size", [CONDITIONAL_BYTES_MAX, CONDITIONAL_BYTES_MAX + 1])
def test_what_is_larger_arrives_whole(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    store = OneWriterStore(KnowsNoReplace())
    store.adapt(NO_CONDITIONS)
    store.put("stream", io.BytesIO(data), Create())
    store.put("bytes", data, Create())
    assert store.get("stream").data == store.get("bytes").data == data


def test_two_of_one_process_look_and_write_one_after_the_other() -> None:
    server = LooksThenWrites()
    start = server.put("counter", b"0", Create())
    stores = [OneWriterStore(server) for _ in range(4)]

    def act(store: OneWriterStore) -> bool:
        store.adapt(NO_CONDITIONS)
        together.wait()
        try:
            store.put("counter", b"mine", Replace(start))
        except PreconditionFailedError:
            return False
        return True

    together = threading.Barrier(len(stores))
    with ThreadPoolExecutor(len(stores)) as threads:
        assert sum(threads.map(act, stores)) == 1


def test_a_reader_tries_no_variant_either() -> None:
    server = GoodServer()
    store = ReadOnlyStore(server, "for readers", remedy="ask the operator")
    version = server.put("a", b"one", Create())
    with pytest.raises(PermissionDeniedError, match="for readers"):
        attempt_on(store, "a", b"two", Variant.BARE, version)
    assert server.get("a").data == b"one"
