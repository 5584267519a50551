"""Reads are merged where that is cheaper, and cover every frame."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from storage.extents import (
    GAP_BYTES_MAX,
    READ_BYTES_MAX,
    Extent,
    Read,
    Run,
    Spliceable,
    coalesced,
    joined,
    packs_of,
    plan_reads,
)
from storage.frame import STORED_BYTES_MAX
from storage.store import ByteRange


def at(offset: int, stored: int = 100, pack: str = "p") -> Extent:
    return Extent(pack, offset, stored, 0, 1)


extents = st.lists(
    st.builds(
        Extent,
        st.sampled_from(["p", "q", "r"]),
        st.integers(0, 3 << 20) | st.sampled_from([0, GAP_BYTES_MAX, READ_BYTES_MAX, READ_BYTES_MAX + 1, 1 << 40]),
        st.integers(1, STORED_BYTES_MAX),
        st.integers(0, 10),
        st.integers(1, 10),
    ),
    max_size=40,
)


@given(extents)
def test_every_frame_is_covered_by_one_read(wanted: list[Extent]) -> None:
    reads = plan_reads(wanted)
    for extent in wanted:
        covering = [
            place
            for pack, place in reads
            if pack == extent.pack and place.start <= extent.frame.start and extent.frame.end <= place.end
        ]
        assert covering


@given(extents)
def test_reads_are_bounded_in_order_and_begin_and_end_at_frames(wanted: list[Extent]) -> None:
    reads = plan_reads(wanted)
    assert reads == sorted(reads, key=lambda read: (read[0], read[1].start, read[1].length))
    for pack, place in reads:
        assert place.length <= READ_BYTES_MAX
        assert any((one.pack, one.offset) == (pack, place.start) for one in wanted)
        assert any((one.pack, one.frame.end) == (pack, place.end) for one in wanted)


def merged_one_by_one(places: set[tuple[int, int]]) -> list[ByteRange]:
    """Return the reads of one pack as rule 3 says it, frame by frame."""
    reads: list[ByteRange] = []
    for offset, stored in sorted(places):
        end = offset + stored
        if reads and offset - reads[-1].end <= GAP_BYTES_MAX and end - reads[-1].start <= READ_BYTES_MAX:
            reads[-1] = ByteRange(reads[-1].start, max(reads[-1].end, end) - reads[-1].start)
        else:
            reads.append(ByteRange(offset, stored))
    return reads


frames_apart = st.lists(
    st.tuples(st.integers(0, 24).map(lambda step: step * (700 << 10)), st.integers(1, STORED_BYTES_MAX)),
    min_size=1,
    max_size=30,
)


@given(extents, frames_apart)
def test_the_plan_is_what_merging_frame_by_frame_gives(wanted: list[Extent], apart: list[tuple[int, int]]) -> None:
    wanted = [*wanted, *(at(offset, stored, "s") for offset, stored in apart)]
    places: dict[str, set[tuple[int, int]]] = {}
    for one in wanted:
        places.setdefault(one.pack, set()).add((one.offset, one.stored_bytes))
    assume(all(one + size <= other for many in places.values() for (one, size), (other, _) in pairwise(sorted(many))))
    expected = [Read(pack, read) for pack in sorted(places) for read in merged_one_by_one(places[pack])]
    assert plan_reads(wanted) == expected


@given(extents)
def test_little_is_read_for_nothing(wanted: list[Extent]) -> None:
    frames = {(one.pack, one.offset, one.stored_bytes) for one in wanted}
    useful = sum(stored for _, _, stored in frames)
    read = sum(place.length for _, place in plan_reads(wanted))
    assert read <= useful + GAP_BYTES_MAX * len(frames)


@given(extents, st.randoms())
def test_the_plan_does_not_depend_on_order_or_repetition(wanted: list[Extent], draw: random.Random) -> None:
    shuffled = [*wanted, *wanted[:5]]
    draw.shuffle(shuffled)
    assert plan_reads(shuffled) == plan_reads(wanted)


@pytest.mark.parametrize(("gap", "count"), [(0, 1), (1, 1), (GAP_BYTES_MAX, 1), (GAP_BYTES_MAX + 1, 2)])
def test_only_small_gaps_are_read_over(gap: int, count: int) -> None:
    assert len(plan_reads([at(0), at(100 + gap)])) == count


def test_packs_are_never_read_together() -> None:
    assert plan_reads([at(0, pack="p"), at(100, pack="q")]) == [
        ("p", ByteRange(0, 100)),
        ("q", ByteRange(0 + 100, 100)),
    ]


def test_a_long_blob_is_several_reads() -> None:
    frames = [at(index * STORED_BYTES_MAX, STORED_BYTES_MAX) for index in range(200)]
    reads = plan_reads(frames)
    assert len(reads) == -(-200 // (READ_BYTES_MAX // STORED_BYTES_MAX))
    assert sum(place.length for _, place in reads) == 200 * STORED_BYTES_MAX


def test_one_frame_is_read_once_however_many_pieces_lie_in_it() -> None:
    pieces = [Extent("p", 50, 100, skip, 1) for skip in range(20)]
    assert plan_reads(pieces) == [("p", ByteRange(50, 100))]


def test_nothing_wanted_is_nothing_read() -> None:
    assert plan_reads([]) == []


# Copying parts of a blob.

pieces = st.lists(
    st.builds(
        Extent, st.sampled_from(["p", "q"]), st.integers(0, 3), st.just(9), st.integers(0, 50), st.integers(1, 9)
    ),
    min_size=1,
    max_size=12,
)


def bytes_of(wanted: list[Extent] | tuple[Extent, ...]) -> list[tuple[str, int, int]]:
    """Return pack, frame and position of each byte."""
    return [(one.pack, one.offset, one.skip + index) for one in wanted for index in range(one.length)]


@given(pieces, st.data())
def test_a_part_of_a_blob_is_exactly_those_bytes(whole: list[Extent], data: st.DataObject) -> None:
    size = sum(one.length for one in whole)
    start = data.draw(st.integers(0, size - 1))
    length = data.draw(st.integers(1, size - start))
    part = Spliceable(whole).between(start, length)
    assert bytes_of(part) == bytes_of(whole)[start : start + length]
    assert all(one.length > 0 for one in part)


@given(pieces, st.data())
def test_what_is_cut_apart_is_joined_again(whole: list[Extent], data: st.DataObject) -> None:
    size = sum(one.length for one in whole)
    cut = data.draw(st.integers(1, size))
    parts = Spliceable(whole).between(0, cut) + (Spliceable(whole).between(cut, size - cut) if cut < size else [])
    assert coalesced(parts) == coalesced(whole)
    assert bytes_of(coalesced(whole)) == bytes_of(whole)
    assert len(coalesced(whole)) <= len(whole)


@given(pieces, st.lists(st.integers(0, 50), max_size=6))
def test_runs_are_joined_as_their_extents_would_be(whole: list[Extent], cuts: list[int]) -> None:
    whole = list(coalesced(whole))
    size = sum(one.length for one in whole)
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < size}), size]
    runs = [Run(Spliceable(whole).between(start, end - start)) for start, end in pairwise(edges)]
    assert joined(runs) == coalesced(one for run in runs for one in run) == tuple(whole)
    assert joined([Run(), *runs, Run()]) == tuple(whole)
    assert [run.size_bytes for run in runs] == [end - start for start, end in pairwise(edges)]
    assert list(packs_of(runs)) == list(dict.fromkeys(one.pack for one in whole))


@given(pieces, st.data())
def test_the_first_bytes_of_a_run_are_those(whole: list[Extent], data: st.DataObject) -> None:
    run = Run(whole)
    count = data.draw(st.integers(0, run.size_bytes + 3))
    assert bytes_of(list(run.first(count))) == bytes_of(whole)[:count]


def test_only_neighbours_within_one_frame_are_joined() -> None:
    one, behind = Extent("p", 0, 9, 0, 5), Extent("p", 0, 9, 5, 2)
    assert coalesced([one, behind]) == (Extent("p", 0, 9, 0, 7),)
    for other in (behind._replace(pack="q"), behind._replace(offset=9), behind._replace(skip=6)):
        assert coalesced([one, other]) == (one, other)
