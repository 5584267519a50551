"""Streams for other programs: standard zstd with a note behind, bounded and guarded like every frame."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from storage.backends.local import LocalStore
from storage.digest import short_hash
from storage.errors import CorruptObjectError
from storage.frame import NOTE_BYTES_MAX, open_stream, seal_stream
from storage.store import Create

LINES = b'{"a":1}\n' * 1000
NOTE = b'{"whose":"s1"}'


def stream(packed: bytes, note: bytes = NOTE, *, note_bytes: int | None = None, size: int | None = None) -> bytes:
    """Return a stream with a right checksum over whatever it claims."""
    claimed = len(note) if note_bytes is None else note_bytes
    body = packed + struct.pack("<II", 0x184D2A50, len(note) + 20 if size is None else size)
    body += note + struct.pack("<I", claimed)
    return body + short_hash(body, 16)


def compressed(raw: bytes, *, sized: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=sized).compress(raw)


def refused(stored: bytes, *, bytes_max: int = len(LINES)) -> str:
    with pytest.raises(CorruptObjectError) as caught:
        open_stream(stored, key="usage/x", bytes_max=bytes_max)
    assert caught.value.key == "usage/x"
    return caught.value.reason


@given(st.binary(min_size=1, max_size=3000), st.binary(max_size=NOTE_BYTES_MAX))
def test_a_stream_gives_back_what_went_in(raw: bytes, note: bytes) -> None:
    assert open_stream(seal_stream(raw, note), key="usage/x", bytes_max=len(raw)) == (raw, note)
    assert seal_stream(raw, note) == seal_stream(raw, note)


def test_every_flipped_bit_and_every_truncation_is_found() -> None:
    stored = seal_stream(b"some bytes", NOTE)
    for position in range(len(stored)):
        for bit in range(8):
            altered = bytearray(stored)
            altered[position] ^= 1 << bit
            refused(bytes(altered))
        refused(stored[:position])
    refused(stored + b"x")


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        stream(b""),
        stream(compressed(b"")),
        stream(compressed(LINES, sized=False)),
        stream(compressed(LINES) + compressed(LINES)),
        stream(compressed(LINES) + b"x"),
        stream(compressed(LINES)[:-1]),
        stream(struct.pack("<II", 0x184D2A50, 0) + compressed(LINES)),
        stream(compressed(LINES), note_bytes=0xFFFFFFFF),
        stream(compressed(LINES), note_bytes=len(NOTE) - 1),
        stream(compressed(LINES), size=len(NOTE)),
        stream(compressed(LINES), bytes(NOTE_BYTES_MAX + 1)),
        stream(b"not zstd"),
    ],
)
def test_what_does_not_agree_is_corrupt(stored: bytes) -> None:
    refused(stored)


def test_a_stream_over_its_limit_is_refused_before_memory_is_taken() -> None:
    bomb = seal_stream(bytes(1 << 26), NOTE)
    refused(bomb)
    tracemalloc.start()
    assert "declares 67108864 bytes" in refused(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(bomb) + (512 << 10)


def test_other_readers_of_zstd_see_the_raw_bytes_alone() -> None:
    stored = seal_stream(LINES, NOTE)
    assert zstandard.get_frame_parameters(stored).has_checksum
    assert zstandard.ZstdDecompressor().decompress(stored) == LINES
    assert zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True).read() == LINES


def test_the_file_of_a_local_store_is_readable_as_it_is(tmp_path: Path) -> None:
    LocalStore(tmp_path).put("a/b", seal_stream(LINES, NOTE), Create())
    with (tmp_path / "a" / "b").open("rb") as file:
        assert zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read() == LINES
