"""Every way in which a copy can differ from its source is found and named; where it differs in none, nothing is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from snapshots.errors import CorruptSnapshotError, SessionDeletedError, SessionNotFoundError
from snapshots.head import Head, Origin
from snapshots.maintenance.copy.compare import Compared, Difference, Differs, Level, verify_copy
from snapshots.maintenance.copy.fleet import execute, plan_copy
from snapshots.maintenance.prune import Retention, plan_prune
from snapshots.maintenance.prune import execute as execute_prune
from snapshots.runtime import RuntimeSessionStore
from snapshots.state import HandoffRelation
from storage.digest import blob_ref
from storage.errors import UnavailableError
from storage.store import Overwrite
from storage.testing.faults import FailBefore
from tests.integration.builders import new_session, raw_head, rewrite_head, take_turn
from tests.snapshots.copy.fleets import LAYOUT, LONG, Shop, bytes_of, damage

SESSIONS = ("s1", "s2", "kid", LONG)


class Pair:
    """A source, and a copy of it."""

    def __init__(self) -> None:
        self.source, self.here = Shop(), Shop(seed=9)
        for name in ("s1", "s2", LONG):
            for number in range(4):
                state = self.source.repo.load(name) if number else new_session(name)
                self.source.repo.commit(take_turn(state, f"{name[:2]}{number}"), execution_state=b"state" * 300)
        self.source.repo.fork("s1", "kid", 3)
        self.source.repo.pin("s1", 2, "two")
        self.source.record("s1")
        self.source.log("s1").append('{"model": "m", "input_tokens": 1}')
        self.source.record("nobody")
        RuntimeSessionStore(self.source.repo).update_metadata("s1", lambda before: before.changed(title="Rome"))
        assert not execute(plan_copy(self.source.repo, self.here.repo)).not_copied

    def change(self, change: Callable[[Head], Head], name: str = "s1") -> None:
        """Rewrite a head of the copy by hand."""
        rewrite_head(self.here.store, change, name)

    def found(self, *sessions: str, level: Level = "full") -> list[Difference]:
        reported = list(verify_copy(self.source.repo, self.here.repo, sessions=sessions or None, level=level))
        differences = [one for one in reported if isinstance(one, Difference)]
        compared = [one for one in reported if isinstance(one, Compared)]
        assert sum(one.differences for one in compared) == len(differences)
        assert sorted(one.session_id for one in compared) == sorted(sessions or (*SESSIONS, "nobody"))
        return differences

    def what(self, *sessions: str, level: Level = "full") -> set[tuple[str, int | None, str]]:
        return {(one.session_id, one.revision, one.what) for one in self.found(*sessions, level=level)}


@pytest.fixture
def pair() -> Pair:
    return Pair()


LEVELS = pytest.mark.parametrize("level", ["names", "full"])


@LEVELS
def test_a_copy_differs_in_nothing_and_comparing_writes_nothing(pair: Pair, level: Level) -> None:
    before = bytes_of(pair.source.store), bytes_of(pair.here.store)
    assert pair.found(level=level) == []
    assert (bytes_of(pair.source.store), bytes_of(pair.here.store)) == before


def test_what_went_on_in_the_copy_is_no_difference(pair: Pair) -> None:
    pair.here.commit("s1", "on")
    pair.here.repo.pin("s1", 1, "another")
    pair.here.repo.rewind("s2", 2)
    pair.here.repo.fork("s1", "only here")
    pair.here.log("s2").append('{"model": "m"}')
    assert pair.found() == []


def test_what_is_retained_in_the_copy_alone_is_no_difference(pair: Pair) -> None:
    execute_prune(plan_prune(pair.source.repo, "s1", Retention(last=1)))
    assert pair.found() == []


def test_counted_are_the_revisions_that_were_compared(pair: Pair) -> None:
    reported = [one for one in verify_copy(pair.source.repo, pair.here.repo) if isinstance(one, Compared)]
    assert {one.session_id: one.revisions for one in reported} == {
        "s1": 4,
        "s2": 4,
        "kid": 1,
        LONG: 4,
        "nobody": 0,
    }


# A difference of each kind.


@LEVELS
def test_a_session_that_is_not_there(pair: Pair, level: Level) -> None:
    pair.source.commit("new", "a0")
    pair.here.repo.delete("s2")
    pair.here.store.delete(LAYOUT.head("kid"))
    found = [one for one in verify_copy(pair.source.repo, pair.here.repo, level=level) if isinstance(one, Difference)]
    assert {(one.session_id, one.what) for one in found} == {(name, Differs.SESSION) for name in ("new", "s2", "kid")}


@LEVELS
def test_a_missing_revision(pair: Pair, level: Level) -> None:
    pair.source.commit("s1", "new0", "new1")
    (one,) = pair.found("s1", level=level)
    assert (one.revision, one.what) == (None, Differs.REVISION)
    assert str(one) == "s1: revision: it stands at 4, and at 6 in the source"


@LEVELS
def test_another_history(pair: Pair, level: Level) -> None:
    pair.source.commit("s2", "there", "there too")
    pair.here.commit("s2", "here", "here too")
    found = pair.found("s2", level=level)
    history = [one for one in found if one.what == Differs.HISTORY]
    assert [(one.session_id, one.revision) for one in history] == [("s2", 5)]
    assert {one.revision for one in found if one.what == Differs.CHECKPOINT} == {5, 6}
    assert {one.what for one in found} <= {Differs.HISTORY, Differs.CHECKPOINT, Differs.BLOBS}


@LEVELS
def test_a_session_of_the_same_name_that_is_another_one(pair: Pair, level: Level) -> None:
    pair.here.repo.delete("s2")
    pair.here.store.delete(LAYOUT.head("s2"))
    for number in range(4):
        pair.here.commit("s2", f"s2{number}")
    what = {one.what for one in pair.found("s2", level=level)}
    assert {Differs.HISTORY, Differs.CHECKPOINT} <= what


@LEVELS
def test_a_revision_that_was_pruned(pair: Pair, level: Level) -> None:
    execute_prune(plan_prune(pair.here.repo, "s1", Retention(last=1)))
    assert pair.what("s1", level=level) == {("s1", number, Differs.RETENTION) for number in (1, 3)}


def test_the_present_revision_alone_may_be_all_that_was_wanted(pair: Pair) -> None:
    here = Shop(seed=5)
    execute(plan_copy(pair.source.repo, here.repo, history="head"))
    wanted = verify_copy(pair.source.repo, here.repo, history="head")
    assert [one for one in wanted if isinstance(one, Difference)] == []
    whole = [one for one in verify_copy(pair.source.repo, here.repo) if isinstance(one, Difference)]
    assert {(one.session_id, one.revision) for one in whole if one.what == Differs.RETENTION} >= {("s2", 1), ("s2", 3)}


@LEVELS
def test_pins(pair: Pair, level: Level) -> None:
    pair.here.repo.unpin("s1", "two")
    pair.source.repo.pin("s1", 3, "three")
    assert pair.what("s1", level=level) == {("s1", 2, Differs.FIELD), ("s1", 3, Differs.FIELD)}
    pair.here.repo.pin("s1", 3, "two")
    pair.here.repo.pin("s1", 3, "three")
    assert pair.what("s1", level=level) == {("s1", 2, Differs.FIELD)}


CHANGES: dict[str, Callable[[Head], Head]] = {
    "relation": lambda head: replace(head, relation=HandoffRelation(parent_session_id="s2", reason="night")),
    "origin": lambda head: replace(head, origin=Origin("s2", 1, blob_ref(b"a checkpoint"))),
    "created_at": lambda head: replace(head, created_at=head.updated_at.replace(year=2020)),
}


@LEVELS
@pytest.mark.parametrize("name", CHANGES)
def test_a_field_of_the_head(pair: Pair, name: str, level: Level) -> None:
    pair.change(CHANGES[name])
    (one,) = pair.found("s1", level=level)
    assert (one.what, one.revision) == (Differs.FIELD, None)
    assert one.reason.startswith(f"{name} is ")


def test_what_a_fork_says_of_its_own_is_part_of_what_it_is(pair: Pair) -> None:
    pair.source.repo.fork("s1", "fresh", 2, plugins="fresh")
    execute(plan_copy(pair.source.repo, pair.here.repo))
    assert raw_head(pair.here.store, "fresh").overrides is not None
    assert [one for one in verify_copy(pair.source.repo, pair.here.repo) if isinstance(one, Difference)] == []
    pair.change(lambda head: replace(head, overrides=raw_head(pair.here.store, "kid").overrides), "fresh")
    found = list(verify_copy(pair.source.repo, pair.here.repo, sessions=["fresh"]))
    assert [one for one in found if isinstance(one, Difference)]


def test_a_damaged_blob_is_found_where_all_is_read(pair: Pair) -> None:
    for row in list(pair.here.store.list(LAYOUT.family("s2"))):
        whole = pair.here.store.get(row.key).data
        damage(pair.here.store, row.key, 30)
        found = pair.found("s2")
        assert found == [] or {one.what for one in found} == {Differs.DAMAGE}
        pair.here.store.put(row.key, whole, Overwrite())
    largest = max(pair.here.store.list(LAYOUT.family("s2")), key=lambda row: row.size_bytes)
    damage(pair.here.store, largest.key, 30)
    found = pair.found()
    assert {(one.session_id, one.what) for one in found} == {("s2", Differs.DAMAGE)}
    assert all(largest.key in one.reason for one in found)


def test_a_missing_pack_is_found(pair: Pair) -> None:
    for row in list(pair.here.store.list(LAYOUT.family("s2"))):
        pair.here.store.delete(row.key)
    assert {(one.session_id, one.what) for one in pair.found()} == {("s2", Differs.DAMAGE)}


@pytest.mark.parametrize("name", ["s1", LONG])
def test_a_damaged_head_of_the_copy_is_found(pair: Pair, name: str) -> None:
    damage(pair.here.store, LAYOUT.head(name))
    found = {(one.session_id, one.what) for one in pair.found()}
    assert (name, Differs.DAMAGE) in found
    assert {one for one, _ in found} == {name}


BESIDE: dict[str, tuple[str, Callable[[Pair], object]]] = {
    "record": ("s1", lambda pair: pair.source.records.activate("s1")),
    "record of none": ("nobody", lambda pair: pair.source.records.activate("nobody")),
    "usage": ("s1", lambda pair: pair.source.log("s1").append('{"model": "m2"}')),
    "usage of another": ("s2", lambda pair: pair.source.log("s2").append('{"model": "m2"}')),
    "metadata": (
        "s1",
        lambda pair: RuntimeSessionStore(pair.source.repo).update_metadata("s1", lambda one: one.changed(title="x")),
    ),
    "no record there": ("s1", lambda pair: pair.here.store.delete_many([LAYOUT.record("s1")])),
    "no log there": ("s1", lambda pair: pair.here.store.delete_many(bytes_of(pair.here.store, "default/usage/"))),
}


@pytest.mark.parametrize("how", BESIDE)
def test_what_lies_beside(pair: Pair, how: str) -> None:
    name, change = BESIDE[how]
    change(pair)
    assert {(one.session_id, one.what) for one in pair.found()} == {(name, Differs.BESIDE)}


@pytest.mark.parametrize("key", [LAYOUT.record("s1"), LAYOUT.usage_index("s1"), LAYOUT.metadata("s1")])
@pytest.mark.parametrize("is_source", [True, False], ids=["source", "copy"])
def test_damage_beside(pair: Pair, key: str, *, is_source: bool) -> None:
    damage((pair.source if is_source else pair.here).store, key)
    assert {(one.session_id, one.what) for one in pair.found()} == {("s1", Differs.DAMAGE)}


# What cannot be compared.


def test_a_damaged_source_cannot_be_compared(pair: Pair) -> None:
    for row in list(pair.source.store.list(LAYOUT.family("s2"))):
        damage(pair.source.store, row.key, 30)
    assert {one for one, _, _ in pair.what(level="names")} <= {"s2"}
    damage(pair.source.store, LAYOUT.head("s1"))
    with pytest.raises(CorruptSnapshotError):
        pair.found()


def test_who_names_what_is_not_there_is_told(pair: Pair) -> None:
    for name, error in {"never": SessionNotFoundError, "s2": SessionDeletedError}.items():
        pair.source.repo.delete("s2") if name == "s2" else None
        with pytest.raises(error):
            pair.found(name)


@pytest.mark.parametrize("is_source", [True, False], ids=["source", "copy"])
def test_a_store_that_does_not_answer_is_no_difference(pair: Pair, *, is_source: bool) -> None:
    shop = pair.source if is_source else pair.here
    shop.faulty.plan.on("get", "", nth=3, fault=FailBefore("no"), times=10**6)
    with pytest.raises(UnavailableError):
        pair.found()
