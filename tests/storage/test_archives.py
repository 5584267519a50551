"""The form of an archive: what a reader refuses although every checksum is right."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.archives import FOOTER_BYTES, MAGIC, Footer, Row, open_piece, seal_pieces
from storage.backends.archive_index import ArchiveIndex
from storage.digest import short_hash
from storage.errors import CorruptObjectError, NotFoundError
from storage.frame import FRAME_BYTES_MAX, STORED_BYTES_MAX, seal_frame, split_run
from storage.keys import KEY_BYTES_MAX

PATH = Path("x.snapshots")
NOW = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
OBJECTS = b"onetwothree"
ROWS = {
    "a/b": Row(8, 3, short_hash(b"one"), NOW),
    "a/c": Row(11, 3, short_hash(b"two"), NOW + timedelta(microseconds=1)),
    "b": Row(14, 5, short_hash(b"three"), NOW),
}


class Held:
    """An open file that is held in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def size_bytes(self) -> int:
        return len(self.data)

    def read(self, start: int, length: int) -> bytes:
        return self.data[start : start + length]


def piece(
    keys: Sequence[str], *, offset: int = 8, size: int = 0, time: int = 0, count: int | None = None, more: bytes = b""
) -> bytes:
    """Return a piece of an index as a writer would leave it that checks nothing."""
    many = len(keys) if count is None else count
    numbers = struct.pack(f">{3 * len(keys)}Q", *[offset] * len(keys), *[size] * len(keys), *[time] * len(keys))
    return seal_frame(
        struct.pack(">I", many) + numbers + bytes(16 * len(keys)) + "\n".join(keys).encode("latin-1") + more
    )


def archive(*pieces: bytes, objects: int) -> Held:
    """Return an archive with this index, its checksums right."""
    index = b"".join(pieces)
    start = len(MAGIC) + len(OBJECTS)
    footer = Footer(start, len(index), objects, start + len(index) + FOOTER_BYTES)
    sealed = footer.numbers + short_hash(index + footer.numbers) + MAGIC
    return Held(MAGIC + OBJECTS + index + sealed)


def test_every_row_is_found_again() -> None:
    index = ArchiveIndex(archive(*seal_pieces(ROWS), objects=3), PATH)
    assert {key: index.row(key) for key in ROWS} == ROWS == dict(index.rows("", ""))
    for missing in ("a", "a/bb", "c"):
        with pytest.raises(NotFoundError):
            index.row(missing)


def test_an_archive_of_nothing_is_one() -> None:
    assert list(ArchiveIndex(archive(objects=0), PATH).rows("", "")) == []


@pytest.mark.parametrize("length", [1, 100, KEY_BYTES_MAX])
def test_an_index_of_many_pieces_is_read_in_order(length: int) -> None:
    per_key = max(length // 150, 1)
    long = ["/".join([f"{number:06}", *["k" * 140] * (per_key - 1)]) for number in range(7000)]
    rows = {key: Row(8, 0, bytes(16), NOW) for key in reversed(long)}
    pieces = list(seal_pieces(rows))
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= STORED_BYTES_MAX
    index = ArchiveIndex(archive(*pieces, objects=len(rows)), PATH)
    assert [key for key, _ in index.rows("", "")] == sorted(rows)
    expected = [key for key in sorted(rows) if key.startswith("0001") and key > "000150"]
    assert [key for key, _ in index.rows("0001", "000150")] == expected
    assert index.row(long[4321]).size_bytes == 0


def test_a_piece_is_filled_before_the_next_begins() -> None:
    pieces = list(seal_pieces({f"{number:07}": Row(8, 0, bytes(16), NOW) for number in range(5000)}))
    counts = [len(open_piece(one, index_offset=8, key="x").keys) for one in pieces]
    assert counts == [FRAME_BYTES_MAX // 48, 5000 - FRAME_BYTES_MAX // 48]


FORGED = {
    "no rows": ([piece([])], 0, "for 0 rows"),
    "more rows than there are": ([piece(["a"], count=2)], 2, "for 2 rows"),
    "a count beyond all bounds": ([piece(["a"], count=(1 << 32) - 1)], 1, "for 4294967295 rows"),
    "fewer rows than there are": ([piece(["a", "b"], count=1)], 1, "no key"),
    "more keys than rows": ([piece(["a"], more=b"\nb")], 1, "2 keys for 1 rows"),
    "no key": ([piece(["../a"])], 1, "no key"),
    "an empty key": ([piece(["a", ""])], 2, "no key"),
    "a key that is no text": ([piece(["\xff"])], 1, "no key"),
    "keys out of order": ([piece(["b", "a"])], 2, "not in order"),
    "a key twice": ([piece(["a", "a"])], 2, "not in order"),
    "pieces out of order": ([piece(["b"]), piece(["a"])], 2, "not in order"),
    "a key in two pieces": ([piece(["a"]), piece(["a"])], 2, "not in order"),
    "an object before the objects": ([piece(["a"], offset=7)], 1, "outside"),
    "an object behind the objects": ([piece(["a"], offset=19, size=1)], 1, "outside"),
    "an object of all there is": ([piece(["a"], size=(1 << 64) - 1)], 1, "outside"),
    "a time that no calendar has": ([piece(["a"], time=(1 << 64) - 1)], 1, "microseconds"),
    "fewer objects than it says": ([piece(["a"])], 2, "has 1 rows, the footer says 2"),
    "more objects than it says": ([piece(["a"])], 0, "has 1 rows, the footer says 0"),
    "something that is no frame": ([piece(["a"]), b"x" * 100], 1, "frame"),
    "half a header": ([piece(["a"]), b"x"], 1, "header"),
}


@pytest.mark.parametrize("name", FORGED)
def test_an_index_that_lies_is_refused(name: str) -> None:
    pieces, objects, reason = FORGED[name]
    with pytest.raises(CorruptObjectError, match=reason) as caught:
        ArchiveIndex(archive(*pieces, objects=objects), PATH)
    assert caught.value.key.startswith("x.snapshots at byte ")


def test_a_cut_piece_is_refused() -> None:
    (whole,) = seal_pieces(ROWS)
    assert len(list(split_run(whole, key="x"))) == 1
    for size in range(1, len(whole)):
        with pytest.raises(CorruptObjectError):
            ArchiveIndex(archive(whole[:size], objects=3), PATH)


@pytest.mark.parametrize(("offset", "size"), [(7, 0), (0, 0), (1 << 63, 0), (8, 1 << 63), (9, 0), (8, 10)])
def test_a_footer_of_another_index_is_refused(offset: int, size: int) -> None:
    data = archive(objects=0).data
    footer = Footer(offset, size, 0, len(data))
    with pytest.raises(CorruptObjectError, match="not there"):
        ArchiveIndex(Held(data[:-FOOTER_BYTES] + footer.numbers + bytes(16) + MAGIC), PATH)


def test_an_archive_of_a_later_version_is_refused_by_name() -> None:
    data = archive(objects=0).data
    with pytest.raises(CorruptObjectError, match="version 2, of which this software knows 1; read it with the version"):
        ArchiveIndex(Held(MAGIC[:-1] + b"\x02" + data[len(MAGIC) :]), PATH)
