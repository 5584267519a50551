"""The form of an archive: all objects of a store in one file. Pure; files are opened in `storage.backends.archive`.

    magic, 8 bytes   "SNAPARC" and the version
    objects          their bytes, one behind the other; what was replaced or deleted stays there, and nothing names it
    index            frames; each is a piece: some rows, in order of key
    footer, 56 bytes offset and size of the index, number of objects, size of the file, checksum, magic

    piece            number of rows (4), offsets, sizes, times (8 each: microseconds since 1970), checksums (16 each),
                     then the keys with line feeds between them

Rules:
1. All numbers are big endian. A checksum is the first 16 bytes of BLAKE3: in a row that of the object's bytes, in the
   footer that of the stored index and of the footer's numbers.
2. A piece is one frame: no more than FRAME_BYTES_MAX is ever decompressed at once, whatever the index says.
3. Keys rise from row to row, also from piece to piece; every object lies between magic and index.
4. Equal objects with equal times, put in the same order, are equal bytes.

    sealed = b"".join(seal_pieces({"a/b": Row(8, 3, short_hash(b"one"), now)}))
    piece = open_piece(sealed, index_offset=11, key="x.snapshots at byte 11")
    piece.row(piece.keys.index("a/b"))
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from operator import add, lt
from typing import NamedTuple

from storage.digest import Buffer, octets
from storage.errors import CorruptObjectError, InvalidKeyError
from storage.frame import FRAME_BYTES_MAX, Opener, seal_frame
from storage.keys import check_keys

VERSION = 1
_NAME = b"SNAPARC"
MAGIC = _NAME + bytes([VERSION])
MAGIC_BYTES = len(MAGIC)
GUARD_BYTES = 16  # 128 bits: no two contents share one by chance
_NUMBERS = struct.Struct(">QQQQ")
FOOTER_BYTES = _NUMBERS.size + GUARD_BYTES + len(MAGIC)
FILE_BYTES_MIN = len(MAGIC) + FOOTER_BYTES
ANOTHER_COPY = "take another copy of the file, or write it again from the store it was made of"

_COUNT = struct.Struct(">I")
_ROW_BYTES = 3 * 8 + GUARD_BYTES  # without its key
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIME_MAX = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


def has_magic(beginning: bytes) -> bool:
    """Say whether the first MAGIC_BYTES of a file are those of an archive, of whatever version."""
    return len(beginning) == MAGIC_BYTES and beginning.startswith(_NAME)


class Row(NamedTuple):
    """What an index says of one object. A tuple: a writer holds one per object.

    Attributes:
        offset: First byte of the object in the file.
        size_bytes: How many there are.
        guard: Checksum of them.
        modified_at: When it was put.
    """

    offset: int
    size_bytes: int
    guard: bytes
    modified_at: datetime

    @property
    def end(self) -> int:
        """Return the first byte behind the object."""
        return self.offset + self.size_bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of an index, all checked.

    Attributes:
        keys: In order.
        offsets: Of each object.
        sizes: Of each object, in bytes.
        times: When each was put, in microseconds since 1970.
        guards: Checksums of all objects, one behind the other.
    """

    keys: tuple[str, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    times: tuple[int, ...]
    guards: bytes

    def row(self, number: int) -> Row:
        """Return the row of `keys[number]`."""
        guard = self.guards[number * GUARD_BYTES : (number + 1) * GUARD_BYTES]
        modified_at = _EPOCH + self.times[number] * _MICROSECOND
        return Row(self.offsets[number], self.sizes[number], guard, modified_at)


@dataclass(frozen=True, slots=True)
class Footer:
    """The end of an archive.

    Attributes:
        index_offset: First byte of the index.
        index_bytes: Its stored size.
        objects: How many rows it has.
        file_bytes: Size of the whole file.
        guard: Checksum of the index and these numbers.
    """

    index_offset: int
    index_bytes: int
    objects: int
    file_bytes: int
    guard: bytes = b""

    @property
    def numbers(self) -> bytes:
        """Return what stands before the checksum, which goes over it."""
        return _NUMBERS.pack(self.index_offset, self.index_bytes, self.objects, self.file_bytes)

    def sealed(self) -> bytes:
        """Return the footer as it is stored."""
        assert len(self.guard) == GUARD_BYTES, "a footer goes with the checksum of what it names"
        return self.numbers + self.guard + MAGIC


def check_magic(start: bytes, *, key: str) -> None:
    """Check the first bytes of a file. Raises CorruptObjectError."""
    if start == MAGIC:
        return
    if start[:-1] == _NAME and len(start) == len(MAGIC):
        reason = f"an archive of version {start[-1]}, of which this software knows {VERSION}"
        raise CorruptObjectError(key, reason, remedy="read it with the version that wrote it")
    raise CorruptObjectError(key, f"begins with {start!r} where an archive has {MAGIC!r}", remedy=ANOTHER_COPY)


def open_footer(stored: bytes, *, file_bytes: int, key: str) -> Footer:
    """Return the footer that stands at the end of a file of `file_bytes`; its checksum is not looked at.

    Raises:
        CorruptObjectError: There is none, or it is that of another file: cut, longer, or altered.
    """
    if len(stored) != FOOTER_BYTES or not stored.endswith(MAGIC):
        reason = f"ends with {stored[-len(MAGIC) :]!r} where an archive has {MAGIC!r}: cut, longer, or no archive"
        raise CorruptObjectError(key, reason, remedy=ANOTHER_COPY)
    index_offset, index_bytes, objects, declared = _NUMBERS.unpack_from(stored)
    footer = Footer(index_offset, index_bytes, objects, declared, stored[_NUMBERS.size : -len(MAGIC)])
    if footer.file_bytes != file_bytes:
        reason = f"the footer is of a file of {footer.file_bytes} bytes, this one has {file_bytes}"
        raise CorruptObjectError(key, reason, remedy=ANOTHER_COPY)
    if footer.index_offset < len(MAGIC) or footer.index_offset + footer.index_bytes + FOOTER_BYTES != file_bytes:
        reason = f"the footer names an index of {footer.index_bytes} bytes at {footer.index_offset}, which is not there"
        raise CorruptObjectError(key, reason, remedy=ANOTHER_COPY)
    return footer


def seal_pieces(rows: Mapping[str, Row]) -> Iterator[bytes]:
    """Yield the pieces of an index, in order of key; one behind the other they are the stored index."""
    keys: list[str] = []
    size = _COUNT.size
    for key in sorted(rows):
        needed = _ROW_BYTES + len(key) + 1
        if size + needed > FRAME_BYTES_MAX:
            yield _seal_piece(keys, rows)
            keys, size = [], _COUNT.size
        keys.append(key)
        size += needed
    if keys:
        yield _seal_piece(keys, rows)


def _seal_piece(keys: list[str], rows: Mapping[str, Row]) -> bytes:
    found = [rows[key] for key in keys]
    numbers = chain(
        (row.offset for row in found),
        (row.size_bytes for row in found),
        ((row.modified_at - _EPOCH) // _MICROSECOND for row in found),
    )
    columns = struct.pack(f">{3 * len(found)}Q", *numbers) + b"".join(row.guard for row in found)
    return seal_frame(_COUNT.pack(len(found)) + columns + "\n".join(keys).encode())


def open_piece(stored: Buffer, *, index_offset: int, key: str, opener: Opener | None = None) -> Piece:
    """Return the rows of one piece; that its keys follow those of the piece before is the caller's to check.

    Args:
        stored: One frame.
        index_offset: Where the index begins, and so all objects end.
        key: Where the bytes came from.
        opener: Opens frames faster where there are many.

    Raises:
        CorruptObjectError: It is none: altered, no key, out of order, or an object outside the file.
    """
    raw = octets((opener or Opener()).open(stored, key=key))
    count = _COUNT.unpack_from(raw)[0] if raw.nbytes >= _COUNT.size else 0
    keys_start = _COUNT.size + count * _ROW_BYTES
    if not count or raw.nbytes <= keys_start:
        raise _wrong(key, f"{raw.nbytes} bytes for {count} rows")
    numbers = struct.unpack_from(f">{3 * count}Q", raw, _COUNT.size)
    offsets, sizes, times = numbers[:count], numbers[count : 2 * count], numbers[2 * count :]
    keys = _keys(bytes(raw[keys_start:]), count, key)
    if min(offsets) < len(MAGIC) or max(map(add, offsets, sizes)) > index_offset:
        raise _wrong(key, f"an object outside of the bytes {len(MAGIC)} to {index_offset}")
    if max(times) > _TIME_MAX:
        raise _wrong(key, f"a time {max(times)} microseconds after 1970")
    return Piece(keys, offsets, sizes, times, bytes(raw[_COUNT.size + 24 * count : keys_start]))


def _keys(raw: bytes, count: int, key: str) -> tuple[str, ...]:
    try:
        keys = check_keys(raw.decode("ascii"))
    except (UnicodeDecodeError, InvalidKeyError) as error:
        raise _wrong(key, f"a name that is no key ({error})") from error
    if len(keys) != count or not all(lt(*two) for two in pairwise(keys)):
        raise _wrong(key, f"{len(keys)} keys for {count} rows, or not in order")
    return keys


def _wrong(key: str, reason: str) -> CorruptObjectError:
    return CorruptObjectError(key, f"a piece of the index has {reason}", remedy=ANOTHER_COPY)
