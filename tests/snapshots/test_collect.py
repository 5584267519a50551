"""Collecting: a plan that writes nothing, and its execution: what nobody names goes, nothing else, whatever fails."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snapshots import SnapshotRepository, codec
from snapshots.errors import CorruptSnapshotError
from snapshots.layout import Layout, pack_name
from snapshots.maintenance import collect as collecting
from snapshots.maintenance import raising
from snapshots.maintenance.collect import CollectPlan, CollectReport, execute, plan_collect
from snapshots.maintenance.marks import Marks, pack_mark
from storage.backends import open_store
from storage.backends.disk import RealDisk
from storage.backends.local import LocalStore
from storage.backends.memory import MemoryStore
from storage.errors import StorageError, UnavailableError
from storage.store import Create, Overwrite
from storage.testing.clock import START, ManualClock
from storage.testing.faults import CrashAfter, CrashBefore, Deny, FailBefore, FaultyStore, LoseAnswer, Meanwhile
from storage.testing.plan import Crash, Fault
from tests.conformance.s3_behind import store_at
from tests.integration.builders import check_every_revision, new_session, raw_head, rewrite_head, take_turn
from tests.snapshots.crowd import crowd, repository
from tests.snapshots.leftovers import LAYOUT, Place

HEAD_MEMORY_MAX = 700  # bytes for a session of two packs and its row in the mark cache; measured: 440


def collect(repo: SnapshotRepository) -> CollectReport:
    return execute(plan_collect(repo))


def in_two_batches(repo: SnapshotRepository) -> CollectReport:
    return execute(plan_collect(repo), batch_packs=1)


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
    with SnapshotRepository(MemoryStore(), clock=ManualClock(), inline_limit_bytes=0) as repo:
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
    assert in_two_batches(undisturbed.repo).batches == 2
    undisturbed.repo.close()
    assert undisturbed.faulty.log[-1].keys == (LAYOUT.marks,)
    for number in range(1, len(undisturbed.faulty.log) + 1):
        one = Place()
        verb = undisturbed.faulty.log[number - 1].verb
        nth = sum(request.verb == verb for request in undisturbed.faulty.log[:number])
        one.faulty.plan.on(verb, "", nth=nth, fault=crash)
        with pytest.raises(Crash):
            in_two_batches(one.repo)
        one.faulty.restart()
        one.faulty.plan.clear()
        one.check_sessions()
        assert not plan_collect(one.repo).marks_read.ignored
        in_two_batches(one.repo)
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


# Batches.


def test_every_batch_has_its_own_number_and_the_report_has_them_all(place: Place) -> None:
    whole = Place()
    expected = collect(whole.repo)
    whole.repo.close()
    size = sum(row.size_bytes for row in place.store.list(LAYOUT.packs))
    report = in_two_batches(place.repo)
    assert (expected.batches, report.batches, report.number) == (1, 2, 2)
    for name in ("raised", "kept", "deleted", "spared", "stopped"):
        assert getattr(report, name) == getattr(expected, name), name
    assert report.kept_bytes == sum(row.size_bytes for row in place.store.list(LAYOUT.family("s2")))
    assert report.deleted_bytes == size - sum(row.size_bytes for row in place.store.list(LAYOUT.packs))
    assert (report.deleted, report.kept) == (4, 3)
    assert [raw_head(place.store, name).epoch for name in ("gone", "s2", "s1", "c1")] == [1, 2, 0, 0]
    place.check_sessions()


def test_a_reservation_is_raised_in_every_batch(place: Place) -> None:
    place.faulty.plan.on("put", LAYOUT.head("new"), nth=2, fault=CrashBefore())
    with pytest.raises(Crash):
        place.repo.commit(take_turn(new_session("new"), "one"))
    place.faulty.restart()
    place.faulty.plan.clear()
    plan = plan_collect(place.repo)
    assert [one.family for one in plan.families] == ["gone", "new", "s2"]
    report = execute(plan, batch_packs=1)
    assert (report.batches, report.raised, report.deleted) == (3, 3 + 2, 5)
    assert raw_head(place.store, "new").epoch == 3
    place.check_sessions()


def test_a_higher_number_in_a_later_batch_leaves_what_the_earlier_ones_did(place: Place) -> None:
    rewrite_head(place.store, lambda head: replace(head, epoch=9, write_id="f" * 32), "s2")
    report = in_two_batches(place.repo)
    assert report.stopped
    assert (report.batches, report.deleted, report.kept) == (2, 3, 4)
    assert [key for key in place.packs() if "/gone/" in key] == []
    assert sum("/s2/" in key for key in place.packs()) == 4
    again = collect(place.repo)
    assert (again.stopped, again.number, again.deleted) == ("", 11, 1)
    place.check_sessions()


def test_families_are_cut_into_batches_as_the_plan_counted_them() -> None:
    with repository(crowd(8, garbage_in=8)) as repo:
        plan = plan_collect(repo)
        assert {one.listed for one in plan.families} == {3}
        for packs_max, batches in ((1, 8), (3, 8), (5, 8), (6, 4), (9, 3), (24, 1)):
            cut = list(collecting._batches(plan.families, packs_max))
            assert len(cut) == batches
            assert [one for batch in cut for one in batch] == list(plan.families)


def test_requests_of_a_batch_do_not_grow_with_what_is_not_concerned() -> None:
    heads, families, packs_max = 60, 6, 6
    with repository(crowd(heads, garbage_in=families)) as repo:
        before = repo.metrics.snapshot()
        plan = plan_collect(repo)
        used = repo.metrics.snapshot() - before
        # The cache, the heads, the log of places of each; a listing of the heads, of the packs and of the usage logs.
        assert (used["get"].requests, used["list"].requests) == (1 + 2 * heads, 3)
        before = repo.metrics.snapshot()
        report = execute(plan, batch_packs=packs_max)
        used = repo.metrics.snapshot() - before
        batches = families // 2
        assert (report.batches, report.raised, report.deleted) == (batches, families, families)
        assert used["list"].requests == families + 2 * batches
        # Every head once, those of later batches twice; a number per batch; the log of places of what is raised.
        assert used["get"].requests == heads + (families - 2) + batches + families
        assert used["put"].requests == batches + families + 1
        assert used["delete_many"].requests == batches
        assert report.requests == used.total_requests
        before = repo.metrics.snapshot()
        again = plan_collect(repo)
        used = repo.metrics.snapshot() - before
        assert (again.heads_cached, again.is_empty) == (heads, True)
        assert (used["get"].requests, used["list"].requests) == (1 + heads, 3)


def test_heads_that_are_not_kept_from_the_listing_are_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        place.repo.fork("s2", f"f{number}")
    monkeypatch.setattr(raising, "READS_KEPT_MAX", 2)
    report = collect(place.repo)
    assert (report.raised, report.deleted) == (1 + 1 + 5, 4)
    place.check_sessions()
    for number in range(5):
        check_every_revision(place.repo, f"f{number}")


def test_memory_of_a_head_is_bounded() -> None:
    """A plan, and its execution in batches: some hundred bytes for a session with its packs."""
    peaks = {}
    for heads in (400, 2000):
        with repository(crowd(heads, garbage_in=heads // 20)) as repo:
            gc.collect()
            tracemalloc.start()
            try:
                plan = plan_collect(repo)
                report = execute(plan, batch_packs=30)
                peaks[heads] = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert report.deleted == heads // 20
            assert report.batches == -(-report.deleted // 10)
    per_head = (peaks[2000] - peaks[400]) / 1600
    assert per_head < HEAD_MEMORY_MAX, peaks


# The mark cache.


def cached_plan(place: Place) -> CollectPlan:
    """Plan; check that no more than heads and the cache are read of sessions that the cache knows."""
    place.faulty.log.clear()
    plan = plan_collect(place.repo)
    gets = [request.keys[0] for request in place.faulty.log if request.verb == "get"]
    assert gets.count(LAYOUT.marks) == 1
    assert sum(key.startswith(LAYOUT.heads) for key in gets) == plan.heads
    return plan


def garbage_of(plan: CollectPlan) -> list[tuple[str, int]]:
    return [(one.family, one.packs) for one in plan.families]


def reads_of_packs(place: Place) -> set[str]:
    return {one.keys[0].split("/")[2] for one in place.faulty.log if one.verb == "get" and "/packs/" in one.keys[0]}


def test_a_head_that_did_not_move_costs_one_request(place: Place) -> None:
    assert cached_plan(place).heads_cached == 0
    assert collect(place.repo).marks == "written, 3 heads"
    plan = cached_plan(place)
    assert (plan.heads_cached, garbage_of(plan), plan.spared) == (3, [], ())
    assert reads_of_packs(place) == set()
    place.repo.commit(take_turn(place.repo.load("s2"), "more"))
    place.repo.delete("c1")
    plan = cached_plan(place)
    assert (plan.heads_cached, garbage_of(plan)) == (1, [])
    assert reads_of_packs(place) == {"s2"}


def test_a_cache_that_hides_garbage_puts_it_off_and_no_more(place: Place) -> None:
    plan = plan_collect(place.repo)
    marks = Marks()
    for name in ("s1", "s2", "c1"):
        key = LAYOUT.head(name)
        marks.add(key, place.store.stat(key).version, map(pack_mark, place.packs()))
    place.store.put(LAYOUT.marks, marks.encode(tenant="default", write_id="a" * 32), Overwrite())
    assert garbage_of(plan_collect(place.repo)) == []
    place.store.delete(LAYOUT.marks)
    assert garbage_of(plan_collect(place.repo)) == garbage_of(plan) == [("gone", 3), ("s2", 1)]


def test_a_cache_that_lies_deletes_nothing(place: Place) -> None:
    marks = Marks()
    for name in ("s1", "s2", "c1"):
        key = LAYOUT.head(name)
        marks.add(key, place.store.stat(key).version, ())
    place.store.put(LAYOUT.marks, marks.encode(tenant="default", write_id="a" * 32), Overwrite())
    plan = plan_collect(place.repo)
    assert garbage_of(plan) == [("gone", 3), ("s1", 3), ("s2", 4)]
    report = execute(plan)
    assert (report.deleted, report.kept) == (4, 6)
    place.check_sessions()
    assert garbage_of(cached_plan(place)) == []  # it was put right


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
        lambda data: b"",  # noqa: ARG005  all of it is lost, whatever it was
        lambda data: codec.guarded(codec.encode({**codec.decode(data[:-16], key="x"), "schema_version": 2})),
        lambda data: codec.guarded(codec.encode({**codec.decode(data[:-16], key="x"), "tenant": "other"})),
    ],
)
def test_a_cache_that_cannot_be_read_is_ignored_said_and_written_anew(
    place: Place, damage: Callable[[bytes], bytes]
) -> None:
    collect(place.repo)
    damaged = damage(place.store.get(LAYOUT.marks).data)
    place.store.put(LAYOUT.marks, damaged, Overwrite())
    plan = cached_plan(place)
    assert plan.marks_read.ignored
    assert plan.heads_cached == 0
    nothing = execute(plan)
    assert (nothing.marks, nothing.requests) == ("", 0)
    assert place.store.get(LAYOUT.marks).data == damaged
    place.repo.delete("c1")
    place.repo.delete("s1")
    report = collect(place.repo)
    assert report.deleted
    assert report.marks == "written anew, 1 heads"
    assert cached_plan(place).heads_cached == 1


def test_a_cache_that_was_lost_is_written_anew(place: Place) -> None:
    collect(place.repo)
    place.store.delete(LAYOUT.marks)
    assert not cached_plan(place).marks_read.ignored
    place.repo.delete("s1")
    place.repo.delete("c1")
    assert collect(place.repo).marks == "written, 1 heads"


def test_a_cache_whose_file_was_cut_is_removed_and_written_anew(tmp_path: Path) -> None:
    with SnapshotRepository(LocalStore(tmp_path / "store"), clock=ManualClock(), inline_limit_bytes=0) as repo:
        for name in ("s1", "s2", "s3"):
            repo.commit(take_turn(new_session(name), "one"))
        repo.delete("s1")
        assert collect(repo).marks == "written, 2 heads"
        path = tmp_path / "store" / LAYOUT.marks
        path.write_bytes(path.read_bytes()[:-3])
        repo.delete("s2")
        plan = plan_collect(repo)
        assert plan.marks_read.ignored
        assert execute(plan).marks == "written anew, 1 heads"
        assert plan_collect(repo).heads_cached == 1


def test_another_collection_that_wrote_the_cache_first_is_left_alone(place: Place) -> None:
    plan = plan_collect(place.repo)
    theirs = Marks().encode(tenant="default", write_id="a" * 32)
    place.store.put(LAYOUT.marks, theirs, Overwrite())
    report = execute(plan)
    assert (report.deleted, report.marks) == (4, "left to another collection, which wrote it meanwhile")
    assert place.store.get(LAYOUT.marks).data == theirs


@pytest.mark.parametrize("fault", [FailBefore("no"), Deny()], ids=["no answer", "denied"])
def test_a_cache_that_cannot_be_written_is_said_and_no_failure(place: Place, fault: Fault) -> None:
    place.faulty.plan.on("put", LAYOUT.marks, times=None, fault=fault)
    report = collect(place.repo)
    assert report.deleted == 4
    assert report.marks.startswith("not written: ")
    assert not any(row.key == LAYOUT.marks for row in place.store.list(LAYOUT.marks))


def test_a_plan_is_not_changed_by_its_execution(place: Place) -> None:
    plan = plan_collect(place.repo)
    before = plan.marks.copy()
    execute(plan)
    assert plan.marks == before


# What is no pack.


def test_what_is_no_pack_is_never_deleted_and_puts_no_pack_in_danger(place: Place) -> None:
    name = place.packs()[0].rpartition("/")[2]
    foreign = ["notes", name, "s2/notes", f"s2/deeper/{name}", f"s1/{name}.part"]
    for tail in foreign:
        place.store.put(LAYOUT.packs + tail, b"not ours", Create())
    plan = plan_collect(place.repo)
    assert garbage_of(plan) == [("gone", 3), ("s2", 1)]
    assert plan.packs == 10
    assert execute(plan).deleted == 4
    assert {key.removeprefix(LAYOUT.packs) for key in place.packs()} >= set(foreign)
    assert len(place.packs()) == 6 + len(foreign)
    place.check_sessions()


# Unfinished writes.

DAY_SECONDS = 24 * 3600.0
SOON = timedelta(minutes=5)  # for clocks of servers on this machine


def leave_temporary(store: LocalStore, age: timedelta, name: str) -> Path:
    path = store.root / ".tmp" / name
    path.write_bytes(b"half")
    at = (START - age).timestamp()
    os.utime(path, (at, at))
    return path


def test_old_temporary_files_go_and_younger_ones_stay(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    with SnapshotRepository(store, clock=ManualClock(), inline_limit_bytes=0) as repo:
        state = new_session("s1")
        repo.commit(take_turn(state, "one"))
        old = leave_temporary(store, timedelta(days=1, seconds=1), "a" * 32)
        young = leave_temporary(store, timedelta(hours=23), "b" * 32)
        plan = plan_collect(repo)
        assert old.exists()
        assert [(write.id, write.size_bytes) for write in plan.unfinished] == [("a" * 32, 4)]
        assert not plan.is_empty
        assert "1 unfinished writes" in str(plan)
        report = execute(plan)
        assert (report.unfinished, report.deleted, report.number) == (1, 0, 0)
        assert report.requests == 1
        assert (old.exists(), young.exists()) == (False, True)
        repo.commit(take_turn(state, "two"))
        assert plan_collect(repo).is_empty
        check_every_revision(repo)


class LosingDisk(RealDisk):
    """A disk on which the next packs are discarded by somebody when they are written and not yet in place."""

    def __init__(self) -> None:
        self.losses = 0
        self.targets: list[str] = []

    def rename(self, source: Path, target: Path) -> None:
        """Rename, or lose what was to be renamed."""
        if "packs" in target.parts:
            self.targets.append(target.name)
            if self.losses:
                self.losses -= 1
                source.unlink()
        super().rename(source, target)


def test_a_commit_whose_upload_is_discarded_writes_it_again(tmp_path: Path) -> None:
    disk = LosingDisk()
    with SnapshotRepository(
        LocalStore(tmp_path / "store", disk=disk), clock=ManualClock(), inline_limit_bytes=0
    ) as repo:
        state = new_session("s1")
        repo.commit(take_turn(state, "one"))
        disk.losses = 1
        repo.commit(take_turn(state, "two"))
        disk.losses = 100
        with pytest.raises(UnavailableError) as caught:
            repo.commit(take_turn(state, "three"))
        assert caught.value.applied == "no"
        disk.losses = 0
        lost = disk.targets[-1]
        assert repo.commit(state).head_revision == 3
        assert disk.targets[-1] != lost
        check_every_revision(repo)
        assert plan_collect(repo).is_empty


def test_an_old_upload_is_discarded_and_one_under_way_is_not(ministack_url: str) -> None:
    store = open_store(ministack_url)
    clock = ManualClock(start=datetime.now(UTC))
    with store_at(ministack_url) as bucket, SnapshotRepository(store, clock=clock, inline_limit_bytes=0) as repo:
        repo.commit(take_turn(new_session("s1"), "one"))
        key = f"agents/{LAYOUT.pack('s1', pack_name('a' * 32, 'b' * 32))}"
        others = f"agents/{Layout('other').pack('s1', pack_name('a' * 32, 'b' * 32))}"
        for one in (key, others):
            bucket._retrying.create_multipart_upload(Bucket=bucket.bucket, Key=one)
        assert plan_collect(repo).is_empty
        clock.advance(DAY_SECONDS + SOON.total_seconds())
        plan = plan_collect(repo)
        assert [write.key for write in plan.unfinished] == [key.removeprefix("agents/")]
        assert execute(plan).unfinished == 1
        assert [write.key for write in bucket.unfinished("")] == [others]
        assert plan_collect(repo).is_empty


def test_a_store_that_refuses_to_list_uploads_is_collected_all_the_same(tmp_path: Path) -> None:
    faulty = FaultyStore(LocalStore(tmp_path / "store"))
    with SnapshotRepository(faulty, clock=ManualClock(), inline_limit_bytes=0) as repo:
        repo.commit(take_turn(new_session("s1"), "one"))
        repo.delete("s1")
        faulty.plan.on("list", LAYOUT.everything, nth=4, fault=Deny())
        plan = plan_collect(repo)
        assert "credentials" in plan.unfinished_unknown
        assert plan.unfinished == ()
        assert execute(plan).deleted == 1


def test_a_store_that_refuses_to_discard_is_collected_all_the_same(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    faulty = FaultyStore(store)
    with SnapshotRepository(faulty, clock=ManualClock(), inline_limit_bytes=0) as repo:
        repo.commit(take_turn(new_session("s1"), "one"))
        repo.delete("s1")
        old = [leave_temporary(store, timedelta(days=2), name * 32) for name in "ab"]
        plan = plan_collect(repo)
        faulty.plan.on("delete", "", nth=2, fault=Deny())
        report = execute(plan)
        assert (report.deleted, report.unfinished) == (1, 1)
        assert "credentials" in report.unfinished_left
        assert [path.exists() for path in old].count(True) == 1
        again = execute(plan_collect(repo))
        assert (again.unfinished, again.unfinished_left) == (1, "")


# A lost head.


def test_a_family_whose_first_head_is_lost_is_spared(place: Place) -> None:
    before = place.packs()
    place.store.delete(LAYOUT.head("s1"))  # which nobody does: heads are never deleted
    plan = plan_collect(place.repo)
    (spared,) = plan.spared
    assert spared.family == "s1"
    assert f"{LAYOUT.head('s1')} is missing: session 'c1' was forked from it" in spared.reason
    report = execute(plan)
    assert report.deleted > 0
    of_s1 = [key for key in before if "/packs/s1/" in key]
    assert of_s1
    assert [key for key in place.packs() if "/packs/s1/" in key] == of_s1
