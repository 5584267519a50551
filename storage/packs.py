"""Packs: one immutable, uniquely named object that holds the new blobs of a commit. `storage.pack_reader` reads them.

    frames of carried packs | frames of the blobs, and of the manifest | frames of the index | footer

Rules:
1. A pack's name is never used twice, so its bytes never change and a name that exists can only be our own upload.
2. Small blobs share frames; a blob of which BULK_BYTES_MIN or more are new has frames of its own.
3. Of a blob that is spliced from older extents and new bytes a pack holds the new bytes alone.
4. What is appended to a log is compressed against the bytes before it, which a reader of the log has anyway.
5. The index at the end says which blobs lie whole in the pack, and where runs (manifests) lie; reading never needs it,
   repair does.
6. A pack may carry others: their frames as they are, before its own.
7. Frames that lie in a spool (`storage.spools`) are copied from there when the pack is put, never held in memory.

    builder = PackBuilder("<commit id>.<random>")
    ref = builder.add("tool-state", data)
    builder.extents_of(ref)
    builder.finish({"session": "s1"})
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from storage.clock import Clock, backoff_seconds
from storage.digest import BlobRef, Buffer, Digest, blob_ref, octets, parse_digest, short_hash
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError, UnavailableError
from storage.extents import Extent, Run, Spliceable, coalesced, joined
from storage.frame import (
    FRAME_BYTES_MAX,
    STORED_BYTES_MAX,
    Prefix,
    check_frames,
    open_run,
    prefix_of,
    seal_frame,
    seal_run,
)
from storage.spools import SPOOLED, Spool, Spooled, SpooledBytes
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


PackData = bytes | SpooledBytes
"""The bytes of a pack: in memory, or partly in a spool, which then must stay open as long as they may be put."""


@dataclass(frozen=True, slots=True)
class PackedBlob:
    """One row of a pack's index: a blob that lies whole in it."""

    kind: str
    ref: BlobRef
    extents: tuple[Extent, ...]

    def moved(self, name: str, shift: int) -> PackedBlob:
        """Return the row for a pack that carries this one."""
        return replace(self, extents=tuple(one.moved(name, shift) for one in self.extents))


@dataclass(frozen=True, slots=True)
class PackBody:
    """A pack without index and footer; in a later one it can be carried if its bytes are in memory.

    Attributes:
        name: Name of the pack.
        data: Its frames.
        rows: What its index says of blobs that lie whole in it.
        runs: Where its finished runs lie.
    """

    name: str
    data: PackData = field(repr=False)
    rows: tuple[PackedBlob, ...]
    runs: tuple[ByteRange, ...]

    @property
    def size_bytes(self) -> int:
        """Return the size of its frames."""
        return _size(self.data)


def carrying(name: str, bodies: Sequence[PackBody]) -> PackBody:
    """Return a pack that carries others and has nothing else: their frames one behind the other (rule 6)."""
    rows: list[PackedBlob] = []
    runs: list[ByteRange] = []
    shift = 0
    for body in bodies:
        rows += [row.moved(name, shift) for row in body.rows]
        runs += [ByteRange(run.start + shift, run.length) for run in body.runs]
        shift += body.size_bytes
    pieces = [piece for body in bodies for piece in _pieces(body.data)]
    return PackBody(name, _joined(pieces), tuple(rows), tuple(runs))


class PackBuilder:
    """Lays blobs out in frames. Call `flush` before asking for extents.

    Attributes:
        name: Name of the pack.
        extents: Where each blob lies, by digest; complete after `flush`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.extents: dict[Digest, tuple[Extent, ...]] = {}
        self._carried: list[tuple[PackBody, int]] = []
        self._runs: list[ByteRange] = []
        self._frames: list[bytes | Spooled] = []
        self._size = 0
        self._open: list[bytes] = []
        self._open_bytes = 0
        self._waiting: list[tuple[Digest, list[Run | int]]] = []  # pieces; a number is one of `_open`
        self._rows: list[tuple[str, BlobRef]] = []
        self._known: set[Digest] = set()

    def carry(self, body: PackBody) -> int:
        """Take over a pack as it is; return how much further on everything in it lies."""
        assert isinstance(body.data, bytes), "only what is in memory is carried"
        self.flush()
        shift = self._size
        self._carried.append((body, shift))
        self._frames.append(body.data)
        self._size += len(body.data)
        return shift

    def add(self, kind: str, data: bytes) -> BlobRef:
        """Take a blob in (once, however often it is added) and return its ref; `kind` goes into the index."""
        ref = blob_ref(data)
        self.add_spliced(kind, ref, [data])
        return ref

    def add_spliced(self, kind: str, ref: BlobRef, pieces: Sequence[Run | Buffer]) -> None:
        """Take in a blob of which a part lies elsewhere already.

        Args:
            kind: For the index.
            ref: The blob.
            pieces: Its bytes in order: runs of what lies elsewhere, and what is new.
        """
        if ref.digest in self._known:
            return
        self._known.add(ref.digest)
        self._rows.append((kind, ref))
        new = sum(octets(piece).nbytes for piece in pieces if not isinstance(piece, Run))
        if new >= BULK_BYTES_MIN:
            self.flush()
            self.extents[ref.digest] = self._laid_out(pieces)
            return
        if self._open_bytes + new > FRAME_BYTES_MAX:
            self.flush()
        waiting: list[Run | int] = []
        for piece in pieces:
            if isinstance(piece, Run):
                waiting.append(piece)
            elif octets(piece).nbytes:
                waiting.append(len(self._open))
                self._open.append(bytes(piece))
        self._open_bytes += new
        self._waiting.append((ref.digest, waiting))

    def add_log(self, kind: str, ref: BlobRef, pieces: Sequence[Run | Buffer], before: Callable[[int], bytes]) -> None:
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
        runs: list[Run] = []
        position = 0
        for piece in pieces:
            if isinstance(piece, Run):
                runs.append(piece)
                position += piece.size_bytes
            elif octets(piece).nbytes:
                runs.append(Run(self._continued(before(position), bytes(piece))))
                position += octets(piece).nbytes
        self.extents[ref.digest] = joined(runs)

    def add_spooled(self, kind: str, ref: BlobRef, extents: Iterable[Extent], spool: Spool) -> None:
        """Take in a blob whose new bytes lie in a spool (rule 7).

        Args:
            kind: For the index.
            ref: The blob.
            extents: Its bytes in order; those in the pack SPOOLED are the spool's.
            spool: Finished; all of it goes into the pack.
        """
        if ref.digest in self._known:
            return
        self._known.add(ref.digest)
        self._rows.append((kind, ref))
        self.flush()
        here = [one.moved(self.name, self._size) if one.pack == SPOOLED else one for one in extents]
        self.extents[ref.digest] = coalesced(here)
        if spool.size_bytes:
            self._frames.append(spool)
            self._size += spool.size_bytes

    def _continued(self, before: bytes, new: bytes) -> Iterator[Extent]:
        data = before + new
        for start in range(len(before), len(data), FRAME_BYTES_MAX):
            prefix = data[max(0, start - PREFIX_BYTES_MAX) : start]
            piece = data[start : start + FRAME_BYTES_MAX]
            yield self._frame(piece, prefix_of(prefix))

    def flush(self) -> None:
        """Close the shared frame: afterwards every blob added so far has its extents."""
        whole = self._frame(b"".join(self._open)) if self._open else None
        starts = [0, *accumulate(map(len, self._open))]
        for digest, waiting in self._waiting:
            runs: list[Sequence[Extent]] = []
            for piece in waiting:
                if isinstance(piece, Run):
                    runs.append(piece)
                else:
                    assert whole is not None, "what waits is in the frame"
                    runs.append((whole.part(starts[piece], len(self._open[piece])),))
            self.extents[digest] = joined(runs)
        self._open, self._open_bytes, self._waiting = [], 0, []

    def extents_of(self, ref: BlobRef) -> tuple[Extent, ...]:
        """Return where a blob lies that was added."""
        if ref.digest not in self.extents:
            self.flush()
        return self.extents[ref.digest]

    @property
    def size_bytes(self) -> int:
        """Return the size of all frames so far; what waits for its frame is not counted."""
        return self._size

    def append_run(self, stored: bytes) -> ByteRange:
        """Append a finished run of frames (a manifest) and return where it lies."""
        self.flush()
        place = ByteRange(self._size, len(stored))
        self._runs.append(place)
        self._frames.append(stored)
        self._size += len(stored)
        return place

    def body(self) -> PackBody:
        """Return all frames so far, with what the index says of them (rule 5)."""
        self.flush()
        rows, runs = [], []
        for body, shift in self._carried:
            rows += [row.moved(self.name, shift) for row in body.rows]
            runs += [ByteRange(run.start + shift, run.length) for run in body.runs]
        for kind, ref in self._rows:
            extents = self.extents[ref.digest]
            if all(one.pack == self.name for one in extents):
                rows.append(PackedBlob(kind, ref, extents))
        return PackBody(self.name, _joined(self._frames), tuple(rows), (*runs, *self._runs))

    def finish(self, facts: Mapping[str, str]) -> bytes:
        """Return the whole pack, index and footer included, if nothing of it is spooled; `facts` says whose it is."""
        data = finished(self.body(), facts)
        assert isinstance(data, bytes), "what is spooled is never held in memory"
        return data

    def _laid_out(self, pieces: Sequence[Run | Buffer]) -> tuple[Extent, ...]:
        """Put what is new into frames of its own; return the extents of all pieces."""
        views = [octets(piece) for piece in pieces if not isinstance(piece, Run)]
        data = views[0] if len(views) == 1 else memoryview(b"".join(views))
        starts = range(0, data.nbytes, FRAME_BYTES_MAX)
        new = Spliceable([self._frame(data[start : start + FRAME_BYTES_MAX]) for start in starts])
        runs: list[Sequence[Extent]] = []
        position = 0
        for piece in pieces:
            if isinstance(piece, Run):
                runs.append(piece)
            elif octets(piece).nbytes:
                runs.append(new.between(position, octets(piece).nbytes))
                position += octets(piece).nbytes
        return joined(runs)

    def _frame(self, raw: Buffer, prefix: Prefix | None = None) -> Extent:
        view = octets(raw)
        frame = seal_frame(view, prefix)
        extent = Extent(self.name, self._size, len(frame), 0, view.nbytes)
        self._frames.append(frame)
        self._size += len(frame)
        return extent


def finished(body: PackBody, facts: Mapping[str, str]) -> PackData:
    """Return a whole pack: its frames, index and footer; `facts` says whose it is."""
    rows = [[row.kind, row.ref.digest, row.ref.size_bytes, [list(one[1:]) for one in row.extents]] for row in body.rows]
    plain = {"facts": dict(facts), "blobs": rows, "runs": [[run.start, run.length] for run in body.runs]}
    index = seal_run(json.dumps(plain, separators=(",", ":")).encode())
    footer = _FOOTER.pack(body.size_bytes, short_hash(index, 8), _MAGIC)
    return _joined((*_pieces(body.data), index, footer))


def _pieces(data: PackData) -> tuple[bytes | Spooled, ...]:
    return (data,) if isinstance(data, bytes) else data.pieces


def _joined(pieces: Sequence[bytes | Spooled]) -> PackData:
    in_memory = [one for one in pieces if isinstance(one, bytes)]
    return b"".join(in_memory) if len(in_memory) == len(pieces) else SpooledBytes(tuple(pieces))


def _size(data: PackData) -> int:
    return len(data) if isinstance(data, bytes) else data.size_bytes


def write_pack(store: ObjectStore, key: str, data: PackData, clock: Clock) -> None:
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


def _put_or_find(store: ObjectStore, key: str, data: PackData) -> None:
    try:
        store.put(key, data if isinstance(data, bytes) else data.open(), Create())
    except PreconditionFailedError as error:
        # Rule 1: only our own upload can be there, its answer lost or its request delivered twice.
        if _size_of(store, key) != _size(data):
            raise CorruptObjectError(key, "a pack of this name has another size") from error


def _size_of(store: ObjectStore, key: str) -> int:
    try:
        return store.stat(key).size_bytes
    except NotFoundError as error:
        raise UnavailableError(key, "a pack was said to exist and is not there", applied="no") from error


@dataclass(frozen=True, slots=True)
class PackIndex:
    """What a pack says of itself.

    Attributes:
        facts: Whose it is.
        blobs: Those that lie whole in it.
        runs: Where its finished runs lie.
        body_bytes: Size of its frames, without index and footer.
    """

    facts: Mapping[str, str]
    blobs: tuple[PackedBlob, ...]
    runs: tuple[ByteRange, ...]
    body_bytes: int


def read_index(store: ObjectStore, key: str, name: str) -> PackIndex:
    """Read a pack's index from its end (three requests). Raises NotFoundError, CorruptObjectError."""
    end = store.stat(key).size_bytes - _FOOTER.size
    if end < 0:
        raise CorruptObjectError(key, "too short for a pack")
    footer = store.get(key, ByteRange(end, _FOOTER.size)).data
    if len(footer) != _FOOTER.size:
        raise CorruptObjectError(key, "the pack ends before its size")
    start = _index_start(footer, end, key)
    return _index(store.get(key, ByteRange(start, end - start)).data, footer, key=key, name=name)


def opened(data: bytes, *, key: str, name: str) -> tuple[PackBody, Mapping[str, str]]:
    """Return a whole pack without index and footer, and the facts in its index.

    Raises:
        CorruptObjectError: It ends too early, its index cannot be read, or a frame is not what was written.
    """
    end = len(data) - _FOOTER.size
    if end < 0:
        raise CorruptObjectError(key, "too short for a pack")
    index = _index(data[_index_start(data[end:], end, key) : end], data[end:], key=key, name=name)
    body = data[: index.body_bytes]
    check_frames(body, key=key)
    return PackBody(name, body, index.blobs, index.runs), index.facts


def _index_start(footer: bytes, end: int, key: str) -> int:
    start, _, magic = _FOOTER.unpack(footer)
    if magic != _MAGIC or not 0 < end - start <= _INDEX_STORED_BYTES_MAX:
        raise CorruptObjectError(key, "not a pack: its footer is missing or wrong")
    return int(start)


def _index(stored: bytes, footer: bytes, *, key: str, name: str) -> PackIndex:
    start, checksum, _ = _FOOTER.unpack(footer)
    if short_hash(stored, 8) != checksum:
        raise CorruptObjectError(key, "the index of the pack does not match its footer")
    try:
        bytes_max = min(INDEX_BYTES_MAX, INDEX_BYTES_FREE + INDEX_RATIO_MAX * len(stored))
        plain = json.loads(open_run(stored, key=key, bytes_max=bytes_max))
        facts = {_text(fact): _text(value) for fact, value in plain["facts"].items()}
        blobs, runs = tuple(_packed(name, row) for row in plain["blobs"]), tuple(map(_run, plain["runs"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptObjectError(key, f"the index of the pack cannot be read ({type(error).__name__})") from error
    return PackIndex(facts, blobs, runs, start)


def _packed(name: str, row: Any) -> PackedBlob:
    kind, digest, size, extents = row
    return PackedBlob(_text(kind), BlobRef(parse_digest(digest), size), tuple(_extent(name, four) for four in extents))


def _run(two: Any) -> ByteRange:
    start, length = two
    if any(type(number) is not int or number < 0 for number in two) or not length:
        raise ValueError("not a run")
    return ByteRange(start, length)


def _extent(name: str, four: Any) -> Extent:
    offset, stored, skip, length = four
    if any(type(number) is not int or number < 0 for number in four) or not 0 < stored <= STORED_BYTES_MAX:
        raise ValueError("not an extent")
    return Extent(name, offset, stored, skip, length)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
