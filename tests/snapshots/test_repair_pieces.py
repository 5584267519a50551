"""Repairing what lies in pieces: spliced parts, manifests that stand against others, carried packs, packs in heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

import snapshots.fork
import snapshots.staging
from snapshots.compaction import Limits
from snapshots.errors import CorruptSnapshotError
from snapshots.maintenance.collect import execute as collect
from snapshots.maintenance.collect import plan_collect
from snapshots.maintenance.needs import books_of
from snapshots.maintenance.prune import Retention, plan_prune
from snapshots.maintenance.prune import execute as prune
from snapshots.maintenance.repair import Action
from snapshots.maintenance.repair.places import places_of
from snapshots.maintenance.repair.remains import Remains
from snapshots.maintenance.repair.together import LostError, Positions, put_together
from snapshots.reading import named_by, read_manifest, read_places
from storage.digest import blob_ref
from storage.errors import NotFoundError
from storage.extents import Extent, Read
from storage.store import ByteRange, Create, Overwrite
from storage.testing.draws import Draws
from tests.integration.builders import SESSION, raw_head, rewrite_head
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
    flip,
    leaving_apart,
    log_in,
    missing,
    named,
    packs,
    whole,
)
from tests.snapshots.test_repair import IN_PACKS, LARGE, Place, actions

MERGING = Limits(packs=6, merged=3, tail_pack_bytes=0)
BOTH = Limits(packs=5, merged=2, tail_pack_bytes=2500, tail_bytes=5000)
TURNS = 20  # in which packs are merged three times
APART = {"in packs": IN_PACKS, "merging": MERGING, "some in the head": BOTH}


class Memory:
    """Large execution states that differ little from one another, so that each is spliced from those before it."""

    def __init__(self) -> None:
        self._draw = Random(7)
        self._bytes = bytearray(self._draw.randbytes(1 << 20))

    def edited(self) -> bytes:
        for page in self._draw.sample(range(256), 1):
            self._bytes[page << 12 : (page + 1) << 12] = self._draw.randbytes(1 << 12)
        return bytes(self._bytes)


class Turns:
    """Turns of writers that know the revision before, each other than all before."""

    def __init__(self, place: Place, memory: Memory | None) -> None:
        self._place = place
        self._memory = memory
        self._turn = 100

    def take(self, session_id: str, count: int) -> None:
        state = self._place.repo.load(session_id)
        for _ in range(count):
            self._turn += 1
            small = take(state, self._turn)
            execution_state = small if self._memory is None else self._memory.edited()
            self._place.repo.commit(state, stamp(self._turn), execution_state)


def editing(place: Place, count: int) -> None:
    """Give the session so many more revisions, each with another large execution state and nothing else."""
    state, memory = place.repo.load(SESSION), Memory()
    for _ in range(count):
        place.repo.commit(state, execution_state=memory.edited())


@pytest.fixture
def large_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no manifest stand in a head, as it is when they are large."""
    for module in (snapshots.staging, snapshots.fork):
        monkeypatch.setattr(module, "INLINE_MANIFEST_BYTES_MAX", 10)


@pytest.fixture
def merged() -> Iterator[Place]:
    made = Place(turns=TURNS, limits=MERGING)
    yield made
    made.close()


def carrying(place: Place) -> list[str]:
    """Return the keys of the packs that carry others, oldest first."""
    environment, head = place.repo.environment, raw_head(place.store)
    rows = read_places(environment, head, read_manifest(environment, head).placement)
    return [LAYOUT.pack(SESSION, name) for name in dict.fromkeys(move.into for row in rows for move in row.moved)]


def number_of(place: Place, key: str) -> int:
    """Return the revision whose commit wrote a pack."""
    ids = [row.commit_id for row in place.repo.history(SESSION)]
    return ids.index(key.rpartition("/")[2].partition(".")[0]) + 1


# Carried packs.


@pytest.mark.parametrize("damage", [*INDEX_DAMAGE.values(), altered_begin], ids=lambda one: one.__name__)
def test_a_pack_that_carries_others_is_stored_again_as_far_as_it_is_damaged(merged: Place, damage: Damage) -> None:
    before = whole(merged.repo, SESSION)
    for key in carrying(merged):
        damage(merged.store, key)
    plan, report = merged.repair()
    assert (actions(plan), report.remaining) == ({Action.REBUILD}, ())
    assert whole(merged.repo, SESSION) == before


@pytest.mark.parametrize("index", [0, 1, 2])
def test_what_a_lost_pack_carried_is_had_from_where_it_lay_before(merged: Place, index: int) -> None:
    key = carrying(merged)[index]
    before, revision = whole(merged.repo, SESSION), number_of(merged, key)
    missing(merged.store, key)
    plan, report = merged.repair()
    (one,) = plan.sessions
    assert (one.target, report.remaining) == (revision - 1, ())
    after = whole(merged.repo, SESSION)
    assert sorted(after) == [*range(1, revision), TURNS + 1]
    assert all(before[number] == after[number] for number in range(1, revision))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_what_a_row_said_of_carried_packs_is_seen_where_the_pieces_lie(merged: Place, index: int) -> None:
    environment, head = merged.repo.environment, raw_head(merged.store)
    present = read_manifest(environment, head)
    expected = tuple(read_places(environment, head, present.placement))
    missing(merged.store, carrying(merged)[index])
    assert places_of(head, present.checkpoint, present.placement, Remains(environment, head)) == expected


def test_after_a_collection_nothing_but_the_carrying_pack_has_what_it_carried(merged: Place) -> None:
    collect(plan_collect(merged.repo))
    before = whole(merged.repo, SESSION)
    missing(merged.store, carrying(merged)[0])
    plan, report = merged.repair()
    assert not plan.writes
    assert all(one.action is Action.NONE for one in report.remaining)
    assert before


def test_pieces_are_looked_for_where_any_session_carried_their_pack_to(merged: Place) -> None:
    environment, head = merged.repo.environment, raw_head(merged.store)
    rows = read_places(environment, head, read_manifest(environment, head).placement)
    remains = Remains(environment, head)
    found = remains.family.in_packs
    assert found.homes(remains.pieces) == (books_of(rows).homes,)
    first = next(one for one in found.manifests if one.checkpoint.revision == 1)
    ref = first.checkpoint.graph.ref
    extents = first.placement().extents[ref.digest]
    missing(merged.store, LAYOUT.pack(SESSION, extents[0].pack))
    before, now = remains.wherever([extents], found)
    assert before == extents
    fresh = Remains(environment, head)
    with pytest.raises(LostError):
        put_together(fresh.pieces, ref, before)
    assert blob_ref(put_together(fresh.pieces, ref, now)) == ref


def test_a_fork_is_mended_from_where_its_parent_carried_the_pack_to() -> None:
    place = Place(turns=5, limits=MERGING)
    place.repo.fork(SESSION, "f1")
    for turn in range(6, 9):
        place.turn(turn)
        place.turn(turn + 50, "f1")
    collect(plan_collect(place.repo))
    before = {name: whole(place.repo, name) for name in (SESSION, "f1")}
    alone = named(place.repo, "f1") - named(place.repo, SESSION)
    (mine, *_) = [key for key in sorted(alone) if len(log_in(place.repo, "f1", key, "graph")) > 1]
    flip(place.store, mine, log_in(place.repo, "f1", mine, "graph")[0].offset + 30)
    assert place.findings("f1")
    _, report = place.repair()
    assert report.remaining == ()
    assert {name: whole(place.repo, name) for name in before} == before
    place.close()


def test_a_piece_is_cut_out_of_a_log_that_is_another_one_behind_it() -> None:
    place = Place(turns=4)
    place.repo.fork(SESSION, "f1", 2)
    place.turn(50, "f1")
    place.afresh(5)  # has the nodes that both have in common, and goes on otherwise
    before = {name: whole(place.repo, name) for name in (SESSION, "f1")}
    altered_begin(place.store, place.pack_of(1))
    _, report = place.repair()
    assert report.remaining == ()
    assert {name: whole(place.repo, name) for name in before} == before
    place.close()


# Spliced parts, and manifests that stand against others.


def test_only_what_lay_in_the_damaged_pack_is_stored_again() -> None:
    place = Place(turns=1)
    editing(place, 8)
    before, sizes = whole(place.repo, SESSION), {key: place.store.stat(key).size_bytes for key in packs(place.store)}
    altered_index(place.store, place.pack_of(4))
    place.repair()
    assert whole(place.repo, SESSION) == before
    (new,) = set(packs(place.store)) - sizes.keys()
    assert place.store.stat(new).size_bytes < 4 * sizes[place.pack_of(3)] < max(sizes.values()) // 4
    place.close()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_states_that_are_spliced_from_a_damaged_pack_are_mended_or_given_up(damage: Damage) -> None:
    place = Place(turns=1)
    editing(place, 8)
    before = whole(place.repo, SESSION)
    damage(place.store, place.pack_of(5))
    _, report = place.repair()
    after = whole(place.repo, SESSION)
    assert all(before.get(number, text) == text for number, text in after.items())
    if damage in INDEX_DAMAGE.values():
        assert (after, report.remaining) == (before, ())
    elif damage is altered_manifest:
        assert sorted(after) == [1, 2, 3, 4, 6, 7, 8, 9]
    else:
        assert sorted(after) == [1, 2, 3, 4, 10]
    place.close()


def test_manifests_are_found_that_stand_against_others_though_no_index_is_left() -> None:
    place = Place(turns=1)
    editing(place, 12)
    environment, head = place.repo.environment, raw_head(place.store)
    present = read_manifest(environment, head)
    rows = (*read_places(environment, head, present.placement), named_by(head))
    expected = {(row.revision, row.manifest) for row in rows}
    assert sum(place.against is not None for _, place in expected) > 1
    for key in packs(place.store):
        altered_index(place.store, key)
    found = Remains(environment, head).family.in_packs.manifests
    assert {(one.checkpoint.revision, one.place) for one in found} == expected
    place.close()


def test_manifests_that_are_written_again_stand_against_one_that_is_in_full() -> None:
    place = Place(turns=1)
    editing(place, 12)
    before = whole(place.repo, SESSION)
    altered_index(place.store, place.pack_of(1))
    place.repair()
    environment, head = place.repo.environment, raw_head(place.store)
    rows = (*read_places(environment, head, read_manifest(environment, head).placement), named_by(head))
    assert len({row.manifest.pack for row in rows}) == 1
    assert sum(row.manifest.against is not None for row in rows) >= 3
    assert whole(place.repo, SESSION) == before
    place.close()


def test_a_head_that_reads_what_nothing_keeps_is_written_again() -> None:
    place = Place()
    before = whole(place.repo, SESSION)
    reads = (Read(f"{'ab' * 16}.{'cd' * 8}", ByteRange(0, 10)),)
    rewrite_head(place.store, lambda head: replace(head, inline_manifest=b"", reads=reads, write_id="ef" * 16))
    with pytest.raises(CorruptSnapshotError, match="missing"):
        place.repo.load(SESSION)
    _, report = place.repair()
    assert report.remaining == ()
    assert whole(place.repo, SESSION) == before
    place.close()


@pytest.mark.usefixtures("large_manifests")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_mended_head_reads_only_what_it_keeps(damage: Damage) -> None:
    place = Place()
    assert raw_head(place.store).reads
    damage(place.store, place.pack_of(4))
    place.repair()
    head = raw_head(place.store)
    assert {LAYOUT.pack(SESSION, read.pack) for read in head.reads} <= named(place.repo, SESSION)
    assert place.repo.load(SESSION).head_revision == head.revision
    place.close()


# Damage behind damage.


def test_damage_that_other_damage_hid_is_mended_in_the_same_run() -> None:
    place = Place(turns=3)
    place.turn(4, execution_state=LARGE)
    place.repo.fork(SESSION, "f1", 3)
    place.turn(50, "f1", LARGE)  # has it in a pack of its own
    place.turn(6)  # leaves the execution state as it is
    prune(plan_prune(place.repo, SESSION, Retention(last=1)))
    before, hidden, manifest = whole(place.repo, SESSION), place.pack_of(4), place.pack_of(5)
    (blob,) = blobs_of(place.store, hidden, "execution-state")
    flip(place.store, hidden, blob.extents[0].offset + 30)
    altered_manifest(place.store, manifest)
    assert {one.key for one in place.findings()} == {manifest}
    plan, report = place.repair()
    assert (actions(plan), report.remaining) == ({Action.REBUILD}, ())
    assert whole(place.repo, SESSION) == before
    place.close()


# Packs in the head.


def test_a_repair_leaves_what_lies_in_the_head_where_it_is() -> None:
    place = Place(turns=9, limits=BOTH)
    for turn in (10, 11):
        if not raw_head(place.store).tail:
            place.turn(turn)
    head = raw_head(place.store)
    assert head.tail
    assert len(packs(place.store)) > 3
    before = whole(place.repo, SESSION)
    for key in packs(place.store):
        altered_index(place.store, key)
    _, report = place.repair()
    assert report.remaining == ()
    assert raw_head(place.store).tail == head.tail
    assert whole(place.repo, SESSION) == before
    for turn in range(12, 17):  # these carry it
        place.turn(turn)
    assert place.findings() == set()
    after = whole(place.repo, SESSION)
    assert {number: after[number] for number in before} == before
    place.close()


def test_a_fall_back_may_lie_in_the_head() -> None:
    place = Place(turns=4)
    leaving_apart(place.repo, BOTH)
    missing(place.store, place.pack_of(4))
    plan, report = place.repair()
    assert (plan.sessions[0].target, report.remaining) == (3, ())
    head = raw_head(place.store)
    assert [pack.name for pack in head.tail] == [head.manifest.pack if head.manifest else ""]
    place.turn(4)
    assert place.findings() == set()
    place.close()


# Many.


@pytest.mark.aside
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("limits", APART.values(), ids=APART)
def test_stores_of_many_damaged_packs_are_repaired_as_far_as_they_can_be(limits: Limits, large: bool) -> None:
    draws = Draws(f"many {limits} {large}")
    for _ in range(5):
        place = Place(turns=1, limits=limits)
        turns = Turns(place, Memory() if large else None)
        turns.take(SESSION, 9)
        place.repo.fork(SESSION, "f1", 4)
        turns.take("f1", 3)
        place.repo.restore(SESSION, 5)
        turns.take(SESSION, 5)
        turns.take("f1", 4)
        before = {name: whole(place.repo, name) for name in (SESSION, "f1")}
        keys, kinds = packs(place.store), list(DAMAGE.values())
        for _ in range(1 + draws.below(3)):
            kinds[draws.below(len(kinds))](place.store, keys.pop(draws.below(len(keys))))
        _, report = place.repair()
        collect(plan_collect(place.repo))
        assert place.findings() == {one.finding for one in report.remaining}
        for name, states in before.items():
            if not any(one.finding.session_id == name for one in report.remaining):
                after = whole(place.repo, name)
                assert all(states.get(number, text) == text for number, text in after.items())
                assert after.keys() - states.keys() <= {max(states) + 1}
                turns.take(name, 1)
        place.close()


# Putting together.


def pieces_of(place: Place) -> tuple[Remains, bytes, tuple[Extent, ...]]:
    """Return the graph of the present revision: where it can be read, its bytes, and its pieces."""
    environment, head = place.repo.environment, raw_head(place.store)
    manifest = read_manifest(environment, head)
    remains = Remains(environment, head)
    ref = manifest.checkpoint.graph.ref
    extents = manifest.placement.extents[ref.digest]
    return remains, put_together(remains.pieces, ref, extents), extents


def test_a_blob_is_put_together_from_pieces_of_several_places() -> None:
    place = Place(turns=6)
    _, data, own = pieces_of(place)
    place.afresh(7)
    _, longer, other = pieces_of(place)
    assert longer[: len(data)] == data
    altered_begin(place.store, place.pack_of(1))
    altered_begin(place.store, place.pack_of(4))
    remains = Remains(place.repo.environment, raw_head(place.store))
    assert put_together(remains.pieces, blob_ref(data), own, Positions([other])) == data
    with pytest.raises(LostError) as caught:
        put_together(remains.pieces, blob_ref(data), own)
    assert caught.value.gap == 0
    place.close()


def test_only_the_digest_decides_what_a_blob_is() -> None:
    place = Place(turns=3)
    remains, data, own = pieces_of(place)
    with pytest.raises(LostError) as caught:
        put_together(remains.pieces, blob_ref(data[:-1] + b"x"), own)
    assert caught.value.gap == -1, "nothing is missing, and it is not that blob"
    place.close()


def test_what_is_said_of_a_cut_pack_does_not_depend_on_what_is_read_together() -> None:
    place = Place(turns=3)
    environment, head = place.repo.environment, raw_head(place.store)
    key = place.pack_of(2)
    name = key.rpartition("/")[2]
    placed = read_manifest(environment, head).placement
    lying = sorted({one for many in placed.extents.values() for one in many if one.pack == name})
    assert len(lying) > 2
    for kept in (lying[0].offset + 5, lying[0].stored_bytes, lying[-1].offset + 5):
        data = place.store.get(key).data
        place.store.put(key, data[:kept], Overwrite())
        together = Remains(environment, head).pieces.fetch(lying)
        alone = [Remains(environment, head).pieces.fetch([one]).fault(one) for one in lying]
        assert list(map(str, map(together.fault, lying))) == list(map(str, alone))
        place.store.put(key, data, Overwrite())
    place.close()


def test_what_is_missing_is_asked_for_again() -> None:
    place = Place(turns=3)
    remains, data, own = pieces_of(place)
    key = place.pack_of(2)
    stored = place.store.get(key)
    remains = Remains(place.repo.environment, raw_head(place.store))
    place.store.delete(key)
    fetched = remains.pieces.fetch(own)
    with pytest.raises(NotFoundError):
        fetched.piece(own[1])
    place.other.environment.store.put(key, stored.data, Create())
    assert put_together(remains.pieces, blob_ref(data), own) == data
    place.close()
