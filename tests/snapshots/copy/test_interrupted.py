"""A copy that ends anywhere leaves both stores whole; the next one ends as if nothing had happened: nothing twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from snapshots import SnapshotRepository
from snapshots.layout import Layout
from snapshots.maintenance.copy import session
from snapshots.maintenance.copy.compare import Difference, verify_copy
from snapshots.maintenance.copy.fleet import CopyReport, execute, plan_copy
from snapshots.maintenance.copy.session import SessionJob, copy_session
from storage.backends.memory import MemoryStore
from storage.store import ObjectStore
from storage.testing.clock import ManualClock
from storage.testing.faults import (
    CrashAfter,
    CrashBefore,
    Delay,
    FailBefore,
    FaultyStore,
    LoseAnswer,
    Meanwhile,
    Repeat,
)
from storage.testing.plan import Crash, Fault, Verb
from tests.integration.builders import check_every_revision, take_turn
from tests.snapshots.copy.walks import collected, findings
from tests.snapshots.leftovers import Place

LAYOUT = Layout("default")


@pytest.fixture(autouse=True)
def many_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a session of a few revisions be copied into several packs, so that they are staged."""
    monkeypatch.setattr(session, "PACK_BYTES", 200)


@pytest.fixture
def place() -> Iterator[Place]:
    one = Place()
    for number in range(3, 9):
        one.repo.commit(take_turn(one.repo.load("s1"), f"s1-{number}"))
    one.faulty.log.clear()
    yield one
    one.repo.close()


class Here:
    """Where to, behind faults."""

    def __init__(self) -> None:
        self.store = MemoryStore(ManualClock())
        self.faulty = FaultyStore(self.store)
        self.repo = SnapshotRepository(self.faulty, clock=ManualClock(seed=9))
        self.faulty.log.clear()

    def restart(self) -> None:
        self.faulty.restart()
        self.faulty.plan.clear()


def copied(place: Place, here: Here) -> CopyReport:
    return execute(plan_copy(place.repo, here.repo))


def packs(store: ObjectStore) -> dict[str, int]:
    return {row.key: row.size_bytes for row in store.list(LAYOUT.packs)}


def check_equal(place: Place, here: Here) -> None:
    assert [str(one) for one in verify_copy(place.repo, here.repo) if isinstance(one, Difference)] == []
    assert not findings(here.repo)
    for name in ("s1", "s2"):
        check_every_revision(here.repo, name)


@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=["before", "after"])
def test_a_copy_that_died_anywhere_is_finished_by_the_next(place: Place, crash: Fault) -> None:
    undisturbed = Here()
    copied(place, undisturbed)
    requests = list(undisturbed.faulty.log)
    assert sum("/packs/" in request.keys[0] and request.verb == "put" for request in requests) > 6
    for number in range(1, len(requests) + 1):
        here = Here()
        here.faulty.plan.on("*", "", nth=number, fault=crash)
        with pytest.raises(Crash):
            copied(place, here)
        here.restart()
        for _ in range(number % 3):
            collected(here.repo)
        report = copied(place, here)
        assert not report.not_copied
        collected(here.repo)
        assert sum(packs(here.store).values()) <= 1.1 * sum(packs(undisturbed.store).values()) + 1_000
        check_equal(place, here)
        here.repo.close()


def test_what_was_staged_is_not_uploaded_again(place: Place) -> None:
    undisturbed = Here()
    copied(place, undisturbed)
    puts = [request for request in undisturbed.faulty.log if request.verb == "put" and "/packs/s1" in request.keys[0]]
    here = Here()
    here.faulty.plan.on("put", "/packs/s1", nth=len(puts), fault=CrashBefore())
    with pytest.raises(Crash):
        copied(place, here)
    here.restart()
    collected(here.repo)
    here.faulty.log.clear()
    copied(place, here)
    again = [request for request in here.faulty.log if request.verb == "put" and "/packs/s1" in request.keys[0]]
    assert len(again) == 1
    assert len(packs(here.store)) == len(packs(undisturbed.store))
    check_equal(place, here)


def test_what_nobody_goes_on_with_is_collected(place: Place) -> None:
    here = Here()
    here.faulty.plan.on("put", "/packs/s1", nth=4, fault=CrashBefore())
    with pytest.raises(Crash):
        copied(place, here)
    here.restart()
    assert packs(here.store)
    for _ in range(3):
        collected(here.repo)
    assert not [key for key in packs(here.store) if "/s1/" in key]
    copied(place, here)
    check_equal(place, here)


@pytest.mark.parametrize(
    "fault", [LoseAnswer(), FailBefore("unknown"), FailBefore("no"), Delay(1), Repeat()], ids=lambda one: str(one)
)
def test_an_answer_that_was_lost_is_found_out(place: Place, fault: Fault) -> None:
    undisturbed = Here()
    copied(place, undisturbed)
    puts = [request for request in undisturbed.faulty.log if request.verb == "put"]
    for number in range(1, len(puts) + 1):
        here = Here()
        here.faulty.plan.on("put", "", nth=number, fault=fault)
        copied(place, here)
        here.faulty.release()
        assert not copied(place, here).not_copied
        check_equal(place, here)
        here.repo.close()


def test_collections_in_either_store_at_any_request_change_nothing(place: Place) -> None:
    undisturbed = Here()
    copied(place, undisturbed)
    there = SnapshotRepository(place.store, clock=ManualClock(seed=5))
    for number in range(1, len(undisturbed.faulty.log) + 1):
        here = Here()
        beside = SnapshotRepository(here.store, clock=ManualClock(seed=6))

        def collect_both(beside: SnapshotRepository = beside) -> None:
            collected(beside)
            collected(there)

        here.faulty.plan.on("*", "", nth=number, fault=Meanwhile(collect_both))
        assert not copied(place, here).not_copied
        check_equal(place, here)


def test_commits_and_prunes_in_the_source_at_any_request_leave_a_part_of_its_past() -> None:
    place = Place()
    here = Here()
    copied(place, here)
    count = len(place.faulty.log)
    for number in range(1, count, 4):
        place, here = Place(), Here()
        beside = SnapshotRepository(place.store, clock=ManualClock(seed=7), inline_limit_bytes=0)

        def write(beside: SnapshotRepository = beside, number: int = number) -> None:
            for turn in range(3):
                beside.commit(take_turn(beside.load("s1"), f"late-{number}-{turn}"))
            collected(beside)

        place.faulty.plan.on("*", "", nth=number, fault=Meanwhile(write))
        assert not copied(place, here).not_copied
        place.faulty.plan.clear()
        assert not findings(here.repo)
        rows = place.repo.history("s1")
        mine = here.repo.history("s1")
        assert [row.commit_id for row in mine] == [row.commit_id for row in rows[: len(mine)]]
        assert not copied(place, here).not_copied
        check_equal(place, here)
        place.repo.close()


@pytest.mark.parametrize(("verb", "nth"), [("get", 1), ("put", 2)], ids=["before it was read", "before it was written"])
def test_what_somebody_else_copied_meanwhile_is_no_conflict(place: Place, verb: Verb, nth: int) -> None:
    here = Here()
    beside = SnapshotRepository(here.store, clock=ManualClock(seed=8))
    there = SnapshotRepository(place.store, clock=ManualClock(seed=7))

    def copy_later_revision() -> None:
        there.commit(take_turn(there.load("s1"), "late"))
        copy_session(there.environment, beside.environment, SessionJob("s1"))

    here.faulty.plan.on(verb, LAYOUT.head("s1"), nth=nth, fault=Meanwhile(copy_later_revision))
    found = copy_session(place.repo.environment, here.repo.environment, SessionJob("s1"))
    assert found.revision == place.repo.load("s1").head_revision
    differences = verify_copy(place.repo, here.repo, sessions=["s1"])
    assert [str(one) for one in differences if isinstance(one, Difference)] == []


def test_what_was_uploaded_into_a_family_that_is_gone_is_uploaded_again(place: Place) -> None:
    """The parent's copy is deleted between two attempts to publish its fork, which lies by itself then."""
    here = Here()
    place.repo.fork("s1", "child")
    place.repo.commit(take_turn(place.repo.load("child"), "child-2"))
    there, copy = place.repo.environment, here.repo.environment
    copy_session(there, copy, SessionJob("s1"))
    beside = SnapshotRepository(here.store, clock=ManualClock(seed=8))
    here.faulty.plan.on("put", LAYOUT.head("child"), nth=2, fault=FailBefore("unknown"))
    here.faulty.plan.on("get", LAYOUT.head("s1"), nth=2, fault=Meanwhile(lambda: beside.delete("s1")))
    found = copy_session(there, copy, SessionJob("child", relatives=("s1",)))
    assert found.is_changed
    collected(here.repo)
    differences = verify_copy(place.repo, here.repo, sessions=["child"])
    assert [str(one) for one in differences if isinstance(one, Difference)] == []
    assert not findings(here.repo)
