"""Loading from a store that was damaged, mixed up, or written by later software: a typed error, never wrong data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, ToolState, codec
from snapshots.errors import (
    CommitUnknownError,
    CorruptSnapshotError,
    RevisionNotFoundError,
    SessionMovedError,
    SessionNotFoundError,
    SnapshotError,
    UnsupportedSchemaError,
)
from snapshots.fields import STORE_VERSIONS
from snapshots.head import MOVED, Head
from snapshots.layout import Layout
from snapshots.logs import NO_LOG
from snapshots.placement import manifest_bytes, open_manifest, seal_manifest, unseal_manifest
from snapshots.reading import LOAD_ATTEMPTS_MAX
from storage.backends.memory import MemoryStore
from storage.digest import blob_ref
from storage.errors import InvalidKeyError, UnavailableError
from storage.packs import read_index
from storage.store import Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import FailBefore, FaultyStore, Truncate
from tests.integration.builders import (
    SESSION,
    WatchedStore,
    message_ids,
    new_session,
    raw_head,
    rewrite_head,
    take_turn,
)
from tests.integration.turns import stamp, take
from tests.snapshots.records import scattered_states, without_tail

TURNS = 5
LAYOUT = Layout("default")


class Place:
    """A store with one session of five revisions, each with its pack, and a repository that can be watched and fail."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.faulty = FaultyStore(self.store)
        self.watched = WatchedStore(self.faulty)
        self.repo = without_tail(SnapshotRepository(self.watched, clock=ManualClock(seed=1)))
        self.state = self.session(SESSION)
        self.watched.start_over()

    def session(self, session_id: str) -> PersistedSessionState:
        state = PersistedSessionState(session_id=session_id)
        for turn in range(1, TURNS + 1):
            execution_state = take(state, turn)
            self.repo.commit(state, stamp(turn), execution_state)
        return state

    def packs(self, session_id: str = SESSION) -> list[str]:
        return [row.key for row in self.store.list(f"default/packs/{session_id}/")]

    def overwrite(self, key: str, data: bytes) -> None:
        self.store.put(key, data, Overwrite())

    def revisions(self) -> list[dict[str, Any]]:
        return [content(self.repo, revision) for revision in range(1, TURNS + 1)]


def content(repo: SnapshotRepository, revision: int | None = None) -> dict[str, Any]:
    return dict(repo.load(SESSION, revision, execution_state=True).__dict__)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.repo.close()


def needed_pack(place: Place) -> str:
    """Return the key of the pack that the last commit wrote."""
    head = raw_head(place.store)
    assert head.manifest is not None
    return LAYOUT.pack(SESSION, head.manifest.pack)


def loads(place: Place, revision: int | None = None) -> dict[str, Any] | SnapshotError:
    """Return what a load gives, or its typed error; anything else fails here."""
    try:
        return content(place.repo, revision)
    except (CorruptSnapshotError, UnsupportedSchemaError) as error:
        return error


def test_a_load_reads_at_once_what_the_head_says(place: Place) -> None:
    state = place.repo.load(SESSION)
    for memory in scattered_states(5, 1):
        place.repo.commit(state, execution_state=memory)
    head = raw_head(place.store)
    assert head.inline_manifest == b""
    assert head.reads
    place.watched.start_over()
    found = place.repo.load(SESSION, execution_state=True)
    assert found.execution_state_snapshot == memory
    assert place.watched.requests[0] == ("get", LAYOUT.head(SESSION))
    packs = [("get", LAYOUT.pack(SESSION, read.pack)) for read in head.reads]
    assert sorted(place.watched.requests[1:]) == sorted(packs)


# Packs.


def test_a_flipped_bit_anywhere_in_a_pack_is_found_or_harmless(place: Place) -> None:
    expected = place.revisions()
    for key in place.packs():
        whole = place.store.get(key).data
        assert read_index(place.store, key, key.rpartition("/")[2]).blobs
        found = 0
        for position in range(0, len(whole), 29):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << (position % 8)
            place.overwrite(key, bytes(damaged))
            for revision in (TURNS - 1, TURNS):
                got = loads(place, revision)
                if isinstance(got, SnapshotError):
                    assert isinstance(got, CorruptSnapshotError)
                    assert got.key == key
                    found += 1
                else:
                    assert got == expected[revision - 1], "wrong data"
        place.overwrite(key, whole)
        assert found or key != needed_pack(place)
    assert place.revisions() == expected


@pytest.mark.parametrize("kept", [0, 1, 17, 100, -1, -24, -25])
def test_a_truncated_pack_is_corruption_or_harmless(place: Place, kept: int) -> None:
    expected = place.revisions()
    for key in place.packs():
        whole = place.store.get(key).data
        place.overwrite(key, whole[:kept])
        for revision in range(1, TURNS + 1):
            got = loads(place, revision)
            assert isinstance(got, CorruptSnapshotError) or got == expected[revision - 1]
        place.overwrite(key, whole)


def test_the_damaged_pack_is_named(place: Place) -> None:
    key = needed_pack(place)
    whole = bytearray(place.store.get(key).data)
    whole[:40] = bytes(40)
    place.overwrite(key, bytes(whole))
    with pytest.raises(CorruptSnapshotError) as caught:
        place.repo.load(SESSION, execution_state=True)
    assert caught.value.key == key


def test_another_sessions_pack_under_our_name_is_corruption(place: Place) -> None:
    place.session("s2")
    key = needed_pack(place)
    for other in place.packs("s2"):
        place.overwrite(key, place.store.get(other).data)
        with pytest.raises(CorruptSnapshotError) as caught:
            place.repo.load(SESSION, execution_state=True)
        assert caught.value.key in place.packs(), "the one, or the first one of a blob that lies in it too"


def test_a_missing_pack_is_corruption_while_the_head_stays(place: Place) -> None:
    key = needed_pack(place)
    place.store.delete(key)
    with pytest.raises(CorruptSnapshotError) as caught:
        place.repo.load(SESSION)
    assert caught.value.key == key
    reads = [pair for pair in place.watched.requests if pair[0] == "get" and "/heads/" in pair[1]]
    assert len(reads) == 2, "the head is read again before that is said"


def test_a_pack_that_goes_because_the_session_moved_on_is_no_corruption(place: Place) -> None:
    head = raw_head(place.store)

    def replaced_meanwhile() -> None:
        state = place.repo.load(SESSION)
        state.set_execution_state_snapshot(None)
        state.graph_replace_required = True
        for turn in range(TURNS + 1, TURNS + 20):  # until nothing of the old packs is needed any more
            take(state, turn)
            place.repo.commit(state, execution_state=b"new")
        for key in place.packs():
            try_delete(place, key)

    def try_delete(place: Place, key: str) -> None:
        kept = place.store.get(key).data
        place.store.delete(key)
        if isinstance(loads(place), SnapshotError):
            place.overwrite(key, kept)

    place.watched.start_over()
    place.watched.act(2, replaced_meanwhile)
    state = place.repo.load(SESSION)
    assert raw_head(place.store).revision > head.revision
    assert state.head_revision == raw_head(place.store).revision


def test_a_session_that_always_moves_on_is_given_up(place: Place) -> None:
    key = needed_pack(place)
    place.store.delete(key)
    for number in range(1, 40):
        write_id = f"{number:032x}"
        place.watched.act(
            number,
            lambda write_id=write_id: rewrite_head(place.store, lambda head: replace(head, write_id=write_id)),  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        )
    place.watched.start_over()
    with pytest.raises(CorruptSnapshotError, match="moving"):
        place.repo.load(SESSION)
    reads = [pair for pair in place.watched.requests if "/heads/" in pair[1]]
    assert len(reads) == LOAD_ATTEMPTS_MAX + 1


# Heads.


def test_a_flipped_bit_in_a_head_never_gives_wrong_data(place: Place) -> None:
    key = LAYOUT.head(SESSION)
    whole, expected = place.store.get(key).data, content(place.repo)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        place.overwrite(key, bytes(damaged))
        got = loads(place)
        assert isinstance(got, SnapshotError) or got == expected, f"byte {position}"


def test_a_truncated_head_is_corruption(place: Place) -> None:
    key = LAYOUT.head(SESSION)
    whole = place.store.get(key).data
    for kept in range(0, len(whole), 11):
        place.overwrite(key, whole[:kept])
        for ask in (place.repo.load, place.repo.history, place.repo.delete):
            with pytest.raises(CorruptSnapshotError) as caught:
                ask(SESSION)
            assert caught.value.key == key
        with pytest.raises(CorruptSnapshotError):
            place.repo.commit(new_session(SESSION, "b0"))
        with pytest.raises(CorruptSnapshotError):
            list(place.repo.sessions())
    place.overwrite(key, whole + b"\x00")
    assert isinstance(loads(place), CorruptSnapshotError)


@pytest.mark.parametrize(
    "data", [b"", b"\xa0", b"\x80", b"\xf6", b"not cbor", b"\xff" * 50, b"\xc1\x00", b"\x9b" + b"\xff" * 8]
)
def test_something_else_under_a_heads_key_is_corruption(place: Place, data: bytes) -> None:
    place.overwrite(LAYOUT.head(SESSION), data)
    got = loads(place)
    assert isinstance(got, CorruptSnapshotError | UnsupportedSchemaError)


def moved(place: Place, source: str, target: str) -> None:
    place.overwrite(target, place.store.get(source).data)


def test_a_head_under_another_sessions_key_is_refused(place: Place) -> None:
    moved(place, LAYOUT.head(SESSION), LAYOUT.head("s2"))
    for ask in (place.repo.load, place.repo.history, place.repo.delete):
        with pytest.raises(CorruptSnapshotError, match="s1"):
            ask("s2")
    with pytest.raises(CorruptSnapshotError):
        place.repo.commit(new_session("s2", "b0"))
    with pytest.raises(CorruptSnapshotError):
        list(place.repo.sessions())


def test_a_head_under_another_tenants_key_is_refused(place: Place) -> None:
    moved(place, LAYOUT.head(SESSION), Layout("intruder").head(SESSION))
    with SnapshotRepository(place.store, tenant="intruder") as intruder:
        for ask in (intruder.load, intruder.history, intruder.delete):
            with pytest.raises(CorruptSnapshotError, match="default"):
                ask(SESSION)
        with pytest.raises(CorruptSnapshotError):
            list(intruder.sessions())


def test_tenants_do_not_see_each_other(place: Place) -> None:
    with SnapshotRepository(place.store, tenant="other") as other:
        assert list(other.sessions()) == []
        with pytest.raises(SessionNotFoundError):
            other.load(SESSION)
        other.commit(new_session(SESSION, "b0"))
        assert message_ids(other.load(SESSION)) == ["b0"]
    assert place.repo.load(SESSION).head_revision == TURNS


# Later versions.


def with_head_field(place: Place, **fields: Any) -> None:
    key = LAYOUT.head(SESSION)
    plain = codec.decode(codec.unguarded(place.store.get(key).data, key=key), key=key)
    place.overwrite(key, codec.guarded(codec.encode({**plain, **fields})))


@pytest.mark.parametrize("version", [3, 0, None, "1", True])
def test_a_head_of_another_schema_says_so(place: Place, version: Any) -> None:
    with_head_field(place, schema_version=version)
    for ask in (place.repo.load, place.repo.history, place.repo.delete):
        with pytest.raises(UnsupportedSchemaError) as caught:
            ask(SESSION)
        assert (caught.value.found, caught.value.supported) == (version, STORE_VERSIONS)
    with pytest.raises(UnsupportedSchemaError):
        place.repo.commit(new_session(SESSION, "b0"))


@pytest.mark.parametrize("field", ["staged", "later"])
def test_what_a_later_version_keeps_in_a_head_is_not_overwritten(place: Place, field: str) -> None:
    with_head_field(place, schema_version=1, **{field: ["something"]})
    with pytest.raises(UnsupportedSchemaError):
        place.repo.load(SESSION)
    # The commit knows the head as it was, and cannot read whether the later version wrote before it or after it.
    with pytest.raises(CommitUnknownError, match="schema version") as caught:
        place.repo.commit(take_turn(place.state, "b0"))
    assert isinstance(caught.value.__cause__, UnsupportedSchemaError)


def with_manifest(place: Place, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change checkpoint and placement, and make the head fit them."""
    key = LAYOUT.head(SESSION)

    def rewritten(head: Head) -> Head:
        raw = unseal_manifest(head.inline_manifest, key=key)
        checkpoint, placement = (codec.decode(one, key=key) for one in open_manifest(raw, key=key))
        change(checkpoint, placement)
        record = codec.encode(checkpoint)
        run = seal_manifest(manifest_bytes(record, codec.encode(placement)))
        return replace(head, write_id="cc" * 16, inline_manifest=run, checkpoint_ref=blob_ref(record))

    rewrite_head(place.store, rewritten)


@pytest.mark.parametrize("record", ["checkpoint", "placement"])
def test_a_manifest_of_a_newer_schema_says_so(place: Place, record: str) -> None:
    def newer(checkpoint: dict[str, Any], placement: dict[str, Any]) -> None:
        (checkpoint if record == "checkpoint" else placement)["schema_version"] = 2

    with_manifest(place, newer)
    with pytest.raises(UnsupportedSchemaError) as caught:
        place.repo.load(SESSION)
    assert record in caught.value.record
    assert caught.value.found == 2


CHECKPOINT_CHANGES: dict[str, dict[str, Any]] = {
    "revision of another": {"revision": 3},
    "no revision": {"revision": 0},
    "negative revision": {"revision": -1},
    "a leaf that is not there": {"leaf": "gone"},
    "a leaf that is no text": {"leaf": 7},
    "no graph": {"graph": None},
    "an empty graph with a leaf": {"graph": NO_LOG.to_plain()},
    "no history": {"history": NO_LOG.to_plain()},
    "a graph that is none": {"graph": []},
    "a log without a place": {"graph": [b"x" * 32, 10, 1]},
    "a blob of 2 GiB": {"tool_state": [b"x" * 32, 2 << 30]},
    "a ref that is none": {"tool_state": ["md5:00", 1]},
    "a policy that is none": {"policy": {"unknown": 1}},
    "a turn that is none": {"turn": []},
    "a count that is none": {"tool_state_generation": "many"},
}


@pytest.mark.parametrize("fields", CHECKPOINT_CHANGES.values(), ids=CHECKPOINT_CHANGES.keys())
def test_a_checkpoint_that_breaks_its_rules_is_corruption(place: Place, fields: dict[str, Any]) -> None:
    with_manifest(place, lambda checkpoint, _: checkpoint.update(fields))
    with pytest.raises(CorruptSnapshotError):
        place.repo.load(SESSION)


PLACEMENT_CHANGES: dict[str, dict[str, Any]] = {
    "no extents": {"extents": []},
    "no packs": {"packs": []},
    "no blobs": {"blobs": []},
    "extents that are none": {"extents": [[b"x" * 32, [[0, 0, 1]]]]},
    "blobs of other extents": {"blobs": [[b"x" * 32, 1]]},
    "a name that is none": {"packs": [[b"../../etc", 1, 0]]},
    "places that are none": {"places": [7]},
    "a log of places without a place": {"places": [b"x" * 32, 10, 1]},
}


@pytest.mark.parametrize("fields", PLACEMENT_CHANGES.values(), ids=PLACEMENT_CHANGES.keys())
def test_a_placement_that_breaks_its_rules_is_corruption(place: Place, fields: dict[str, Any]) -> None:
    with_manifest(place, lambda _, placement: placement.update(fields))
    with pytest.raises(CorruptSnapshotError):
        place.repo.load(SESSION)


def test_a_placement_that_mixes_up_two_blobs_is_corruption(place: Place) -> None:
    def mixed_up(_: dict[str, Any], placement: dict[str, Any]) -> None:
        names, counts = zip(*placement["blobs"], strict=True)
        placement["blobs"] = [[name, count] for name, count in zip((*names[1:], names[0]), counts, strict=True)]

    with_manifest(place, mixed_up)
    with pytest.raises(CorruptSnapshotError):
        place.repo.load(SESSION)


# What is not there, and what is no id.


def test_what_does_not_exist_says_so(place: Place) -> None:
    with pytest.raises(SessionNotFoundError):
        place.repo.load("s2")
    for revision in (0, -1, TURNS + 1, 1 << 70):
        with pytest.raises(RevisionNotFoundError) as caught:
            place.repo.load(SESSION, revision)
        assert caught.value.revision == revision


def test_a_moved_session_is_not_loaded(place: Place) -> None:
    rewrite_head(place.store, lambda head: replace(head, write_id="cc" * 16, status=MOVED, destination="file:there"))
    with pytest.raises(SessionMovedError) as caught:
        place.repo.load(SESSION)
    assert caught.value.destination == "file:there"


def test_a_revision_below_the_floor_is_gone(place: Place) -> None:
    rewrite_head(place.store, lambda head: replace(head, write_id="cc" * 16, floor=3))
    for revision in (1, 2):
        with pytest.raises(RevisionNotFoundError):
            place.repo.load(SESSION, revision)
    assert place.repo.load(SESSION, 3).head_revision == 3
    assert [row.retained for row in place.repo.history(SESSION)] == [False, False, True, True, True]


BAD_IDS = ["", "x" * 513, "ü" * 257, "a\nb", "\x00", "a\x7fb", "\x9f", "\ud800"]


@pytest.mark.parametrize("session_id", BAD_IDS, ids=ascii)
def test_what_is_no_id_is_refused_before_anything_is_sent(place: Place, session_id: str) -> None:
    for ask in (place.repo.load, place.repo.history, place.repo.delete):
        with pytest.raises(InvalidKeyError):
            ask(session_id)
    with pytest.raises(InvalidKeyError):
        place.repo.commit(new_session(session_id, "a0"))
    assert place.watched.requests == []


ODD_IDS = [".", "..", "a/b", "A", "a", "Ünit.7", "語" * 170, "x" * 512, "%41", "~x", "a b", "-", "con"]


def test_odd_ids_work_side_by_side(place: Place) -> None:
    for number, session_id in enumerate(ODD_IDS):
        place.repo.commit(new_session(session_id, f"n{number}"))
    for number, session_id in enumerate(ODD_IDS):
        loaded = place.repo.load(session_id)
        assert (loaded.session_id, message_ids(loaded)) == (session_id, [f"n{number}"])
    assert {info.session_id for info in place.repo.sessions()} == {SESSION, *ODD_IDS}


# Answers that are lost while loading.


def test_a_load_without_an_answer_is_unavailable_and_changes_nothing(place: Place) -> None:
    place.watched.start_over()
    place.repo.load(SESSION, execution_state=True)
    for number in range(1, len(place.watched.requests) + 1):
        place.faulty.plan.on("*", fault=FailBefore(), nth=number)
        with pytest.raises(UnavailableError):
            place.repo.load(SESSION, execution_state=True)
        place.faulty.plan.clear()


def test_a_cut_answer_is_corruption_and_not_data(place: Place) -> None:
    place.watched.start_over()
    place.repo.load(SESSION, execution_state=True)
    for number in range(1, len(place.watched.requests) + 1):
        for kept in (0, 10):
            place.faulty.plan.on("get", fault=Truncate(kept), nth=number)
            assert isinstance(loads(place), CorruptSnapshotError)
            place.faulty.plan.clear()


def test_an_execution_state_with_the_bytes_of_another_part_hides_neither() -> None:
    tools = ToolState(generation=4)
    with SnapshotRepository(MemoryStore()) as repo:
        state = PersistedSessionState(session_id="s1")
        state.stamp_runtime_state(tools, None)
        state.set_execution_state_snapshot(codec.encode(tools.model_dump()))
        repo.commit(state)
        loaded = repo.load("s1")
        assert (loaded.tool_state_snapshot, loaded.execution_state_snapshot) == (tools, None)
        assert repo.read_execution_state(loaded) == codec.encode(tools.model_dump())
