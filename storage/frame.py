"""`frame`: the stored form of a run of bytes. Pure; the only importer of zstandard.

    byte 0      codec: 0 stored as is, 1 zstd, 2 zstd against a prefix
    byte 1      seal: 0 none (others are reserved for encryption)
    bytes 2-5   raw size, big endian
    bytes 6-9   stored size of the payload, big endian
    bytes 10-17 first 8 bytes of BLAKE3 of bytes 0-9 and the payload
    bytes 18-   payload

Rules:
1. A frame holds at most FRAME_BYTES_MAX raw bytes; longer runs are several frames, one behind the other.
2. All sizes are checked against that limit and against each other before anything is decompressed.
3. The checksum guards parts of a blob that are read alone; a whole blob is checked by its digest as well.
4. A frame may be compressed against a prefix: raw bytes that its reader has anyway, because they stand before it in the
   same log or in a record that is read along with it. Without them it cannot be opened; a zstd checksum of the raw
   bytes tells a wrong prefix.
5. What other programs are to read is a standard zstd stream (`seal_stream`) instead: one frame that declares its size,
   and behind it a skippable frame, which every zstd reader passes over. That one holds a note, the note's size in
   4 bytes, little endian, and the first 16 bytes of BLAKE3 of all that stands before.

    stored = seal_run(b"abc" * 100_000)
    assert open_run(stored, key="packs/…") == b"abc" * 100_000

Source: RFC 8878 section 3.1 (zstandard frames, skippable frames).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property

import zstandard

from storage.digest import Buffer, octets, short_hash, short_hash_of
from storage.errors import CorruptObjectError

FRAME_BYTES_MAX = 128 << 10  # raw; small enough to read alone, large enough to compress well
_LEVEL = 3  # zstd; above 3 nothing pays on session data
_HEADER = struct.Struct(">BBII")
_CHECKSUM_BYTES = 8
HEADER_BYTES = _HEADER.size + _CHECKSUM_BYTES
PREFIX_BYTES_MIN = 8  # zstandard takes no less
STORED_BYTES_MAX = HEADER_BYTES + FRAME_BYTES_MAX  # what does not get smaller is stored as it is
_STORED, _ZSTD, _ZSTD_PREFIXED = 0, 1, 2
_UNSEALED = 0

_SKIPPABLE = struct.Struct("<II")  # magic and size of a skippable frame
_SKIPPABLE_MAGIC = 0x184D2A50
_NOTE_SIZE = struct.Struct("<I")
_GUARD_BYTES = 16
_BEHIND_NOTE = _NOTE_SIZE.size + _GUARD_BYTES
NOTE_BYTES_MAX = 4 << 10  # whose a stream is, said in JSON


class Prefix:
    """What a frame is compressed against (rule 4). Ready for any number of frames.

    Args:
        raw: At least PREFIX_BYTES_MIN bytes.
    """

    def __init__(self, raw: Buffer) -> None:
        view = octets(raw)
        assert view.nbytes >= PREFIX_BYTES_MIN, "nothing could be found in so little"
        self._bytes = zstandard.ZstdCompressionDict(bytes(view), dict_type=zstandard.DICT_TYPE_RAWCONTENT)

    @cached_property
    def compressor(self) -> zstandard.ZstdCompressor:
        """Return what compresses against it."""
        return zstandard.ZstdCompressor(level=_LEVEL, dict_data=self._bytes, write_checksum=True)

    @cached_property
    def decompressor(self) -> zstandard.ZstdDecompressor:
        """Return what decompresses against it."""
        return zstandard.ZstdDecompressor(dict_data=self._bytes)


def prefix_of(raw: Buffer) -> Prefix | None:
    """Return what stands before a frame as its prefix, None if that is too little."""
    return Prefix(raw) if octets(raw).nbytes >= PREFIX_BYTES_MIN else None


class FrameCheck:
    """Checks frames that go by one behind the other, in pieces of any size, without opening them.

    Args:
        key: To name.
    """

    def __init__(self, *, key: str) -> None:
        self._key = key
        self._rest = b""

    def update(self, stored: Buffer) -> None:
        """Check the next bytes. Raises CorruptObjectError: a frame is not what was written."""
        view = memoryview(self._rest + bytes(octets(stored)))
        at = 0
        while view.nbytes - at >= HEADER_BYTES:
            end = at + HEADER_BYTES + _payload_bytes(view[at:], self._key)
            if end > view.nbytes:
                break
            if not _is_sound(view[at:end]):
                raise CorruptObjectError(self._key, "a frame's checksum does not match")
            at = end
        self._rest = bytes(view[at:])

    def finish(self) -> None:
        """Check that the last frame was whole. Raises CorruptObjectError."""
        if self._rest:
            raise CorruptObjectError(self._key, f"{len(self._rest)} bytes behind the last whole frame")


def check_frames(stored: Buffer, *, key: str) -> None:
    """Check frames that stand one behind the other, without opening them. Raises CorruptObjectError."""
    check = FrameCheck(key=key)
    check.update(stored)
    check.finish()


def _payload_bytes(view: memoryview, key: str) -> int:
    payload_bytes = int(_HEADER.unpack_from(view)[3])
    if payload_bytes > STORED_BYTES_MAX:
        raise CorruptObjectError(key, f"a frame declares {payload_bytes} bytes")
    return payload_bytes


def _is_sound(frame: memoryview) -> bool:
    """Say whether a whole frame matches its own checksum."""
    checksum = short_hash_of((frame[: _HEADER.size], frame[HEADER_BYTES:]), _CHECKSUM_BYTES)
    return checksum == frame[_HEADER.size : HEADER_BYTES]


class Opener:
    """Opens many frames, one after another: to make what decompresses takes a tenth of the time of opening one."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor()

    def open(self, stored: Buffer, *, key: str) -> bytes:
        """Return the raw bytes of one frame that needs no prefix. Raises as `open_frame`."""
        return _opened(stored, key, None, self._decompressor)


def seal_frame(raw: Buffer, prefix: Prefix | None = None) -> bytes:
    """Return the frame of at most FRAME_BYTES_MAX raw bytes, compressed where that makes it smaller."""
    view = octets(raw)
    assert 0 < view.nbytes <= FRAME_BYTES_MAX, "Rule 1"
    compressor = zstandard.ZstdCompressor(level=_LEVEL) if prefix is None else prefix.compressor
    packed = compressor.compress(view)
    smaller = _ZSTD if prefix is None else _ZSTD_PREFIXED
    codec, payload = (smaller, packed) if len(packed) < view.nbytes else (_STORED, bytes(view))
    head = _HEADER.pack(codec, _UNSEALED, view.nbytes, len(payload))
    return head + short_hash(head + payload, _CHECKSUM_BYTES) + payload


def seal_run(raw: Buffer, prefix: Prefix | None = None) -> bytes:
    """Return the frames of any number of raw bytes, one behind the other; empty for none."""
    view = octets(raw)
    return b"".join(
        seal_frame(view[start : start + FRAME_BYTES_MAX], prefix) for start in range(0, view.nbytes, FRAME_BYTES_MAX)
    )


def is_prefixed(stored: Buffer) -> bool:
    """Say whether a frame needs its prefix to be opened (rule 4)."""
    view = octets(stored)
    return view.nbytes > 0 and view[0] == _ZSTD_PREFIXED


def open_frame(stored: Buffer, *, key: str, prefix: Prefix | None = None) -> bytes:
    """Return the raw bytes of exactly one frame; `prefix` is what it was sealed against, if it was.

    Raises:
        CorruptObjectError: Truncated, altered, oversized, or of an unknown codec or seal; names `key`.
    """
    return _opened(stored, key, prefix, None)


def _opened(stored: Buffer, key: str, prefix: Prefix | None, ready: zstandard.ZstdDecompressor | None) -> bytes:
    view = octets(stored)
    if view.nbytes < HEADER_BYTES:
        raise CorruptObjectError(key, f"a frame of {view.nbytes} bytes is shorter than its header")
    codec, seal, raw_bytes, payload_bytes = _HEADER.unpack_from(view)
    payload = view[HEADER_BYTES:]
    if payload_bytes != payload.nbytes or not 0 < raw_bytes <= FRAME_BYTES_MAX:
        raise CorruptObjectError(key, f"a frame declares {payload_bytes} bytes for {raw_bytes}, has {payload.nbytes}")
    if short_hash_of((view[: _HEADER.size], payload), _CHECKSUM_BYTES) != view[_HEADER.size : HEADER_BYTES]:
        raise CorruptObjectError(key, "a frame's checksum does not match")
    if seal != _UNSEALED or codec not in (_STORED, _ZSTD, _ZSTD_PREFIXED):
        raise CorruptObjectError(key, f"a frame has codec {codec} and seal {seal}, which this version cannot open")
    if codec == _ZSTD_PREFIXED and prefix is None:
        raise CorruptObjectError(key, "a frame that needs the bytes before it stands alone")
    decompressor = prefix.decompressor if codec == _ZSTD_PREFIXED and prefix is not None else ready
    raw = bytes(payload) if codec == _STORED else _decompress(payload, raw_bytes, key, decompressor)
    if len(raw) != raw_bytes:
        raise CorruptObjectError(key, f"a frame holds {len(raw)} bytes, declares {raw_bytes}")
    return raw


def _decompress(payload: memoryview, raw_bytes: int, key: str, ready: zstandard.ZstdDecompressor | None) -> bytes:
    try:
        if zstandard.frame_content_size(payload) != raw_bytes:  # Rule 2: before a byte is allocated
            raise CorruptObjectError(key, "a compressed frame declares another size than its header")
        return (ready or zstandard.ZstdDecompressor()).decompress(payload, max_output_size=raw_bytes)
    except zstandard.ZstdError as error:
        raise CorruptObjectError(key, f"a frame cannot be decompressed ({error})") from error


def split_run(stored: Buffer, *, key: str) -> Iterator[memoryview]:
    """Yield the frames that stand one behind the other in `stored`. Raises CorruptObjectError for a cut one."""
    view = octets(stored)
    while view.nbytes:
        if view.nbytes < HEADER_BYTES:
            raise CorruptObjectError(key, "a run of frames ends inside a header")
        size = HEADER_BYTES + _HEADER.unpack_from(view)[3]
        if size > view.nbytes:
            raise CorruptObjectError(key, "a run of frames ends inside a frame")
        yield view[:size]
        view = view[size:]


def open_run(stored: Buffer, *, key: str, bytes_max: int, prefix: Prefix | None = None) -> bytes:
    """Return the raw bytes of a run of frames, at most `bytes_max`. Raises CorruptObjectError."""
    parts: list[bytes] = []
    total = 0
    for one in split_run(stored, key=key):
        parts.append(open_frame(one, key=key, prefix=prefix))
        total += len(parts[-1])
        if total > bytes_max:
            raise CorruptObjectError(key, f"a run of frames holds over {bytes_max} bytes")
    return b"".join(parts)


def seal_stream(raw: Buffer, note: bytes) -> bytes:
    """Return a standard zstd stream of `raw`, at least one byte, and the note behind it (rule 5)."""
    view = octets(raw)
    assert view.nbytes > 0, "a stream of nothing"
    assert len(note) <= NOTE_BYTES_MAX, "Rule 5"
    packed = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(view)
    skippable = _SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(note) + _BEHIND_NOTE)
    stored = packed + skippable + note + _NOTE_SIZE.pack(len(note))
    return stored + short_hash(stored, _GUARD_BYTES)


def open_stream(stored: bytes, *, key: str, bytes_max: int) -> tuple[bytes, bytes]:
    """Return what `seal_stream` was given: the raw bytes, at most `bytes_max`, and the note.

    Raises:
        CorruptObjectError: Truncated, altered, or larger than it may be; names `key`.
    """
    if (
        len(stored) < _SKIPPABLE.size + _BEHIND_NOTE
        or short_hash(stored[:-_GUARD_BYTES], _GUARD_BYTES) != (stored[-_GUARD_BYTES:])
    ):
        raise CorruptObjectError(key, "a stream does not match its own checksum")
    (note_bytes,) = _NOTE_SIZE.unpack_from(stored, len(stored) - _BEHIND_NOTE)
    note_start = len(stored) - _BEHIND_NOTE - note_bytes
    start = note_start - _SKIPPABLE.size
    declared = (_SKIPPABLE_MAGIC, note_bytes + _BEHIND_NOTE)
    if note_bytes > NOTE_BYTES_MAX or start < 0 or _SKIPPABLE.unpack_from(stored, start) != declared:
        raise CorruptObjectError(key, "a stream does not end with a note")
    return _unpacked(stored[:start], bytes_max, key), stored[note_start : note_start + note_bytes]


def _unpacked(packed: bytes, bytes_max: int, key: str) -> bytes:
    try:
        size = zstandard.frame_content_size(packed)
        if not 0 < size <= bytes_max:  # Rule 2; -1 where it does not say
            raise CorruptObjectError(key, f"a stream declares {size} bytes, of 1..{bytes_max}")
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObjectError(key, f"a stream cannot be decompressed ({error})") from error
    if len(raw) != size:
        raise CorruptObjectError(key, f"a stream holds {len(raw)} bytes, declares {size}")
    return raw
