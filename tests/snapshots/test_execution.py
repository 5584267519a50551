"""Execution states: given as bytes or stream, kept, replaced, deleted, read whole or in pieces."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapshots import PersistedSessionState, SnapshotRepository, execution
from snapshots.errors import CorruptSnapshotError, InvalidStateError, RevisionNotFoundError, SessionDeletedError
from snapshots.maintenance.prune import Retention, plan_prune
from snapshots.maintenance.prune import execute as prune
from snapshots.maintenance.repair import execute as repair
from snapshots.maintenance.repair import plan_repair
from snapshots.testing.collector import collect
from storage.backends.memory import MemoryStore
from storage.digest import blob_ref
from storage.frame import FRAME_BYTES_MAX
from storage.store import Overwrite
from storage.testing.clock import ManualClock
from storage.testing.draws import Draws
from tests.integration.builders import SESSION, WatchedStore, new_session, rewrite_head, take_turn
from tests.snapshots.damage import blobs_of, flip, pack_of

SIZES = [0, 1, 100, (32 << 10) - 1, 32 << 10, FRAME_BYTES_MAX - 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 700_001]


def noise(size: int, seed: int = 0) -> bytes:
    return b"".join(bytes.fromhex(Draws(f"{seed}/{block}").hex_id()) * 4 for block in range(size // 64 + 1))[:size]


class Place:
    """A store, and a repository that is watched."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.watched = WatchedStore(self.store)
        self.repo = SnapshotRepository(self.watched, clock=ManualClock(seed=1))


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.repo.close()


@pytest.mark.parametrize("size", SIZES)
def test_what_was_given_comes_back(place: Place, size: int) -> None:
    data = noise(size)
    state = new_session(SESSION, "a0")
    result = place.repo.commit(state, execution_state=data)
    assert state.execution_state_snapshot is None
    assert state.execution_state_ref == result.manifest.execution_state_ref == blob_ref(data)
    for held in (state, place.repo.load(SESSION)):
        assert held.execution_state_snapshot is None
        assert place.repo.read_execution_state(held) == data
        with place.repo.open_execution_state(held) as stream:
            assert stream.read() == data
    inline = place.repo.load(SESSION, execution_state=True)
    assert inline.execution_state_snapshot == data
    with place.repo.open_execution_state(inline) as stream:
        assert stream.read() == data


def test_a_stream_is_as_good_as_bytes(place: Place) -> None:
    data = noise(300_000)
    state = new_session(SESSION)
    place.repo.commit(state, execution_state=io.BytesIO(data))
    assert place.repo.read_execution_state(state) == data
    place.repo.commit(state, execution_state=io.BytesIO())
    assert place.repo.read_execution_state(state) == b""


def test_the_argument_wins_over_what_is_inline(place: Place) -> None:
    state = new_session(SESSION)
    state.set_execution_state_snapshot(b"inline")
    place.repo.commit(state)
    assert place.repo.read_execution_state(state) == b"inline"
    state.set_execution_state_snapshot(b"inline again")
    place.repo.commit(state, execution_state=b"argument")
    assert place.repo.read_execution_state(state) == b"argument"


def test_none_carries_over_and_deletion_deletes(place: Place) -> None:
    data = noise(200_000)
    state = new_session(SESSION)
    place.repo.commit(state, execution_state=data)
    carried = place.repo.commit(take_turn(state, "a0"))
    assert carried.manifest.execution_state_ref == blob_ref(data)
    assert carried.uploaded_bytes < 10_000
    again = place.repo.commit(take_turn(state, "a1"), execution_state=data)
    assert again.uploaded_bytes < 10_000, "what the base has is not sent again"
    assert place.repo.read_execution_state(state) == data
    state.set_execution_state_snapshot(None)
    assert place.repo.commit(state).manifest.execution_state_ref is None
    for held in (state, place.repo.load(SESSION, execution_state=True)):
        assert (held.execution_state_ref, held.execution_state_snapshot) == (None, None)
        for read in (place.repo.read_execution_state, place.repo.open_execution_state):
            with pytest.raises(InvalidStateError):
                read(held)
    old = place.repo.load(SESSION, 3)
    assert place.repo.read_execution_state(old) == data


def test_every_revision_keeps_its_own(place: Place) -> None:
    state = new_session(SESSION)
    for number in range(12):
        place.repo.commit(state, execution_state=noise(1000 + number, seed=number) if number % 3 else None)
    for number in range(1, 12):
        seed = number if number % 3 else number - 1
        old = place.repo.load(SESSION, number + 1)
        assert place.repo.read_execution_state(old) == noise(1000 + seed, seed=seed)


def test_only_what_was_loaded_from_this_store_can_be_read(place: Place) -> None:
    state = new_session(SESSION)
    place.repo.commit(state, execution_state=b"x" * 100)
    with SnapshotRepository(MemoryStore()) as stranger:
        for read in (stranger.read_execution_state, stranger.open_execution_state):
            with pytest.raises(InvalidStateError):
                read(state)
    bare = PersistedSessionState(session_id=SESSION, execution_state_ref=state.execution_state_ref)
    with pytest.raises(InvalidStateError):
        place.repo.read_execution_state(bare)


def test_a_load_does_not_read_what_was_not_asked_for(place: Place) -> None:
    place.repo.commit(new_session(SESSION, "a0"), execution_state=noise(900_000))
    before = place.repo.metrics.snapshot()
    state = place.repo.load(SESSION)
    assert (place.repo.metrics.snapshot() - before)["get"].bytes_in < 20_000
    before = place.repo.metrics.snapshot()
    with place.repo.open_execution_state(state):
        assert (place.repo.metrics.snapshot() - before).total_requests == 0


def test_damage_is_found_and_named(place: Place) -> None:
    state = new_session(SESSION)
    place.repo.commit(state, execution_state=noise(400_000))
    loaded = place.repo.load(SESSION)
    (pack,) = (row.key for row in place.store.list("default/packs/"))
    whole = bytearray(place.store.get(pack).data)
    whole[300] ^= 1
    place.store.put(pack, bytes(whole), Overwrite())
    assert state.execution_state_ref is not None
    for read in (place.repo.read_execution_state, lambda held: place.repo.open_execution_state(held).read()):
        with pytest.raises(CorruptSnapshotError) as caught:
            read(loaded)
        assert (caught.value.key, caught.value.ref) == (pack, state.execution_state_ref.digest)
    place.store.delete(pack)
    for read in (place.repo.read_execution_state, lambda held: place.repo.open_execution_state(held).read()):
        with pytest.raises(CorruptSnapshotError, match="missing"):
            read(loaded)
    assert place.repo.read_execution_state(state) == noise(400_000), "what was committed here is known here"


def test_what_was_collected_is_not_called_corrupt(place: Place) -> None:
    place.repo.commit(new_session(SESSION), execution_state=noise(400_000))
    state = place.repo.load(SESSION)
    reads = (place.repo.read_execution_state, lambda held: place.repo.open_execution_state(held).read())
    for row in place.store.list("default/packs/"):
        place.store.delete(row.key)
    rewrite_head(place.store, lambda head: replace(head, floor=2, write_id="f" * 32))  # as a prune leaves it
    for read in reads:
        with pytest.raises(RevisionNotFoundError):
            read(state)
    place.repo.delete(SESSION)
    for read in reads:
        with pytest.raises(SessionDeletedError):
            read(state)


def test_a_position_before_the_start_is_refused(place: Place) -> None:
    state = new_session(SESSION)
    place.repo.commit(state, execution_state=b"0123456789")
    with place.repo.open_execution_state(state) as stream:
        assert stream.readable()
        assert stream.seekable()
        assert not stream.writable()
        for offset, whence in ((-1, io.SEEK_SET), (-11, io.SEEK_END), (-1, io.SEEK_CUR)):
            stream.seek(0)
            with pytest.raises((ValueError, OSError)):
                stream.seek(offset, whence)
        with pytest.raises(ValueError, match="whence"):
            stream.seek(0, 9)


def test_a_stream_reads_ahead_what_is_read_on_and_on_and_little_elsewhere(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "READ_AHEAD_BYTES", FRAME_BYTES_MAX)
    monkeypatch.setattr(execution, "WINDOW_BYTES_MAX", 8 * FRAME_BYTES_MAX)
    data = noise(31 * FRAME_BYTES_MAX)
    place.repo.commit(new_session(SESSION), execution_state=data)
    state = place.repo.load(SESSION)
    before = place.repo.metrics.snapshot()
    with place.repo.open_execution_state(state) as stream:
        assert b"".join(iter(lambda: stream.read(10_000), b"")) == data
    used = (place.repo.metrics.snapshot() - before)["get"]
    assert used.requests == 3 + 3, "windows of 1, 2 and 4 frames, then of 8"
    assert used.bytes_in < len(data) + 50_000, "nothing is read twice"
    before = place.repo.metrics.snapshot()
    with place.repo.open_execution_state(state) as stream:
        for frame in (20, 3, 29, 11):
            stream.seek(frame * FRAME_BYTES_MAX + 100)
            assert stream.read(50) == data[frame * FRAME_BYTES_MAX + 100 :][:50]
    used = (place.repo.metrics.snapshot() - before)["get"]
    assert (used.requests, used.bytes_in < 10 * FRAME_BYTES_MAX) == (4, True)


DATA = noise(3 * FRAME_BYTES_MAX + 77_777)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 400_000)),
        st.tuples(st.just("set"), st.integers(0, len(DATA) + 1000)),
        st.tuples(st.just("end"), st.integers(-len(DATA), 1000)),
        st.tuples(st.just("line"), st.integers(0, 1000)),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def large() -> Iterator[tuple[SnapshotRepository, PersistedSessionState]]:
    with SnapshotRepository(MemoryStore()) as repo:
        state = new_session(SESSION)
        repo.commit(state, execution_state=DATA)
        yield repo, state


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_a_stream_behaves_like_a_file(
    large: tuple[SnapshotRepository, PersistedSessionState], steps: list[tuple[str, int]]
) -> None:
    repo, state = large
    expected = io.BytesIO(DATA)
    with repo.open_execution_state(state) as stream:
        for step, number in steps:
            if step == "read":
                assert stream.read(number) == expected.read(number)
            elif step == "line":
                assert stream.readline(number) == expected.readline(number)
            else:
                whence = io.SEEK_SET if step == "set" else io.SEEK_END
                assert stream.seek(number, whence) == expected.seek(number, whence)
            assert stream.tell() == expected.tell()


def test_a_stream_goes_on_where_a_repair_has_laid_it_out_in_other_pieces() -> None:
    draw, store = Random(5), MemoryStore()
    before = draw.randbytes(2_400_000)
    memory = b"".join(before[start : start + 20_000] for start in range(0, len(before), 36_000))
    with SnapshotRepository(store) as repo, SnapshotRepository(store) as other:
        state = new_session(SESSION, "a0")
        repo.commit(state, execution_state=before)
        repo.commit(take_turn(state, "a1"), execution_state=memory)
        repo.fork(SESSION, "c1")
        child = repo.load("c1")  # another session of the family comes to have the same bytes, whole
        for number, data in enumerate((b"x" * 1000, before, b"y" * 1000, memory)):
            repo.commit(take_turn(child, f"b{number}"), execution_state=data)
        prune(plan_prune(repo, SESSION, Retention(last=1)))
        streams = [other.open_execution_state(other.load(SESSION)) for _ in range(3)]
        lost = pack_of(repo, SESSION, 1)
        for blob in blobs_of(store, lost, "execution-state"):
            for extent in blob.extents:
                flip(store, lost, extent.offset + 50)
        for plan in (plan_repair(repo, SESSION), plan_repair(repo)):
            repair(plan)
        collect(repo.environment)
        assert lost not in [row.key for row in store.list("")]
        for stream, start in zip(streams, (50_000, 700_000, len(memory) - 50_000), strict=True):
            stream.seek(start)
            assert stream.read(50_000) == memory[start : start + 50_000]
            stream.close()
