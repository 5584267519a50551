"""Repairing beside others: uploads in vain, pins set meanwhile, commits on top, other sessions of one plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

import snapshots.fork
import snapshots.staging
from snapshots import codec
from snapshots.errors import (
    CorruptSnapshotError,
    InvalidStateError,
    LimitExceededError,
    RevisionConflictError,
    SessionNotFoundError,
    UnsupportedSchemaError,
)
from snapshots.fields import NEWEST_VERSION
from snapshots.layout import pack_name
from snapshots.maintenance.collect import execute as collect
from snapshots.maintenance.collect import plan_collect
from snapshots.maintenance.repair import Action, RepairPlan, execute, execution, plan_repair
from snapshots.maintenance.repair import plan as planning
from snapshots.maintenance.repair.remains import Remains
from snapshots.maintenance.repair.restage import Restaging
from snapshots.maintenance.repair.survey import Survey
from snapshots.reading import read_live_head
from snapshots.staging import Identity
from storage.store import ObjectStore, Overwrite
from storage.testing.faults import CrashAfter, LoseAnswer, Meanwhile
from storage.testing.plan import Crash
from tests.integration.builders import SESSION, raw_head
from tests.integration.turns import stamp, take
from tests.snapshots.damage import (
    LAYOUT,
    Damage,
    altered_begin,
    altered_index,
    blobs_of,
    flip,
    log_in,
    missing,
    named,
    whole,
)
from tests.snapshots.test_repair import LARGE, TURNS, Place, commit


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


# Uploads in vain.


@pytest.fixture
def large_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no manifest stand in a head, as it is when they are large."""
    for module in (snapshots.staging, snapshots.fork):
        monkeypatch.setattr(module, "INLINE_MANIFEST_BYTES_MAX", 10)


def uploaded_twice(revision: int) -> Place:
    """Return a place whose tenth commit was uploaded before and again after the repair of an earlier revision."""
    place = Place(turns=9)
    key = place.pack_of(revision)

    def meanwhile() -> None:
        altered_index(place.store, key)
        execute(plan_repair(place.other))

    state = place.repo.load(SESSION)
    execution_state = take(state, 10)
    place.faulty.plan.on("put", LAYOUT.heads, nth=1, fault=Meanwhile(meanwhile))
    place.repo.commit(state, stamp(10), execution_state)
    place.faulty.plan.clear()
    return place


def lose_the_manifest(place: Place) -> None:
    head = read_live_head(place.other.environment, SESSION).head
    assert head.manifest is not None
    flip(place.store, LAYOUT.pack(head.family, head.manifest.pack), head.manifest.offset + 40)


@pytest.mark.usefixtures("large_manifests")
@pytest.mark.parametrize("revision", [2, 4])
def test_what_a_manifest_that_was_never_published_says_of_packs_is_not_believed(revision: int) -> None:
    place = uploaded_twice(revision)
    before, before_named = whole(place.repo, SESSION), named(place.repo, SESSION)
    assert place.findings() == set()
    lose_the_manifest(place)
    plan, report = place.repair()
    (one,) = plan.sessions
    after = named(place.repo, SESSION)
    assert all(one.repair_id in key for key in after - before_named), "nothing that the head did not name before"
    assert {copy.key for copy in report.repaired[0].quarantined} >= before_named - after, "rule 3"
    assert (place.findings(), whole(place.repo, SESSION)) == (set(), before)
    place.close()


@pytest.mark.usefixtures("large_manifests")
def test_a_repair_amid_a_collection_names_nothing_that_it_deletes() -> None:
    place = uploaded_twice(2)
    before = whole(place.repo, SESSION)
    plan = plan_collect(place.repo)
    repaired: list[int] = []

    def meanwhile() -> None:
        if not repaired:
            repaired.append(1)
            lose_the_manifest(place)
            execute(plan_repair(place.other))

    place.faulty.plan.on("delete_many", "", nth=1, fault=Meanwhile(meanwhile))
    collect(plan)
    assert repaired
    assert (place.findings(), whole(place.repo, SESSION)) == (set(), before)
    place.close()


@pytest.mark.usefixtures("large_manifests")
def test_packs_that_another_head_names_are_not_copied() -> None:
    place = uploaded_twice(2)
    place.repo.fork(SESSION, "f1", 3)
    lose_the_manifest(place)
    _, report = place.repair()
    copied = {copy.key for copy in report.repaired[0].quarantined}
    assert copied
    assert not copied & named(place.repo, "f1")
    place.close()


# A revision that loads without its execution state.


def test_a_revision_that_loads_without_its_execution_state_stays_retained(place: Place) -> None:
    place.turn(TURNS + 1, execution_state=LARGE)
    key = place.pack_of(TURNS + 1)
    (blob,) = blobs_of(place.store, key, "execution-state")
    flip(place.store, key, blob.extents[0].offset + 30)
    nodes = place.repo.load(SESSION).session_graph.nodes
    plan, report = place.repair()
    (one,) = plan.sessions
    assert (one.target, one.dropped, one.left) == (TURNS, (), ())
    assert all(left.action is Action.NONE for left in report.remaining)
    assert all(
        f"revision {TURNS + 1} still loads without its execution state" in left.remedy for left in report.remaining
    )
    assert place.repo.load(SESSION).head_revision == TURNS + 2
    assert place.repo.load(SESSION, TURNS + 2, execution_state=True).turn_index == TURNS
    collect(plan_collect(place.repo))
    assert place.repo.load(SESSION, TURNS + 1).session_graph.nodes == nodes


def test_a_revision_of_which_more_is_lost_is_dropped(place: Place) -> None:
    place.turn(TURNS + 1, execution_state=LARGE)
    key = place.pack_of(TURNS + 1)
    pieces = [*blobs_of(place.store, key, "execution-state")[0].extents, *log_in(place.repo, SESSION, key, "graph")]
    for piece in pieces:
        flip(place.store, key, piece.offset + 30)
    plan, _ = place.repair()
    assert (plan.sessions[0].target, plan.sessions[0].dropped) == (TURNS, (TURNS + 1,))


# What others do between upload and publication.


@pytest.mark.parametrize("pin", [2, TURNS + 1], ids=["a whole revision", "the damaged one"])
@pytest.mark.parametrize("damage", [missing, altered_begin])
def test_a_pin_that_is_set_amid_a_fall_back_refuses_it(place: Place, damage: Damage, pin: int) -> None:
    place.turn(TURNS + 1)
    damage(place.store, place.pack_of(TURNS))
    plan = plan_repair(place.repo)
    assert plan.sessions[0].target is not None
    before = raw_head(place.store)
    fault = Meanwhile(lambda: place.other.pin(SESSION, pin, "keep"))
    place.faulty.plan.on("put", LAYOUT.heads, nth=1, fault=fault)
    with pytest.raises(InvalidStateError, match="changed since this plan; plan again"):
        execute(plan)
    after = raw_head(place.store)
    assert (after.revision, after.state_id) == (before.revision, before.state_id)
    place.repair()
    assert raw_head(place.store).retains(pin)


@pytest.mark.parametrize("damage", [altered_index, altered_begin], ids=["rebuild", "fall back"])
def test_a_repair_whose_answer_was_lost_is_done_though_somebody_committed_on_it(place: Place, damage: Damage) -> None:
    damage(place.store, place.pack_of(TURNS))
    plan = plan_repair(place.repo)
    place.faulty.plan.on("put", LAYOUT.heads, nth=1, fault=LoseAnswer())
    place.faulty.plan.on("get", LAYOUT.heads, nth=2, fault=Meanwhile(lambda: commit(place)))
    report = execute(plan)
    assert [one.session_id for one in report.repaired] == [SESSION]
    assert report.repaired[0].revision == raw_head(place.store).revision
    assert {copy.key for copy in report.repaired[0].quarantined} == set(plan.sessions[0].left)
    assert place.findings() == set()
    assert execute(plan).repaired == report.repaired, "nor when it is executed once more"


def test_a_repair_that_was_not_done_is_not_taken_for_done(place: Place) -> None:
    altered_index(place.store, place.pack_of(3))
    plan = plan_repair(place.repo)
    place.faulty.plan.on("put", LAYOUT.heads, nth=1, fault=Meanwhile(lambda: commit(place)))
    with pytest.raises(RevisionConflictError):
        execute(plan)
    assert place.findings() != set()


# Other sessions of one plan.


def of_three(place: Place) -> RepairPlan:
    for session_id in ("s2", "s3"):
        place.session(session_id, 3)
    for session_id in (SESSION, "s2", "s3"):
        altered_index(place.store, place.pack_of(3, session_id))
    plan = plan_repair(place.repo)
    assert len(plan.sessions) == 3
    return plan


def later_schema(store: ObjectStore, key: str) -> None:
    plain = codec.decode(codec.unguarded(store.get(key).data, key=key), key=key)
    store.put(key, codec.guarded(codec.encode({**plain, "schema_version": NEWEST_VERSION + 1})), Overwrite())


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda store, key: flip(store, key, 30), CorruptSnapshotError),
        (later_schema, UnsupportedSchemaError),
        (missing, SessionNotFoundError),
    ],
    ids=["altered", "later schema", "missing"],
)
def test_a_head_that_cannot_be_read_keeps_no_other_from_being_repaired(
    place: Place, damage: Damage, expected: type[Exception]
) -> None:
    plan = of_three(place)
    damage(place.store, LAYOUT.head("s2"))
    report = execute(plan)
    assert {one.session_id for one in report.repaired} == {SESSION, "s3"}
    assert [(one.session_id, type(one.error)) for one in report.refused] == [("s2", expected)]
    assert (place.findings(SESSION), place.findings("s3")) == (set(), set())


def test_a_plan_of_several_sessions_reports_every_refusal(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = of_three(place)
    monkeypatch.setattr(execution, "HEAD_COMMIT_BYTES_MAX", 100)
    report = execute(plan)
    assert report.repaired == ()
    assert [type(one.error) for one in report.refused] == [LimitExceededError] * 3
    with pytest.raises(LimitExceededError):
        execute(plan_repair(place.repo, "s2"))


def requests_of_a_plan(forks: int) -> Counter[str]:
    """Return how often each pack is read, and their listing, for a plan of so many forks of one damaged pack."""
    place = Place(turns=9)
    for number in range(forks):
        place.repo.fork(SESSION, f"f{number}", 9)
    missing(place.store, place.pack_of(9))
    place.watched.start_over()
    plan = plan_repair(place.repo)
    assert len(plan.sessions) == forks + 1
    read = Counter(key for _, key in place.watched.requests if key.startswith(LAYOUT.family(SESSION)))
    place.close()
    return read


def test_forks_that_share_a_damaged_pack_are_planned_from_one_look_at_the_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = requests_of_a_plan(3)
    monkeypatch.setattr(planning, "FAMILIES_MAX", 0)
    alone = requests_of_a_plan(3)
    listing = LAYOUT.family(SESSION)
    assert alone[listing] - shared[listing] == 3
    assert shared.total() < alone.total()


def test_a_head_that_is_damaged_while_it_is_planned_keeps_no_other_from_it(place: Place) -> None:
    of_three(place)
    key = LAYOUT.head("s2")
    place.watched.start_over()
    plan_repair(place.repo)
    last = max(number for number, (_, one) in enumerate(place.watched.requests, start=1) if one == key)
    place.watched.start_over()
    place.watched.act(last, lambda: flip(place.store, key, 30))
    plan = plan_repair(place.repo)
    assert {one.session_id for one in plan.sessions if one.writes} == {SESSION, "s3"}
    execute(plan)
    assert {one.key for one in place.findings()} == {key}


# A second run.


@pytest.mark.parametrize("damage", [altered_index, altered_begin], ids=["rebuild", "fall back"])
def test_a_second_run_reports_the_copies_of_the_first(place: Place, damage: Damage) -> None:
    damage(place.store, place.pack_of(TURNS))
    plan = plan_repair(place.repo)
    place.faulty.plan.on("put", LAYOUT.heads, nth=1, fault=CrashAfter())
    with pytest.raises(Crash):
        execute(plan)
    place.faulty.restart()
    place.faulty.plan.clear()
    (one,) = execute(plan).repaired
    copies = {row.key for row in place.store.list(LAYOUT.quarantine)}
    assert copies
    assert {copy.copy_key for copy in one.quarantined} == copies
    assert {copy.key for copy in one.quarantined} == set(plan.sessions[0].left)


def test_whole_revisions_that_a_fall_back_gives_up_are_told(place: Place) -> None:
    key = place.pack_of(TURNS)
    missing(place.store, key)
    environment = place.repo.environment
    head = read_live_head(environment, SESSION).head
    survey = Survey(environment, head, Remains(environment, head), frozenset({key.rpartition("/")[2]}))
    identity = Identity(environment.clock.new_id(), environment.clock.now(), None)
    names = (pack_name(identity.commit_id, "1" * 32), pack_name(identity.commit_id, "2" * 32))
    staged = Restaging(survey, TURNS - 2, identity, names).staged()
    assert set(survey.whole) == set(range(1, TURNS))
    assert staged.dropped == (TURNS - 1, TURNS)
