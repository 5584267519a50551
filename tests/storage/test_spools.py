"""What is spooled is read back as often as it has to be, and leaves nothing behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.backends.memory import MemoryStore
from storage.digest import blob_ref
from storage.errors import CorruptObjectError, UnavailableError
from storage.extents import Extent, Spliceable
from storage.frame import FRAME_BYTES_MAX, open_run
from storage.pack_reader import PackReader
from storage.packs import PackBuilder, finished, read_index, write_pack
from storage.spools import SPOOLED, TOGETHER_BYTES, Spool, SpooledBytes
from storage.store import Create
from storage.testing.clock import ManualClock
from storage.testing.faults import FailBefore, FaultPlan, FaultyStore, LoseAnswer

NAME, KEY = f"{1:032x}.{1:016x}", f"packs/{1:032x}.{1:016x}"
DATA = Random(4).randbytes(2 * TOGETHER_BYTES + 12_345)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def spool(executor: Executor) -> Iterator[Spool]:
    with Spool(executor) as made:
        yield made


def fill(spool: Spool, data: bytes = DATA, step: int = 100_001) -> Spool:
    for start in range(0, len(data), step):
        spool.add(data[start : start + step])
    spool.finish()
    return spool


# What a spool holds.


@pytest.mark.parametrize("size", [1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, TOGETHER_BYTES, len(DATA)])
def test_what_was_added_is_in_its_frames(spool: Spool, size: int) -> None:
    fill(spool, DATA[:size])
    assert open_run(spool.read(0, spool.size_bytes), key=KEY, bytes_max=size) == DATA[:size]
    assert sum(frame.length for frame in spool.frames) == size
    assert all(frame.length == FRAME_BYTES_MAX for frame in spool.frames[:-1])
    assert [frame.offset for frame in spool.frames] == [
        sum(one.stored_bytes for one in spool.frames[:index]) for index in range(len(spool.frames))
    ]


def test_nothing_added_is_no_file(spool: Spool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    spool.finish()
    assert (spool.size_bytes, spool.frames) == (0, [])


def test_its_file_has_no_name_and_ends_with_it(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Spool(executor) as spool:
        fill(spool)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="closed"):
        spool.read(0, 1)


def test_no_room_is_said_and_applied_to_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UnavailableError, match="temporary file") as caught:
        fill(spool)
    assert caught.value.applied == "no"


def test_a_file_that_was_cut_is_no_end_of_the_stream(spool: Spool) -> None:
    fill(spool)
    assert spool._file is not None
    spool._file.truncate(spool.size_bytes - 1)
    with pytest.raises(UnavailableError, match="temporary file"):
        SpooledBytes((b"before", spool)).open().read()


# Bytes of which some are in a spool.


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(7_000, 3_000_000), min_size=1, max_size=4))
def test_a_stream_of_it_is_all_of_it_any_number_of_times(executor: Executor, sizes: list[int]) -> None:
    with Spool(executor) as spool, Spool(executor) as empty:
        frames = fill(spool, DATA[:2_000_000]).read(0, spool.size_bytes)
        empty.finish()
        data = SpooledBytes((b"", b"before", empty, spool, b"", b"after", b""))
        assert data.size_bytes == len(frames) + 11
        for _ in range(2):
            stream, found, turn = data.open(), bytearray(), 0
            while piece := stream.read(sizes[turn % len(sizes)]):
                found += piece
                turn += 1
            assert bytes(found) == b"before" + frames + b"after"


# Packs.


def pieces_of(spool: Spool, old: Extent) -> list[Extent]:
    new = Spliceable(spool.frames)
    return [*new.between(0, 1_000_000), old, *new.between(1_000_000, len(DATA) - 1_000_000)]


def test_a_pack_takes_a_spool_up_between_its_other_frames(spool: Spool, executor: Executor) -> None:
    store, fill_ = MemoryStore(), fill(spool)
    first = PackBuilder("old")
    ref = first.add("execution-state", b"of the parent" * 5000)
    store.put("packs/old", first.finish({}), Create())
    (old,) = first.extents[ref.digest]
    whole = DATA[:1_000_000] + b"of the parent" * 5000 + DATA[1_000_000:]
    builder = PackBuilder(NAME)
    small = builder.add("tool-state", b"tools")
    builder.add_spooled("execution-state", blob_ref(whole), pieces_of(fill_, old), fill_)
    late = builder.add("plugin-snapshot", b"plugins" * 9000)
    body = builder.body()
    assert all(extent.pack != SPOOLED for many in builder.extents.values() for extent in many)
    assert body.size_bytes == builder.size_bytes
    write_pack(store, KEY, finished(body, {"tenant": "t"}), ManualClock())
    wanted = {one: builder.extents[one.digest] for one in (small, blob_ref(whole), late)}
    found = PackReader(store, lambda name: f"packs/{name}", executor).blobs(wanted)
    assert found == {small: b"tools", blob_ref(whole): whole, late: b"plugins" * 9000}
    index = read_index(store, KEY, NAME)
    assert {row.ref for row in index.blobs} == {small, late}, "the large one does not lie whole in it"


@pytest.mark.parametrize("fault", [FailBefore(), LoseAnswer()], ids=str)
def test_a_put_of_a_spool_is_repeated_from_its_start(spool: Spool, fault: FailBefore | LoseAnswer) -> None:
    data = SpooledBytes((b"before", fill(spool), b"after"))
    store = MemoryStore()
    write_pack(FaultyStore(store, FaultPlan().on("put", fault=fault)), KEY, data, ManualClock())
    assert store.get(KEY).data == data.open().read()


def test_another_object_of_its_name_is_never_taken_for_it(spool: Spool) -> None:
    store = MemoryStore()
    store.put(KEY, b"another", Create())
    with pytest.raises(CorruptObjectError):
        write_pack(store, KEY, SpooledBytes((fill(spool),)), ManualClock())
