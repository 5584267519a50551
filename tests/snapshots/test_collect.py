"""Collecting: a plan that writes nothing, and its execution: what nobody names goes, nothing else, whatever fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from snapshots import SnapshotRepository
from snapshots.errors import CorruptSnapshotError
from snapshots.maintenance.collect import CollectReport, execute, plan_collect
from storage.backends.memory import MemoryStore
from storage.errors import StorageError, UnavailableError
from storage.store import Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import CrashAfter, CrashBefore, FailBefore, LoseAnswer, Meanwhile
from storage.testing.plan import Crash, Fault
from tests.integration.builders import check_every_revision, raw_head, rewrite_head, take_turn
from tests.snapshots.leftovers import LAYOUT, Place


def collect(repo: SnapshotRepository) -> CollectReport:
    return execute(plan_collect(repo))


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.repo.close()


def test_what_nobody_names_is_deleted_and_nothing_else(place: Place) -> None:
    assert len(place.packs()) == 10
    size = sum(row.size_bytes for row in place.store.list(LAYOUT.packs))
    report = collect(place.repo)
    assert (report.number, report.deleted, report.stopped, report.spared) == (1, 4, "", ())
    assert report.deleted_bytes == size - sum(row.size_bytes for row in place.store.list(LAYOUT.packs))
    assert len(place.packs()) == 6
    place.check_sessions()
    # Only heads of the families that had garbage were raised.
    assert {name: raw_head(place.store, name).epoch for name in ("s1", "s2", "c1", "gone")} == {
        "s1": 0,
        "s2": 1,
        "c1": 0,
        "gone": 1,
    }


def test_a_plan_writes_nothing_and_says_what_it_would_do(place: Place) -> None:
    place.faulty.log.clear()
    plan = plan_collect(place.repo)
    assert {request.verb for request in place.faulty.log} <= {"get", "list"}
    assert [(one.family, one.packs) for one in plan.families] == [("gone", 3), ("s2", 1)]
    assert (plan.packs, plan.heads, plan.spared) == (10, 4, ())
    assert "4 of 10 packs" in str(plan)


def test_without_garbage_nothing_is_written(place: Place) -> None:
    collect(place.repo)
    place.faulty.log.clear()
    report = collect(place.repo)
    assert {request.verb for request in place.faulty.log} <= {"get", "list"}
    assert (report.number, report.deleted, report.requests) == (0, 0, 0)


def test_registers_of_deleted_sessions_go_and_others_stay(place: Place) -> None:
    for name in ("s1", "s2"):
        place.repo.acquire(name, "host-a").release()
        place.repo.claim_lease(name, "host-a", 60)
    place.repo.delete("s2")
    report = collect(place.repo)
    assert report.satellites == 2
    left = [row.key for prefix in LAYOUT.satellites for row in place.store.list(prefix)]
    assert left == [LAYOUT.turns("s1"), LAYOUT.lease("s1")]


def test_progress_is_told(place: Place) -> None:
    told: list[tuple[str, int, int]] = []
    execute(
        plan_collect(place.repo, progress=lambda *step: told.append(step)), progress=lambda *step: told.append(step)
    )
    assert {what for what, _, _ in told} == {"heads read", "packs listed", "heads raised", "packs deleted"}
    assert ("packs deleted", 4, 4) in told


def test_a_session_that_came_to_life_after_the_plan_is_kept(place: Place) -> None:
    plan = plan_collect(place.repo)
    place.repo.fork("s2", "late")
    state = place.repo.load("s2")
    place.repo.commit(take_turn(state, "late"))
    execute(plan)
    place.check_sessions()
    check_every_revision(place.repo, "late")


def test_an_empty_store_is_left_alone() -> None:
    with SnapshotRepository(MemoryStore(), clock=ManualClock()) as repo:
        before = [row.key for row in repo.environment.store.list("")]
        assert collect(repo).number == 0
        assert [row.key for row in repo.environment.store.list("")] == before


def test_what_cannot_be_read_stops_it_before_anything_is_deleted(place: Place) -> None:
    key = LAYOUT.head("s1")
    place.store.put(key, place.store.get(key).data[:-1], Overwrite())
    before = place.packs()
    with pytest.raises(CorruptSnapshotError):
        collect(place.repo)
    assert place.packs() == before


@pytest.mark.parametrize("when", ["before the plan", "after the plan"])
def test_a_manifest_that_cannot_be_read_spares_its_family(place: Place, when: str) -> None:
    head = raw_head(place.store, "s2")
    assert head.manifest is not None

    def damage() -> None:
        assert head.manifest is not None
        rewrite_head(place.store, lambda one: replace(one, inline_manifest=b"", write_id="f" * 32), "s2")
        place.store.delete(LAYOUT.pack("s2", head.manifest.pack))

    if when == "before the plan":
        damage()
    plan = plan_collect(place.repo)
    if when == "after the plan":
        damage()
    mine = [key for key in place.packs() if "/s2/" in key]
    report = execute(plan)
    assert [key for key in place.packs() if "/s2/" in key] == mine
    assert len(report.spared) == 1
    assert report.deleted == 3  # of the deleted session
    for name in ("s1", "c1"):
        check_every_revision(place.repo, name)


@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=["before", "after"])
def test_a_run_that_died_anywhere_leaves_a_correct_store_and_the_next_finishes(place: Place, crash: Fault) -> None:
    undisturbed = Place()
    undisturbed.faulty.log.clear()
    collect(undisturbed.repo)
    undisturbed.repo.close()
    for number in range(1, len(undisturbed.faulty.log) + 1):
        one = Place()
        verb = undisturbed.faulty.log[number - 1].verb
        nth = sum(request.verb == verb for request in undisturbed.faulty.log[:number])
        one.faulty.plan.on(verb, "", nth=nth, fault=crash)
        with pytest.raises(Crash):
            collect(one.repo)
        one.faulty.restart()
        one.faulty.plan.clear()
        one.check_sessions()
        collect(one.repo)
        assert len(one.packs()) == 6
        one.check_sessions()
        one.repo.close()
    place.check_sessions()


@pytest.mark.parametrize("fault", [LoseAnswer(), FailBefore("unknown")], ids=["lost", "not applied"])
def test_a_raise_whose_answer_was_lost_is_found_out(place: Place, fault: Fault) -> None:
    place.faulty.plan.on("put", LAYOUT.head("s2"), fault=fault)
    report = collect(place.repo)
    assert report.deleted == 4
    place.check_sessions()


def test_a_head_that_never_stands_still_is_not_taken_for_raised(place: Place) -> None:
    def moved() -> None:
        rewrite_head(place.store, lambda head: replace(head, write_id=place.repo.environment.clock.new_id()), "s2")

    place.faulty.plan.on("put", LAYOUT.head("s2"), times=None, fault=Meanwhile(moved))
    before = place.packs()
    with pytest.raises(UnavailableError, match="collect again"):
        collect(place.repo)
    assert place.packs() == before


def test_a_store_that_does_not_answer_is_no_collection(place: Place) -> None:
    place.faulty.plan.on("put", LAYOUT.head("s2"), times=None, fault=FailBefore("no"))
    before = place.packs()
    with pytest.raises(StorageError):
        collect(place.repo)
    assert place.packs() == before


@pytest.mark.parametrize("ahead", [0, 5], ids=["the same number", "a higher number"])
def test_a_number_from_somebody_else_ends_the_run(place: Place, ahead: int) -> None:
    rewrite_head(place.store, lambda head: replace(head, epoch=1 + ahead, write_id="f" * 32), "s2")
    before = place.packs()
    report = collect(place.repo)
    assert report.stopped
    assert report.deleted == 0
    assert place.packs() == before
    again = collect(place.repo)
    assert (again.number > 1 + ahead, again.deleted) == (True, 4)
