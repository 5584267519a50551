"""A store is made only on a server that was found to keep its promises, and says so to whoever opens it later."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import BinaryIO

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, codec
from snapshots.errors import CorruptSnapshotError, StoreNotFoundError, UnsupportedSchemaError
from snapshots.layout import PROBE_PREFIX, STORE_KEY
from snapshots.opening import probe_server
from snapshots.store_object import ENDPOINTS_MAX, StoreFacts, encoded, facts_in
from storage.backends.memory import MemoryStore
from storage.errors import PermissionDeniedError, UnavailableError, UnsupportedServerError
from storage.server import ServerFacts, Variant, Verdict
from storage.store import ObjectStore, Overwrite, PutMode, Version
from storage.testing.clock import ManualClock
from storage.testing.faults import FailBefore, FaultyStore, On
from storage.wrappers.metered import MeteredStore
from storage.wrappers.one_writer import OneWriterStore
from storage.wrappers.passing import PassingStore
from storage.wrappers.read_only import ReadOnlyStore
from tests.integration.builders import message_ids, new_session, take_turn
from tests.storage.servers_that import (
    GoodServer,
    IgnoresCreate,
    IgnoresReplace,
    KnowsNoCreateAndListsInNoOrder,
    KnowsNoReplace,
    ListsInNoOrder,
)

SAFE = Verdict("https://elsewhere", ManualClock().now(), (), ServerFacts())


def stored(store: ObjectStore) -> StoreFacts:
    return facts_in(store.get(STORE_KEY).data)


def puts(store: MeteredStore) -> int:
    return store.metrics.snapshot()["put"].requests


class Reader(ReadOnlyStore):
    """What credentials for readers see."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, "403 AccessDenied", remedy="ask for more")


def test_a_server_is_probed_before_its_store_is_made_and_the_verdict_lands_in_it() -> None:
    server = GoodServer(frozenset({Variant.QUOTED}))
    SnapshotRepository(server).commit(PersistedSessionState(session_id="s1"))
    (verdict,) = stored(server).verdicts
    assert verdict.endpoint == server.endpoint
    assert verdict.is_safe
    assert verdict.facts.quoted
    assert not [row.key for row in server.list(PROBE_PREFIX)]


def test_a_store_that_is_opened_again_is_told_the_facts_and_asks_nothing() -> None:
    server = GoodServer(frozenset({Variant.QUOTED}))
    SnapshotRepository(server)
    server.adapt(ServerFacts())
    metered = MeteredStore(server)
    SnapshotRepository(metered)
    assert server.told == stored(server).verdicts[0].facts
    assert metered.metrics.snapshot().total_requests == 1


def test_a_process_asks_a_server_once_and_then_looks_whether_it_is_the_same() -> None:
    server = GoodServer()
    SnapshotRepository(server)
    server.delete(STORE_KEY)  # another bucket, say
    metered = MeteredStore(server)
    SnapshotRepository(metered)
    assert metered.metrics.snapshot().total_requests < 30
    assert stored(server).verdict_at(server.endpoint) is not None
    assert not list(server.list(PROBE_PREFIX))


@pytest.mark.parametrize("kind", [IgnoresCreate, IgnoresReplace, KnowsNoReplace])
def test_another_server_behind_the_same_endpoint_is_not_believed(kind: type[GoodServer]) -> None:
    good, other = GoodServer(), kind()
    SnapshotRepository(good)
    other._endpoint = good.endpoint
    with pytest.raises(UnsupportedServerError):
        SnapshotRepository(other)
    assert list(other.list("")) == []


def test_a_server_that_wants_versions_written_otherwise_by_now_is_probed_anew() -> None:
    former, now = GoodServer(), GoodServer(frozenset({Variant.QUOTED}))
    SnapshotRepository(former)
    now._endpoint = former.endpoint
    SnapshotRepository(now).commit(PersistedSessionState(session_id="s1"))
    assert stored(now).verdicts[0].facts.quoted


def test_a_server_that_was_mended_is_not_refused_by_memory() -> None:
    bad, mended = IgnoresReplace(), GoodServer()
    mended._endpoint = bad.endpoint
    with pytest.raises(UnsupportedServerError):
        SnapshotRepository(bad)
    SnapshotRepository(mended)


def test_a_store_that_is_reached_at_another_endpoint_has_that_probed_and_remembers_both() -> None:
    first = GoodServer()
    SnapshotRepository(first).commit(take_turn(new_session("s1"), "one"))
    second = GoodServer(store=first)
    metered = MeteredStore(second)
    assert message_ids(SnapshotRepository(metered, create=False).load("s1"))[-1] == "one"
    assert puts(metered) > 150
    assert [verdict.endpoint for verdict in stored(first).verdicts] == [first.endpoint, second.endpoint]


def test_a_store_made_before_servers_were_probed_is_probed_when_it_is_opened() -> None:
    server = GoodServer()
    server.put(STORE_KEY, encoded(StoreFacts("0" * 32, 1)), Overwrite())
    SnapshotRepository(server, create=False)
    assert stored(server).verdict_at(server.endpoint) is not None
    assert stored(server).schema_version == 1


@pytest.mark.parametrize("kind", [IgnoresCreate, IgnoresReplace, KnowsNoReplace])
def test_a_server_that_would_lose_work_is_refused_with_the_one_switch_and_nothing_is_made(
    kind: type[GoodServer],
) -> None:
    server = kind()
    with pytest.raises(UnsupportedServerError, match="one_writer=yes") as refused:
        SnapshotRepository(server)
    assert refused.value.findings
    assert list(server.list("")) == []


def test_a_store_that_moved_to_such_a_server_is_refused_there_and_says_so_again() -> None:
    good = GoodServer()
    SnapshotRepository(good)
    bad = IgnoresReplace(store=good)
    for _ in range(2):
        with pytest.raises(UnsupportedServerError, match="replace an earlier version"):
            SnapshotRepository(bad)
    verdict = stored(good).verdict_at(bad.endpoint)
    assert verdict is not None
    assert verdict.findings


@pytest.mark.parametrize("kind", [IgnoresCreate, IgnoresReplace, KnowsNoReplace])
def test_the_switch_allows_one_writer_at_a_time_and_each_opening_says_so(
    kind: type[GoodServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = kind()
    for number in range(3):
        with caplog.at_level(logging.WARNING, "snapshots"):
            repo = SnapshotRepository(OneWriterStore(server))
        state = repo.load("s1") if number else new_session("s1")
        repo.commit(take_turn(state, f"turn {number}"))
        assert repo.server_findings
        (said,) = [record.message for record in caplog.records]
        assert "one writer at a time" in said
        caplog.clear()
    assert repo.load("s1").head_revision == 3
    repo.fork("s1", "s2")
    assert message_ids(repo.load("s2")) == message_ids(repo.load("s1"))


def test_the_switch_helps_no_server_that_reads_wrong() -> None:
    with pytest.raises(UnsupportedServerError, match="use another server"):
        SnapshotRepository(OneWriterStore(ListsInNoOrder()))


def test_the_switch_changes_nothing_on_a_server_that_needs_none(caplog: pytest.LogCaptureFixture) -> None:
    server = MeteredStore(GoodServer())
    repo = SnapshotRepository(OneWriterStore(server))
    before = server.metrics.snapshot()
    repo.commit(PersistedSessionState(session_id="s1"))
    assert (server.metrics.snapshot() - before)["stat"].requests == 0
    assert repo.server_findings == ()
    assert caplog.records == []


def test_who_may_not_probe_reads_and_is_told_why_nothing_can_be_written() -> None:
    first = GoodServer()
    SnapshotRepository(first).commit(take_turn(new_session("s1"), "one"))
    repo = SnapshotRepository(Reader(GoodServer(store=first)), create=False)
    state = repo.load("s1")
    with pytest.raises(PermissionDeniedError, match=r"may not \(403 AccessDenied\); run snapshots probe"):
        repo.commit(take_turn(state, "two"))
    assert len(stored(first).verdicts) == 1


def test_who_may_not_probe_makes_no_store() -> None:
    with pytest.raises(PermissionDeniedError, match="ask for more"):
        SnapshotRepository(Reader(GoodServer()))


def test_a_server_that_does_not_answer_is_not_judged() -> None:
    server = FaultyStore.script(GoodServer(), [On("put", PROBE_PREFIX, FailBefore(), nth=2)])
    behind = GoodServer(store=server)
    with pytest.raises(UnavailableError):
        SnapshotRepository(behind)
    SnapshotRepository(behind)
    assert stored(behind).verdict_at(behind.endpoint) is not None


def test_without_a_store_and_without_leave_to_make_one_nothing_is_probed() -> None:
    metered = MeteredStore(GoodServer())
    with pytest.raises(StoreNotFoundError):
        SnapshotRepository(metered, create=False)
    assert metered.metrics.snapshot().total_requests == 1


def test_two_who_probe_at_once_lose_no_verdict() -> None:
    shared = MemoryStore()
    SnapshotRepository(shared)
    first, second = GoodServer(store=shared), GoodServer(store=shared)

    class Meanwhile(GoodServer):
        def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
            if key == STORE_KEY and len(stored(shared).verdicts) == 1:
                SnapshotRepository(second)
            return super().put(key, data, mode)

    SnapshotRepository(first)
    third = Meanwhile(store=shared)
    SnapshotRepository(third)
    assert [one.endpoint for one in stored(shared).verdicts] == [first.endpoint, second.endpoint, third.endpoint]


def test_the_newest_endpoints_are_remembered() -> None:
    facts = StoreFacts("0" * 32, 2)
    for number in range(ENDPOINTS_MAX + 3):
        facts = facts.knowing(replace(SAFE, endpoint=f"https://{number}"))
    facts = facts.knowing(replace(SAFE, endpoint="https://5", findings=("now broken",)))
    assert facts_in(encoded(facts)) == facts
    assert [one.endpoint for one in facts.verdicts][-3:] == ["https://17", "https://18", "https://5"]
    assert len(facts.verdicts) == ENDPOINTS_MAX


def test_a_probe_by_hand_asks_again_and_replaces_the_verdict() -> None:
    good = GoodServer()
    SnapshotRepository(good)
    bad = IgnoresReplace(store=good)
    assert probe_server(bad).is_recorded
    with pytest.raises(UnsupportedServerError):
        SnapshotRepository(bad)
    mended = GoodServer(store=good)
    mended._endpoint = bad.endpoint
    assert probe_server(mended).report.verdict.is_safe
    SnapshotRepository(mended).commit(PersistedSessionState(session_id="s1"))


@pytest.mark.parametrize("store", [MemoryStore, GoodServer])
def test_a_probe_by_hand_makes_a_store_if_it_is_told_to(store: type[ObjectStore]) -> None:
    place = store()
    assert not probe_server(place).is_made
    assert list(place.list("")) == []
    assert probe_server(place, create=True).is_made
    assert not probe_server(place, create=True).is_made
    SnapshotRepository(place, create=False)


def test_a_probe_by_hand_makes_none_on_a_server_that_would_lose_work_unless_the_switch_is_on() -> None:
    server = KnowsNoReplace()
    assert not probe_server(server, create=True).is_made
    assert probe_server(OneWriterStore(server), create=True).is_made
    assert probe_server(OneWriterStore(server)).is_recorded
    assert SnapshotRepository(OneWriterStore(server), create=False).server_findings


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("endpoint", 7, CorruptSnapshotError),
        ("probed_at", "now", CorruptSnapshotError),
        ("findings", [7], CorruptSnapshotError),
        ("facts", {"quoted": 1}, CorruptSnapshotError),
        ("later", 1, UnsupportedSchemaError),
    ],
)
def test_a_verdict_that_cannot_be_read_is_no_verdict(field: str, value: object, error: type[Exception]) -> None:
    plain = codec.decode(encoded(StoreFacts("0" * 32, 2, (SAFE,))), key=STORE_KEY)
    plain["probe"][0][field] = value
    with pytest.raises(error):
        facts_in(codec.encode(plain))


class NoStoreObject(PassingStore):
    """What credentials see that may try a server, but not write down what comes of it."""

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        if key == STORE_KEY:
            raise PermissionDeniedError(key, "403 AccessDenied")
        return super().put(key, data, mode)


@pytest.mark.parametrize("kind", [IgnoresReplace, ListsInNoOrder])
def test_what_was_found_and_may_not_be_written_down_is_refused_all_the_same(kind: type[GoodServer]) -> None:
    first = GoodServer()
    SnapshotRepository(first)
    for _ in range(2):
        with pytest.raises(UnsupportedServerError):
            SnapshotRepository(NoStoreObject(kind(store=first)), create=False)


def test_a_refusal_of_old_says_how_a_server_that_was_mended_is_admitted() -> None:
    good = GoodServer()
    SnapshotRepository(good)
    bad = IgnoresReplace(store=good)
    with pytest.raises(UnsupportedServerError):
        SnapshotRepository(bad)
    with pytest.raises(UnsupportedServerError, match="run snapshots probe if the server changed since it was probed"):
        SnapshotRepository(bad)


def test_where_nothing_can_be_created_the_switch_helps_no_server_that_reads_wrong() -> None:
    with pytest.raises(UnsupportedServerError, match="use another server"):
        SnapshotRepository(OneWriterStore(KnowsNoCreateAndListsInNoOrder()))
