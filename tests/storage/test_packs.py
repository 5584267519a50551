"""Packs: laid out in frames, written once, read back exactly or not at all."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.backends.memory import MemoryStore
from storage.digest import BlobRef, Digest, blob_ref, short_hash
from storage.errors import CorruptObjectError, NotFoundError, UnavailableError
from storage.extents import Extent, Run, Spliceable, plan_reads
from storage.frame import FRAME_BYTES_MAX, open_run, seal_run
from storage.pack_reader import PackReader
from storage.packs import BULK_BYTES_MIN, PREFIX_BYTES_MAX, PUT_ATTEMPTS_MAX, PackBuilder, read_index, write_pack
from storage.store import ByteRange, Create, ObjectStore, Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import (
    Delay,
    FailBefore,
    Fault,
    FaultPlan,
    FaultyStore,
    FlipBit,
    LoseAnswer,
    Meanwhile,
    OwnRetry,
    Repeat,
    Truncate,
)

NAME, KEY = "p1", "packs/p1"
NOISE = b"".join(short_hash(n.to_bytes(2, "big"), 64) for n in range(8192))  # 512 KiB that nothing compresses
FACTS = {"tenant": "default", "session": "sé"}


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def key_of(name: str) -> str:
    return f"packs/{name}"


def packed(blobs: Sequence[bytes], name: str = NAME) -> tuple[PackBuilder, bytes]:
    builder = PackBuilder(name)
    for number, blob in enumerate(blobs):
        builder.add(f"kind{number % 3}", blob)
    return builder, builder.finish(FACTS)


def stored(blobs: Sequence[bytes], name: str = NAME) -> tuple[MemoryStore, dict[BlobRef, tuple[Extent, ...]]]:
    store = MemoryStore()
    builder, data = packed(blobs, name)
    store.put(key_of(name), data, Create())
    return store, {blob_ref(blob): builder.extents[blob_ref(blob).digest] for blob in blobs}


# Layout.


def test_small_blobs_share_a_frame() -> None:
    builder, _ = packed([b"one", b"two", b"three"])
    places = [builder.extents[blob_ref(blob).digest] for blob in (b"one", b"two", b"three")]
    assert [len(extents) for extents in places] == [1, 1, 1]
    assert {(one.offset, one.stored_bytes) for (one,) in places} == {(0, places[0][0].stored_bytes)}
    assert [(one.skip, one.length) for (one,) in places] == [(0, 3), (3, 3), (6, 5)]


def test_a_bulky_blob_has_frames_of_its_own() -> None:
    big = NOISE[:BULK_BYTES_MIN]
    builder, _ = packed([b"before", big, b"after"])
    before, own, after = (builder.extents[blob_ref(blob).digest] for blob in (b"before", big, b"after"))
    assert {one.offset for one in own}.isdisjoint({before[0].offset, after[0].offset})
    assert all(one.skip == 0 for one in own)
    assert before[0].offset < own[0].offset < after[0].offset


def test_just_below_bulk_is_small() -> None:
    builder, _ = packed([b"before", NOISE[: BULK_BYTES_MIN - 1]])
    offsets = {one.offset for extents in builder.extents.values() for one in extents}
    assert offsets == {0}


def test_shared_frames_are_closed_before_they_overflow() -> None:
    blobs = [NOISE[start : start + 30_000] for start in range(0, 300_000, 30_000)]
    builder, _ = packed(blobs)
    frames: dict[int, int] = {}
    for extents in builder.extents.values():
        for one in extents:
            frames[one.offset] = max(frames.get(one.offset, 0), one.skip + one.length)
    assert len(frames) == 3
    assert all(size <= FRAME_BYTES_MAX for size in frames.values())


def test_a_large_blob_is_cut_into_frames() -> None:
    builder, _ = packed([NOISE])
    extents = builder.extents[blob_ref(NOISE).digest]
    assert [one.length for one in extents] == [FRAME_BYTES_MAX] * 4
    assert all(later.offset == one.offset + one.stored_bytes for one, later in itertools.pairwise(extents))


@pytest.mark.parametrize("blob", [b"small", NOISE[:BULK_BYTES_MIN], b""])
def test_a_blob_is_stored_once(blob: bytes) -> None:
    once, _ = packed([blob])
    builder = PackBuilder(NAME)
    refs = {builder.add("a", blob) for _ in range(5)}
    builder.flush()
    refs.add(builder.add("b", blob))
    assert refs == {blob_ref(blob)}
    assert builder.finish({}) == once.finish({}).replace(b"kind0", b"a") or builder.extents == once.extents


def test_an_empty_blob_takes_no_place() -> None:
    builder, _ = packed([b""])
    assert builder.extents == {blob_ref(b"").digest: ()}
    assert builder.append_run(b"x").start == 0
    builder, _ = packed([b"a", b"", b"b"])
    assert [builder.extents[blob_ref(x).digest][0].skip for x in (b"a", b"b")] == [0, 1]


def test_a_run_lies_where_it_is_said() -> None:
    builder = PackBuilder(NAME)
    builder.add("k", b"blob")
    place = builder.append_run(seal_run(b"manifest" * 100))
    data = builder.finish({})
    assert open_run(data[place.start : place.end], key="k", bytes_max=800) == b"manifest" * 100
    assert builder.extents[blob_ref(b"blob").digest][0].frame.end <= place.start


def test_a_log_that_is_written_again_in_the_middle_is_the_same_log(executor: Executor) -> None:
    log = b"".join(LINES)
    store, where = stored([log], "old")
    held = Spliceable(where[blob_ref(log)])
    builder = PackBuilder(NAME)
    pieces: list[Run | bytes] = [
        Run(held.between(0, 40_000)),
        log[40_000:70_000],
        Run(held.between(70_000, len(log) - 70_000)),
    ]
    builder.add_log("log", blob_ref(log), pieces, before(log))
    store.put(KEY, builder.finish({}), Create())
    extents = builder.extents[blob_ref(log).digest]
    assert {one.pack for one in extents} == {"old", NAME}
    assert PackReader(store, key_of, executor).blobs({blob_ref(log): extents}) == {blob_ref(log): log}


# Blobs of which a part lies elsewhere.


def test_a_spliced_blob_is_read_back_from_both_packs(executor: Executor) -> None:
    store, where = stored([NOISE], "old")
    held = Spliceable(where[blob_ref(NOISE)])
    new = NOISE[:200_000] + b"new" * 20_000 + NOISE[300_000:] + b"end"
    builder = PackBuilder(NAME)
    pieces: list[Run | bytes] = [Run(held.between(0, 200_000)), b"new" * 20_000]
    pieces += [Run(held.between(300_000, len(NOISE) - 300_000)), b"end"]
    builder.add_spliced("k", blob_ref(new), pieces)
    data = builder.finish(FACTS)
    store.put(KEY, data, Create())
    assert PackReader(store, key_of, executor).blobs({blob_ref(new): builder.extents[blob_ref(new).digest]}) == {
        blob_ref(new): new
    }
    assert len(data) < 2000
    assert read_index(store, KEY, NAME).blobs == ()  # it does not lie whole in this pack


def test_small_new_pieces_share_a_frame_with_other_blobs(executor: Executor) -> None:
    store, where = stored([b"x" * 1000], "old")
    held = Spliceable(where[blob_ref(b"x" * 1000)])
    new = b"x" * 400 + b"-changed-" + b"x" * 500
    builder = PackBuilder(NAME)
    builder.add("a", b"another")
    pieces: list[Run | bytes] = [Run(held.between(0, 400)), b"-changed-", b"", Run(held.between(500, 500))]
    builder.add_spliced("b", blob_ref(new), pieces)
    builder.flush()
    extents = builder.extents[blob_ref(new).digest]
    assert [one.pack for one in extents] == ["old", NAME, "old"]
    assert extents[1].frame == builder.extents[blob_ref(b"another").digest][0].frame
    store.put(KEY, builder.finish({}), Create())
    assert PackReader(store, key_of, executor).blobs({blob_ref(new): extents})[blob_ref(new)] == new


LINES = [b"line %d of a log, much like the others\n" % number for number in range(3000)]


def before(log: bytes) -> Callable[[int], bytes]:
    return lambda position: log[max(0, position - PREFIX_BYTES_MAX) : position]


def test_a_continued_log_is_read_back_and_takes_little(executor: Executor) -> None:
    store, log = MemoryStore(), b""
    held: tuple[Extent, ...] = ()
    for number in range(0, 3000, 500):
        new = b"".join(LINES[number : number + 500])
        builder = PackBuilder(f"p{number}")
        builder.add_log("log", blob_ref(log + new), [Run(held), new], before(log))
        log, held = log + new, builder.extents[blob_ref(log + new).digest]
        store.put(key_of(builder.name), builder.finish({}), Create())
    assert len(held) == 6
    assert PackReader(store, key_of, executor).blobs({blob_ref(log): held}) == {blob_ref(log): log}
    assert sum(one.stored_bytes for one in held[1:]) < 0.8 * 5 * held[0].stored_bytes


def test_much_at_once_continues_from_frame_to_frame(executor: Executor) -> None:
    log = b"".join(LINES) * 4
    builder = PackBuilder(NAME)
    builder.add_log("log", blob_ref(log), [log], before(b""))
    store = MemoryStore()
    store.put(KEY, builder.finish({}), Create())
    extents = builder.extents[blob_ref(log).digest]
    assert [one.length for one in extents[:-1]] == [FRAME_BYTES_MAX] * (len(log) // FRAME_BYTES_MAX)
    assert PackReader(store, key_of, executor).blobs({blob_ref(log): extents}) == {blob_ref(log): log}


def test_a_log_without_its_beginning_is_corrupt_and_never_other_bytes(executor: Executor) -> None:
    first, second = b"".join(LINES[:500]), b"".join(LINES[500:1000])
    builder = PackBuilder(NAME)
    builder.add("log", first)
    builder.flush()
    held = builder.extents[blob_ref(first).digest]
    builder.add_log("log", blob_ref(first + second), [Run(held), second], before(first))
    store = MemoryStore()
    store.put(KEY, builder.finish({}), Create())
    last = builder.extents[blob_ref(first + second).digest][-1]
    for extents in ([last], [last._replace(skip=1, length=last.length - 1)]):
        with pytest.raises(CorruptObjectError):
            PackReader(store, key_of, executor).pieces(extents)
    with pytest.raises(CorruptObjectError):
        PackReader(store, key_of, executor).blobs({blob_ref(second): [last]})


def test_equal_blobs_make_equal_packs() -> None:
    assert packed([b"a", NOISE, b"b"])[1] == packed([b"a", NOISE, b"b"])[1]


# Reading.

blob_lists = st.lists(
    st.binary(max_size=200)
    | st.builds(lambda start, size: NOISE[start : start + size], st.integers(0, 1000), st.integers(0, 300_000)),
    max_size=12,
)


@given(blob_lists, blob_lists)
def test_what_is_read_is_what_was_added(executor: Executor, first: list[bytes], second: list[bytes]) -> None:
    store = MemoryStore()
    wanted: dict[BlobRef, tuple[Extent, ...]] = {}
    for name, blobs in (("p1", first), ("p2", second)):
        builder, data = packed(blobs, name)
        store.put(key_of(name), data, Create())
        wanted |= {blob_ref(blob): builder.extents[blob_ref(blob).digest] for blob in blobs}
    found = PackReader(store, key_of, executor).blobs(wanted)
    assert found == {blob_ref(blob): blob for blob in (*first, *second)}


def test_near_blobs_are_one_request(executor: Executor) -> None:
    store, blobs = stored([bytes([n]) * 40_000 for n in range(100)])
    faulty = FaultyStore(store)
    PackReader(faulty, key_of, executor).blobs(blobs)
    assert len(faulty.log) == 1


def test_nothing_wanted_is_no_request(executor: Executor) -> None:
    faulty = FaultyStore(MemoryStore())
    assert PackReader(faulty, key_of, executor).blobs({}) == {}
    assert PackReader(faulty, key_of, executor).blobs({blob_ref(b""): ()}) == {blob_ref(b""): b""}
    assert not faulty.log


def test_every_wrong_byte_of_a_pack_is_found_or_was_not_read(executor: Executor) -> None:
    blobs = [b"one" * 9, b"", NOISE[:100], b"two" * 20]
    store, wanted = stored(blobs)
    honest = store.get(KEY).data
    read_bytes = {
        position for extents in wanted.values() for one in extents for position in range(one.offset, one.frame.end)
    }
    for position in range(len(honest)):
        altered = honest[:position] + bytes([honest[position] ^ 0x40]) + honest[position + 1 :]
        store.put(KEY, altered, Overwrite())
        if position in read_bytes:
            with pytest.raises(CorruptObjectError) as caught:
                PackReader(store, key_of, executor).blobs(wanted)
            assert caught.value.key == KEY
        else:
            assert set(PackReader(store, key_of, executor).blobs(wanted).values()) == set(blobs)


def test_every_truncated_pack_is_corrupt(executor: Executor) -> None:
    store, wanted = stored([b"one" * 9, NOISE[:50_000]])
    honest = store.get(KEY).data
    end = max(one.frame.end for extents in wanted.values() for one in extents)
    for length in [*range(60), *range(60, end, 997), end - 1]:
        store.put(KEY, honest[:length], Overwrite())
        with pytest.raises(CorruptObjectError):
            PackReader(store, key_of, executor).blobs(wanted)


@pytest.mark.parametrize("fault", [Truncate(0), Truncate(30), FlipBit(3), FlipBit(10_007)], ids=str)
def test_a_damaged_answer_is_corrupt(executor: Executor, fault: Fault) -> None:
    store, wanted = stored([b"one" * 9, NOISE[:50_000]])
    with pytest.raises(CorruptObjectError):
        PackReader(FaultyStore(store, FaultPlan().on("get", fault=fault)), key_of, executor).blobs(wanted)


def test_a_missing_pack_is_not_found_and_named(executor: Executor) -> None:
    _, wanted = stored([b"one"])
    with pytest.raises(NotFoundError) as caught:
        PackReader(MemoryStore(), key_of, executor).blobs(wanted)
    assert caught.value.key == KEY


def test_swapped_extents_are_never_wrong_data(executor: Executor) -> None:
    blobs = [b"aaaa", b"bbbb", NOISE[:40_000], NOISE[40_000:80_000]]
    store, wanted = stored(blobs)
    refs = list(wanted)
    for one, other in ((0, 1), (2, 3), (0, 2)):
        swapped = {**wanted, refs[one]: wanted[refs[other]], refs[other]: wanted[refs[one]]}
        with pytest.raises(CorruptObjectError):
            PackReader(store, key_of, executor).blobs(swapped)


def test_extents_in_another_order_are_never_wrong_data(executor: Executor) -> None:
    store, wanted = stored([NOISE])
    extents = wanted[blob_ref(NOISE)]
    for wrong in (extents[::-1], extents[1:], (*extents, extents[0]), (*extents[:3], extents[0]), ()):
        with pytest.raises(CorruptObjectError):
            PackReader(store, key_of, executor).blobs({blob_ref(NOISE): wrong})


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 1},
        {"stored_bytes": 1},
        {"stored_bytes": 10_000},
        {"skip": 1},
        {"skip": 1 << 40},
        {"offset": 1 << 40},
        {"length": 3},
        {"length": 5},
    ],
)
def test_an_extent_that_is_off_is_never_wrong_data(executor: Executor, change: dict[str, Any]) -> None:
    store, wanted = stored([b"aaaa", b"bbbb"])
    (extent,) = wanted[blob_ref(b"aaaa")]
    with pytest.raises(CorruptObjectError):
        PackReader(store, key_of, executor).blobs({blob_ref(b"aaaa"): (extent._replace(**change),)})


def test_extents_that_hold_more_than_the_blob_are_refused_before_a_request(executor: Executor) -> None:
    store, wanted = stored([NOISE[:FRAME_BYTES_MAX]])
    ((ref, (extent,)),) = wanted.items()
    faulty = FaultyStore(store)
    with pytest.raises(CorruptObjectError):
        PackReader(faulty, key_of, executor).blobs({ref: (extent,) * 1_000_000})  # 128 GiB from one frame
    assert not faulty.log


def test_a_stretch_has_the_order_asked_for(executor: Executor) -> None:
    store, wanted = stored([b"aaaa", b"bbbb"])
    (one,), (other,) = wanted.values()
    assert PackReader(store, key_of, executor).pieces([other, one, other]) == b"bbbbaaaabbbb"


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 600_000), st.booleans())
def test_windows_are_the_blob_and_none_is_much_larger_than_asked(
    executor: Executor, window_bytes: int, is_sha256: bool
) -> None:
    store, wanted = stored([b"before", NOISE, b"behind"])
    ref, extents = blob_ref(NOISE), wanted[blob_ref(NOISE)]
    if is_sha256:
        ref = BlobRef(Digest("sha256:" + hashlib.sha256(NOISE).hexdigest()), len(NOISE))
    windows = list(PackReader(store, key_of, executor).windows(ref, extents, window_bytes))
    assert b"".join(windows) == NOISE
    assert max(map(len, windows)) <= max(window_bytes, FRAME_BYTES_MAX)
    assert list(PackReader(store, key_of, executor).windows(blob_ref(b""), (), window_bytes)) == []


def test_windows_of_another_blob_end_in_an_error(executor: Executor) -> None:
    store, wanted = stored([NOISE])
    (extents,) = wanted.values()
    reader, window = PackReader(store, key_of, executor), FRAME_BYTES_MAX
    swapped = (extents[1], extents[0], *extents[2:])
    for ref, wrong in (
        (blob_ref(NOISE), swapped),
        (blob_ref(NOISE), extents[1:]),
        (blob_ref(NOISE[1:] + b"x"), extents),
    ):
        with pytest.raises(CorruptObjectError):
            list(reader.windows(ref, wrong, window))


def test_what_is_at_hand_is_not_fetched_again(executor: Executor) -> None:
    store, wanted = stored([NOISE, NOISE[1:], b"small"])
    faulty = FaultyStore(store)
    reader = PackReader(faulty, key_of, executor)
    places = [extent[:3] for many in wanted.values() for extent in many]
    reader.fetch(plan_reads(places[:3]))
    reader.runs(places[:2])
    assert len(faulty.log) == 1
    assert reader.blobs(wanted) == {blob_ref(blob): blob for blob in (NOISE, NOISE[1:], b"small")}
    assert len(faulty.log) == 2, "the rest is one range"


# The index.


@given(
    st.lists(st.binary(max_size=50), max_size=20), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
)
def test_an_index_says_what_the_pack_holds(blobs: list[bytes], facts: dict[str, str]) -> None:
    builder = PackBuilder(NAME)
    for blob in blobs:
        builder.add("kind", blob)
    store = MemoryStore()
    store.put(KEY, builder.finish(facts), Create())
    index = read_index(store, KEY, NAME)
    assert index.facts == facts
    assert [row.ref for row in index.blobs] == list(dict.fromkeys(map(blob_ref, blobs)))
    assert all(row.extents == builder.extents[row.ref.digest] for row in index.blobs)


def test_an_index_is_enough_to_read_the_blobs(executor: Executor) -> None:
    store, wanted = stored([b"one", NOISE, b""])
    rows = read_index(store, KEY, NAME).blobs
    assert PackReader(store, key_of, executor).blobs({row.ref: row.extents for row in rows}).keys() == wanted.keys()


def test_every_wrong_byte_of_an_index_is_found() -> None:
    store, _ = stored([b"one", b"two"])
    honest = store.get(KEY).data
    start = struct.unpack(">Q", honest[-24:-16])[0]
    for position in range(start, len(honest)):
        for bit in (0, 3, 7):
            store.put(
                KEY, honest[:position] + bytes([honest[position] ^ (1 << bit)]) + honest[position + 1 :], Overwrite()
            )
            with pytest.raises(CorruptObjectError):
                read_index(store, KEY, NAME)


def test_every_truncated_index_is_corrupt() -> None:
    store, _ = stored([b"one", b"two"])
    honest = store.get(KEY).data
    for length in range(len(honest)):
        store.put(KEY, honest[:length], Overwrite())
        with pytest.raises(CorruptObjectError):
            read_index(store, KEY, NAME)


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("fault", [Truncate(0), Truncate(10), FlipBit(5)], ids=str)
def test_a_damaged_answer_about_an_index_is_corrupt(fault: Fault, nth: int) -> None:
    store, _ = stored([b"one"])
    with pytest.raises(CorruptObjectError):
        read_index(FaultyStore(store, FaultPlan().on("get", fault=fault, nth=nth)), KEY, NAME)


def with_index(plain: Any, *, start: int | None = None) -> MemoryStore:
    """Return a store with a pack whose footer and checksums are right and whose index is `plain`."""
    raw = plain if isinstance(plain, bytes) else json.dumps(plain).encode()
    index = seal_run(raw)
    store = MemoryStore()
    footer = struct.pack(">Q8s8s", 4 if start is None else start, short_hash(index, 8), b"SNAPPACK")
    store.put(KEY, b"data" + index + footer, Create())
    return store


GOOD_ROW: list[Any] = ["kind", blob_ref(b"x").digest, 1, [[0, 20, 0, 1]]]


def test_a_hand_made_index_is_read() -> None:
    plain = {"facts": {"a": "b"}, "blobs": [GOOD_ROW], "runs": [[20, 30]]}
    index = read_index(with_index(plain), KEY, NAME)
    assert index.runs == (ByteRange(20, 30),)
    assert index.blobs[0].extents == (Extent(NAME, 0, 20, 0, 1),)


def _bad_rows() -> list[Any]:
    value: Any
    rows: list[Any] = [None, [], "abcd", {}, 7, GOOD_ROW[:3], [*GOOD_ROW, 1]]
    for position in range(4):
        for value in (None, True, -1, 1.5, [], {}, "", "b3:", [None], [[]], [[1, 2, 3]], [["a", "b", "c", "d"]]):
            row = [*GOOD_ROW]
            row[position] = value
            rows.append(row)
    for position in range(4):
        for value in (None, True, -1, 1.5, "1", 1 << 70 if position == 1 else -2):
            extent: list[Any] = [0, 20, 0, 1]
            extent[position] = value
            rows.append([*GOOD_ROW[:3], [extent]])
    return [row for row in rows if row not in (["", *GOOD_ROW[1:]], ["b3:", *GOOD_ROW[1:]], [*GOOD_ROW[:3], []])]


@pytest.mark.parametrize(
    "row", [row for row in _bad_rows() if row not in ([*GOOD_ROW[:3], {}], [*GOOD_ROW[:3], ""])], ids=str
)
def test_an_index_with_a_bad_row_is_corrupt(row: Any) -> None:
    with pytest.raises(CorruptObjectError):
        read_index(with_index({"facts": {}, "blobs": [row], "runs": []}), KEY, NAME)


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {},
        "facts",
        {"facts": {}},
        {"blobs": []},
        {"facts": {}, "blobs": []},
        {"facts": None, "blobs": [], "runs": []},
        {"facts": [], "blobs": [], "runs": []},
        {"facts": {"a": 1}, "blobs": [], "runs": []},
        {"facts": {}, "blobs": None, "runs": []},
        {"facts": {}, "blobs": 7, "runs": []},
        *(
            {"facts": {}, "blobs": [], "runs": runs}
            for runs in (None, 7, [[1]], [[1, 0]], [[-1, 2]], [[True, 2]], ["ab"])
        ),
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"facts": {}, "blobs": [["k", "b3:", 1' + b"0" * 5000 + b', []]], "runs": []}',
    ],
)
def test_an_index_of_another_shape_is_corrupt(plain: Any) -> None:
    with pytest.raises(CorruptObjectError):
        read_index(with_index(plain), KEY, NAME)


@pytest.mark.parametrize("start", [0, 3, 5, 1 << 32, (1 << 64) - 1])
def test_a_footer_that_points_elsewhere_is_corrupt(start: int) -> None:
    with pytest.raises(CorruptObjectError):
        read_index(with_index({"facts": {}, "blobs": []}, start=start), KEY, NAME)


def test_a_footer_never_makes_a_reader_take_the_whole_pack() -> None:
    big = b"data" * (20 << 20)
    store = MemoryStore()
    store.put(KEY, big + struct.pack(">Q8s8s", 0, b"12345678", b"SNAPPACK"), Create())
    faulty = FaultyStore(store)
    with pytest.raises(CorruptObjectError):
        read_index(faulty, KEY, NAME)
    assert [request.verb for request in faulty.log] == ["stat", "get"]


def test_no_pack_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        read_index(MemoryStore(), KEY, NAME)


# Writing.

DATA = packed([b"one", NOISE])[1]


def written(store: ObjectStore, clock: ManualClock | None = None) -> None:
    write_pack(store, KEY, DATA, clock or ManualClock())


@pytest.mark.parametrize(
    "fault",
    [FailBefore(), FailBefore(applied="unknown"), LoseAnswer(), Delay(), Delay(1), OwnRetry(), Repeat(), Repeat(1)],
    ids=str,
)
@pytest.mark.parametrize("times", [1, PUT_ATTEMPTS_MAX - 1])
def test_a_pack_is_whole_whatever_became_of_the_answers(fault: Fault, times: int) -> None:
    behind = MemoryStore()
    faulty = FaultyStore(behind, FaultPlan().on("put", fault=fault, times=times))
    written(faulty)
    faulty.release()
    assert behind.get(KEY).data == DATA
    assert len(list(behind.list(""))) == 1


@pytest.mark.parametrize("fault", [FailBefore(), FailBefore(applied="unknown")], ids=str)
def test_a_pack_that_nobody_takes_is_given_up(fault: Fault) -> None:
    faulty = FaultyStore(MemoryStore(), FaultPlan().on("put", fault=fault, times=None))
    clock = ManualClock()
    with pytest.raises(UnavailableError):
        written(faulty, clock)
    assert len(faulty.log) == PUT_ATTEMPTS_MAX
    assert len(clock.sleeps) == PUT_ATTEMPTS_MAX - 1


def test_a_failing_stat_is_asked_again() -> None:
    behind = MemoryStore()
    plan = FaultPlan().on("put", fault=LoseAnswer()).on("stat", fault=FailBefore(), times=PUT_ATTEMPTS_MAX - 2)
    written(FaultyStore(behind, plan))
    assert behind.get(KEY).data == DATA


def test_a_stat_that_always_fails_is_unavailable() -> None:
    plan = FaultPlan().on("put", fault=LoseAnswer()).on("stat", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        written(FaultyStore(MemoryStore(), plan))


def test_a_pack_that_exists_and_is_not_there_is_unavailable() -> None:
    behind = MemoryStore()
    behind.put(KEY, b"x", Create())
    plan = FaultPlan().on("stat", fault=Meanwhile(lambda: behind.delete(KEY)))
    written(FaultyStore(behind, plan))
    assert behind.get(KEY).data == DATA


@pytest.mark.parametrize("foreign", [b"", b"foreign", DATA + b"x", DATA[:-1]])
def test_a_name_taken_by_something_else_is_corrupt(foreign: bytes) -> None:
    behind = MemoryStore()
    behind.put(KEY, foreign, Create())
    with pytest.raises(CorruptObjectError):
        written(behind)
    assert behind.get(KEY).data == foreign


def test_a_pack_may_be_written_again() -> None:
    behind = MemoryStore()
    written(behind)
    written(behind)
    assert behind.get(KEY).data == DATA


@pytest.mark.parametrize("seed", range(60))
def test_written_or_unavailable_and_never_anything_else(seed: int) -> None:
    behind = MemoryStore()
    plan = FaultPlan(seed)
    faults: Mapping[Fault, float] = {
        FailBefore(): 0.2,
        LoseAnswer(): 0.2,
        Delay(2): 0.2,
        Repeat(1): 0.1,
        OwnRetry(): 0.1,
    }
    for fault, probability in faults.items():
        plan.at_random("put", fault=fault, probability=probability)
    plan.at_random("stat", fault=FailBefore(), probability=0.3)
    faulty = FaultyStore(behind, plan)
    with suppress(UnavailableError):
        written(faulty)
        assert behind.get(KEY).data == DATA
    faulty.release()
    assert [row.size_bytes for row in behind.list("")] in ([], [len(DATA)])
