"""Registers beside a head: one change is applied once, whatever answers get lost, and never under another's key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Thread

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    LimitExceededError,
    SessionDeletedError,
    SessionExistsError,
    SessionMovedError,
    SessionNotFoundError,
    UnsupportedSchemaError,
)
from snapshots.head import MOVED
from snapshots.layout import Layout
from snapshots.satellite import ATTEMPTS_MAX, RING_MAX, Kind, SatelliteRegister
from snapshots.testing.simulation.weather import of_newer_version
from storage.backends.memory import MemoryStore
from storage.errors import Applied, UnavailableError
from storage.executor import InlineExecutor
from storage.store import ObjectStore, Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import (
    Altered,
    Delay,
    Deny,
    FailBefore,
    Fault,
    FaultyStore,
    FlipBit,
    LoseAnswer,
    Meanwhile,
    OwnRetry,
    Repeat,
)
from tests.integration.builders import rewrite_head

TEXTS: Kind[str] = Kind("note", to_plain=lambda value: value, from_plain=lambda plain: plain + "", bytes_max=4096)

CLOCK = ManualClock()  # one for all: two clocks of one seed would give out the same ids


def register(store: ObjectStore, session_id: str = "s1", tenant: str = "default") -> SatelliteRegister[str]:
    environment = Environment(store, Layout(tenant), CLOCK, InlineExecutor())
    return SatelliteRegister(environment, session_id, environment.layout.record(session_id), TEXTS)


def add(text: str) -> Callable[[str], str]:
    return lambda value: value + text


@pytest.fixture
def behind() -> MemoryStore:
    return MemoryStore()


def test_what_was_created_is_read_and_changed(behind: MemoryStore) -> None:
    one = register(behind)
    one.create("a")
    assert one.update(add("b")).value == "ab"
    assert register(behind).read().value == "ab"


def test_nothing_stored_is_not_found(behind: MemoryStore) -> None:
    one = register(behind)
    with pytest.raises(SessionNotFoundError, match="no note of session 's1'"):
        one.read()
    with pytest.raises(SessionNotFoundError, match="no note of session 's1'"):
        one.update(add("b"))
    assert one.find() is None


def test_a_second_creation_is_refused(behind: MemoryStore) -> None:
    register(behind).create("a")
    with pytest.raises(SessionExistsError, match="note of session 's1' exists already"):
        register(behind).create("b")
    assert register(behind).read().value == "a"


def test_a_change_that_changes_nothing_writes_nothing(behind: MemoryStore) -> None:
    first = register(behind).create("a")
    assert register(behind).update(lambda value: value) == first


def test_a_known_value_saves_the_read(behind: MemoryStore) -> None:
    known = register(behind).create("a")
    faulty = FaultyStore(behind)
    register(faulty).update(add("b"), known=known)
    assert [request.verb for request in faulty.log] == ["put"]


def test_a_stale_known_value_is_read_again(behind: MemoryStore) -> None:
    known = register(behind).create("a")
    register(behind).update(add("b"))
    assert register(behind).update(add("c"), known=known).value == "abc"


def test_what_was_known_does_not_decide_that_there_is_nothing_to_do(behind: MemoryStore) -> None:
    known = register(behind).create("a")
    register(behind).update(add("b"))
    assert register(behind).update(lambda value: value, known=known).value == "ab"


def test_what_was_known_does_not_refuse(behind: MemoryStore) -> None:
    known = register(behind).create("a")
    register(behind).update(add("b"))

    def grows_to_three(value: str) -> str:
        if len(value) < 2:
            raise LimitExceededError("too short", len(value))
        return value + "c"

    assert register(behind).update(grows_to_three, known=known).value == "abc"


def test_nothing_is_made_for_a_session_that_moved_away(behind: MemoryStore) -> None:
    with SnapshotRepository(behind) as repo:
        repo.commit(PersistedSessionState(session_id="s1"))
    rewrite_head(behind, lambda head: replace(head, status=MOVED, destination="file:elsewhere"), "s1")
    with pytest.raises(SessionMovedError, match="file:elsewhere"):
        register(behind).create("a")


def test_a_refusal_writes_nothing(behind: MemoryStore) -> None:
    register(behind).create("a")

    def refuses(_: str) -> str:
        raise LimitExceededError("nothing at all", 1)

    with pytest.raises(LimitExceededError):
        register(behind).update(refuses)
    assert register(behind).read().value == "a"


def test_the_id_of_a_deleted_session_is_spent(behind: MemoryStore) -> None:
    with SnapshotRepository(behind) as repo:
        repo.commit(PersistedSessionState(session_id="s1"))
        repo.delete("s1")
    with pytest.raises(SessionDeletedError):
        register(behind).create("a")
    with pytest.raises(SessionDeletedError):
        register(behind).update(add("b"))
    with pytest.raises(SessionNotFoundError):
        register(behind).read()


def test_a_register_that_a_collection_took_says_that_the_session_is_deleted(behind: MemoryStore) -> None:
    known = register(behind).create("a")
    with SnapshotRepository(behind) as repo:
        repo.commit(PersistedSessionState(session_id="s1"))
        repo.delete("s1")
    behind.delete(register(behind).key)
    with pytest.raises(SessionDeletedError):
        register(behind).put(lambda value: f"{value}b", known=known)


def test_a_register_that_vanished_is_corruption(behind: MemoryStore) -> None:
    known = register(behind).create("a")
    behind.delete(register(behind).key)
    with pytest.raises(CorruptSnapshotError, match="gone while the session is not deleted"):
        register(behind).put(lambda value: f"{value}b", known=known)


def test_too_large_is_refused_before_anything_is_sent(behind: MemoryStore) -> None:
    register(behind).create("a")
    with pytest.raises(LimitExceededError, match="note of 4096 bytes"):
        register(behind).update(add("x" * 5000))
    assert register(behind).read().value == "a"


# Lost answers and second writers.

FAULTS: list[Fault] = [
    FailBefore(applied="no"),
    FailBefore(applied="unknown"),
    LoseAnswer(),
    OwnRetry(),
    Delay(1),
    Delay(2),
    Delay(None),
    Repeat(1),
    Repeat(3),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("theirs", [0, 1, 3])
def test_a_change_is_applied_once_whatever_the_answer(behind: MemoryStore, fault: Fault, theirs: int) -> None:
    register(behind).create("a")
    faulty = FaultyStore(behind)
    faulty.plan.on("put", fault=fault)

    def others_write() -> None:
        for _ in range(theirs):
            register(behind).update(add("x"))

    faulty.plan.on("get", fault=Meanwhile(others_write), nth=2)
    assert register(faulty).update(add("b")).value.count("b") == 1
    faulty.release()
    assert register(behind).read().value.count("b") == 1
    assert register(behind).read().value.count("x") in (0, theirs)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_creation_is_applied_once_whatever_the_answer(behind: MemoryStore, fault: Fault) -> None:
    faulty = FaultyStore(behind)
    faulty.plan.on("put", fault=fault)
    assert register(faulty).create("a").value == "a"
    faulty.release()
    assert register(behind).read().value == "a"


def test_a_lost_answer_under_many_later_writes_is_not_called_a_failure(behind: MemoryStore) -> None:
    register(behind).create("a")
    faulty = FaultyStore(behind)
    faulty.plan.on("put", fault=LoseAnswer())

    def others_write() -> None:
        for _ in range(RING_MAX + 1):
            register(behind).update(add("x"))

    faulty.plan.on("get", fault=Meanwhile(others_write), nth=2)
    with pytest.raises(UnavailableError) as caught:
        register(faulty).update(add("b"))
    assert caught.value.applied == "unknown"
    assert register(behind).read().value.count("b") == 1


@pytest.mark.parametrize("applied", ["no", "unknown"])
def test_no_answer_at_all_ends(behind: MemoryStore, applied: Applied) -> None:
    register(behind).create("a")
    faulty = FaultyStore(behind)
    faulty.plan.on("put", fault=FailBefore(applied=applied), times=None)
    with pytest.raises(UnavailableError) as caught:
        register(faulty).update(add("b"))
    assert caught.value.applied == applied
    assert sum(request.verb == "put" for request in faulty.log) == ATTEMPTS_MAX
    assert register(behind).read().value == "a"


@pytest.mark.parametrize(
    "fault", [Deny(), FlipBit(40), Altered(of_newer_version)], ids=lambda fault: type(fault).__name__
)
def test_no_failure_says_not_applied_while_a_write_is_in_doubt(behind: MemoryStore, fault: Fault) -> None:
    known = register(behind).create("a")
    faulty = FaultyStore(behind)
    faulty.plan.on("put", fault=LoseAnswer())
    faulty.plan.on("get", fault=fault, times=None)
    with pytest.raises(UnavailableError) as caught:
        register(faulty).update(add("b"), known=known)
    assert caught.value.applied == "unknown"
    assert register(behind).read().value == "ab"


def test_eight_writers_lose_nothing(behind: MemoryStore) -> None:
    register(behind).create("")

    def write(name: str) -> None:
        for _ in range(20):
            register(behind).update(add(name))

    threads = [Thread(target=write, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    value = register(behind).read().value
    assert {name: value.count(name) for name in "abcdefgh"} == dict.fromkeys("abcdefgh", 20)


class BusyMeanwhile(ManualClock):
    """A clock on which others write more often than the ring is long whenever somebody waits."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(seed=5)
        self._store = store

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        for _ in range(RING_MAX + 1):
            register(self._store).update(add("x"))


def test_what_others_write_while_it_waits_puts_nothing_in_doubt(behind: MemoryStore) -> None:
    register(behind).create("a")
    faulty = FaultyStore(behind)
    environment = Environment(faulty, Layout("default"), BusyMeanwhile(behind), InlineExecutor())
    one = SatelliteRegister(environment, "s1", environment.layout.record("s1"), TEXTS)
    for fault in (
        LoseAnswer(),
        OwnRetry(),
        Meanwhile(lambda: register(behind).update(add("x"))),
    ):
        faulty.plan.on("put", fault=fault)
        one.update(add("b"))
        faulty.plan.clear()
    assert register(behind).read().value.count("b") == 3


# What is stored.


def moved(store: MemoryStore, source: SatelliteRegister[str], target: SatelliteRegister[str]) -> None:
    store.put(target.key, store.get(source.key).data, Overwrite())


def test_another_sessions_register_is_corruption(behind: MemoryStore) -> None:
    register(behind).create("a")
    moved(behind, register(behind), register(behind, "s2"))
    with pytest.raises(CorruptSnapshotError, match="the note of session 's1' of tenant 'default', moved here"):
        register(behind, "s2").read()


def test_another_tenants_register_is_corruption(behind: MemoryStore) -> None:
    register(behind).create("a")
    moved(behind, register(behind), register(behind, tenant="other"))
    with pytest.raises(CorruptSnapshotError, match="the note of session 's1' of tenant 'default', moved here"):
        register(behind, tenant="other").update(add("b"))


def test_a_register_of_another_kind_is_corruption(behind: MemoryStore) -> None:
    register(behind).create("a")
    environment = Environment(behind, Layout("default"), CLOCK, InlineExecutor())
    other: SatelliteRegister[str] = SatelliteRegister(
        environment, "s1", environment.layout.record("s1"), Kind("letter", to_plain=str, from_plain=str)
    )
    with pytest.raises(CorruptSnapshotError, match="is a 'note', moved here"):
        other.read()


def test_every_flipped_bit_is_noticed(behind: MemoryStore) -> None:
    one = register(behind)
    one.create("a")
    data = behind.get(one.key).data
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        behind.put(one.key, bytes(flipped), Overwrite())
        with pytest.raises(CorruptSnapshotError):
            one.read()


def test_a_newer_register_is_refused(behind: MemoryStore) -> None:
    one = register(behind)
    one.create("a")
    behind.put(one.key, of_newer_version(behind.get(one.key).data), Overwrite())
    with pytest.raises(UnsupportedSchemaError):
        one.read()


def test_a_value_that_cannot_be_read_is_corruption(behind: MemoryStore) -> None:
    environment = Environment(behind, Layout("default"), CLOCK, InlineExecutor())
    key = environment.layout.record("s1")
    numbers: Kind[int] = Kind("note", to_plain=lambda value: value, from_plain=lambda plain: plain)
    SatelliteRegister(environment, "s1", key, numbers).create(7)
    with pytest.raises(CorruptSnapshotError, match="unreadable 'value'"):
        register(behind).read()
