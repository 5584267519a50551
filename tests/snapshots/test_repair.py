"""Repairing: what can be proved is stored again, what cannot is named, and nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, codec
from snapshots.compaction import Limits
from snapshots.errors import (
    FencedError,
    InvalidStateError,
    RevisionConflictError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionNotFoundError,
)
from snapshots.fields import NEWEST_VERSION
from snapshots.head import KEPT_MAX, Head
from snapshots.layout import pack_name
from snapshots.maintenance.collect import execute as collect
from snapshots.maintenance.collect import plan_collect
from snapshots.maintenance.findings import Finding, What
from snapshots.maintenance.prune import Retention, plan_prune
from snapshots.maintenance.prune import execute as prune
from snapshots.maintenance.repair import Action, RepairPlan, RepairReport, execute, plan_repair, restage
from snapshots.maintenance.repair.places import places_of
from snapshots.maintenance.repair.remains import Remains
from snapshots.maintenance.verify import verify
from snapshots.placement import (
    ManifestPlace,
    PackUse,
    Placement,
    manifest_bytes,
    open_manifest,
    seal_manifest,
    unseal_manifest,
)
from snapshots.reading import HeadRead, read_base, read_manifest
from storage.backends import open_store
from storage.backends.memory import MemoryStore
from storage.digest import blob_ref
from storage.errors import UnavailableError
from storage.packs import PackBuilder
from storage.store import Create, ObjectStore, Overwrite, Version
from storage.testing.clock import ManualClock
from storage.testing.draws import Draws
from storage.testing.faults import CrashAfter, CrashBefore, FailBefore, FaultyStore, LoseAnswer, Meanwhile
from storage.testing.plan import Crash, Fault
from tests.integration.builders import SESSION, WatchedStore, check_puts, raw_head, rewrite_head
from tests.integration.turns import stamp, take
from tests.snapshots.damage import (
    DAMAGE,
    INDEX_DAMAGE,
    LAYOUT,
    Damage,
    altered_begin,
    altered_index,
    altered_manifest,
    blobs_of,
    commits,
    flip,
    leaving_apart,
    log_in,
    missing,
    named,
    pack_of,
    packs,
    touched,
    whole,
)

TURNS = 5
IN_PACKS = Limits(tail_pack_bytes=0)  # each commit has a pack in the store
LARGE = b"".join(Draws("large").hex_id().encode() for _ in range(3_000))  # has frames of its own


class Place:
    """A store with one session of five revisions, and a repository that can be watched and fail."""

    def __init__(self, store: ObjectStore | None = None, turns: int = TURNS, limits: Limits = IN_PACKS) -> None:
        self.store = MemoryStore() if store is None else store
        self.faulty = FaultyStore(self.store)
        self.watched = WatchedStore(self.faulty)
        self.repo = leaving_apart(SnapshotRepository(self.watched, clock=ManualClock(seed=1)), limits)
        self.other = leaving_apart(SnapshotRepository(self.store, clock=ManualClock(seed=2)), limits)
        self.session(SESSION, turns)

    def session(self, session_id: str, turns: int) -> None:
        state = PersistedSessionState(session_id=session_id)
        for turn in range(1, turns + 1):
            execution_state = take(state, turn)
            self.repo.commit(state, stamp(turn), execution_state)

    def turn(self, turn: int, session_id: str = SESSION, execution_state: bytes | None = None) -> None:
        state = self.repo.load(session_id)
        taken = take(state, turn)
        self.repo.commit(state, stamp(turn), execution_state or taken)

    def afresh(self, turn: int) -> None:
        """Take a turn, and store the whole graph again."""
        state = self.repo.load(SESSION)
        execution_state = take(state, turn)
        state.graph_replace_required = True
        self.repo.commit(state, stamp(turn), execution_state)

    def pack_of(self, revision: int, session_id: str = SESSION) -> str:
        return pack_of(self.repo, session_id, revision)

    def findings(self, session_id: str | None = None) -> set[Finding]:
        return {one for one in verify(self.repo, session_id=session_id) if isinstance(one, Finding)}

    def repair(self) -> tuple[RepairPlan, RepairReport]:
        """Repair everything, and check that what remains is what was said."""
        plan = plan_repair(self.repo)
        report = execute(plan)
        assert self.findings() == {one.finding for one in report.remaining}
        assert not plan_repair(self.repo).writes, "a second run finds nothing more to do"
        return plan, report

    def objects(self) -> dict[str, bytes]:
        return {row.key: self.store.get(row.key).data for row in self.store.list("")}

    def close(self) -> None:
        self.repo.close()
        self.other.close()


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


@pytest.fixture(params=["memory", "file"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(open_store(f"file:{tmp_path / 'store'}") if request.param == "file" else None)
    yield made
    made.close()


def actions(plan: RepairPlan) -> set[Action]:
    return {one.action for each in plan.sessions for one in each.proposals}


# Nothing to do.


def test_a_healthy_store_has_an_empty_plan_and_nothing_is_written(place: Place) -> None:
    place.repo.fork(SESSION, "f1", 2)
    place.repo.rewind(SESSION, 3)
    place.session("gone", 1)
    place.repo.delete("gone")
    before = place.objects()
    place.watched.start_over()
    plan = plan_repair(place.repo)
    assert {verb for verb, _ in place.watched.requests} <= {"get", "list", "stat"}
    assert (plan.sessions, plan.writes, plan.remaining, str(plan)) == ((), False, (), "nothing to repair")
    place.watched.start_over()
    report = execute(plan)
    assert (report.repaired, report.remaining, report.requests, place.watched.requests) == ((), (), 0, [])
    assert place.objects() == before


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_plan_writes_nothing_and_can_be_printed(place: Place, damage: Damage) -> None:
    damage(place.store, place.pack_of(TURNS))
    before = place.objects()
    plan = plan_repair(place.repo)
    assert place.objects() == before
    assert {one.finding for each in plan.sessions for one in each.proposals} >= place.findings()
    for one in plan.sessions[0].proposals:
        assert one.finding.key in str(plan)
        assert one.reason


def test_a_session_that_is_not_there_is_said_to_be_so(place: Place) -> None:
    with pytest.raises(SessionNotFoundError):
        plan_repair(place.repo, "nobody")


def test_one_session_alone_is_planned(place: Place) -> None:
    place.session("s2", 2)
    altered_index(place.store, place.pack_of(1))
    altered_index(place.store, place.pack_of(1, "s2"))
    plan = plan_repair(place.repo, "s2")
    assert [one.session_id for one in plan.sessions] == ["s2"]
    execute(plan)
    assert {one.session_id for one in place.findings()} == {SESSION}


def test_progress_is_told(place: Place) -> None:
    altered_index(place.store, place.pack_of(1))
    told: list[tuple[str, int, int]] = []
    execute(plan_repair(place.repo, progress=lambda *step: told.append(step)), progress=lambda *step: told.append(step))
    assert told == [("sessions verified", 1, 0), ("sessions planned", 1, 1), ("sessions repaired", 1, 1)]


# Lost records are rebuilt.


@pytest.mark.parametrize("revision", range(1, TURNS + 1))
@pytest.mark.parametrize("damage", INDEX_DAMAGE.values(), ids=INDEX_DAMAGE)
def test_a_pack_whose_index_is_damaged_is_stored_again_whole(place: Place, damage: Damage, revision: int) -> None:
    before, ids, head = whole(place.repo, SESSION), commits(place.repo, SESSION), raw_head(place.store)
    damage(place.store, place.pack_of(revision))
    plan, report = place.repair()
    assert (actions(plan), report.remaining) == ({Action.REBUILD}, ())
    assert (whole(place.repo, SESSION), commits(place.repo, SESSION)) == (before, ids)
    after = raw_head(place.store)
    same = ("revision", "checkpoint_ref", "commit_id", "commits", "stamps", "floor", "kept", "epoch", "fence")
    assert [getattr(after, name) for name in same] == [getattr(head, name) for name in same]
    assert after.state_id == plan.sessions[0].repair_id != head.state_id


def test_checkpoints_are_rebuilt_from_the_head(place: Place) -> None:
    altered_manifest(place.store, place.pack_of(TURNS))
    before = whole(place.repo, SESSION)
    plan, report = place.repair()
    assert (actions(plan), report.remaining) == ({Action.REBUILD}, ())
    assert whole(place.repo, SESSION) == before


def test_a_checkpoint_that_a_fork_has_in_its_head_is_rebuilt_from_there(place: Place) -> None:
    before = whole(place.repo, SESSION)
    place.repo.fork(SESSION, "f1", 3)
    altered_manifest(place.store, place.pack_of(3))
    child = whole(place.repo, "f1")
    named_before = {name: named(place.repo, name) for name in (SESSION, "f1")}
    plan, _ = place.repair()
    assert place.findings() == set()
    for one in plan.sessions:  # each names packs of its own repair, not those of the other's
        new = named(place.repo, one.session_id) - named_before[one.session_id]
        assert new
        assert all(one.repair_id in key for key in new)
    assert (whole(place.repo, SESSION), whole(place.repo, "f1")) == (before, child)


def test_a_checkpoint_that_lies_nowhere_else_is_named_and_left(place: Place) -> None:
    before = whole(place.repo, SESSION)
    altered_manifest(place.store, place.pack_of(3))
    plan, report = place.repair()
    assert not plan.writes
    assert {one.finding.revision for one in report.remaining} == {3}
    (one,) = report.remaining
    assert one.finding.key in one.remedy
    del before[3]
    assert whole(place.repo, SESSION) == before


def test_a_blob_that_another_pack_holds_as_well_is_rebuilt_from_it(place: Place) -> None:
    other = LARGE[::-1]  # nothing of it can be copied
    for turn, execution_state in enumerate((LARGE, other, LARGE), start=TURNS + 1):
        place.turn(turn, execution_state=execution_state)
    key = place.pack_of(TURNS + 1)
    (blob,) = blobs_of(place.store, key, "execution-state")
    flip(place.store, key, blob.extents[0].offset + 30)
    before = whole(place.repo, SESSION)
    assert TURNS + 1 not in before
    plan, report = place.repair()
    assert (actions(plan), report.remaining) == ({Action.REBUILD}, ())
    after = whole(place.repo, SESSION)
    assert sorted(after) == list(range(1, TURNS + 4))
    assert {number: after[number] for number in before} == before
    assert key not in named(place.repo, SESSION)


@pytest.mark.parametrize("revisions", [(2,), (1, 4), (2, 3, 4, 5, 6, 7)], ids=str)
def test_a_piece_of_a_log_is_cut_out_of_one_that_was_stored_afresh(revisions: tuple[int, ...]) -> None:
    place = Place(turns=7)
    place.afresh(8)  # all nodes stand in its own pack again
    place.turn(9)
    before = whole(place.repo, SESSION)
    for revision in revisions:
        altered_begin(place.store, place.pack_of(revision))  # where the nodes of that commit are
    plan, report = place.repair()
    assert (actions(plan), report.remaining) == ({Action.REBUILD}, ())
    assert whole(place.repo, SESSION) == before
    place.close()


@pytest.mark.parametrize("revisions", [(3,), (3, 5)], ids=str)
def test_what_was_uploaded_twice_is_had_from_the_upload_that_was_never_published(revisions: tuple[int, ...]) -> None:
    place = Place(turns=2)
    for turn in (3, 4, 5, 6):
        if turn in revisions:
            again = Meanwhile(partial(touched, place.other, SESSION, f"{turn:02x}" * 16))
            place.faulty.plan.on("put", LAYOUT.head(SESSION), fault=again)
        place.turn(turn)
        place.faulty.plan.clear()
    before = whole(place.repo, SESSION)
    assert len(packs(place.store)) == 6 + len(revisions)
    for key in [place.pack_of(revision) for revision in revisions]:
        missing(place.store, key)
    plan, report = place.repair()
    assert (actions(plan), report.remaining) == ({Action.REBUILD}, ())
    assert whole(place.repo, SESSION) == before
    place.close()


def test_a_lost_log_of_places_is_put_together_from_the_manifests(place: Place) -> None:
    """A rewind stores nothing but records, and the head has its manifest: everything of it can be proved."""
    place.repo.rewind(SESSION, 3)
    before, ids = whole(place.repo, SESSION), commits(place.repo, SESSION)
    missing(place.store, place.pack_of(TURNS + 1))
    assert place.findings()
    plan, report = place.repair()
    assert (actions(plan), report.remaining) == ({Action.REBUILD}, ())
    assert (whole(place.repo, SESSION), commits(place.repo, SESSION)) == (before, ids)
    assert place.repo.history(SESSION)[-1].kind == "rewind"


def test_uploads_that_were_never_published_are_not_taken_for_revisions() -> None:
    place = Place(turns=TURNS - 1)
    for turn in (61, 62, 63, 64):
        state = place.repo.load(SESSION)
        place.faulty.plan.on("put", LAYOUT.head(SESSION), fault=CrashBefore())
        with pytest.raises(Crash):
            place.repo.commit(state, stamp(turn), take(state, turn))
        place.faulty.restart()
        place.faulty.plan.clear()
    place.turn(TURNS)
    place.repo.rewind(SESSION, 3)
    before = whole(place.repo, SESSION)
    missing(place.store, place.pack_of(TURNS + 1))
    _, report = place.repair()
    assert report.remaining == ()
    assert whole(place.repo, SESSION) == before
    place.close()


def test_rows_that_stand_nowhere_else_follow_from_the_manifests() -> None:
    place = Place(turns=8)
    place.repo.rewind(SESSION, 3)
    keys = [place.pack_of(revision) for revision in range(1, 10)]
    for key in keys[5:8]:  # rows 5 to 7 stand there, the eighth in the pack of the ninth
        flip(place.store, key, log_in(place.repo, SESSION, key, "places")[0].offset + 30)
    missing(place.store, keys[8])
    head = raw_head(place.store)
    remains = Remains(place.repo.environment, head)
    present = read_manifest(place.repo.environment, head)
    rows = places_of(head, present.checkpoint, present.placement, remains)
    assert [LAYOUT.pack(SESSION, row.manifest.pack) for row in rows] == keys[:8]
    place.close()


def test_manifests_are_found_in_a_pack_of_which_only_they_are_whole(place: Place) -> None:
    key = place.pack_of(3)
    altered_begin(place.store, key)
    altered_index(place.store, key)
    found = Remains(place.repo.environment, raw_head(place.store)).family.in_packs.manifests
    assert sorted(one.checkpoint.revision for one in found) == [1, 2, 3, 4, 5]


def test_a_manifest_in_the_head_that_cannot_be_read_is_taken_from_its_pack(place: Place) -> None:
    before = whole(place.repo, SESSION)
    rewrite_head(place.store, lambda head: replace(head, inline_manifest=b"nothing", write_id="ab" * 16))
    assert place.findings()
    plan, report = place.repair()
    assert (actions(plan), report.remaining) == ({Action.REBUILD}, ())
    assert whole(place.repo, SESSION) == before


def test_what_others_wrote_over_a_pack_is_left_behind(place: Place) -> None:
    place.session("s2", 1)
    (foreign,) = place.store.list(LAYOUT.family("s2"))
    key = place.pack_of(TURNS)
    place.store.put(key, place.store.get(foreign.key).data, Overwrite())
    plan, _ = place.repair()
    assert key in plan.sessions[0].left
    assert place.findings() == set()
    assert set(whole(place.repo, "s2")) == {1}


def test_a_pack_that_the_head_does_not_keep_for_a_revision_is_copied_not_named(place: Place) -> None:
    before = whole(place.repo, SESSION)
    place.repo.rewind(SESSION, 2)

    def unnamed(head: Head) -> Head:
        key = LAYOUT.head(SESSION)
        record, placed = open_manifest(unseal_manifest(head.inline_manifest, key=key), key=key)
        placement = Placement.decode(placed, key=key)
        uses = [replace(use, first_revision=6) if use.first_revision == 1 else use for use in placement.packs]
        run = seal_manifest(manifest_bytes(record, replace(placement, packs=tuple(uses)).encode()))
        return replace(head, inline_manifest=run, write_id="ab" * 16)

    rewrite_head(place.store, unnamed)
    assert What.PACKS in {one.what for one in place.findings()}
    place.repair()
    assert place.findings() == set()
    assert {number: text for number, text in whole(place.repo, SESSION).items() if number <= TURNS} == before


# Fall-back.


@pytest.mark.parametrize("name", ["missing", "altered_begin"])
def test_the_newest_whole_revision_becomes_the_present_one_again(anywhere: Place, name: str) -> None:
    place = anywhere
    before, ids = whole(place.repo, SESSION), commits(place.repo, SESSION)
    key = place.pack_of(TURNS)
    DAMAGE[name](place.store, key)
    plan, report = place.repair()
    assert actions(plan) <= {Action.FALL_BACK, Action.REBUILD}
    (one,) = plan.sessions
    assert (one.target, one.dropped) == (TURNS - 1, (TURNS,))
    assert f"revision {TURNS + 1}: the content of {TURNS - 1} again" in str(plan)
    assert report.remaining == ()
    after = whole(place.repo, SESSION)
    assert {number: after[number] for number in range(1, TURNS)} == {n: before[n] for n in range(1, TURNS)}
    assert sorted(after) == [1, 2, 3, 4, 6]
    assert commits(place.repo, SESSION)[:-1] == ids
    assert place.repo.history(SESSION)[-1].kind == "restore"
    assert report.repaired[0].revision == TURNS + 1
    state, old = place.repo.load(SESSION, execution_state=True), place.repo.load(SESSION, 4, execution_state=True)
    assert state.session_graph.nodes == old.session_graph.nodes
    assert (state.token_ledger, state.turn_index) == (old.token_ledger, old.turn_index)
    assert state.execution_state_snapshot == old.execution_state_snapshot
    with pytest.raises(RevisionNotFoundError):
        place.repo.load(SESSION, TURNS)
    place.turn(TURNS)  # the turn that was lost may be taken again
    assert place.findings() == set()


def test_a_turn_that_was_left_behind_may_be_done_again_and_its_commit_id_is_kept(place: Place) -> None:
    missing(place.store, place.pack_of(TURNS))
    lost = raw_head(place.store).commit_id
    place.repair()
    assert raw_head(place.store).commits.commit_id(TURNS) == lost
    place.turn(TURNS)
    assert place.repo.load(SESSION).turn_index == TURNS
    assert [row.revision for row in place.repo.history(SESSION)] == list(range(1, TURNS + 3))


def test_a_pinned_revision_stays_and_is_named_until_it_is_unpinned(place: Place) -> None:
    place.repo.pin(SESSION, TURNS, "good")
    missing(place.store, place.pack_of(TURNS))
    plan, report = place.repair()
    assert plan.sessions[0].target == TURNS - 1
    assert plan.sessions[0].dropped == ()
    assert {one.finding.revision for one in report.remaining if one.finding.revision} == {TURNS}
    assert place.repo.load(SESSION).head_revision == TURNS + 1
    place.repo.unpin(SESSION, "good")
    assert place.findings() == set()


def test_what_was_pruned_stays_pruned(place: Place) -> None:
    prune(plan_prune(place.repo, SESSION, Retention(last=3)))
    missing(place.store, place.pack_of(TURNS))
    place.repair()
    assert sorted(whole(place.repo, SESSION)) == [3, 4, 6]
    assert place.findings() == set()


def test_more_revisions_than_the_head_has_room_for_stay_retained(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT_MAX > TURNS
    monkeypatch.setattr(restage, "KEPT_MAX", 2)
    missing(place.store, place.pack_of(TURNS))
    plan, report = place.repair()
    assert (plan.sessions[0].target, plan.sessions[0].dropped) == (TURNS - 1, ())
    assert {one.finding.revision for one in report.remaining if one.finding.revision} == {TURNS}
    assert sorted(whole(place.repo, SESSION)) == [1, 2, 3, 4, 6]


def test_a_revision_of_which_only_the_history_is_lost_stays_so_that_it_can_be_forked() -> None:
    place = Place(turns=7)
    place.afresh(8)
    place.turn(9)
    before = whole(place.repo, SESSION)
    missing(place.store, place.pack_of(4))
    plan, report = place.repair()
    assert plan.sessions[0].target == 3
    assert 9 not in plan.sessions[0].dropped
    told = [one.remedy for one in report.remaining if one.finding.revision == 9]
    assert told
    assert all("fork revision 9" in one for one in told)
    place.repo.fork(SESSION, "f1", 9)
    assert place.findings("f1") == set()
    nodes = [node.model_dump_json() for node in place.repo.load("f1").session_graph.nodes]
    assert before[9].startswith(repr((nodes,))[:-2])
    place.close()


def test_sound_bytes_that_cannot_be_loaded_are_fallen_back_from(place: Place) -> None:
    before = whole(place.repo, SESSION)
    tools_that_are_none(place)
    kinds = {one.what for one in place.findings()}
    assert kinds == {What.PART}
    plan, report = place.repair()
    assert (actions(plan), report.remaining) == ({Action.FALL_BACK}, ())
    assert {number: text for number, text in whole(place.repo, SESSION).items() if number < TURNS} == {
        number: text for number, text in before.items() if number < TURNS
    }
    assert place.repo.load(SESSION).turn_index == TURNS - 1


def tools_that_are_none(place: Place) -> None:
    """Let the present revision name a tool state that is no tool state, as a faulty writer would."""
    head = raw_head(place.store)
    base = read_base(place.repo.environment, HeadRead(head, Version("")))
    builder = PackBuilder(pack_name("ab" * 16, "cd" * 16))
    ref = builder.add("tool-state", codec.encode(["no tools"]))
    builder.flush()
    checkpoint = replace(base.checkpoint, tool_state=ref)
    uses = (*base.placement.packs, PackUse(builder.name, head.revision))
    placement = replace(base.placement, extents={**base.placement.extents, **builder.extents}, packs=uses)
    run = seal_manifest(manifest_bytes(checkpoint.encode(), placement.encode()))
    where = builder.append_run(run)
    data = builder.finish({"tenant": "default", "family": SESSION, "session": SESSION, "commit": "ab" * 16})
    place.store.put(LAYOUT.pack(SESSION, builder.name), data, Create())
    rewrite_head(
        place.store,
        lambda head: replace(
            head,
            write_id="ab" * 16,
            checkpoint_ref=blob_ref(checkpoint.encode()),
            manifest=ManifestPlace(builder.name, where.start, where.length),
            inline_manifest=run,
        ),
    )


# What cannot be proved.


def test_when_no_revision_is_whole_nothing_is_written(place: Place) -> None:
    missing(place.store, place.pack_of(1))
    plan = plan_repair(place.repo)
    assert not plan.writes
    assert actions(plan) == {Action.NONE}
    place.watched.start_over()
    report = execute(plan)
    assert place.watched.requests == []
    assert {one.finding for one in report.remaining} == place.findings()
    assert all(one.finding.key in one.remedy for one in report.remaining)


def test_a_damaged_head_is_left_alone_and_named(place: Place) -> None:
    place.session("s2", 2)
    key = LAYOUT.head(SESSION)
    flip(place.store, key, 40)
    for wanted in (None, SESSION):
        plan = plan_repair(place.repo, wanted)
        (one,) = plan.remaining
        assert (one.finding.what, one.finding.key, one.action) == (What.HEAD, key, Action.NONE)
        assert key in one.remedy
        assert not plan.writes


def test_reservations_tombstones_and_registers_are_left_alone(place: Place) -> None:
    place.faulty.plan.on("put", LAYOUT.packs, fault=CrashBefore())
    with pytest.raises(Crash):
        place.repo.commit(PersistedSessionState(session_id="reserved"))
    place.faulty.restart()
    place.faulty.plan.clear()
    place.session("gone", 1)
    place.repo.acquire("gone", "owner").begin_turn("t")
    flip(place.store, LAYOUT.turns("gone"), 20)
    place.repo.delete("gone")
    before = place.objects()
    plan = plan_repair(place.repo)
    assert not plan.writes
    assert [one.finding.what for one in plan.remaining] == [What.REGISTER]
    execute(plan)
    assert place.objects() == before


def test_a_record_of_a_later_schema_keeps_everything_as_it_is(place: Place) -> None:
    key = LAYOUT.head(SESSION)
    plain = codec.decode(codec.unguarded(place.store.get(key).data, key=key), key=key)
    place.store.put(key, codec.guarded(codec.encode({**plain, "schema_version": NEWEST_VERSION + 1})), Overwrite())
    plan = plan_repair(place.repo)
    assert not plan.writes
    assert "newer version" in plan.remaining[0].remedy


# Quarantine.


def test_what_is_left_behind_is_copied_first_and_no_collection_touches_the_copy(place: Place) -> None:
    damaged = {}
    for revision, damage in ((2, altered_index), (TURNS, altered_begin)):
        key = place.pack_of(revision)
        damage(place.store, key)
        damaged[key] = place.store.get(key).data
    _, report = place.repair()
    (one,) = report.repaired
    copies = {copy.key: copy.copy_key for copy in one.quarantined}
    assert damaged.keys() <= copies.keys()
    for key, data in damaged.items():
        assert copies[key].startswith(LAYOUT.quarantine)
        assert place.store.get(copies[key]).data == place.store.get(key).data == data
    assert collect(plan_collect(place.repo)).deleted >= len(damaged)
    for key, data in damaged.items():
        assert key not in packs(place.store)
        assert place.store.get(copies[key]).data == data
    assert place.findings() == set()


def test_nothing_that_was_there_is_deleted_or_altered(place: Place) -> None:
    altered_begin(place.store, place.pack_of(TURNS))
    before = place.objects()
    place.watched.start_over()
    place.repair()
    check_puts([put for put in place.watched.puts if "/quarantine/" not in put.key])
    after = place.objects()
    assert {key for key in before if after[key] != before[key]} == {LAYOUT.head(SESSION)}


def test_a_pack_that_the_store_cannot_read_is_to_be_copied_by_hand(tmp_path: Path) -> None:
    place = Place(open_store(f"file:{tmp_path / 'store'}"))
    key = place.pack_of(TURNS)
    path = tmp_path / "store" / key
    path.write_bytes(path.read_bytes()[:-30])
    plan, report = place.repair()
    assert plan.sessions[0].unreadable == (key,)
    assert "copy it by hand first" in str(plan)
    assert [(one.key, one.copy_key) for one in report.repaired[0].quarantined] == [(key, "")]
    assert place.findings() == set()
    place.close()


def test_a_pack_altered_on_disk_is_copied_as_it_is(tmp_path: Path) -> None:
    place = Place(open_store(f"file:{tmp_path / 'store'}"))
    key = place.pack_of(2)
    path = tmp_path / "store" / key
    data = bytearray(path.read_bytes())
    data[-60] ^= 1  # of the pack's own index; the file's trailer is whole
    path.write_bytes(bytes(data))
    before = whole(place.repo, SESSION)
    _, report = place.repair()
    (copy,) = report.repaired[0].quarantined
    assert place.store.get(copy.copy_key).data == bytes(data[:-24])
    assert (place.findings(), whole(place.repo, SESSION)) == (set(), before)
    place.close()


# Families.


@pytest.mark.parametrize("damage", [altered_index, altered_begin, missing], ids=lambda one: one.__name__)
def test_parent_and_child_that_share_a_damaged_pack_each_have_their_own_repair(place: Place, damage: Damage) -> None:
    place.repo.fork(SESSION, "early", 2)
    place.repo.fork(SESSION, "f1")
    place.turn(50, "f1")
    place.turn(60, "early")
    place.session("s2", 2)
    before = {name: whole(place.repo, name) for name in (SESSION, "early", "f1", "s2")}
    damage(place.store, place.pack_of(3))
    harmed = {one.session_id for one in place.findings()}
    assert harmed == {SESSION, "f1"}
    untouched = {name: raw_head(place.store, name) for name in ("early", "s2")}
    plan, report = place.repair()
    assert {one.session_id for one in plan.sessions} == harmed
    assert {name: raw_head(place.store, name) for name in untouched} == untouched
    for name in ("early", "s2"):
        assert whole(place.repo, name) == before[name]
    if damage is altered_index:
        assert report.remaining == ()
        assert {name: whole(place.repo, name) for name in before} == before
    for name in harmed:
        assert all(before[name].get(n, text) == text for n, text in whole(place.repo, name).items())
    collect(plan_collect(place.repo))
    assert place.findings() == {one.finding for one in report.remaining}


def test_the_repair_of_the_parent_does_not_change_the_child(place: Place) -> None:
    place.repo.fork(SESSION, "f1")
    altered_index(place.store, place.pack_of(3))
    child = raw_head(place.store, "f1")
    execute(plan_repair(place.repo, SESSION))
    assert raw_head(place.store, "f1") == child
    assert place.findings(SESSION) == set()
    assert place.findings("f1")
    execute(plan_repair(place.repo, "f1"))
    assert place.findings() == set()


# Others at work.


def commit(place: Place) -> None:
    state = place.other.load(SESSION)
    state.graph_replace_required = True
    take(state, 70)
    place.other.commit(state)


@pytest.mark.parametrize(
    ("meanwhile", "expected"),
    [
        (commit, RevisionConflictError),
        (lambda place: touched(place.other, SESSION, "ef" * 16), InvalidStateError),
        (lambda place: place.other.delete(SESSION), SessionDeletedError),
    ],
    ids=["commit", "change", "delete"],
)
@pytest.mark.parametrize("when", ["before", "amid"])
def test_a_head_that_moved_is_refused(
    place: Place, when: str, meanwhile: Callable[[Place], None], expected: type[Exception]
) -> None:
    altered_index(place.store, place.pack_of(3))
    plan = plan_repair(place.repo)
    if when == "before":
        meanwhile(place)
    else:
        place.faulty.plan.on("put", LAYOUT.head(SESSION), fault=Meanwhile(lambda: meanwhile(place)))
    with pytest.raises(expected):
        execute(plan)
    if expected is not SessionDeletedError:
        place.repair()
        assert place.findings() == set()


def test_a_commit_while_the_plan_is_made_is_part_of_it(place: Place) -> None:
    altered_index(place.store, place.pack_of(3))
    place.watched.start_over()
    plan_repair(place.repo)
    requests = len(place.watched.requests)
    for number in range(2, requests + 1, 5):
        one = Place()
        altered_index(one.store, one.pack_of(3))
        one.watched.start_over()
        one.watched.act(number, partial(commit, one))
        plan = plan_repair(one.repo)
        assert plan.sessions[0].revision == TURNS + 1, f"a commit before request {number} of {requests}"
        execute(plan)
        assert one.findings() == set()
        one.close()


def test_a_pin_a_fence_and_an_epoch_of_others_stay(place: Place) -> None:
    altered_index(place.store, place.pack_of(3))
    plan = plan_repair(place.repo)

    def meanwhile() -> None:
        place.other.pin(SESSION, 2, "good", expires_at=place.other.environment.clock.now() + timedelta(hours=1))
        rewrite_head(place.store, lambda head: replace(head, epoch=7, fence=3, write_id="cd" * 16))

    place.faulty.plan.on("put", LAYOUT.head(SESSION), fault=Meanwhile(meanwhile))
    place.watched.puts.clear()
    execute(plan)
    head = raw_head(place.store)
    assert ([pin.name for pin in head.pins], head.epoch, head.fence) == (["good"], 7, 3)
    assert place.findings() == set()
    uploaded = [put.key for put in place.watched.puts if put.key.startswith(LAYOUT.packs)]
    assert len(uploaded) == len(set(uploaded)) == 2, "under another epoch the pack is uploaded again"
    check_puts([put for put in place.watched.puts if "/quarantine/" not in put.key])


def test_a_session_that_somebody_holds_is_rebuilt_but_gets_no_revision(place: Place) -> None:
    writer = place.repo.acquire(SESSION, "owner")
    altered_index(place.store, place.pack_of(3))
    place.repair()
    assert place.findings() == set()
    state = writer.state
    take(state, 80)
    writer.commit(state)
    collect(plan_collect(place.repo))  # of what it had uploaded for the head before the repair
    missing(place.store, place.pack_of(TURNS + 1))
    plan = plan_repair(place.repo)
    assert "held by 'owner'" in str(plan)
    with pytest.raises(FencedError, match=r"release it .snapshots release s1 --owner owner., then repair again"):
        execute(plan)
    writer.release()
    place.repair()
    assert place.findings() == set()


def test_a_commit_under_way_goes_on_after_a_rebuild(place: Place) -> None:
    before = whole(place.repo, SESSION)
    state = place.other.load(SESSION)
    altered_index(place.store, place.pack_of(3))
    place.repair()
    take(state, TURNS + 1)
    place.other.commit(state, stamp(TURNS + 1))
    assert place.findings() == set()
    after = whole(place.repo, SESSION)
    assert {number: after[number] for number in before} == before


def test_one_session_that_moved_does_not_keep_the_others_from_being_repaired(place: Place) -> None:
    place.session("s2", 2)
    altered_index(place.store, place.pack_of(1))
    altered_index(place.store, place.pack_of(1, "s2"))
    plan = plan_repair(place.repo)
    commit(place)
    report = execute(plan)
    assert [one.session_id for one in report.repaired] == ["s2"]
    assert [(one.session_id, type(one.error)) for one in report.refused] == [(SESSION, RevisionConflictError)]


def test_less_that_is_left_than_was_planned_is_refused(place: Place) -> None:
    altered_index(place.store, place.pack_of(3))
    plan = plan_repair(place.repo)
    missing(place.store, place.pack_of(3))
    before = place.objects()
    with pytest.raises(InvalidStateError, match="plan again"):
        execute(plan)
    assert place.objects() == before


# Faults.


def test_a_plan_that_is_done_is_done(place: Place) -> None:
    altered_begin(place.store, place.pack_of(TURNS))
    plan = plan_repair(place.repo)
    execute(plan)
    before = place.objects()
    place.watched.start_over()
    assert execute(plan).repaired[0].revision == TURNS + 1
    assert {verb for verb, _ in place.watched.requests} == {"get", "list"}
    place.turn(TURNS)
    with_turn = place.objects()
    execute(plan)
    assert place.objects() == with_turn != before


@pytest.mark.parametrize("fault", [LoseAnswer(), FailBefore("unknown"), FailBefore("no")], ids=repr)
@pytest.mark.parametrize("key", [LAYOUT.head(SESSION), LAYOUT.packs, LAYOUT.quarantine])
def test_a_lost_answer_is_found_out(place: Place, key: str, fault: Fault) -> None:
    altered_begin(place.store, place.pack_of(TURNS))
    place.faulty.plan.on("put", key, fault=fault)
    _, report = place.repair()
    assert report.remaining == ()
    assert raw_head(place.store).revision == TURNS + 1


def test_a_store_that_does_not_answer_is_no_repair(place: Place) -> None:
    altered_index(place.store, place.pack_of(3))
    plan = plan_repair(place.repo)
    place.faulty.plan.on("put", LAYOUT.head(SESSION), times=None, fault=FailBefore("no"))
    with pytest.raises(UnavailableError):
        execute(plan)
    place.faulty.plan.clear()
    place.repair()
    assert place.findings() == set()


@pytest.mark.aside
@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=["before", "after"])
@pytest.mark.parametrize("damage", [altered_index, altered_begin], ids=["rebuild", "fall back"])
def test_a_run_that_died_anywhere_leaves_a_correct_store_and_the_next_finishes(damage: Damage, crash: Fault) -> None:
    def made() -> tuple[Place, RepairPlan]:
        place = Place()
        place.repo.fork(SESSION, "f1", 2)
        damage(place.store, place.pack_of(TURNS))
        return place, plan_repair(place.repo)

    undisturbed, plan = made()
    undisturbed.faulty.log.clear()
    execute(plan)
    log = list(undisturbed.faulty.log)
    expected = commits(undisturbed.repo, SESSION)
    undisturbed.close()
    assert {request.verb for request in log} >= {"get", "put"}
    for number, request in enumerate(log, start=1):
        place, plan = made()
        before, harmed = whole(place.other, "f1"), place.findings()
        nth = sum(one.verb == request.verb for one in log[:number])
        place.faulty.plan.on(request.verb, nth=nth, fault=crash)
        with pytest.raises(Crash):
            execute(plan)
        place.faulty.restart()
        place.faulty.plan.clear()
        assert place.findings() in (harmed, set()), f"request {number}: as before, or done"
        assert whole(place.other, "f1") == before
        collect(plan_collect(place.other))
        place.repair()
        assert place.findings() == set()
        assert len(commits(place.repo, SESSION)) == len(expected)
        assert whole(place.other, "f1") == before
        collect(plan_collect(place.other))
        assert place.findings() == set()
        place.close()


def test_a_store_of_many_damaged_packs_is_repaired_as_far_as_it_can_be() -> None:
    draws = Draws("many")
    for _ in range(12):
        place = Place(turns=7)
        place.repo.fork(SESSION, "f1", 4)
        place.turn(40, "f1")
        place.repo.rewind(SESSION, 5)
        place.turn(8)
        before = {name: whole(place.repo, name) for name in (SESSION, "f1")}
        named_before = {name: named(place.repo, name) for name in before}
        keys, kinds = packs(place.store), list(DAMAGE.values())
        for _ in range(1 + draws.below(3)):
            key = keys.pop(draws.below(len(keys)))
            kinds[draws.below(len(kinds))](place.store, key)
        plan, report = place.repair()
        for one in plan.sessions:
            if one.writes:
                new = named(place.repo, one.session_id) - named_before[one.session_id]
                assert all(one.repair_id in key for key in new)
        for name, states in before.items():
            remaining = {one.finding.revision for one in report.remaining if one.finding.session_id == name}
            if not remaining:
                after = whole(place.repo, name)
                assert all(states.get(number, text) == text for number, text in after.items())
        place.close()


# Beside a collection.


def collected(repo: SnapshotRepository) -> None:
    collect(plan_collect(repo))


@pytest.mark.aside
@pytest.mark.parametrize("damage", [altered_index, altered_begin], ids=["rebuild", "fall back"])
def test_a_collection_at_any_request_of_a_repair_takes_nothing_from_it(damage: Damage) -> None:
    number, requests = 1, 1
    while number <= requests:
        place = Place(turns=6)
        place.repo.fork(SESSION, "f1", 2)
        place.turn(40, "f1")
        before = whole(place.repo, "f1")
        damage(place.store, place.pack_of(6))
        plan = plan_repair(place.repo)
        place.watched.start_over()
        place.watched.act(number, partial(collected, place.other))
        execute(plan)
        requests = len(place.watched.requests)
        assert place.findings() == set(), f"a collection before request {number}"
        collect(plan_collect(place.other))
        assert place.findings() == set()
        assert whole(place.repo, "f1") == before
        place.close()
        number += 1
    assert requests > 10


@pytest.mark.aside
@pytest.mark.parametrize("damage", [altered_index, altered_begin], ids=["rebuild", "fall back"])
def test_a_repair_at_any_request_of_a_collection_loses_nothing(damage: Damage) -> None:
    number, requests = 1, 1
    while number <= requests:
        place = Place(turns=6)
        place.session("gone", 2)
        place.repo.delete("gone")
        place.repo.fork(SESSION, "f1", 2)
        prune(plan_prune(place.repo, SESSION, Retention(last=3)))
        damage(place.store, place.pack_of(6))
        plan = plan_repair(place.repo)
        place.watched.start_over()
        late = replace(plan, environment=place.other.environment)
        place.watched.act(number, partial(execute, late))
        collect(plan_collect(place.repo))
        requests = len(place.watched.requests)
        place.watched.act_now()
        assert place.findings() == set(), f"a repair before request {number}"
        place.close()
        number += 1
    assert requests > 10
