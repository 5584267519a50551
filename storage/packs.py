"""Packs: one immutable, uniquely named object that holds the new blobs of a commit, and how to read from it.

    frames of the blobs | frames of the index | footer: index offset (8), checksum (8), magic (8)

Rules:
1. A pack's name is never used twice, so its bytes never change and a name that exists can only be our own upload.
2. Small blobs share frames; a blob of which BULK_BYTES_MIN or more are new has frames of its own.
3. Of a blob that is spliced from older extents and new bytes a pack holds the new bytes alone.
4. What is appended to a log is compressed against the bytes before it, which a reader of the log has anyway.
5. The index at the end says what the pack holds; reading never needs it, repair does.
6. Every blob read is checked against its `BlobRef`.

    builder = PackBuilder("<commit id>.<random>")
    ref = builder.add("tool-state", data)
    builder.flush()
    builder.extents[ref.digest]
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from storage.clock import Clock, backoff_seconds
from storage.digest import BlobRef, Buffer, Digest, blob_ref, octets, parse_digest, short_hash, verify
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError, UnavailableError
from storage.extents import Extent, Spliceable, coalesced, plan_reads
from storage.frame import (
    FRAME_BYTES_MAX,
    PREFIX_BYTES_MIN,
    STORED_BYTES_MAX,
    Prefix,
    is_prefixed,
    open_frame,
    open_run,
    seal_frame,
    seal_run,
)
from storage.store import ByteRange, Create, ObjectStore

BULK_BYTES_MIN = 32 << 10  # from here on a blob is read for itself, not along with its neighbours
INDEX_BYTES_MAX = 64 << 20  # raw; an index has about 30 bytes per frame
INDEX_RATIO_MAX = 32  # raw to stored: digests do not shrink to less than half, so an index is far from this
INDEX_BYTES_FREE = 64 << 10  # raw, whatever its ratio
PREFIX_BYTES_MAX = 64 << 10  # raw, before what is appended to a log: twice as much saves 2 % more, for 3 times the time
PUT_ATTEMPTS_MAX = 5  # of one upload; the commit as a whole has its own bound
_INDEX_STORED_BYTES_MAX = INDEX_BYTES_MAX // FRAME_BYTES_MAX * STORED_BYTES_MAX
_MAGIC = b"SNAPPACK"
_FOOTER = struct.Struct(">Q8s8s")


class PackBuilder:
    """Lays blobs out in frames. Call `flush` before asking for extents.

    Attributes:
        name: Name of the pack.
        extents: Where each blob lies, by digest; complete after `flush`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.extents: dict[Digest, tuple[Extent, ...]] = {}
        self._frames: list[bytes] = []
        self._size = 0
        self._open: list[bytes] = []
        self._open_bytes = 0
        self._waiting: list[tuple[Digest, list[Extent | int]]] = []  # pieces; a number is one of `_open`
        self._rows: list[tuple[str, BlobRef]] = []
        self._known: set[Digest] = set()

    def add(self, kind: str, data: bytes) -> BlobRef:
        """Take a blob in (once, however often it is added) and return its ref; `kind` goes into the index."""
        ref = blob_ref(data)
        self.add_spliced(kind, ref, [data])
        return ref

    def add_spliced(self, kind: str, ref: BlobRef, pieces: Sequence[Extent | Buffer]) -> None:
        """Take in a blob of which a part lies elsewhere already.

        Args:
            kind: For the index.
            ref: The blob.
            pieces: Its bytes in order: extents of what lies elsewhere, and what is new.
        """
        if ref.digest in self._known:
            return
        self._known.add(ref.digest)
        self._rows.append((kind, ref))
        new = sum(octets(piece).nbytes for piece in pieces if not isinstance(piece, Extent))
        if new >= BULK_BYTES_MIN:
            self.flush()
            self.extents[ref.digest] = self._laid_out(pieces)
            return
        if self._open_bytes + new > FRAME_BYTES_MAX:
            self.flush()
        waiting: list[Extent | int] = []
        for piece in pieces:
            if not isinstance(piece, Extent) and octets(piece).nbytes:
                waiting.append(len(self._open))
                self._open.append(bytes(piece))
            elif isinstance(piece, Extent):
                waiting.append(piece)
        self._open_bytes += new
        self._waiting.append((ref.digest, waiting))

    def add_log(
        self, kind: str, ref: BlobRef, pieces: Sequence[Extent | Buffer], before: Callable[[int], bytes]
    ) -> None:
        """Take in a log of which a part lies elsewhere already; what is new has frames of its own (rule 4).

        Args:
            kind: For the index.
            ref: The whole log.
            pieces: Its bytes in order, as for `add_spliced`.
            before: Gives up to PREFIX_BYTES_MAX bytes of the log that stand before a position.
        """
        if ref.digest in self._known:
            return
        self._known.add(ref.digest)
        self._rows.append((kind, ref))
        self.flush()
        extents: list[Extent] = []
        position = 0
        for piece in pieces:
            if isinstance(piece, Extent):
                extents.append(piece)
                position += piece.length
            elif octets(piece).nbytes:
                extents += self._continued(before(position), bytes(piece))
                position += octets(piece).nbytes
        self.extents[ref.digest] = coalesced(extents)

    def _continued(self, before: bytes, new: bytes) -> Iterator[Extent]:
        data = before + new
        for start in range(len(before), len(data), FRAME_BYTES_MAX):
            prefix = data[max(0, start - PREFIX_BYTES_MAX) : start]
            piece = data[start : start + FRAME_BYTES_MAX]
            yield self._frame(piece, Prefix(prefix) if len(prefix) >= PREFIX_BYTES_MIN else None)

    def flush(self) -> None:
        """Close the shared frame: afterwards every blob added so far has its extents."""
        whole = self._frame(b"".join(self._open)) if self._open else None
        starts = [0, *accumulate(map(len, self._open))]
        for digest, waiting in self._waiting:
            pieces: list[Extent] = []
            for piece in waiting:
                if isinstance(piece, Extent):
                    pieces.append(piece)
                else:
                    assert whole is not None, "what waits is in the frame"
                    pieces.append(whole.part(starts[piece], len(self._open[piece])))
            self.extents[digest] = coalesced(pieces)
        self._open, self._open_bytes, self._waiting = [], 0, []

    def append_run(self, stored: bytes) -> ByteRange:
        """Append a finished run of frames (a manifest) and return where it lies."""
        self.flush()
        place = ByteRange(self._size, len(stored))
        self._frames.append(stored)
        self._size += len(stored)
        return place

    def finish(self, facts: Mapping[str, str]) -> bytes:
        """Return the whole pack, index and footer included; `facts` says whose it is."""
        self.flush()
        rows = [[kind, ref.digest, ref.size_bytes, self._own(ref)] for kind, ref in self._rows]
        index = seal_run(json.dumps({"facts": dict(facts), "blobs": rows}, separators=(",", ":")).encode())
        checksum = short_hash(index, 8)
        return b"".join((*self._frames, index, _FOOTER.pack(self._size, checksum, _MAGIC)))

    def _own(self, ref: BlobRef) -> list[list[int]]:
        """Return those of a blob's extents that lie in this pack."""
        return [list(one[1:]) for one in self.extents[ref.digest] if one.pack == self.name]

    def _laid_out(self, pieces: Sequence[Extent | Buffer]) -> tuple[Extent, ...]:
        """Put what is new into frames of its own; return the extents of all pieces."""
        views = [octets(piece) for piece in pieces if not isinstance(piece, Extent)]
        data = views[0] if len(views) == 1 else memoryview(b"".join(views))
        starts = range(0, data.nbytes, FRAME_BYTES_MAX)
        new = Spliceable([self._frame(data[start : start + FRAME_BYTES_MAX]) for start in starts])
        extents: list[Extent] = []
        position = 0
        for piece in pieces:
            if isinstance(piece, Extent):
                extents.append(piece)
            elif octets(piece).nbytes:
                extents += new.between(position, octets(piece).nbytes)
                position += octets(piece).nbytes
        return coalesced(extents)

    def _frame(self, raw: Buffer, prefix: Prefix | None = None) -> Extent:
        view = octets(raw)
        frame = seal_frame(view, prefix)
        extent = Extent(self.name, self._size, len(frame), 0, view.nbytes)
        self._frames.append(frame)
        self._size += len(frame)
        return extent


def write_pack(store: ObjectStore, key: str, data: bytes, clock: Clock) -> None:
    """Store a pack under a name that nobody else uses; afterwards it is whole and readable.

    Safe to repeat until the head is read again. If it raises, the pack may exist all the same; nothing names it.

    Raises:
        UnavailableError: No answer in PUT_ATTEMPTS_MAX attempts.
        CorruptObjectError: The name is taken by something else (rule 1 broken by someone).
    """
    for attempt in range(1, PUT_ATTEMPTS_MAX + 1):
        try:
            _put_or_find(store, key, data)
        except UnavailableError:
            if attempt == PUT_ATTEMPTS_MAX:
                raise
            clock.sleep(backoff_seconds(attempt, clock))
        else:
            return


def _put_or_find(store: ObjectStore, key: str, data: bytes) -> None:
    try:
        store.put(key, data, Create())
    except PreconditionFailedError as error:
        # Rule 1: only our own upload can be there, its answer lost or its request delivered twice.
        if _size_of(store, key) != len(data):
            raise CorruptObjectError(key, "a pack of this name has another size") from error


def _size_of(store: ObjectStore, key: str) -> int:
    try:
        return store.stat(key).size_bytes
    except NotFoundError as error:
        raise UnavailableError(key, "a pack was said to exist and is not there", applied="no") from error


@dataclass(frozen=True, slots=True)
class PackedBlob:
    """One row of a pack's index."""

    kind: str
    ref: BlobRef
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class PackIndex:
    """What a pack says of itself."""

    facts: Mapping[str, str]
    blobs: tuple[PackedBlob, ...]


def read_index(store: ObjectStore, key: str, name: str) -> PackIndex:
    """Read a pack's index from its end (three requests). Raises NotFoundError, CorruptObjectError."""
    end = store.stat(key).size_bytes - _FOOTER.size
    if end < 0:
        raise CorruptObjectError(key, "too short for a pack")
    footer = store.get(key, ByteRange(end, _FOOTER.size)).data
    if len(footer) != _FOOTER.size:
        raise CorruptObjectError(key, "the pack ends before its size")
    start, checksum, magic = _FOOTER.unpack(footer)
    if magic != _MAGIC or not 0 < end - start <= _INDEX_STORED_BYTES_MAX:
        raise CorruptObjectError(key, "not a pack: its footer is missing or wrong")
    stored = store.get(key, ByteRange(start, end - start)).data
    if short_hash(stored, 8) != checksum:
        raise CorruptObjectError(key, "the index of the pack does not match its footer")
    try:
        bytes_max = min(INDEX_BYTES_MAX, INDEX_BYTES_FREE + INDEX_RATIO_MAX * len(stored))
        plain = json.loads(open_run(stored, key=key, bytes_max=bytes_max))
        facts = {_text(fact): _text(value) for fact, value in plain["facts"].items()}
        return PackIndex(facts, tuple(_packed(name, row) for row in plain["blobs"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptObjectError(key, f"the index of the pack cannot be read ({type(error).__name__})") from error


def _packed(name: str, row: Any) -> PackedBlob:
    kind, digest, size, extents = row
    return PackedBlob(_text(kind), BlobRef(parse_digest(digest), size), tuple(_extent(name, four) for four in extents))


def _extent(name: str, four: Any) -> Extent:
    offset, stored, skip, length = four
    if any(type(number) is not int or number < 0 for number in four) or not 0 < stored <= STORED_BYTES_MAX:
        raise ValueError("not an extent")
    return Extent(name, offset, stored, skip, length)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def read_blobs(
    store: ObjectStore,
    blobs: Mapping[BlobRef, Sequence[Extent]],
    key_of: Callable[[str], str],
    executor: Executor,
) -> dict[BlobRef, bytes]:
    """Read whole blobs, near ones in one request, all requests in parallel.

    Args:
        store: Where the packs are.
        blobs: Extents of each blob, in order.
        key_of: Key of a pack by its name.
        executor: Runs the requests.

    Returns:
        The bytes of each blob, checked (rule 6).

    Raises:
        NotFoundError: A pack is missing; its key is in the error.
        CorruptObjectError: A frame or blob is not what it should be.
        UnavailableError: No answer; retry.
    """
    for ref, extents in blobs.items():
        _check_size(ref, extents, key_of)
    frames = _fetch(store, [extent for extents in blobs.values() for extent in extents], key_of, executor)
    return {ref: _assemble(ref, extents, frames) for ref, extents in blobs.items()}


def read_pieces(
    store: ObjectStore, extents: Sequence[Extent], key_of: Callable[[str], str], executor: Executor
) -> list[bytes]:
    """Read single extents, checked by their frames' checksums alone; otherwise like `read_blobs`."""
    frames = _fetch(store, extents, key_of, executor)
    return [frames.piece(extent) for extent in extents]


def _fetch(store: ObjectStore, extents: Sequence[Extent], key_of: Callable[[str], str], executor: Executor) -> _Frames:
    reads = plan_reads(extents)
    chunks = list(executor.map(lambda read: store.get(key_of(read[0]), read[1]).data, reads))
    return _Frames(list(zip(reads, chunks, strict=True)), key_of)


def _check_size(ref: BlobRef, extents: Sequence[Extent], key_of: Callable[[str], str]) -> None:
    """Check, before anything is read, that no more will be held in memory than the blob declares."""
    total = sum(extent.length for extent in extents)
    if total != ref.size_bytes:
        key = key_of(extents[0].pack) if extents else ""
        raise CorruptObjectError(key, f"extents of {total} bytes where {ref} was expected")


def _assemble(ref: BlobRef, extents: Sequence[Extent], frames: _Frames) -> bytes:
    data = bytearray(ref.size_bytes)
    position = 0
    for extent in extents:
        data[position : position + extent.length] = frames.piece(extent, memoryview(data)[:position])
        position += extent.length
    whole = bytes(data)
    verify(whole, ref, key=frames.key(extents[0].pack) if extents else "")
    return whole


class _Frames:
    """Frames by place, each opened once."""

    def __init__(self, chunks: Iterable[tuple[tuple[str, ByteRange], bytes]], key_of: Callable[[str], str]) -> None:
        self.key = key_of
        self._opened: dict[tuple[str, int], bytes] = {}
        self._chunks: dict[str, list[tuple[ByteRange, bytes]]] = {}
        for (pack, place), data in chunks:
            self._chunks.setdefault(pack, []).append((place, data))

    def piece(self, extent: Extent, before: Buffer = b"") -> bytes:
        """Return the bytes of an extent; `before` are those that stand before it in its blob."""
        raw = self._opened.get((extent.pack, extent.offset))
        if raw is None:
            raw = self._opened[extent.pack, extent.offset] = self._open(extent, octets(before))
        piece = raw[extent.skip : extent.skip + extent.length]
        if len(piece) != extent.length:
            raise CorruptObjectError(self.key(extent.pack), "an extent ends behind its frame")
        return piece

    def _open(self, extent: Extent, before: memoryview) -> bytes:
        stored, key = self._stored(extent), self.key(extent.pack)
        if not is_prefixed(stored):
            return open_frame(stored, key=key)
        if extent.skip:
            raise CorruptObjectError(key, "an extent begins within a frame that continues a log")
        prefix = before[-PREFIX_BYTES_MAX:]
        return open_frame(stored, key=key, prefix=Prefix(prefix) if prefix.nbytes >= PREFIX_BYTES_MIN else None)

    def _stored(self, extent: Extent) -> memoryview:
        for place, data in self._chunks[extent.pack]:
            if place.start <= extent.offset and extent.offset + extent.stored_bytes <= place.end:
                start = extent.offset - place.start
                return memoryview(data)[start : start + extent.stored_bytes]
        raise AssertionError("plan_reads covers every frame")
