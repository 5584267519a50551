"""Frames: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import array
import struct
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from storage.digest import Hasher, blob_ref, digest, short_hash, verify
from storage.errors import CorruptObjectError
from storage.frame import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    PREFIX_BYTES_MIN,
    STORED_BYTES_MAX,
    Prefix,
    is_prefixed,
    open_frame,
    open_run,
    seal_frame,
    seal_run,
    split_run,
)

KEY = "packs/x"
NOISE = b"".join(short_hash(bytes([n]), 64) for n in range(256)) * 8  # 128 KiB that compress only by repetition
contents = st.binary(min_size=1, max_size=300) | st.builds(
    lambda data, times: data * times, st.binary(min_size=1, max_size=20), st.integers(1, 4000)
)


def frame(raw_bytes: int, payload: bytes, *, codec: int = 1, seal: int = 0, payload_bytes: int | None = None) -> bytes:
    """Return a frame with a right checksum over whatever it claims."""
    head = struct.pack(">BBII", codec, seal, raw_bytes, len(payload) if payload_bytes is None else payload_bytes)
    return head + short_hash(head + payload, 8) + payload


def refused(stored: bytes) -> str:
    with pytest.raises(CorruptObjectError) as caught:
        open_frame(stored, key="packs/x")
    assert caught.value.key == "packs/x"
    return caught.value.reason


@given(contents)
def test_a_frame_gives_back_what_went_in(raw: bytes) -> None:
    stored = seal_frame(raw)
    assert open_frame(stored, key="k") == raw
    assert len(stored) <= HEADER_BYTES + len(raw)


@given(contents)
def test_equal_bytes_make_equal_frames(raw: bytes) -> None:
    assert seal_frame(raw) == seal_frame(bytearray(raw)) == seal_frame(memoryview(raw))


@pytest.mark.parametrize("size", [1, 2, 17, 18, 19, FRAME_BYTES_MAX - 1, FRAME_BYTES_MAX])
def test_every_size_fits_its_bound(size: int) -> None:
    for raw in (NOISE[:size], bytes(size)):
        stored = seal_frame(raw)
        assert open_frame(stored, key="k") == raw
        assert len(stored) <= STORED_BYTES_MAX


@pytest.mark.parametrize("size", [0, FRAME_BYTES_MAX + 1])
def test_a_frame_of_another_size_is_our_own_mistake(size: int) -> None:
    with pytest.raises(AssertionError, match="Rule 1"):
        seal_frame(bytes(size))


@pytest.mark.parametrize("raw", [b"abc" * 40, NOISE[:100], b"\x00"])
def test_every_flipped_bit_is_found(raw: bytes) -> None:
    stored = seal_frame(raw)
    for position in range(len(stored)):
        for bit in range(8):
            refused(stored[:position] + bytes([stored[position] ^ (1 << bit)]) + stored[position + 1 :])


@pytest.mark.parametrize("raw", [b"abc" * 40, NOISE[:100]])
def test_every_other_byte_in_the_header_is_found(raw: bytes) -> None:
    stored = seal_frame(raw)
    for position in range(HEADER_BYTES):
        for value in range(256):
            if value != stored[position]:
                refused(stored[:position] + bytes([value]) + stored[position + 1 :])


@pytest.mark.parametrize("raw", [b"abc" * 40, NOISE[:100], b"\x00"])
def test_every_truncation_and_extension_is_found(raw: bytes) -> None:
    stored = seal_frame(raw)
    for length in range(len(stored)):
        refused(stored[:length])
    refused(stored + b"\x00")
    refused(stored + stored)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_corrupt(stored: bytes) -> None:
    refused(stored)


@pytest.mark.parametrize(("codec", "seal"), [(3, 0), (255, 0), (0, 1), (1, 255)])
def test_an_unknown_codec_or_seal_is_named(codec: int, seal: int) -> None:
    reason = refused(frame(3, b"abc", codec=codec, seal=seal))
    assert f"codec {codec}" in reason
    assert f"seal {seal}" in reason


# Against a prefix.

LINES = b"".join(b"line %d of what both have\n" % number for number in range(2000))


def test_what_stands_in_the_prefix_costs_next_to_nothing() -> None:
    run = seal_run(NOISE, Prefix(NOISE))
    assert len(run) < len(NOISE) / 50
    assert open_run(run, key=KEY, bytes_max=len(NOISE), prefix=Prefix(NOISE)) == NOISE


@given(st.binary(min_size=PREFIX_BYTES_MIN, max_size=500), st.binary(min_size=1, max_size=500))
def test_any_bytes_come_back_from_any_prefix(before: bytes, raw: bytes) -> None:
    assert open_frame(seal_frame(raw, Prefix(before)), key=KEY, prefix=Prefix(before)) == raw
    assert open_frame(seal_frame(before + raw, Prefix(before)), key=KEY, prefix=Prefix(before)) == before + raw


def test_without_its_prefix_a_frame_is_corrupt() -> None:
    stored = seal_frame(LINES[:1000], Prefix(LINES))
    assert is_prefixed(stored)
    with pytest.raises(CorruptObjectError, match="stands alone"):
        open_frame(stored, key=KEY)


@pytest.mark.parametrize("wrong", [LINES[:-1], LINES + b"x", LINES[::-1], b"\0" * len(LINES)])
def test_with_another_prefix_it_is_corrupt_and_never_other_bytes(wrong: bytes) -> None:
    stored = seal_frame(LINES[:1000] + b"and more" + LINES[4000:9000], Prefix(LINES))
    with pytest.raises(CorruptObjectError, match="decompress"):
        open_frame(stored, key=KEY, prefix=Prefix(wrong))


def test_a_frame_that_does_not_get_smaller_needs_no_prefix() -> None:
    stored = seal_frame(NOISE[:200], Prefix(LINES))
    assert not is_prefixed(stored)
    assert open_frame(stored, key=KEY) == NOISE[:200]


def compressed(raw: bytes, *, sized: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=sized).compress(raw)


def skippable(data: bytes) -> bytes:
    return struct.pack("<II", 0x184D2A50, len(data)) + data


@pytest.mark.parametrize(
    "stored",
    [
        frame(10, compressed(bytes(1 << 20))),
        frame(FRAME_BYTES_MAX, compressed(bytes(1 << 24))),
        frame(FRAME_BYTES_MAX + 1, compressed(bytes(FRAME_BYTES_MAX + 1))),
        frame(0xFFFFFFFF, compressed(bytes(1000))),
        frame(1 << 31, compressed(bytes(1000))),
        frame(0, compressed(b"")),
        frame(0, b"", codec=0),
        frame(1000, compressed(bytes(1000), sized=False)),
        frame(10, compressed(bytes(1 << 24), sized=False)),
        frame(10, compressed(bytes(11))),
        frame(11, compressed(bytes(10))),
        frame(10, compressed(bytes(10))[:-1]),
        frame(10, b""),
        frame(10, b"not zstd"),
        frame(10, skippable(bytes(10))),
        frame(10, skippable(b"") + compressed(bytes(1 << 20))),
        frame(3, b"abcd", codec=0),
        frame(5, b"abcd", codec=0),
        frame(4, b"abcd", codec=0, payload_bytes=3),
        frame(4, b"abcd", codec=0, payload_bytes=5),
        frame(4, b"abcd", codec=0, payload_bytes=0xFFFFFFFF),
    ],
)
def test_sizes_that_do_not_agree_are_found_before_memory_is_taken(stored: bytes) -> None:
    refused(stored)  # once: what zstandard allocates for itself
    tracemalloc.start()
    refused(stored)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(stored) + (512 << 10)


def test_a_forged_content_size_allocates_nothing() -> None:
    honest = compressed(bytes(1 << 20))
    forged = bytearray(honest)
    position = honest.index((1 << 20).to_bytes(4, "little"))
    for size in (10, 1 << 17, 0xFFFFFFFF):
        forged[position : position + 4] = size.to_bytes(4, "little")
        for raw_bytes in (10, FRAME_BYTES_MAX):
            refused(frame(raw_bytes, bytes(forged)))


# Runs.


@pytest.mark.parametrize("size", [0, 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 3 * FRAME_BYTES_MAX, 300_001])
def test_a_run_gives_back_what_went_in(size: int) -> None:
    raw = (NOISE * 3)[:size]
    stored = seal_run(raw)
    assert open_run(stored, key="k", bytes_max=size) == raw
    assert len(list(split_run(stored, key="k"))) == -(-size // FRAME_BYTES_MAX)


def test_a_run_over_its_limit_is_corrupt() -> None:
    stored = seal_run(bytes(FRAME_BYTES_MAX * 4))
    with pytest.raises(CorruptObjectError, match="over"):
        open_run(stored, key="k", bytes_max=FRAME_BYTES_MAX * 4 - 1)


def test_a_bomb_of_many_frames_is_stopped_at_its_limit() -> None:
    bomb = seal_frame(bytes(FRAME_BYTES_MAX)) * 2000  # 250 MiB from 80 KiB
    tracemalloc.start()
    with pytest.raises(CorruptObjectError):
        open_run(bomb, key="k", bytes_max=1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_cut_run_is_corrupt_unless_cut_between_frames() -> None:
    raw = b"abc" * 100_000
    stored = seal_run(raw)
    frames = [len(one) for one in split_run(stored, key="k")]
    ends = {sum(frames[:count]) for count in range(len(frames) + 1)}
    for length in range(len(stored)):
        if length in ends:
            assert (
                open_run(stored[:length], key="k", bytes_max=1 << 20) == raw[: FRAME_BYTES_MAX * _count(frames, length)]
            )
        else:
            with pytest.raises(CorruptObjectError):
                open_run(stored[:length], key="k", bytes_max=1 << 20)


def _count(frames: list[int], length: int) -> int:
    return next(count for count in range(len(frames) + 1) if sum(frames[:count]) == length)


def test_buffers_of_larger_items_are_their_bytes() -> None:
    items = memoryview(array.array("I", range(50_000)))
    assert open_run(seal_run(items), key="k", bytes_max=1 << 20) == items.tobytes()
    stored = memoryview(seal_frame(b"abcdefgh" * 9)).cast("B")
    assert open_frame(stored, key="k") == b"abcdefgh" * 9


@pytest.mark.parametrize(
    "view",
    [
        memoryview(array.array("I", [1, 2, 3])),
        memoryview(b"abcdef")[::2],
        memoryview(b"abcdef").cast("B", (2, 3)),
        memoryview(array.array("I", [])),
        memoryview(b""),
    ],
)
def test_any_view_is_hashed_as_its_bytes(view: memoryview) -> None:
    raw = view.tobytes()
    hasher = Hasher()
    hasher.update(view)
    assert digest(view) == digest(raw)
    assert hasher.ref() == blob_ref(raw)
    assert short_hash(view) == short_hash(raw)
    verify(view, blob_ref(raw), key="k")
