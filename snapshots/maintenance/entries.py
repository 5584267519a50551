"""Where the entries of a log begin and end, also of one that is there in part. Pure.

Rules:
1. An entry is one item of CBOR of definite length, as `codec.encode_entries` writes it; nothing else is taken for one.
2. Only where it ends is told; what it says is for the codec to decode.

    list(entry_ends(data)) == [12, 25, 61]

Source: RFC 8949 section 3 (initial bytes, arguments), section 3.1 (major types).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from snapshots import codec
from snapshots.errors import CorruptSnapshotError

_BYTES, _TEXT, _LIST, _MAP, _TAG = 2, 3, 4, 5, 6
_ARGUMENT_BYTES = {24: 1, 25: 2, 26: 4, 27: 8}
_ARGUMENT_MIN = 24  # below that the argument stands in the initial byte


def entry_ends(data: bytes | bytearray | memoryview) -> Iterator[int]:
    """Yield where each entry ends, up to what is no whole entry."""
    end = _end_of_item(data, 0)
    while end > 0:
        yield end
        end = _end_of_item(data, end)


def entries_in(data: bytes, *, key: str) -> Iterator[Any]:
    """Yield the entries that stand one behind the other in `data`, up to what is none."""
    start = 0
    for end in entry_ends(data):
        try:
            yield codec.decode(data[start:end], key=key)
        except CorruptSnapshotError:
            return
        start = end


def _end_of_item(data: bytes | bytearray | memoryview, start: int) -> int:
    """Return where the item that begins at `start` ends, 0 if no whole one does."""
    position, awaited = start, 1
    while awaited:
        if position >= len(data):
            return 0
        major, argument = data[position] >> 5, data[position] & 0x1F
        position += 1
        if argument >= _ARGUMENT_MIN:
            width = _ARGUMENT_BYTES.get(argument, 0)
            if not width or position + width > len(data):
                return 0
            argument = int.from_bytes(data[position : position + width], "big")
            position += width
        if major == _TAG:
            return 0
        awaited -= 1
        if major in (_BYTES, _TEXT):
            position += argument
        elif major in (_LIST, _MAP):
            awaited += argument if major == _LIST else 2 * argument
        if position > len(data) or awaited > len(data) - position:
            return 0
    return position
