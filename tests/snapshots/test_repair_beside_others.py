"""Repairing beside others: uploads in vain, pins set meanwhile, commits on top, other sessions of one plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import snapshots.fork
import snapshots.staging
from snapshots.logs import Segment
from snapshots.maintenance import restage
from snapshots.maintenance.collect import execute as collect
from snapshots.maintenance.collect import plan_collect
from snapshots.maintenance.places import places_of
from snapshots.maintenance.remains import Remains
from snapshots.maintenance.repair import Action, execute, plan_repair
from snapshots.maintenance.segments import Segments
from snapshots.placement import Placement
from snapshots.restore import read_live_head, read_manifest
from storage.digest import BlobRef
from storage.testing.faults import Meanwhile
from tests.integration.builders import SESSION
from tests.integration.turns import stamp, take
from tests.snapshots.damage import LAYOUT, altered_index, blobs_of, flip, missing, named, whole
from tests.snapshots.test_repair import LARGE, TURNS, Place


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


# Uploads in vain.


@pytest.fixture
def large_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no manifest stand in a head, as it is when they are large."""
    for module in (snapshots.staging, snapshots.fork, restage):
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
    for kind in ("execution-state", "graph"):
        blob = blobs_of(place.store, key, kind)[0]
        flip(place.store, key, blob.extents[0].offset + 30)
    plan, _ = place.repair()
    assert (plan.sessions[0].target, plan.sessions[0].dropped) == (TURNS, (TURNS + 1,))


# Many revisions.


class CountedSegments(Segments):
    """Counts how often each segment of rows is parsed."""

    def __init__(self, remains: Remains) -> None:
        super().__init__(remains)
        self.parsed: list[BlobRef] = []

    def rows(self, segment: Segment, where: Placement, parse: Any) -> tuple[Any, ...]:
        self.parsed.append(segment.ref)
        return super().rows(segment, where, parse)


def test_each_segment_of_the_logs_of_places_is_parsed_once() -> None:
    place = Place(turns=40)
    environment = place.repo.environment
    head = read_live_head(environment, SESSION).head
    present = read_manifest(environment, head).placement
    expected = places_of(head, present, Remains(environment, SESSION), Segments(Remains(environment, SESSION)))
    lost = present.places[0]
    assert lost.count >= 16
    missing(place.store, LAYOUT.pack(SESSION, present.extents[lost.ref.digest][0].pack))
    remains = Remains(environment, SESSION)
    segments = CountedSegments(remains)
    assert places_of(head, present, remains, segments) == expected
    parsed = [ref for ref in segments.parsed if ref != lost.ref]
    assert len(parsed) == len(set(parsed))
    place.close()
