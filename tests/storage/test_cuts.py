"""Equal stretches get equal cuts, however the bytes arrive, and what is found is what was sought."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.cuts import CutTable, KnownCuts, table_of
from storage.digest import Buffer, short_hash
from storage.matching import CUT_BYTES, Copy, Cutter

DATA = Random(1).randbytes(1 << 20)


def windows(data: bytes, sizes: list[int]) -> Iterator[Buffer]:
    """Cut bytes into windows of these sizes, over and over."""
    at = 0
    while at < len(data):
        for size in sizes:
            yield data[at : at + size]
            at += size


def cuts(data: bytes, sizes: list[int]) -> list[bytes]:
    cutter = Cutter()
    found = [bytes(cut) for window in windows(data, sizes) for cut in cutter.cut(window)]
    return [*found, *map(bytes, cutter.end())]


def places(table: CutTable) -> list[Copy]:
    return [table.place(index) for index in range(len(table))]


def digest_of(data: bytes) -> bytes:
    return short_hash(data, 16)


# Cuts.


@settings(deadline=None)
@given(st.lists(st.integers(900, 300_000), min_size=1, max_size=6), st.integers(0, len(DATA)))
def test_cuts_do_not_depend_on_the_windows(sizes: list[int], size: int) -> None:
    data = DATA[:size]
    found = cuts(data, sizes)
    assert b"".join(found) == data
    assert found == cuts(data, [max(size, 1)])


def test_no_bytes_have_no_cuts() -> None:
    assert cuts(b"", [1]) == []
    assert len(table_of([])) == table_of([]).size_bytes == 0


def test_what_stands_elsewhere_has_the_same_cuts() -> None:
    inserted = Random(2).randbytes(5000)
    before, after = set(cuts(DATA, [1 << 20])), cuts(DATA[:400_000] + inserted + DATA[400_000:], [1 << 20])
    new = [cut for cut in after if cut not in before]
    assert sum(map(len, new)) < len(inserted) + 8 * CUT_BYTES


# Tables.


def test_a_table_says_where_each_cut_lies() -> None:
    table = table_of(windows(DATA, [70_000]))
    assert b"".join(DATA[one.start : one.start + one.length] for one in places(table)) == DATA
    assert table.size_bytes == len(DATA)
    assert [table.digest(index) for index in range(len(table))] == [digest_of(cut) for cut in cuts(DATA, [1 << 20])]


def test_every_cut_is_found_and_nothing_else() -> None:
    table = table_of([DATA])
    known = KnownCuts(table)
    for index in Random(3).sample(range(len(table)), len(table)):
        assert known.find(table.digest(index)) == table.place(index)
    assert known.find(digest_of(b"another")) is None
    assert KnownCuts(CutTable()).find(digest_of(DATA)) is None


def test_of_equal_cuts_the_one_that_goes_on_is_found() -> None:
    table = CutTable()
    for cut in (b"a", b"same", b"b", b"same", b"c", b"same"):
        table.add(cut)
    known = KnownCuts(table)
    for first, place in ((b"a", Copy(1, 4)), (b"b", Copy(6, 4)), (b"c", Copy(11, 4))):
        known.find(digest_of(first))
        assert known.find(digest_of(b"same")) == place


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 50_000)), max_size=5))
def test_of_lost_stretches_nothing_is_found(stretches: list[tuple[int, int]]) -> None:
    table = table_of([DATA])
    lost = [Copy(start, length) for start, length in sorted(stretches)]
    known = KnownCuts(table, lost)
    for index, (start, length) in enumerate(places(table)):
        overlaps = any(start < one.start + one.length and one.start < start + length for one in lost)
        assert known.find(table.digest(index)) == (None if overlaps else (start, length))


def test_an_equal_cut_outside_a_lost_stretch_is_found() -> None:
    table = CutTable()
    for cut in (b"same", b"other", b"same"):
        table.add(cut)
    assert KnownCuts(table, [Copy(9, 1)]).find(digest_of(b"same")) == Copy(0, 4)
    assert KnownCuts(table, [Copy(0, 1)]).find(digest_of(b"same")) == Copy(9, 4)
