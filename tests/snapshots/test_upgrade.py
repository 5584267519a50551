"""Upgrading a store: the store object, then every head, whatever fails, and whoever works there meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from snapshots import SnapshotRepository, codec, head, store_object
from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.fields import NEWEST_VERSION
from snapshots.head import Head
from snapshots.layout import STORE_KEY, Layout
from snapshots.maintenance.collect import execute as execute_collect
from snapshots.maintenance.collect import plan_collect
from snapshots.maintenance.upgrade import UpgradeReport, execute, plan_upgrade
from snapshots.publish import Publication, intent_on
from snapshots.staging import Identity
from snapshots.store_object import StoreFacts
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.store import Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import CrashAfter, CrashBefore, FailBefore, FaultyStore, LoseAnswer, Meanwhile, OwnRetry
from storage.testing.plan import Crash, Fault
from tests.integration.builders import check_every_revision, new_session, raw_head, rewrite_head, take_turn

LAYOUT = Layout("default")
SESSIONS = ("s1", "s2", "c1", "gone", "reserved")


def as_version_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this software read and write what the first version did, and refuse what it refused."""
    monkeypatch.setattr(head, "STORE_VERSIONS", (1,))
    monkeypatch.setattr(store_object, "STORE_VERSIONS", (1,))


class Place:
    """A store of version 1: live sessions, a fork, a tombstone, a reservation; and a repository opened then."""

    def __init__(self) -> None:
        self.store = MemoryStore(ManualClock())
        self.faulty = FaultyStore(self.store)
        self.clock = ManualClock(seed=1)
        self.opened().close()
        plain = codec.decode(self.store.get(STORE_KEY).data, key=STORE_KEY)
        self.store.put(STORE_KEY, codec.encode({**plain, "schema_version": 1}), Overwrite())
        self.repo = self.opened()
        for name in ("s1", "s2", "gone"):
            state = new_session(name)
            for number in range(2):
                self.repo.commit(take_turn(state, f"{name}{number}"))
        self.repo.fork("s1", "c1", 1)
        self.repo.pin("s1", 1, "first")
        self.repo.acquire("s2", "owner")
        self.repo.delete("gone")
        identity = Identity(self.clock.new_id(), self.clock.now(), None)
        environment = self.repo.environment
        Publication(environment, intent_on(environment, "reserved", None, identity), identity).reserve()

    def opened(self) -> SnapshotRepository:
        return SnapshotRepository(self.faulty, clock=self.clock, inline_limit_bytes=0)

    def facts(self) -> StoreFacts:
        return store_object.facts_in(self.store.get(STORE_KEY).data)

    def heads(self) -> dict[str, Head]:
        return {name: raw_head(self.store, name) for name in SESSIONS}

    def upgrade(self) -> UpgradeReport:
        return execute(plan_upgrade(self.repo))

    def check_upgraded(self, before: dict[str, Head]) -> None:
        assert self.facts().schema_version == NEWEST_VERSION
        for name, found in self.heads().items():
            assert found.write_id != before[name].write_id
            assert found == replace(before[name], schema_version=NEWEST_VERSION, write_id=found.write_id)
        for name in ("s1", "s2", "c1"):
            check_every_revision(self.repo, name)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.repo.close()


def test_a_store_of_version_1_becomes_one_of_the_newest_and_nothing_else_changes(place: Place) -> None:
    before, facts = place.heads(), place.facts()
    assert {one.schema_version for one in before.values()} == {1}
    packs = [row.key for row in place.store.list(LAYOUT.packs)]
    plan = plan_upgrade(place.repo)
    assert (plan.store_version, plan.heads, plan.to, plan.older, plan.is_empty) == (1, {1: 5}, 2, 5, False)
    assert str(plan) == "store of schema version 1, 5 of 5 heads older than 2"
    assert place.heads() == before
    assert execute(plan) == UpgradeReport(from_version=1, to_version=2, heads=5, upgraded=5)
    place.check_upgraded(before)
    assert place.facts().store_id == facts.store_id
    assert [row.key for row in place.store.list(LAYOUT.packs)] == packs


def test_the_store_object_comes_first(place: Place) -> None:
    place.faulty.log.clear()
    place.upgrade()
    puts = [key for request in place.faulty.log if request.verb == "put" for key in request.keys]
    assert puts[0] == STORE_KEY
    assert sorted(puts[1:]) == sorted(LAYOUT.head(name) for name in SESSIONS)


def test_what_is_upgraded_is_left_alone(place: Place) -> None:
    place.upgrade()
    place.faulty.log.clear()
    plan = plan_upgrade(place.repo)
    assert plan.is_empty
    assert execute(plan) == UpgradeReport(from_version=2, to_version=2, heads=5, upgraded=0)
    assert {request.verb for request in place.faulty.log} == {"get", "list"}


def test_progress_is_told(place: Place) -> None:
    told: list[tuple[str, int, int]] = []
    plan = plan_upgrade(place.repo, progress=lambda *step: told.append(step))
    execute(plan, progress=lambda *step: told.append(step))
    assert ("heads read", 5, 0) in told
    assert told[-1] == ("heads upgraded", 5, 5)


@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=["before", "after"])
def test_a_run_that_died_anywhere_leaves_a_correct_store_and_the_next_finishes(crash: Fault) -> None:
    undisturbed = Place()
    undisturbed.faulty.log.clear()
    undisturbed.upgrade()
    requests = list(undisturbed.faulty.log)
    undisturbed.repo.close()
    for number, request in enumerate(requests, start=1):
        one = Place()
        before = one.heads()
        nth = sum(other.verb == request.verb for other in requests[:number])
        one.faulty.plan.on(request.verb, "", nth=nth, fault=crash)
        with pytest.raises(Crash):
            one.upgrade()
        one.faulty.restart()
        one.faulty.plan.clear()
        for name in ("s1", "s2", "c1"):
            check_every_revision(one.repo, name)
        one.upgrade()
        one.check_upgraded(before)
        one.repo.close()


@pytest.mark.parametrize("key", [STORE_KEY, LAYOUT.head("s1"), LAYOUT.head("reserved")])
@pytest.mark.parametrize("fault", [LoseAnswer(), OwnRetry(), FailBefore("unknown"), FailBefore("no")])
def test_an_answer_that_was_lost_is_settled(place: Place, key: str, fault: Fault) -> None:
    before = place.heads()
    place.faulty.plan.on("put", key, fault=fault)
    assert place.upgrade() == UpgradeReport(from_version=1, to_version=2, heads=5, upgraded=5)
    place.check_upgraded(before)


@pytest.mark.parametrize("key", [STORE_KEY, LAYOUT.head("s1")])
def test_a_store_that_does_not_answer_says_so(place: Place, key: str) -> None:
    place.faulty.plan.on("put", key, times=None, fault=FailBefore("no"))
    with pytest.raises(UnavailableError):
        place.upgrade()
    place.faulty.plan.clear()
    place.upgrade()
    assert plan_upgrade(place.repo).is_empty


def test_a_head_that_never_stands_still_is_not_taken_for_upgraded(place: Place) -> None:
    def moved() -> None:
        rewrite_head(place.store, lambda one: replace(one, write_id=place.clock.new_id()), "s1")

    place.faulty.plan.on("put", LAYOUT.head("s1"), times=None, fault=Meanwhile(moved))
    with pytest.raises(UnavailableError, match="run it again"):
        place.upgrade()
    assert raw_head(place.store, "s1").schema_version == 1


def test_a_head_that_cannot_be_read_is_named_and_the_store_object_is_upgraded(place: Place) -> None:
    plan = plan_upgrade(place.repo)
    key = LAYOUT.head("s1")
    place.store.put(key, place.store.get(key).data[:-1], Overwrite())
    with pytest.raises(CorruptSnapshotError) as caught:
        execute(plan)
    assert caught.value.key == key
    assert place.facts().schema_version == NEWEST_VERSION
    with pytest.raises(CorruptSnapshotError):
        plan_upgrade(place.repo)


def test_two_who_upgrade_both_finish(place: Place) -> None:
    before = place.heads()
    for key in (STORE_KEY, LAYOUT.head("s1")):
        place.faulty.plan.on("put", key, fault=Meanwhile(lambda: execute(plan_upgrade(place.repo))))
        assert place.upgrade().to_version == NEWEST_VERSION
    place.check_upgraded(before)


# Beside others.


def commit(place: Place) -> None:
    place.repo.commit(take_turn(place.repo.load("s1"), "meanwhile"))


def prune_and_collect(place: Place) -> None:
    assert execute_collect(plan_collect(place.repo)).deleted > 0  # of the session that is gone


def delete(place: Place) -> None:
    place.repo.delete("s1")


def pin(place: Place) -> None:
    place.repo.pin("s1", 2, "second")


@pytest.mark.parametrize("other", [commit, prune_and_collect, delete, pin])
def test_what_others_write_meanwhile_stays(place: Place, other: Callable[[Place], None]) -> None:
    written: list[Head] = []

    def meanwhile() -> None:
        other(place)
        written.append(raw_head(place.store, "s1"))

    place.faulty.plan.on("put", LAYOUT.head("s1"), fault=Meanwhile(meanwhile))
    assert place.upgrade().upgraded == 5
    found = raw_head(place.store, "s1")
    assert found == replace(written[-1], schema_version=NEWEST_VERSION, write_id=found.write_id)


def test_a_commit_whose_head_is_upgraded_meanwhile_lands_once(place: Place) -> None:
    state = place.repo.load("s1")
    place.faulty.plan.on("put", LAYOUT.head("s1"), fault=Meanwhile(lambda: execute(plan_upgrade(place.repo))))
    result = place.repo.commit(take_turn(state, "meanwhile"))
    assert result.head_revision == 3
    found = raw_head(place.store, "s1")
    assert (found.revision, found.schema_version) == (3, NEWEST_VERSION)
    check_every_revision(place.repo, "s1")


def test_a_repository_opened_before_makes_heads_of_version_1_and_the_next_run_finds_them(place: Place) -> None:
    place.upgrade()
    place.repo.commit(new_session("late"))
    assert raw_head(place.store, "late").schema_version == 1
    plan = plan_upgrade(place.repo)
    assert plan.heads == {1: 1, 2: 5}
    assert execute(plan).upgraded == 1
    with place.opened() as repo:
        repo.commit(new_session("later"))
    assert raw_head(place.store, "later").schema_version == NEWEST_VERSION


def test_another_tenant_is_read_as_before_and_upgraded_by_itself(place: Place) -> None:
    with SnapshotRepository(place.store, tenant="other", clock=place.clock) as other:
        other.commit(new_session("theirs"))
        place.upgrade()
        assert other.load("theirs").head_revision == 1
        plan = plan_upgrade(other)
        assert (plan.store_version, plan.heads) == (NEWEST_VERSION, {1: 1})
        assert execute(plan).upgraded == 1


# Software that knows version 1 alone.


def test_older_software_cannot_open_what_was_upgraded_and_says_which_version_it_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.upgrade()
    as_version_1(monkeypatch)
    with pytest.raises(UnsupportedSchemaError) as caught:
        place.opened()
    assert (caught.value.found, caught.value.supported) == (2, (1,))
    assert str(caught.value) == (
        "store at ~store has schema version 2; this software reads 1: use a newer version of it"
    )


def test_older_software_that_is_at_work_refuses_and_writes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = place.repo.load("s1")
    place.upgrade()
    before = place.heads()
    as_version_1(monkeypatch)
    for work in (
        lambda: place.repo.load("s1"),
        lambda: place.repo.fork("s1", "c2"),
        lambda: place.repo.delete("s1"),
        lambda: plan_collect(place.repo),
    ):
        with pytest.raises(UnsupportedSchemaError):
            work()
    with pytest.raises(Exception, match="schema version 2"):  # it cannot tell whether its own PUT came first
        place.repo.commit(take_turn(state, "old"))
    monkeypatch.undo()
    assert place.heads() == before


def test_a_collection_of_older_software_that_meets_an_upgraded_head_deletes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_collect(place.repo)
    assert plan.families
    place.upgrade()
    packs = [row.key for row in place.store.list(LAYOUT.packs)]
    as_version_1(monkeypatch)
    with pytest.raises(UnsupportedSchemaError):
        execute_collect(plan)
    assert [row.key for row in place.store.list(LAYOUT.packs)] == packs
