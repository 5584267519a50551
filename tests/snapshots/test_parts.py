"""A part is what was given, byte for byte, whatever its parent was; and only what is new of it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots import codec, parts
from snapshots.parts import EXECUTION_STATE, TOOL_STATE, HeldPart, Parts, Piece, held_part, spliced
from snapshots.staging import Staged
from snapshots.state import ToolEntry, ToolManifest, ToolState
from storage.backends.memory import MemoryStore
from storage.cuts import CutTable
from storage.digest import BlobRef, Digest, blob_ref
from storage.extents import Extent
from storage.pack_reader import PackReader
from storage.store import Create
from tests.snapshots.records import PACK, StagedSession, pack_bytes

PAGE_BYTES = 4096


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def read(session: StagedSession, ref: BlobRef, executor: Executor) -> bytes:
    """Return a part of the present revision as a reader puts it together."""
    store = MemoryStore()
    for name, data in session.packs.items():
        store.put(f"packs/{name}", data, Create())
    extents = session.base.placement.extents[ref.digest]
    return PackReader(store, lambda name: f"packs/{name}", executor).blobs({ref: extents})[ref]


def new_bytes(staged: Staged, ref: BlobRef | None) -> int:
    """Return how many raw bytes of a part lie in the pack of its own commit."""
    assert ref is not None
    return sum(extent.length for extent in staged.placement.extents[ref.digest] if extent.pack == staged.name)


# What is given comes back.

Edit = Callable[[bytes, Random], bytes]


def insert(data: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + draw.randbytes(draw.choice([1, 70, 3000])) + data[start:]


def delete(data: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start + draw.randrange(2000) :]


def overwrite(data: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    new = draw.randbytes(draw.choice([1, 64, 500]))
    return data[:start] + new + data[start + len(new) :]


def move(data: bytes, draw: Random) -> bytes:
    start, end, to = sorted(draw.randrange(len(data) + 1) for _ in range(3))
    return data[:start] + data[end:to] + data[start:end] + data[to:]


def repeat(data: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data + data[start : start + 2000]


def clear(data: bytes, draw: Random) -> bytes:
    return draw.choice([b"", data[:1], bytes(len(data))])


def same(data: bytes, _: Random) -> bytes:
    return data


EDITS: Sequence[Edit] = [insert, delete, overwrite, move, repeat, clear, same]
first_states = st.binary(max_size=300) | st.integers(0, 9).map(lambda seed: Random(seed).randbytes(20_000 + seed))


@given(first_states, st.lists(st.lists(st.sampled_from(EDITS), max_size=4), max_size=8), st.integers(0, 1 << 20))
def test_a_part_is_what_was_given_however_it_came_about(
    executor: Executor, first: bytes, commits: list[list[Edit]], seed: int
) -> None:
    session, draw, data = StagedSession.new(), Random(seed), first
    for edits in [[], *commits]:
        for edit in edits:
            data = edit(data, draw)
        staged = session.commit(data)
        assert staged.checkpoint.execution_state == blob_ref(data)
        assert read(session, blob_ref(data), executor) == data


@given(st.lists(st.sampled_from(EDITS), min_size=1, max_size=5), st.integers(0, 1 << 20))
def test_the_pieces_are_the_part_in_order(edits: list[Edit], seed: int) -> None:
    draw = Random(seed)
    data = old = draw.randbytes(30_000)
    for edit in edits:
        data = edit(data, draw)
    extents = (Extent(PACK, 0, 90, 7, 10_000), Extent(PACK, 500, 90, 0, 20_000))
    raw = {0: bytes(7) + old[:10_000], 500: old[10_000:]}
    pieces, held = spliced(blob_ref(data), data, HeldPart(blob_ref(old), old), {blob_ref(old).digest: extents})
    assert b"".join(bytes_of(piece, raw) for piece in pieces) == data
    assert (held.ref, held.data) == (blob_ref(data), data)


def bytes_of(piece: Piece, frames: Mapping[int, bytes]) -> bytes:
    if isinstance(piece, memoryview):
        return bytes(piece)
    return b"".join(frames[one.offset][one.skip : one.skip + one.length] for one in piece)


def test_all_parts_come_back_side_by_side(executor: Executor) -> None:
    session, draw = StagedSession.new(), Random(3)
    memory = draw.randbytes(50_000)
    for number in range(30):
        memory = insert(memory, draw)
        session.state.append_active_read_delta([], [])
        session.state.tool_state_snapshot = tools(number, 40)
        tool_state = codec.encode(session.state.tool_state_snapshot.model_dump())
        staged = session.commit(memory)
        assert staged.checkpoint.tool_state == blob_ref(tool_state)
        assert read(session, blob_ref(tool_state), executor) == tool_state
        assert read(session, blob_ref(memory), executor) == memory


# What is new, and what is not.


def tools(changed: int, count: int = 140) -> ToolState:
    """Return a tool state of many entries, one of which depends on `changed`."""
    draw = Random(1)
    entries = {}
    for number in range(count):
        contract = {"count": changed if number == changed % count else 0, "hash": draw.randbytes(16).hex()}
        manifest = ToolManifest(
            id=f"k{number}", name=f"k{number}", description="what it does", compact_contract=contract
        )
        entries[f"k{number}"] = ToolEntry(manifest=manifest, source_id="s")
    return ToolState(generation=changed, tools=entries)


@pytest.mark.parametrize("seed", range(3))
def test_five_overwritten_pages_of_a_large_execution_state_add_about_their_size(seed: int) -> None:
    draw = Random(seed)
    memory = bytearray(draw.randbytes(1 << 20))
    session = StagedSession.new()
    staged = session.commit(bytes(memory))
    assert new_bytes(staged, staged.checkpoint.execution_state) == len(memory)
    for _ in range(10):
        for page in draw.sample(range(len(memory) // PAGE_BYTES), 5):
            memory[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = draw.randbytes(PAGE_BYTES)
        staged = session.commit(bytes(memory))
        assert new_bytes(staged, staged.checkpoint.execution_state) <= 5 * PAGE_BYTES + 1000
        assert len(pack_bytes(staged)) < 5 * PAGE_BYTES + 4000


def test_one_changed_entry_of_a_tool_state_adds_less_than_a_kilobyte() -> None:
    session = StagedSession.new()
    session.state.tool_state_snapshot = tools(0)
    session.commit()
    for number in range(1, 11):
        session.state.tool_state_snapshot = tools(number)
        staged = session.commit()
        assert staged.checkpoint.tool_state is not None
        assert staged.checkpoint.tool_state.size_bytes > 15_000
        assert new_bytes(staged, staged.checkpoint.tool_state) < 1000


def test_what_moved_is_not_stored_again() -> None:
    data = Random(4).randbytes(300_000)
    session = StagedSession.new()
    session.commit(data)
    staged = session.commit(b"before" + data[150_000:] + data[:150_000])
    assert new_bytes(staged, staged.checkpoint.execution_state) < 5000


def test_a_part_is_compared_with_the_parent_revisions_alone() -> None:
    """What an earlier revision had, or another part has, does not count."""
    one, other = (Random(seed).randbytes(100_000) for seed in (5, 6))
    session = StagedSession.new()
    session.commit(one)
    session.commit(other)
    staged = session.commit(one + b"x")
    assert new_bytes(staged, staged.checkpoint.execution_state) == len(one) + 1


@pytest.mark.parametrize("held", [Parts(), Parts().holding(EXECUTION_STATE, HeldPart(blob_ref(b"x"), b"x"))])
def test_without_the_bytes_of_the_parent_all_is_new(held: Parts, executor: Executor) -> None:
    data = Random(7).randbytes(100_000)
    session = StagedSession.new()
    session.commit(data)
    session.base = replace(session.base, parts=held)
    staged = session.commit(data + b"x")
    assert new_bytes(staged, staged.checkpoint.execution_state) == len(data) + 1
    assert read(session, blob_ref(data + b"x"), executor) == data + b"x"


def test_bytes_that_are_staged_after_a_part_too_large_to_be_kept_are_all_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "HELD_BYTES_MAX", 100_000)
    data = Random(7).randbytes(100_000)
    session = StagedSession.new()
    session.commit(data)
    staged = session.commit(data + b"x")
    assert new_bytes(staged, staged.checkpoint.execution_state) < 1000, "the one before was kept"
    staged = session.commit(data + b"xy")
    assert new_bytes(staged, staged.checkpoint.execution_state) == len(data) + 2


# What is kept.


def part(data: bytes) -> HeldPart:
    return HeldPart(blob_ref(data), data)


def test_what_is_kept_is_found_by_kind_and_ref() -> None:
    held = Parts().holding(TOOL_STATE, part(b"tools")).holding(EXECUTION_STATE, part(b"memory"))
    assert held.of(TOOL_STATE, blob_ref(b"tools")) == part(b"tools")
    assert held.of(TOOL_STATE, blob_ref(b"memory")) is None
    assert held.of(TOOL_STATE, None) is None
    assert held.of("plugin-snapshot", blob_ref(b"tools")) is None
    assert held.holding(TOOL_STATE, part(b"others")).of(TOOL_STATE, blob_ref(b"tools")) is None


def test_of_a_part_that_is_too_large_the_cuts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "HELD_BYTES_MAX", 100_000)
    data = Random(9).randbytes(100_001)
    assert held_part(blob_ref(data[1:]), data[1:]).data == data[1:]
    kept = held_part(blob_ref(data), data).data
    assert isinstance(kept, CutTable)
    assert kept.size_bytes == len(data)
    assert len(kept) > 1


def test_a_part_that_is_dropped_is_forgotten() -> None:
    session = StagedSession.new()
    session.commit(b"memory" * 100)
    assert set(session.base.parts.held) == {EXECUTION_STATE}
    session.state.execution_state_ref = None
    session.commit()
    assert not session.base.parts.held


def test_a_part_that_did_not_change_stays_known_and_where_it_is() -> None:
    session = StagedSession.new()
    data = Random(8).randbytes(100_000)
    before = session.commit(data)
    for again in (None, data):
        staged = session.commit(again)
        ref: Digest = blob_ref(data).digest
        assert staged.placement.extents[ref] == before.placement.extents[ref]
        assert session.base.parts.of(EXECUTION_STATE, blob_ref(data)) == part(data)
    assert new_bytes(session.commit(data + b"x"), blob_ref(data + b"x")) < 1000


def test_nothing_is_known_of_an_empty_part() -> None:
    pieces, held = spliced(blob_ref(b"new"), b"new", part(b""), {})
    assert pieces == [memoryview(b"new")]
    assert held == part(b"new")
