"""Verifying: every kind of damage is found and named, a healthy store has none, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import accumulate
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots import PersistedSessionState, SnapshotRepository, codec
from snapshots.checkpoint import SessionCheckpoint
from snapshots.compaction import Limits
from snapshots.errors import CorruptSnapshotError, SessionNotFoundError
from snapshots.fields import NEWEST_VERSION
from snapshots.head import Head, Ring
from snapshots.history import REWIND
from snapshots.layout import Layout, pack_name
from snapshots.logs import LogRef
from snapshots.maintenance import blobs, pieces
from snapshots.maintenance import memory as memory_module
from snapshots.maintenance import revisions as revisions_module
from snapshots.maintenance.entries import entries_in, entry_ends
from snapshots.maintenance.findings import Finding, Verified, What
from snapshots.maintenance.memory import Remembered
from snapshots.maintenance.needs import packs_needed
from snapshots.maintenance.verify import Level, verify
from snapshots.pins import Pin
from snapshots.placement import ManifestPlace, PackUse, Placement, manifest_bytes, seal_manifest
from snapshots.reading import HeadRead, named_by, read_base, read_manifest, read_places
from snapshots.roots import named_packs
from snapshots.state import SessionNodeRecord, nodes_from_plain
from storage.backends.memory import MemoryStore
from storage.digest import blob_ref
from storage.errors import UnavailableError
from storage.extents import Extent, Read
from storage.pack_reader import PackReader
from storage.packs import PackBuilder, read_index
from storage.store import ByteRange, Create, Overwrite, Version
from storage.testing.clock import ManualClock
from storage.testing.draws import Draws
from storage.testing.faults import FailBefore, FaultyStore
from tests.integration.builders import SESSION, WatchedStore, raw_head, rewrite_head
from tests.integration.turns import stamp, take
from tests.snapshots.damage import leaving_apart

TURNS = 5
LAYOUT = Layout("default")
LEVELS: tuple[Level, ...] = ("heads", "presence", "full")
IN_PACKS = Limits(tail_pack_bytes=0)  # each commit has a pack in the store
MERGING = Limits(packs=4, merged=2, tail_pack_bytes=0)
IN_HEAD = Limits()  # small ones lie in the head
BOTH = Limits(packs=4, merged=2, tail_pack_bytes=2500, tail_bytes=5000)
APART = pytest.mark.parametrize("limits", [MERGING, IN_HEAD, BOTH], ids=["merging", "in the head", "both"])


class Place:
    """A store with one session of five revisions, and a repository that can be watched and fail."""

    def __init__(self, limits: Limits = IN_PACKS) -> None:
        self.store = MemoryStore()
        self.faulty = FaultyStore(self.store)
        self.watched = WatchedStore(self.faulty)
        self.repo = leaving_apart(SnapshotRepository(self.watched, clock=ManualClock(seed=1)), limits)
        self.state = self.session(SESSION)
        self.watched.start_over()

    def session(self, session_id: str, turns: int = TURNS) -> PersistedSessionState:
        state = PersistedSessionState(session_id=session_id)
        for turn in range(1, turns + 1):
            self.turn(state, turn)
        return state

    def turn(self, state: PersistedSessionState, turn: int) -> None:
        execution_state = take(state, turn)
        self.repo.commit(state, stamp(turn), execution_state)

    def packs(self, family: str = SESSION) -> list[str]:
        return [row.key for row in self.store.list(f"default/packs/{family}/")]

    def overwrite(self, key: str, data: bytes) -> None:
        self.store.put(key, data, Overwrite())

    def flip(self, key: str, position: int) -> None:
        damaged = bytearray(self.store.get(key).data)
        damaged[position] ^= 1 << (position % 8)
        self.overwrite(key, bytes(damaged))

    def findings(self, **options: Any) -> list[Finding]:
        return [one for one in verify(self.repo, **options) if isinstance(one, Finding)]

    def pack_of(self, revision: int) -> str:
        """Return the key of the pack that the commit of a revision wrote."""
        commit_id = self.repo.history(SESSION)[revision - 1].commit_id
        (key,) = [key for key in self.packs() if commit_id in key]
        return key


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.repo.close()


def kinds(findings: list[Finding]) -> set[What]:
    return {one.what for one in findings}


def revisions(findings: list[Finding]) -> set[int | None]:
    return {one.revision for one in findings}


# Healthy stores.


def grown(place: Place) -> None:
    """Fill a store with what sessions do: forks of forks, rewinds, restores, pins, an owner, deletions."""
    repo = place.repo
    repo.fork(SESSION, "f1")
    repo.fork("f1", "f2", plugins="fresh")
    repo.fork(SESSION, "f3", revision=2)
    for name in ("f1", "f3"):
        state = repo.load(name)
        for turn in range(10, 14):
            place.turn(state, turn)
    repo.rewind(SESSION, 2)
    repo.restore(SESSION, 4)
    place.turn(repo.load(SESSION), 20)
    repo.pin(SESSION, 3, "good")
    place.session("s2", 1)
    repo.delete("s2")
    writer = repo.acquire("f3", "owner")
    writer.begin_turn("t")
    repo.claim_lease("f3", "owner", 60)
    state = repo.load("f2")
    state.graph_replace_required = True
    place.turn(state, 30)
    for turn in range(31, 110):  # more than the rings hold
        place.turn(state, turn)
    repo.rewind("f2", 20)


@pytest.mark.parametrize("level", LEVELS)
def test_a_healthy_store_has_no_findings(place: Place, level: Level) -> None:
    grown(place)
    reported = list(verify(place.repo, level=level))
    assert [one for one in reported if isinstance(one, Finding)] == []
    verified = [one for one in reported if isinstance(one, Verified)]
    assert [one.key for one in verified] == [row.key for row in place.store.list("default/heads/")]
    assert {one.session_id for one in verified} == {SESSION, "s2", "f1", "f2", "f3"}
    counts = {one.session_id: one.revisions for one in verified}
    expected = {info.session_id: info.revision for info in place.repo.sessions() if info.status == "live"}
    assert counts == {"s2": 0, **(expected if level == "full" else dict.fromkeys(expected, 0))}


@APART
@pytest.mark.parametrize("level", LEVELS)
def test_packs_that_are_carried_or_lie_in_a_head_are_no_findings(level: Level, limits: Limits) -> None:
    place = Place(limits)
    grown(place)
    reported = list(verify(place.repo, level=level))
    assert [one for one in reported if isinstance(one, Finding)] == []
    if level == "full":
        expected = {info.session_id: info.revision for info in place.repo.sessions() if info.status == "live"}
        assert {one.session_id: one.revisions for one in reported if isinstance(one, Verified)} == {"s2": 0, **expected}
    place.repo.close()


def test_nothing_is_written(place: Place) -> None:
    grown(place)
    place.watched.start_over()
    for level in LEVELS:
        assert place.findings(level=level) == []
    assert {verb for verb, _ in place.watched.requests} == {"get", "list", "stat"}


def test_presence_lists_a_family_once_and_stats_no_pack(place: Place) -> None:
    for child in ("f1", "f2"):
        place.repo.fork(SESSION, child)
    place.watched.start_over()
    assert place.findings(level="presence") == []
    assert [key for verb, key in place.watched.requests if verb == "stat"] == [LAYOUT.head(SESSION)]
    assert sorted(key for verb, key in place.watched.requests if verb == "list") == [
        "default/heads/",
        f"default/packs/{SESSION}/",
    ]


def test_blobs_that_revisions_and_forks_share_are_read_once(place: Place) -> None:
    execution_state = b"".join(Draws(number).hex_id().encode() for number in range(10_000))
    place.repo.commit(place.state, execution_state=execution_state)
    place.turn(place.state, 6)  # leaves the execution state as it is
    alone = bytes_read(place)
    assert alone > len(execution_state) // 2
    for number in range(4):
        place.repo.fork(SESSION, f"f{number}")
    assert bytes_read(place) - alone < len(execution_state) // 10


def bytes_read(place: Place) -> int:
    before = place.repo.metrics.snapshot()["get"].bytes_in
    assert place.findings() == []
    return place.repo.metrics.snapshot()["get"].bytes_in - before


def test_one_session_alone(place: Place) -> None:
    place.session("s2", 2)
    place.flip(place.pack_of(1), 20)
    assert place.findings(session_id="s2") == []
    found = place.findings(session_id=SESSION)
    assert found
    assert {one.session_id for one in found} == {SESSION}
    with pytest.raises(SessionNotFoundError):
        list(verify(place.repo, session_id="none"))


def test_it_goes_on_after_the_last_session_reported(place: Place) -> None:
    for number in range(5):
        place.session(f"n{number}", 1)
    keys = [one.key for one in verify(place.repo) if isinstance(one, Verified)]
    assert len(keys) == 6
    rest = [one.key for one in verify(place.repo, start_after=keys[3]) if isinstance(one, Verified)]
    assert rest == keys[4:]


def test_a_store_that_does_not_answer_is_no_finding(place: Place) -> None:
    place.faulty.plan.on("get", "packs/", fault=FailBefore())
    with pytest.raises(UnavailableError):
        list(verify(place.repo))


# Packs.


def test_every_flipped_bit_in_a_pack_is_found(place: Place) -> None:
    for key in place.packs():
        size = place.store.stat(key).size_bytes
        for position in {*range(0, size, 97), *range(size - 24, size, 5)}:
            place.flip(key, position)
            found = place.findings()
            assert found, f"{key} at {position}"
            assert {one.key for one in found} == {key}, "the damaged object is named"
            assert kinds(found) <= {What.ALTERED, What.PACK, What.MANIFEST}
            place.flip(key, position)
    assert place.findings() == []


def test_damage_names_the_blob_and_every_revision_that_needs_it(place: Place) -> None:
    large = b"".join(Draws(number).hex_id().encode() for number in range(3_000))  # has frames of its own
    place.repo.commit(place.state, execution_state=large)
    place.turn(place.state, 6)  # leaves the execution state as it is
    place.turn(place.state, 7)
    key = place.pack_of(TURNS + 1)
    index = read_index(place.store, key, key.rpartition("/")[2])
    (part,) = [one for one in index.blobs if one.kind == "execution-state"]
    place.flip(key, part.extents[0].offset + 30)
    broken = set()
    for revision in range(1, TURNS + 4):
        try:
            place.repo.load(SESSION, revision, execution_state=True)
        except CorruptSnapshotError:
            broken.add(revision)
    found = place.findings()
    assert revisions(found) == broken == {TURNS + 1, TURNS + 2}
    assert part.ref.digest in {one.ref for one in found}
    assert kinds(found) == {What.ALTERED}


@pytest.mark.parametrize("kept", [0, 1, 17, 100, -1, -24, -25])
def test_a_truncated_pack_is_found(place: Place, kept: int) -> None:
    for key in place.packs():
        whole = place.store.get(key).data
        place.overwrite(key, whole[:kept])
        assert key in {one.key for one in place.findings()}
        place.overwrite(key, whole)


@pytest.mark.parametrize("level", ["presence", "full"])
def test_a_missing_pack_is_found(place: Place, level: Level) -> None:
    for key in place.packs():
        whole = place.store.get(key).data
        place.store.delete(key)
        found = place.findings(level=level)
        assert {one.key for one in found} == {key}
        assert kinds(found) == {What.MISSING}
        assert place.findings(level="heads") == []
        place.overwrite(key, whole)


def test_presence_names_the_first_revision_that_needs_the_pack(place: Place) -> None:
    key = place.pack_of(2)
    place.store.delete(key)
    found = place.findings(level="presence")
    assert {(one.session_id, one.key) for one in found} == {(SESSION, key)}
    logs, packs = [one for one in found if one.ref], [one for one in found if not one.ref]
    assert revisions(packs) == {2}
    assert revisions(logs) == {TURNS}, "pieces of the present logs lie there too"


def test_the_pack_of_another_family_under_our_key_is_found(place: Place) -> None:
    place.session("s2", 1)
    (other,) = place.packs("s2")
    key = place.pack_of(4)
    place.overwrite(key, place.store.get(other).data)
    found = place.findings()
    assert {one.key for one in found} == {key}
    assert "'s2'" in next(one.reason for one in found if one.what is What.PACK)


def test_a_pack_that_lies_with_another_family_is_missing(place: Place) -> None:
    key = place.pack_of(4)
    place.overwrite(key.replace(f"/{SESSION}/", "/s2/"), place.store.get(key).data)
    place.store.delete(key)
    for level in ("presence", "full"):
        assert kinds(place.findings(level=level)) == {What.MISSING}


def test_the_pack_of_another_revision_is_found(place: Place) -> None:
    place.overwrite(place.pack_of(4), place.store.get(place.pack_of(3)).data)
    assert {4, 5} <= revisions(place.findings())


def test_a_damaged_log_does_not_hide_other_damage(place: Place) -> None:
    place.turn(place.state, TURNS + 1)
    last, earlier = place.pack_of(TURNS + 1), place.pack_of(2)
    base = read_base(place.repo.environment, HeadRead(raw_head(place.store), Version("")))
    log = base.checkpoint.history.ref
    place.flip(last, base.placement.extents[log.digest][-1].offset + 30)
    place.flip(earlier, 30)
    found = place.findings()
    assert log.digest in {one.ref for one in found}
    assert len(set(found)) == len(found)
    assert {2, TURNS + 1} <= revisions(found)


# Logs.


def logs_of(place: Place) -> dict[str, tuple[Extent, ...]]:
    """Return where the logs of the present revision lie."""
    base = read_base(place.repo.environment, HeadRead(raw_head(place.store), Version("")))
    logs = {"graph": base.checkpoint.graph, "history": base.checkpoint.history, "places": base.placement.places}
    return {kind: base.placement.extents[at.ref.digest] for kind, at in logs.items()}


def damage(place: Place, extent: Extent) -> str:
    """Alter the frame of a piece; return the key of its pack."""
    key = LAYOUT.pack(SESSION, extent.pack)
    place.flip(key, extent.offset + extent.stored_bytes - 1)
    return key


def test_what_the_logs_of_many_revisions_share_is_decoded_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def counted(plain: list[Any]) -> list[SessionNodeRecord]:
        decoded.append(len(plain))
        return nodes_from_plain(plain)

    for turn in range(TURNS + 1, 30):
        place.turn(place.state, turn)
    monkeypatch.setattr(revisions_module, "nodes_from_plain", counted)
    assert place.findings() == []
    nodes = len(place.state.session_graph.nodes)
    assert nodes <= sum(decoded) < 1.2 * nodes  # where packs are merged, pieces are cut otherwise


def test_what_is_read_for_it_is_in_proportion_to_what_is_stored() -> None:
    read = []
    for turns in (20, 40):
        place = Place(Limits(packs=100, tail_pack_bytes=0))
        for turn in range(TURNS + 1, turns + 1):
            place.turn(place.state, turn)
        place.watched.start_over()
        read.append((bytes_read(place), len(place.watched.requests)))
        place.repo.close()
    (few, few_requests), (many, many_requests) = read
    assert many < 2.6 * few  # its manifests grow
    assert many_requests < 2.1 * few_requests


def test_graphs_that_branch_are_verified_branch_by_branch(place: Place) -> None:
    for back in (4, 2, 5):
        place.repo.restore(SESSION, back)
        state = place.repo.load(SESSION)
        for turn in range(10 * back, 10 * back + 3):
            place.turn(state, turn)
    assert place.findings() == []
    key = damage(place, logs_of(place)["graph"][-2])
    found = place.findings()
    assert {one.key for one in found} == {key}
    assert revisions(found) == {raw_head(place.store).revision, raw_head(place.store).revision - 1}


@pytest.mark.parametrize("kind", ["graph", "history", "places"])
def test_every_pack_in_which_a_log_is_damaged_is_named(place: Place, kind: str) -> None:
    pieces = logs_of(place)[kind]
    keys = {damage(place, pieces[number]) for number in (1, 3)}
    found = [one for one in place.findings() if one.revision == TURNS and one.ref]
    assert keys <= {one.key for one in found}
    assert {one.what for one in found} == {What.ALTERED}


@pytest.mark.parametrize("number", range(TURNS - 1))
def test_the_intact_rows_of_a_damaged_log_of_places_still_lead_on(place: Place, number: int) -> None:
    large = b"".join(Draws(number).hex_id().encode() for number in range(3_000))
    place.repo.commit(place.state, execution_state=large)
    place.turn(place.state, 7)
    place.turn(place.state, 8)
    (state,) = read_index(place.store, place.pack_of(6), place.pack_of(6).rpartition("/")[2]).blobs[-1:]
    assert state.kind == "execution-state"
    key, log = damage(place, state.extents[0]), damage(place, logs_of(place)["places"][number])
    reported = list(verify(place.repo))
    found = [one for one in reported if isinstance(one, Finding)]
    assert {one.key for one in found} == {key, log}
    assert 6 in revisions([one for one in found if one.key == key]), "its row can be read"
    (verified,) = [one for one in reported if isinstance(one, Verified)]
    assert verified.revisions == 7, "all but the one whose row cannot be read"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.binary() | st.text("aé漢😀"),
    lambda values: st.lists(values, max_size=30) | st.dictionaries(st.text(max_size=3), values, max_size=30),
    max_leaves=40,
)


@given(st.lists(PLAIN, max_size=30), st.binary(max_size=5))
def test_entries_are_told_apart_without_their_number(values: list[Any], rest: bytes) -> None:
    pieces_of_log = [codec.encode_entries([value]) for value in values]
    data = b"".join(pieces_of_log)
    assert data == codec.encode_entries(values)
    assert list(entry_ends(data)) == list(accumulate(map(len, pieces_of_log)))
    assert list(map(codec.encode, entries_in(data, key=""))) == list(map(codec.encode, values))
    if data:
        assert len(list(entry_ends(data[:-1]))) == len(values) - 1
    assert list(entry_ends(data + b"\x9f" + rest)) == list(entry_ends(data)), "of no definite length"


# Manifests.


def editing(place: Place, turns: int) -> None:
    """Commit large execution states that differ little: their manifests stand against one in full."""
    draw = Random(5)
    memory = bytearray(draw.randbytes(1 << 20))
    for _ in range(turns):
        for page in draw.sample(range(256), 1):
            memory[page << 12 : (page + 1) << 12] = draw.randbytes(1 << 12)
        place.repo.commit(place.state, execution_state=bytes(memory))


def against(place: Place) -> dict[int, ManifestPlace]:
    """Return what the manifests of the present session were compressed against, by revision."""
    environment, head = place.repo.environment, raw_head(place.store)
    rows = (*read_places(environment, head, read_manifest(environment, head).placement), named_by(head))
    return {row.revision: row.manifest.against for row in rows if row.manifest.against is not None}


def test_a_manifest_that_others_stand_against_is_read_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    editing(place, 12)
    count = len(against(place))
    assert count > 4
    place.watched.start_over()
    assert place.findings() == []
    requests = len(place.watched.requests)
    monkeypatch.setattr(memory_module, "MANIFESTS_BYTES_MAX", 0)
    place.watched.start_over()
    assert place.findings() == []
    assert len(place.watched.requests) >= requests + count - len(set(against(place).values()))


def test_damage_in_a_manifest_is_found_with_all_that_stand_against_it(place: Place) -> None:
    editing(place, 12)
    standing = against(place)
    full = next(iter(standing.values()))
    key = LAYOUT.pack(SESSION, full.pack)
    place.flip(key, full.offset + full.stored_bytes - 1)
    found = place.findings()
    assert {one.key for one in found} == {key}
    assert {number for number, one in standing.items() if one == full} <= revisions(found)


def test_a_revision_needs_the_packs_of_its_blobs_and_both_of_its_manifest() -> None:
    place = ManifestPlace("m", 0, 10, ManifestPlace("full", 0, 10))
    extents = [[Extent("a", 0, 10, 0, 5), Extent("b", 0, 10, 0, 5)], [Extent("a", 10, 10, 0, 5)]]
    assert list(packs_needed(place, extents)) == ["a", "b", "m", "full"]


def test_what_a_load_reads_and_nothing_keeps_is_found(place: Place) -> None:
    place.session("s2", 1)
    (other,) = place.packs("s2")
    name = other.rpartition("/")[2]
    assert place.findings() == []
    reads = (Read(name, ByteRange(0, 100)),)
    rewrite_head(place.store, lambda head: replace(head, reads=reads, write_id="ab" * 16))
    found = place.findings()
    assert {(one.what, one.key) for one in found} == {(What.PACKS, LAYOUT.pack(SESSION, name))}


def test_the_pack_of_another_commit_under_our_key_is_found(place: Place) -> None:
    key = place.pack_of(4)
    place.overwrite(key, place.store.get(place.pack_of(2)).data)
    found = [one for one in place.findings() if one.what is What.PACK]
    assert {one.key for one in found} == {key}
    assert all("of commit" in one.reason for one in found)


# Large execution states go by in windows.


def test_a_large_execution_state_is_verified_in_windows(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (blobs, pieces):
        monkeypatch.setattr(module, "READ_BYTES_MAX", 300_000)
    data = bytes(range(256)) * 8_000  # 2 MB
    place.repo.commit(place.state, execution_state=data)
    key = place.pack_of(TURNS + 1)
    assert place.findings() == []
    index = read_index(place.store, key, key.rpartition("/")[2])
    (blob,) = [one for one in index.blobs if one.kind == "execution-state"]
    assert len(blob.extents) > 10
    for extent in (blob.extents[0], blob.extents[7], blob.extents[-1]):
        place.flip(key, extent.offset + extent.stored_bytes - 1)
        found = [one for one in place.findings() if one.ref]
        assert [(one.revision, one.key, one.ref) for one in found] == [(TURNS + 1, key, blob.ref.digest)]
        place.flip(key, extent.offset + extent.stored_bytes - 1)


def test_what_is_remembered_is_bounded() -> None:
    remembered: Remembered[str] = Remembered(10)
    for number in range(8):
        remembered.keep(bytes([number]), str(number), 3)
    assert [number for number in range(8) if remembered.find(bytes([number])) is not None] == [5, 6, 7]
    remembered.find(bytes([5]))
    remembered.keep(b"x", "x", 4)
    assert remembered.find(bytes([6])) is None
    assert remembered.find(bytes([5])) == "5"
    remembered.keep(b"y", "y", 11)
    assert remembered.find(b"y") is None


# Heads.


@pytest.mark.parametrize("level", LEVELS)
def test_a_flipped_bit_in_a_head_is_found(place: Place, level: Level) -> None:
    key = LAYOUT.head(SESSION)
    size = place.store.stat(key).size_bytes
    place.session("s2", 1)
    for position in range(0, size, max(1, size // 40)):
        place.flip(key, position)
        (found,) = place.findings(level=level)
        assert (found.what, found.key, found.session_id) == (What.HEAD, key, "")
        place.flip(key, position)


@pytest.mark.parametrize("level", LEVELS)
def test_the_head_of_another_session_is_found(place: Place, level: Level) -> None:
    place.overwrite(LAYOUT.head("s2"), place.store.get(LAYOUT.head(SESSION)).data)
    (found,) = place.findings(level=level)
    assert (found.what, found.key) == (What.HEAD, LAYOUT.head("s2"))
    assert SESSION in found.reason
    assert [one.what for one in place.findings(session_id="s2")] == [What.HEAD]


def test_a_head_of_a_later_schema_is_a_finding(place: Place) -> None:
    key = LAYOUT.head(SESSION)
    plain = codec.decode(codec.unguarded(place.store.get(key).data, key=key), key=key)
    place.overwrite(key, codec.guarded(codec.encode({**plain, "schema_version": NEWEST_VERSION + 1})))
    (found,) = place.findings(level="heads")
    assert (found.what, found.key) == (What.SCHEMA, key)


def wrong_ring(head: Head) -> Head:
    return replace(head, commits=Ring(1, tuple(reversed(head.commits.commit_ids))))


def short_ring(head: Head) -> Head:
    return replace(head, commits=Ring(1, head.commits.commit_ids[:-1]))


def wrong_stamps(head: Head) -> Head:
    return replace(head, stamps=head.stamps[:-1])


def wrong_pin(head: Head) -> Head:
    return replace(head, pins=(Pin("late", TURNS + 1),))


def without_inline(head: Head) -> Head:
    return replace(head, inline_manifest=b"")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (wrong_ring, {What.RING}),
        (short_ring, {What.RING}),
        (wrong_stamps, {What.RING}),
        (wrong_pin, {What.HEAD}),
        (without_inline, set()),
    ],
)
def test_a_head_must_fit_its_history(place: Place, change: Callable[[Head], Head], expected: set[What]) -> None:
    rewrite_head(place.store, lambda head: replace(change(head), write_id="ab" * 16))
    assert kinds(place.findings()) == expected


def test_the_manifest_of_another_revision_is_found(place: Place) -> None:
    before = raw_head(place.store)
    place.turn(place.state, TURNS + 1)
    rewrite_head(
        place.store,
        lambda head: replace(head, manifest=before.manifest, inline_manifest=b"", write_id="ab" * 16),
    )
    for level in ("presence", "full"):
        (found,) = place.findings(level=level)
        assert found.revision == TURNS + 1
        assert found.what in (What.MANIFEST, What.ALTERED)


def test_the_manifest_in_the_head_must_be_the_one_in_the_pack(place: Place) -> None:
    before = raw_head(place.store)
    place.repo.fork(SESSION, "f1")
    assert before.manifest is not None
    place.flip(LAYOUT.pack(SESSION, before.manifest.pack), before.manifest.offset + 40)
    found = place.findings()
    assert {(one.session_id, one.revision) for one in found} == {(SESSION, TURNS), ("f1", 1)}
    place.repo.load(SESSION)  # which does not read it


# Registers.


def test_damage_in_the_turn_in_flight_and_the_lease_is_found(place: Place) -> None:
    place.repo.acquire(SESSION, "owner").begin_turn("t")
    place.repo.claim_lease(SESSION, "owner", 60)
    assert place.findings() == []
    for key in (LAYOUT.turns(SESSION), LAYOUT.lease(SESSION)):
        whole = place.store.get(key).data
        for damaged in (whole[:-1], b"", whole[1:]):
            place.overwrite(key, damaged)
            (found,) = place.findings()
            assert (found.what, found.key) == (What.REGISTER, key)
        place.overwrite(key, whole)


def test_the_registers_of_another_session_are_found(place: Place) -> None:
    place.repo.acquire(SESSION, "owner").begin_turn("t")
    place.repo.claim_lease(SESSION, "owner", 60)
    place.session("s2", 1)
    for key_of in (LAYOUT.turns, LAYOUT.lease):
        place.overwrite(key_of("s2"), place.store.get(key_of(SESSION)).data)
    found = place.findings()
    assert [(one.session_id, one.what) for one in found] == [("s2", What.REGISTER)] * 2


# Others at work.


def moved_on(place: Place) -> None:
    """Keep only a new revision that stands on itself, and delete the packs that only the others needed."""
    state = place.repo.load(SESSION)
    state.graph_replace_required = True
    for turn in range(TURNS + 1, TURNS + 4):
        place.turn(state, turn)
    rewrite_head(place.store, lambda old: replace(old, floor=old.revision, write_id="ef" * 16))
    kept = named_packs(place.repo.environment, raw_head(place.store))
    for key in place.packs():
        if key.rpartition("/")[2] not in kept:
            place.store.delete(key)


def deleted(place: Place) -> None:
    place.repo.delete(SESSION)
    for key in place.packs():
        place.store.delete(key)


@pytest.mark.parametrize("meanwhile", [deleted, moved_on])
@pytest.mark.parametrize("level", LEVELS)
def test_what_others_do_meanwhile_is_no_finding(place: Place, level: Level, meanwhile: Callable[[Place], None]) -> None:
    list(verify(place.repo, level=level))
    requests = len(place.watched.requests)
    for number in range(1, requests + 1):
        again = Place()
        again.watched.act(number, lambda again=again: meanwhile(again))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        assert again.findings(level=level, session_id=SESSION) == [], f"before request {number}"
        again.repo.close()


@pytest.mark.parametrize("level", LEVELS)
def test_commits_meanwhile_are_no_finding(place: Place, level: Level) -> None:
    for number in range(1, 60, 3):
        place.watched.start_over()
        turn = raw_head(place.store).revision + 1
        place.watched.act(number, lambda turn=turn: place.turn(place.state, turn))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        assert place.findings(level=level) == []
        place.watched.act_now()


def test_a_pack_that_came_after_the_listing_is_there(place: Place) -> None:
    place.repo.fork(SESSION, "f1")
    sessions = sorted((LAYOUT.head(name), name) for name in (SESSION, "f1"))
    last = place.repo.load(sessions[-1][1])
    place.watched.act_before("list", f"default/packs/{SESSION}/", lambda: None)
    reported = verify(place.repo, level="presence")
    first = next(reported)
    assert isinstance(first, Verified)
    place.turn(last, 50)
    assert [one for one in reported if isinstance(one, Finding)] == []


def test_a_rewind_row_is_as_the_history_says(place: Place) -> None:
    place.repo.rewind(SESSION, 2)
    assert place.repo.history(SESSION)[-1].kind == REWIND
    assert place.findings() == []


# What a faulty writer would store: sound bytes that do not fit together.


def rewritten(place: Place, kind: str, change: Callable[[Any], Any]) -> None:
    """Store the present revision again, under a new name, with one of its blobs changed, and let the head name it."""
    head = raw_head(place.store)
    name = pack_name("ab" * 16, "cd" * 16)
    builder = PackBuilder(name)
    base = read_base(place.repo.environment, HeadRead(head, Version("")))
    checkpoint, placed = base.checkpoint, base.placement
    logs = {"history": checkpoint.history, "graph": checkpoint.graph, "places": placed.places}
    at = logs.get(kind)
    old = checkpoint.tool_state if at is None else at.ref
    assert old is not None
    environment = place.repo.environment
    extents = {old: placed.extents[old.digest]}
    data = PackReader(environment.store, partial(LAYOUT.pack, SESSION), environment.executor).blobs(extents)[old]
    if at is None:
        new = builder.add(kind, codec.encode(change(codec.decode(data, key=""))))
    else:
        new = builder.add(kind, codec.encode_entries(change(codec.decode_entries(data, at.count, key=""))))
        logs[kind] = LogRef(new, at.count)
    builder.flush()
    checkpoint = replace(
        checkpoint,
        history=logs["history"],
        graph=logs["graph"],
        tool_state=new if at is None else checkpoint.tool_state,
    )
    kept = {digest: many for digest, many in placed.extents.items() if digest != old.digest}
    placed = replace(
        placed,
        extents={**kept, **builder.extents},
        packs=(*placed.packs, PackUse(name, head.revision)),
        places=logs["places"],
    )
    publish(place, builder, checkpoint, placed)


def publish(place: Place, builder: PackBuilder, checkpoint: SessionCheckpoint, placed: Placement) -> None:
    run = seal_manifest(manifest_bytes(checkpoint.encode(), placed.encode()))
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


def last_row(column: int, value: Any) -> Callable[[Any], Any]:
    def changed(rows: list[list[Any]]) -> list[list[Any]]:
        rows[-1][column] = value
        return rows

    return changed


def same(plain: Any) -> Any:
    return plain


def restated(rows: list[list[Any]]) -> list[list[Any]]:
    rows[-1][2], rows[-1][7] = "restore", [["turn", "m", 1, 1, 1, 1]]
    return rows


def twice(rows: list[list[Any]]) -> list[list[Any]]:
    rows[-1][3] = rows[-2][3]
    return rows


def other_nodes(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    nodes[-1]["parent_node_id"] = "nobody"
    return nodes


def fewer(rows: list[Any]) -> list[Any]:
    return rows[:-1]


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        ("history", same, None),
        ("history", last_row(1, 1), What.HISTORY),  # a commit on a parent that is not the one before
        ("history", last_row(6, 99), What.GRAPH),  # another number of nodes
        ("history", last_row(0, 9), What.HISTORY),
        ("history", last_row(7, [["turn", "m", -1, 0, 0, 0]]), What.HISTORY),  # a ledger that falls
        ("history", last_row(7, [["turn", "m", 1 << 62, 0, 0, 0]] * 2), What.LEDGER),  # over 64 bits in all
        ("history", last_row(7, [["turn", "m", 0, 1 << 60, 0, 0]]), What.LEDGER),
        ("history", restated, What.LEDGER),
        ("history", twice, What.HISTORY),
        ("history", fewer, What.HISTORY),
        ("graph", other_nodes, What.GRAPH),
        ("graph", fewer, What.GRAPH),
        ("places", last_row(0, 9), What.PLACES),
        ("places", fewer, What.PLACES),
        ("tool-state", lambda plain: {**plain, "later": 1}, What.PART),
        ("tool-state", lambda plain: [plain], What.PART),
    ],
)
def test_records_must_fit_together(
    place: Place, kind: str, change: Callable[[Any], Any], expected: What | None
) -> None:
    for turn in (6, 7, 8):
        place.turn(place.state, turn)
    rewritten(place, kind, change)
    assert (expected in kinds(place.findings())) if expected else place.findings() == []


def test_sound_pieces_in_another_order_are_not_the_log(place: Place) -> None:
    base = read_base(place.repo.environment, HeadRead(raw_head(place.store), Version("")))
    builder = PackBuilder(pack_name("ab" * 16, "cd" * 16))
    ref = base.checkpoint.history.ref
    first, second, third, *others = base.placement.extents[ref.digest]
    extents = {**base.placement.extents, ref.digest: (third, second, first, *others)}
    packs = (*base.placement.packs, PackUse(builder.name, TURNS))
    publish(place, builder, base.checkpoint, replace(base.placement, extents=extents, packs=packs))
    found = [one for one in place.findings() if one.ref]
    assert {(one.what, one.revision, one.ref) for one in found} == {(What.ALTERED, TURNS, ref.digest)}
    assert all("content is" in one.reason for one in found)


def test_a_history_that_was_rewritten_is_found(place: Place) -> None:
    for turn in (6, 7, 8):
        place.turn(place.state, turn)
    rewritten(place, "history", lambda rows: [*rows[:4], [*rows[4][:4], 0, *rows[4][5:]], *rows[5:]])
    found = place.findings()
    assert {(one.what, one.revision) for one in found} == {(What.HISTORY, revision) for revision in (5, 6, 7)}


def test_a_pack_that_the_head_does_not_keep_is_found(place: Place) -> None:
    base = read_base(place.repo.environment, HeadRead(raw_head(place.store), Version("")))
    builder = PackBuilder(pack_name("ab" * 16, "cd" * 16))
    own = PackUse(builder.name, TURNS)
    publish(place, builder, base.checkpoint, replace(base.placement, packs=(*base.placement.packs, own)))
    assert place.findings() == []
    place.store.delete(LAYOUT.pack(SESSION, builder.name))
    ended = [replace(use, last_revision=TURNS - 1) if use.first_revision == 1 else use for use in base.placement.packs]
    publish(place, PackBuilder(builder.name), base.checkpoint, replace(base.placement, packs=(*ended, own)))
    found = place.findings()
    assert kinds(found) == {What.PACKS}
    assert {(one.revision, one.key) for one in found} == {(TURNS, place.pack_of(1))}


@pytest.mark.parametrize("level", LEVELS)
def test_the_lost_head_of_a_session_that_others_were_forked_from_is_found(place: Place, level: Level) -> None:
    place.repo.fork(SESSION, "f1")
    place.repo.fork("f1", "f2")
    key = LAYOUT.head(SESSION)
    place.store.delete(key)  # which nobody does: heads are never deleted
    found = place.findings(level=level)
    assert [(one.session_id, one.key, one.what) for one in found] == [("f1", key, What.HEAD), ("f2", key, What.HEAD)]
    assert all("restore it from a copy" in one.reason for one in found)
