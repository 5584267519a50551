"""The plain collector: what nobody names goes, what cannot be read stops it, a dead run leaves nothing wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from snapshots import SnapshotRepository
from snapshots.errors import CorruptSnapshotError
from snapshots.testing.collector import collect
from storage.backends.memory import MemoryStore
from storage.errors import StorageError, UnavailableError
from storage.store import Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import CrashAfter, CrashBefore, FailBefore, LoseAnswer, Meanwhile
from storage.testing.plan import Crash, Fault
from tests.integration.builders import raw_head, rewrite_head
from tests.snapshots.leftovers import LAYOUT, Place


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.repo.close()


def test_what_nobody_names_is_deleted_and_nothing_else(place: Place) -> None:
    assert len(place.packs()) == 10
    report = collect(place.repo.environment)
    assert (report.number, len(report.deleted), report.kept, report.stopped) == (1, 4, 6, "")
    place.check_sessions()
    assert collect(place.repo.environment).deleted == ()
    assert {raw_head(place.store, name).epoch for name in ("s1", "s2", "c1", "gone")} == {2}


def test_an_empty_store_is_left_alone() -> None:
    with SnapshotRepository(MemoryStore(), clock=ManualClock(), inline_limit_bytes=0) as repo:
        before = [row.key for row in repo.environment.store.list("")]
        assert collect(repo.environment).number == 0
        assert [row.key for row in repo.environment.store.list("")] == before


def test_what_cannot_be_read_stops_it_before_anything_is_deleted(place: Place) -> None:
    key = LAYOUT.head("s1")
    place.store.put(key, place.store.get(key).data[:-1], Overwrite())
    before = place.packs()
    with pytest.raises(CorruptSnapshotError):
        collect(place.repo.environment)
    assert place.packs() == before


def test_a_pack_of_the_log_that_is_missing_stops_it(place: Place) -> None:
    head = raw_head(place.store, "s2")
    assert head.manifest is not None
    rewrite_head(place.store, lambda one: replace(one, inline_manifest=b"", write_id="f" * 32), "s2")
    place.store.delete(LAYOUT.pack("s2", head.manifest.pack))
    before = place.packs()
    with pytest.raises(CorruptSnapshotError, match="missing"):
        collect(place.repo.environment)
    assert place.packs() == before


@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=["before", "after"])
def test_a_run_that_died_anywhere_leaves_a_correct_store_and_the_next_finishes(place: Place, crash: Fault) -> None:
    undisturbed = Place()
    undisturbed.faulty.log.clear()
    collect(undisturbed.repo.environment)
    undisturbed.repo.close()
    for number in range(1, len(undisturbed.faulty.log) + 1):
        one = Place()
        verb = undisturbed.faulty.log[number - 1].verb
        nth = sum(request.verb == verb for request in undisturbed.faulty.log[:number])
        one.faulty.plan.on(verb, "", nth=nth, fault=crash)
        with pytest.raises(Crash):
            collect(one.repo.environment)
        one.faulty.restart()
        one.faulty.plan.clear()
        one.check_sessions()
        collect(one.repo.environment)
        assert len(one.packs()) == 6
        one.check_sessions()
        one.repo.close()
    place.check_sessions()


@pytest.mark.parametrize("fault", [LoseAnswer(), FailBefore("unknown")], ids=["lost", "not applied"])
def test_a_raise_whose_answer_was_lost_is_found_out(place: Place, fault: Fault) -> None:
    place.faulty.plan.on("put", LAYOUT.head("s1"), fault=fault)
    report = collect(place.repo.environment)
    assert len(report.deleted) == 4
    place.check_sessions()


def test_a_head_that_never_stands_still_is_not_taken_for_raised(place: Place) -> None:
    def moved() -> None:
        rewrite_head(place.store, lambda head: replace(head, write_id=place.repo.environment.clock.new_id()), "s2")

    place.faulty.plan.on("put", LAYOUT.head("s2"), times=None, fault=Meanwhile(moved))
    before = place.packs()
    with pytest.raises(UnavailableError, match="collect again"):
        collect(place.repo.environment)
    assert place.packs() == before


def test_a_store_that_does_not_answer_is_no_collection(place: Place) -> None:
    place.faulty.plan.on("put", LAYOUT.head("s1"), times=None, fault=FailBefore("no"))
    before = place.packs()
    with pytest.raises(StorageError):
        collect(place.repo.environment)
    assert place.packs() == before


@pytest.mark.parametrize("ahead", [0, 5], ids=["the same number", "a higher number"])
def test_a_number_from_somebody_else_ends_the_run(place: Place, ahead: int) -> None:
    rewrite_head(place.store, lambda head: replace(head, epoch=1 + ahead, write_id="f" * 32), "s2")
    before = place.packs()
    report = collect(place.repo.environment)
    assert report.stopped
    assert report.deleted == ()
    assert place.packs() == before
    again = collect(place.repo.environment)
    assert (again.number > 1 + ahead, len(again.deleted)) == (True, 4)
