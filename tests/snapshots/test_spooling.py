"""An execution state that is too large to be held: what was given comes back, and only what differs is stored.

The bound from which on a state is large is lowered, so that a small one is.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import BinaryIO, cast

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, TurnStamp, checkpoint, content, parts, spooling
from snapshots.base import Tracking, track, tracking_of
from snapshots.compaction import Limits
from snapshots.errors import (
    CommitUnknownError,
    CorruptSnapshotError,
    InvalidStateError,
    LimitExceededError,
    RevisionConflictError,
)
from snapshots.maintenance.findings import Finding
from snapshots.maintenance.verify import verify
from snapshots.parts import EXECUTION_STATE
from snapshots.testing.collector import collect
from storage.backends.memory import MemoryStore
from storage.cuts import CutTable
from storage.digest import blob_ref
from storage.errors import UnavailableError
from storage.store import Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import FailBefore, FaultyStore, LoseAnswer
from tests.integration.builders import SESSION, WatchedStore, check_puts, new_session, raw_head, rewrite_head, take_turn
from tests.snapshots.records import NO_TAIL, with_limits

HELD_BYTES = 200_000
DATA = Random(1).randbytes(1 << 20)
CUTS_BYTES = 4 * 65_536  # what a few edits may cost: the cuts that they touch
Given = Callable[[bytes], bytes | BinaryIO]


class Trickle(io.RawIOBase):
    """A stream that gives what it likes, and can be read once."""

    def __init__(self, data: bytes, fails_at: int | None = None) -> None:
        self._stream = io.BytesIO(data)
        self._draw = Random(len(data))
        self._fails_at = fails_at

    def read(self, size: int = -1) -> bytes:
        if self._fails_at is not None and self._stream.tell() >= self._fails_at:
            raise ConnectionResetError("the guest went away")
        return self._stream.read(self._draw.randrange(1, min(size, 70_000)))


def trickle(data: bytes) -> BinaryIO:
    return cast(BinaryIO, Trickle(data))


GIVEN: dict[str, Given] = {"bytes": lambda data: data, "file": io.BytesIO, "trickle": trickle}


class Place:
    """A store that can fail, a repository that is watched, and one on another host."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.faulty = FaultyStore(self.store)
        self.watched = WatchedStore(self.faulty)
        self.repo = with_limits(SnapshotRepository(self.watched, clock=ManualClock(seed=1)), NO_TAIL)
        self.other = with_limits(SnapshotRepository(self.store, clock=ManualClock(seed=2)), NO_TAIL)

    def objects(self) -> dict[str, bytes]:
        return {row.key: self.store.get(row.key).data for row in self.store.list("")}

    def check(self, expected: dict[int, bytes]) -> None:
        """Check every revision, read in every way on another host, and verified."""
        with SnapshotRepository(self.store) as fresh:
            for revision, data in expected.items():
                state = fresh.load(SESSION, revision)
                with fresh.open_execution_state(state) as stream:
                    assert stream.read() == data
                assert fresh.read_execution_state(state) == data
                assert fresh.load(SESSION, revision, execution_state=True).execution_state_snapshot == data
            assert [one for one in verify(fresh) if isinstance(one, Finding)] == []


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "HELD_BYTES_MAX", HELD_BYTES)
    monkeypatch.setattr(spooling, "COMPARED_BYTES_MIN", HELD_BYTES)
    for module in (parts, spooling):
        monkeypatch.setattr(module, "WINDOW_BYTES", 100_000)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    check_puts(made.watched.puts)
    made.repo.close()
    made.other.close()


@pytest.fixture(params=list(GIVEN.values()), ids=list(GIVEN))
def given(request: pytest.FixtureRequest) -> Given:
    return cast(Given, request.param)


def edited(data: bytes, seed: int, runs: int = 3) -> bytes:
    """Return bytes of which a few runs were overwritten, inserted and deleted."""
    draw = Random(seed)
    for _ in range(runs):
        start, length = draw.randrange(len(data)), draw.randrange(1, 2000)
        new = draw.choice([b"", draw.randbytes(length), draw.randbytes(length)])
        data = data[:start] + new + data[start + draw.choice([0, length]) :]
    return data


def packs_of(state: PersistedSessionState) -> dict[str, int]:
    """Return how many raw bytes of the execution state lie in each pack."""
    base = tracking_of(state).base
    assert base is not None
    assert state.execution_state_ref is not None
    found: dict[str, int] = {}
    for extent in base.placement.extents[state.execution_state_ref.digest]:
        found[extent.pack] = found.get(extent.pack, 0) + extent.length
    return found


# What is given comes back, and only what differs is stored.


def test_what_was_given_comes_back_and_the_next_ones_store_what_differs(place: Place, given: Given) -> None:
    state, data, expected = new_session(SESSION, "a0"), DATA, {1: DATA}
    result = place.repo.commit(state, execution_state=given(data))
    assert result.manifest.execution_state_ref == blob_ref(data)
    assert state.execution_state_snapshot is None
    for revision in range(2, 5):
        data = edited(data, revision)
        result = place.repo.commit(take_turn(state, f"a{revision}"), execution_state=given(data))
        assert result.requests == 2, "the cuts of the parent are at hand"
        assert result.uploaded_bytes < 3 * CUTS_BYTES
        expected[revision] = data
    place.check(expected)


def test_what_is_inline_is_taken_in_like_an_argument(place: Place) -> None:
    state = new_session(SESSION)
    state.set_execution_state_snapshot(DATA)
    place.repo.commit(state)
    assert state.execution_state_snapshot is None
    state.set_execution_state_snapshot(DATA + b"x")
    assert place.repo.commit(state).uploaded_bytes < CUTS_BYTES
    place.check({1: DATA, 2: DATA + b"x"})


@pytest.mark.parametrize("buffer", [bytearray, memoryview], ids=["bytearray", "memoryview"])
def test_any_buffer_is_bytes(place: Place, buffer: Callable[[bytes], bytes]) -> None:
    state = new_session(SESSION)
    place.repo.commit(state, execution_state=buffer(DATA))
    place.repo.commit(state, execution_state=buffer(b"small"))
    place.check({1: DATA, 2: b"small"})


def test_another_host_reads_the_parent_once_and_stores_as_little(place: Place, given: Given) -> None:
    place.repo.commit(new_session(SESSION, "a0"), execution_state=DATA)
    state, data = place.other.load(SESSION), edited(DATA, 1)
    first = place.other.commit(take_turn(state, "a1"), execution_state=given(data))
    assert first.uploaded_bytes < 3 * CUTS_BYTES
    second = place.other.commit(take_turn(state, "a2"), execution_state=given(data + b"x"))
    assert (second.requests, second.uploaded_bytes < CUTS_BYTES) == (2, True)
    place.check({1: DATA, 2: data, 3: data + b"x"})


@pytest.mark.parametrize("whole", [True, False], ids=["load", "read"])
def test_who_has_read_it_whole_reads_nothing_more(place: Place, whole: bool) -> None:
    place.repo.commit(new_session(SESSION, "a0"), execution_state=DATA)
    state = place.other.load(SESSION, execution_state=whole)
    assert place.other.read_execution_state(state) == DATA
    result = place.other.commit(take_turn(state, "a1"), execution_state=edited(DATA, 1))
    assert (result.requests, result.uploaded_bytes < 3 * CUTS_BYTES) == (2, True)
    base = tracking_of(state).base
    assert base is not None
    assert isinstance(base.parts.held[EXECUTION_STATE].data, CutTable), "no copy of the bytes is kept"


def test_nothing_new_is_nothing_read_and_nothing_stored(place: Place) -> None:
    place.repo.commit(new_session(SESSION, "a0"), execution_state=DATA)
    before = place.other.metrics.snapshot()
    state = place.other.load(SESSION)
    loading = place.other.metrics.snapshot() - before
    for execution_state in (None, DATA, DATA):
        before = place.other.metrics.snapshot()
        result = place.other.commit(take_turn(state, "a"), execution_state=execution_state)
        used = place.other.metrics.snapshot() - before
        assert (result.requests, used["get"].requests, result.uploaded_bytes < 10_000) == (2, 0, True)
    assert loading["get"].bytes_in < 20_000
    result = place.repo.commit(take_turn(place.repo.load(SESSION), "b"), execution_state=io.BytesIO(DATA))
    assert result.uploaded_bytes < 10_000, "a stream is compared while it is read"
    place.check(dict.fromkeys(range(1, 6), DATA))


def test_a_first_commit_reads_nothing(place: Place, given: Given) -> None:
    assert place.repo.commit(new_session(SESSION), execution_state=given(DATA)).requests == 3


def test_a_state_may_become_small_and_large_again(place: Place, given: Given) -> None:
    state, expected = new_session(SESSION), {}
    sizes = [HELD_BYTES, HELD_BYTES + 1, HELD_BYTES - 5000, HELD_BYTES, 10, 0, HELD_BYTES + 9, 1 << 20, 0, 1 << 20]
    for revision, size in enumerate(sizes, 1):
        result = place.repo.commit(state, execution_state=given(DATA[:size]) if size else b"")
        expected[revision] = DATA[:size]
        if revision in (2, 3, 4):
            assert result.uploaded_bytes < 2 * 65_536 + 20_000, "the parent's are copied, large or not"
    place.check(expected)


def test_a_state_of_equal_bytes_is_stored_in_little_room(place: Place, given: Given) -> None:
    state = new_session(SESSION)
    place.repo.commit(state, execution_state=given(bytes(1 << 20)))
    place.repo.commit(state, execution_state=given(bytes((1 << 20) + 100_000)))
    place.check({1: bytes(1 << 20), 2: bytes((1 << 20) + 100_000)})


def test_a_state_that_stands_on_nothing_here_is_compared_all_the_same(place: Place) -> None:
    state = new_session(SESSION, "a0")
    place.repo.commit(state, execution_state=DATA)
    track(state, Tracking())
    assert place.repo.commit(state, execution_state=edited(DATA, 1)).uploaded_bytes < 3 * CUTS_BYTES
    place.check({1: DATA, 2: edited(DATA, 1)})


# The same of states that are held: whoever has not read the parent reads it first.


def test_a_small_state_is_compared_with_a_parent_that_was_not_loaded(place: Place) -> None:
    old = DATA[:150_000]
    new = old[:70_000] + b"changed" + old[70_000:]
    place.repo.commit(new_session(SESSION, "a0"), execution_state=old)
    before = place.other.metrics.snapshot()
    state = place.other.load(SESSION)
    assert (place.other.metrics.snapshot() - before)["get"].bytes_in < 20_000
    result = place.other.commit(take_turn(state, "a1"), execution_state=new)
    assert result.uploaded_bytes < 10_000
    assert result.requests == 3, "one read, pack, head"
    place.check({1: old, 2: new})


def test_a_parent_that_others_have_moved_is_followed(place: Place) -> None:
    """The pack that the loaded revision lies in is carried by a later one, and collected."""
    limits = replace(NO_TAIL, packs=4, merged=4)
    with_limits(place.repo, limits)
    state = new_session(SESSION, "a0")
    old = DATA[:150_000]
    place.repo.commit(state, execution_state=old)
    loaded = place.other.load(SESSION)
    for number in range(8):
        place.repo.commit(take_turn(state, f"b{number}"))
    place.repo.rewind(SESSION, 1)
    collect(place.other.environment)
    assert place.other.read_execution_state(loaded) == old
    with pytest.raises(RevisionConflictError):
        place.other.commit(take_turn(loaded, "a1"), execution_state=old + b"x")
    again = place.other.load(SESSION)
    assert place.other.commit(take_turn(again, "a1"), execution_state=old + b"x").uploaded_bytes < 20_000


@pytest.mark.parametrize("size", [150_000, 1 << 20], ids=["held", "large"])
def test_a_damaged_parent_does_not_keep_the_next_one_from_being_stored(
    place: Place, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    place.repo.commit(new_session(SESSION, "a0"), execution_state=DATA[:size])
    state = place.other.load(SESSION)
    (pack,) = (row.key for row in place.store.list("default/packs/"))
    honest = place.store.get(pack).data
    place.store.put(pack, honest[:5000] + bytes([honest[5000] ^ 1]) + honest[5001:], Overwrite())
    data = DATA[:size] + b"x"
    assert place.other.commit(take_turn(state, "a1"), execution_state=data).uploaded_bytes > size
    assert "cannot be compared" in caplog.text
    assert place.other.read_execution_state(place.other.load(SESSION)) == data
    with pytest.raises(CorruptSnapshotError):
        place.other.read_execution_state(place.other.load(SESSION, 1))


@pytest.mark.parametrize("size", [150_000, 1 << 20], ids=["held", "large"])
def test_a_parent_that_cannot_be_read_now_is_said_and_nothing_was_committed(place: Place, size: int) -> None:
    place.other.commit(new_session(SESSION, "a0"), execution_state=DATA[:size])
    state = take_turn(place.repo.load(SESSION), "a1")
    before = place.objects()
    place.faulty.plan.on("get", "packs", fault=FailBefore())
    with pytest.raises(UnavailableError) as caught:
        place.repo.commit(state, execution_state=DATA[:size] + b"x")
    assert caught.value.applied == "no"
    assert place.objects() == before
    place.repo.commit(state, execution_state=DATA[:size] + b"x")
    place.check({1: DATA[:size], 2: DATA[:size] + b"x"})


def test_in_doubt_about_an_earlier_call_a_parent_that_cannot_be_read_is_no_no(place: Place) -> None:
    place.other.commit(new_session(SESSION, "a0"), execution_state=DATA)
    state = take_turn(place.repo.load(SESSION), "a1")
    for _ in range(9):
        place.faulty.plan.on("put", "heads", fault=LoseAnswer())
    place.faulty.plan.on("get", "heads", fault=FailBefore(), times=8)
    with pytest.raises(CommitUnknownError) as first:
        place.repo.commit(state, execution_state=DATA + b"x")
    forget_parts(state)
    place.faulty.plan.on("get", "packs", fault=FailBefore())
    with pytest.raises(CommitUnknownError) as second:
        place.repo.commit(state, execution_state=DATA + b"x")
    assert second.value.commit_id == first.value.commit_id


def forget_parts(state: PersistedSessionState) -> None:
    tracking = tracking_of(state)
    assert tracking.base is not None
    state._base = replace(tracking, base=replace(tracking.base, parts=parts.Parts()))


# What goes wrong.


def test_a_stream_that_fails_leaves_nothing_and_raises_what_it_raised(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    state = new_session(SESSION, "a0")
    place.repo.commit(state, execution_state=DATA)
    take_turn(state, "a1")
    before, objects = state.model_dump(), place.objects()
    for fails_at in (0, 1000, HELD_BYTES + 1, 900_000):
        with pytest.raises(ConnectionResetError, match="guest"):
            place.repo.commit(state, execution_state=cast(BinaryIO, Trickle(edited(DATA, 1, 50), fails_at)))
        assert (state.model_dump(), place.objects(), list(tmp_path.iterdir())) == (before, objects, [])
    place.repo.commit(state, execution_state=trickle(edited(DATA, 1)))
    place.check({1: DATA, 2: edited(DATA, 1)})


def test_no_room_for_the_spool_is_said_and_nothing_was_committed(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    objects = place.objects()
    with pytest.raises(UnavailableError, match="temporary file") as caught:
        place.repo.commit(new_session(SESSION), execution_state=DATA)
    assert (caught.value.applied, place.objects()) == ("no", objects)


@pytest.mark.parametrize("wrong", [io.StringIO("text" * 99_999), 7, object()], ids=["text", "number", "object"])
def test_what_is_neither_bytes_nor_a_binary_stream_is_refused(place: Place, wrong: BinaryIO) -> None:
    with pytest.raises(InvalidStateError, match="binary stream"):
        place.repo.commit(new_session(SESSION), execution_state=wrong)


def test_too_much_is_refused_where_it_becomes_too_much(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (content, checkpoint, spooling):
        monkeypatch.setattr(module, "EXECUTION_STATE_BYTES_MAX", 500_000)
    stream = io.BytesIO(DATA)
    for execution_state in (stream, DATA, DATA[:500_001]):
        with pytest.raises(LimitExceededError, match="execution_state of 500000 bytes"):
            place.repo.commit(new_session(SESSION), execution_state=execution_state)
    assert stream.tell() < len(DATA)
    state = new_session(SESSION)
    place.repo.commit(state, execution_state=io.BytesIO(DATA[:500_000]))
    assert place.repo.read_execution_state(state) == DATA[:500_000]


# What others do meanwhile.


def test_a_raised_epoch_stages_the_spool_again(place: Place) -> None:
    state = new_session(SESSION, "a0")
    place.repo.commit(state, execution_state=DATA)
    place.watched.start_over()
    place.watched.act(2, lambda: rewrite_head(place.store, lambda head: replace(head, epoch=9, write_id="cc" * 16)))
    data = edited(DATA, 1)
    place.repo.commit(take_turn(state, "a1"), execution_state=io.BytesIO(data))
    kinds = ["packs" if "/packs/" in key else "heads" for verb, key in place.watched.requests if verb == "put"]
    assert kinds == ["packs", "heads", "packs", "heads"]
    assert raw_head(place.store).epoch == 9
    place.check({1: DATA, 2: data})


def test_a_head_that_names_other_places_is_built_on_anew(place: Place) -> None:
    state = new_session(SESSION, "a0")
    place.repo.commit(state, execution_state=DATA)
    place.watched.start_over()
    as_merged = partial(replace, state_id="dd" * 16, write_id="cc" * 16)
    place.watched.act(2, lambda: rewrite_head(place.store, as_merged))
    data = edited(DATA, 1)
    place.repo.commit(take_turn(state, "a1"), execution_state=io.BytesIO(data))
    place.check({1: DATA, 2: data})


def test_a_lost_answer_is_found_and_the_next_one_is_compared_with_it(place: Place) -> None:
    state = new_session(SESSION, "a0")
    place.repo.commit(state, execution_state=DATA)
    place.faulty.plan.on("put", "heads", fault=LoseAnswer())
    data = edited(DATA, 1)
    place.repo.commit(take_turn(state, "a1"), TurnStamp("turn-1"), execution_state=io.BytesIO(data))
    result = place.repo.commit(take_turn(state, "a2"), execution_state=io.BytesIO(data + b"x"))
    assert (result.requests, result.uploaded_bytes < CUTS_BYTES) == (2, True)
    place.check({1: DATA, 2: data, 3: data + b"x"})


def test_a_writer_takes_a_stream_as_well(place: Place) -> None:
    place.repo.commit(new_session(SESSION, "a0"), execution_state=DATA)
    writer = place.repo.acquire(SESSION, "host")
    writer.commit(take_turn(writer.state, "a1"), execution_state=io.BytesIO(edited(DATA, 1)))
    place.check({1: DATA, 2: edited(DATA, 1)})


# What it comes to.


@pytest.mark.parametrize("hosts", [1, 2], ids=["one host", "two hosts by turns"])
def test_many_revisions_lie_in_few_packs_of_which_little_is_dead(place: Place, hosts: int) -> None:
    limits = Limits(packs=8, large_packs=6, large_bytes=400_000, tail_pack_bytes=0)
    repos = [with_limits(repo, limits) for repo in (place.repo, place.other)[:hosts]]
    state, data, expected = new_session(SESSION), DATA, {}
    uploaded = 0
    for revision in range(1, 41):
        data = edited(data, revision)
        repo = repos[revision % hosts]
        if hosts > 1 and revision > 1:
            state = repo.load(SESSION)
        uploaded += repo.commit(state, execution_state=io.BytesIO(data)).uploaded_bytes
        expected[revision] = data
        assert len(packs_of(state)) <= limits.large_packs // 2 + 1
        base = tracking_of(state).base
        assert base is not None
        assert len(base.placement.packs) <= limits.large_packs + 1
    needed = packs_of(state)
    stored = (row for row in place.store.list("default/packs/") if row.key.rpartition("/")[2] in needed)
    assert sum(row.size_bytes for row in stored) < 2.5 * len(data)
    assert uploaded < 40 * len(data) / 3
    place.check({revision: expected[revision] for revision in (1, 2, 17, 39, 40)})


def test_forks_rewinds_and_collections_know_no_difference(place: Place) -> None:
    state, expected = new_session(SESSION), {}
    for revision in range(1, 6):
        expected[revision] = edited(DATA, revision)
        place.repo.commit(state, execution_state=io.BytesIO(expected[revision]))
    place.repo.fork(SESSION, "child", 3)
    child = place.other.load("child")
    result = place.other.commit(take_turn(child, "c"), execution_state=io.BytesIO(expected[3] + b"x"))
    assert result.uploaded_bytes < CUTS_BYTES
    place.repo.rewind(SESSION, 2)
    rewound = place.repo.load(SESSION)
    result = place.repo.commit(take_turn(rewound, "r"), execution_state=io.BytesIO(expected[2] + b"y"))
    assert result.uploaded_bytes < CUTS_BYTES
    collect(place.other.environment)
    place.check({**expected, 6: expected[2], 7: expected[2] + b"y"})
    assert place.repo.read_execution_state(place.repo.load("child")) == expected[3] + b"x"
    place.repo.delete(SESSION)
    collect(place.other.environment)
    assert place.repo.read_execution_state(place.repo.load("child", 1)) == expected[3]


# Streams that are given again.


@pytest.mark.parametrize("size", [900, 700_000], ids=["held", "spooled"])
def test_a_stream_is_at_its_start_again_after_a_commit_that_failed(place: Place, size: int) -> None:
    state = new_session(SESSION, "a0")
    place.repo.commit(state)
    stream = io.BytesIO(b"before" + Random(1).randbytes(size))
    stream.seek(6)
    place.faulty.plan.on("put", "/heads/", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        place.repo.commit(take_turn(state, "a1"), None, stream)
    assert stream.tell() == 6
    place.faulty.plan.clear()
    place.repo.commit(state, None, stream)
    assert place.other.read_execution_state(place.other.load(SESSION)) == Random(1).randbytes(size)


def test_a_stream_at_its_end_is_refused(place: Place) -> None:
    state = new_session(SESSION, "a0")
    stream = io.BytesIO(b"read already")
    stream.read()
    with pytest.raises(InvalidStateError, match="at its end; open it again"):
        place.repo.commit(state, None, stream)
    assert place.repo.commit(state, None, b"").head_revision == 1


class Hangup(io.BytesIO):
    """A stream that can seek until it breaks off."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            self.close()
            raise ConnectionResetError("the guest went away")
        return super().read(min(size or 1, 100))


def test_what_breaks_a_stream_for_good_is_raised_as_it_is(place: Place) -> None:
    before = place.objects()
    with pytest.raises(ConnectionResetError, match="the guest went away"):
        place.repo.commit(new_session(SESSION, "a0"), None, Hangup(b"x" * 1000))
    assert place.objects() == before
