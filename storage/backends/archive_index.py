"""`ArchiveIndex`: what lies where in an archive. Looks at all of the file but the objects when it is opened.

Rules:
1. Nothing of the index is believed before its checksum was found right, and every row was looked at once.
2. In memory are the places of the pieces, the first key of each, and PIECES_HELD opened ones; all else stays where it
   is.
3. An error names the file and the byte at which it was found.

    index = ArchiveIndex(file, Path("agents.snapshots"))
    index.row("a/b").offset
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

from storage.archives import (
    ANOTHER_COPY,
    FILE_BYTES_MIN,
    FOOTER_BYTES,
    GUARD_BYTES,
    MAGIC,
    Footer,
    Piece,
    Row,
    check_magic,
    open_footer,
    open_piece,
)
from storage.backends.disk import OpenFile
from storage.backends.limits import PIECE_BYTES
from storage.digest import Hasher
from storage.errors import CorruptObjectError, NotFoundError
from storage.frame import STORED_BYTES_MAX, Opener, split_run

PIECES_HELD = 32  # some 16 MiB; to open another one takes a millisecond or two


class ArchiveIndex:
    """The rows of an archive, by key. Safe for use by several threads.

    Args:
        file: The archive, open for as long as this is used.
        path: What errors call it.

    Raises:
        CorruptObjectError: No archive, or a cut, extended or altered one.
    """

    def __init__(self, file: OpenFile, path: Path) -> None:
        footer = _checked_footer(file, path)
        self._places: list[tuple[int, int]] = []  # of the pieces
        self._first: list[str] = []  # keys of the pieces
        self._scan(file, path, footer)
        opened = partial(_piece_at, file, path, footer)
        self._opened = lru_cache(PIECES_HELD)(opened)  # of no method: the cache must not keep this object alive

    def row(self, key: str) -> Row:
        """Return the row of an object.

        Raises:
            NotFoundError: There is none.
            CorruptObjectError: The file was changed after it was opened.
        """
        number = bisect_right(self._first, key) - 1
        if number >= 0:
            piece = self._piece(number)
            at = bisect_left(piece.keys, key)
            if at < len(piece.keys) and piece.keys[at] == key:
                return piece.row(at)
        raise NotFoundError(key)

    def rows(self, prefix: str, start_after: str) -> Iterator[tuple[str, Row]]:
        """Yield key and row of the objects whose keys begin so and sort after `start_after`. Raises as `row`."""
        start = max(prefix, start_after)
        for number in range(max(bisect_right(self._first, start) - 1, 0), len(self._places)):
            piece = self._piece(number)
            for at in range(bisect_left(piece.keys, start), len(piece.keys)):
                key = piece.keys[at]
                if not key.startswith(prefix):
                    return
                if key > start_after:
                    yield key, piece.row(at)

    def _piece(self, number: int) -> Piece:
        return self._opened(self._places[number])

    def _scan(self, file: OpenFile, path: Path, footer: Footer) -> None:
        """Look at every piece once (rule 1)."""
        opener, count, last, place = Opener(), 0, "", footer.index_offset
        end = footer.index_offset + footer.index_bytes
        while place < end:
            where = place_in(path, place)
            stored = next(split_run(file.read(place, min(STORED_BYTES_MAX, end - place)), key=where))
            piece = open_piece(stored, index_offset=footer.index_offset, key=where, opener=opener)
            if piece.keys[0] <= last:
                raise CorruptObjectError(where, "a piece of the index is not in order", remedy=ANOTHER_COPY)
            self._places.append((place, len(stored)))
            self._first.append(piece.keys[0])
            count, last, place = count + len(piece.keys), piece.keys[-1], place + len(stored)
        if count != footer.objects:
            reason = f"the index has {count} rows, the footer says {footer.objects}"
            raise CorruptObjectError(place_in(path, end), reason, remedy=ANOTHER_COPY)


def place_in(path: Path, place: int) -> str:
    """Return what errors call a byte of a file."""
    return f"{path} at byte {place}"


def _checked_footer(file: OpenFile, path: Path) -> Footer:
    size = file.size_bytes()
    check_magic(file.read(0, min(size, len(MAGIC))), key=place_in(path, 0))
    if size < FILE_BYTES_MIN:
        reason = f"the file ends; an archive has at least {FILE_BYTES_MIN} bytes"
        raise CorruptObjectError(place_in(path, size), reason, remedy=ANOTHER_COPY)
    start = size - FOOTER_BYTES
    footer = open_footer(file.read(start, FOOTER_BYTES), file_bytes=size, key=place_in(path, start))
    hasher = Hasher()
    for place in range(footer.index_offset, start, PIECE_BYTES):
        hasher.update(file.read(place, min(PIECE_BYTES, start - place)))
    hasher.update(footer.numbers)
    if hasher.short(GUARD_BYTES) != footer.guard:
        reason = f"the index of {footer.index_bytes} bytes and the footer do not match their checksum"
        raise CorruptObjectError(place_in(path, footer.index_offset), reason, remedy=ANOTHER_COPY)
    return footer


def _piece_at(file: OpenFile, path: Path, footer: Footer, place: tuple[int, int]) -> Piece:
    return open_piece(file.read(*place), index_offset=footer.index_offset, key=place_in(path, place[0]))
