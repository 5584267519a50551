"""Reading from packs: few requests, side by side, and nothing but what was stored.

Rules:
1. Near ranges of one pack are one request; what was fetched is not fetched again.
2. Every whole blob is checked against its `BlobRef`; a piece that is read alone against its frame's checksum.
3. No more is held in memory than the blobs declare, and their frames.
4. A frame that continues a log is opened with the bytes that stand before it in the blob.

    reader = PackReader(store, key_of, executor)
    data = reader.blobs({ref: placement.extents[ref.digest]})[ref]
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor

from storage.digest import BlobRef, verify
from storage.errors import CorruptObjectError
from storage.extents import Extent, Read, plan_reads
from storage.frame import PREFIX_BYTES_MIN, Prefix, is_prefixed, open_frame
from storage.packs import PREFIX_BYTES_MAX
from storage.store import ObjectStore

_Place = tuple[str, int, int]  # pack, offset and stored size of a frame
TOGETHER_MIN = 8  # frames for which it pays to open them in several threads
GROUP_FRAMES_MAX = 64  # opened by one thread at a time


class PackReader:
    """Reads from the packs of one family.

    Args:
        store: Where they are.
        key_of: Key of a pack by its name.
        executor: Runs requests, and opens frames, side by side.
    """

    def __init__(self, store: ObjectStore, key_of: Callable[[str], str], executor: Executor) -> None:
        self.key_of = key_of
        self._store = store
        self._executor = executor
        self._chunks: dict[str, list[tuple[int, bytes]]] = {}  # by pack: where each begins, in order
        self._opened: dict[_Place, bytes] = {}

    def fetch(self, reads: Sequence[Read]) -> None:
        """Fetch these ranges, side by side.

        Raises:
            NotFoundError: A pack is missing; its key is in the error.
            CorruptObjectError: A pack ends before what it should hold.
            UnavailableError: No answer; retry.
        """
        chunks = self._executor.map(self._get, reads)
        for read, data in zip(reads, chunks, strict=True):
            insort(self._chunks.setdefault(read.pack, []), (read.place.start, data))

    def runs(self, places: Sequence[_Place]) -> list[memoryview]:
        """Return runs of frames as they are stored, by pack, offset and stored size. Raises as `fetch`."""
        self.fetch(plan_reads(place for place in places if self._find(*place) is None))
        return [self._stored(place) for place in places]

    def blobs(self, wanted: Mapping[BlobRef, Sequence[Extent]]) -> dict[BlobRef, bytes]:
        """Return whole blobs, checked.

        Args:
            wanted: Extents of each blob, in order.

        Raises:
            CorruptObjectError: A frame or blob is not what it should be; and as `fetch`.
        """
        for ref, extents in wanted.items():
            self._check_size(ref, extents)
        self._open([extent for extents in wanted.values() for extent in extents])
        return {ref: self._assembled(ref, extents) for ref, extents in wanted.items()}

    def pieces(self, extents: Sequence[Extent]) -> list[bytes]:
        """Return single extents, checked by their frames' checksums alone; otherwise like `blobs`."""
        self._open(extents)
        return [self._piece(extent, memoryview(b"")) for extent in extents]

    def _get(self, read: Read) -> bytes:
        key = self.key_of(read.pack)
        data = self._store.get(key, read.place).data
        if len(data) != read.place.length:
            raise CorruptObjectError(key, f"{len(data)} bytes where {read.place.length} should lie")
        return data

    def _find(self, pack: str, offset: int, size: int) -> memoryview | None:
        chunks = self._chunks.get(pack, ())
        index = bisect_right(chunks, offset, key=lambda chunk: chunk[0]) - 1
        while index >= 0:
            start, data = chunks[index]
            if offset + size <= start + len(data):
                return memoryview(data)[offset - start : offset - start + size]
            index -= 1  # an earlier one may reach further
        return None

    def _stored(self, place: _Place) -> memoryview:
        found = self._find(*place)
        assert found is not None, "it was fetched"
        return found

    def _open(self, extents: Iterable[Extent]) -> None:
        """Fetch and open the frames of all extents; those that continue a log are opened when their turn comes."""
        places = list(dict.fromkeys(extent[:3] for extent in extents if extent[:3] not in self._opened))
        stored = list(zip(places, self.runs(places), strict=True))
        alone = [(place, frame) for place, frame in stored if not is_prefixed(frame)]
        if len(alone) < TOGETHER_MIN:
            self._opened |= self._opened_group(alone)
            return
        groups = [alone[start : start + GROUP_FRAMES_MAX] for start in range(0, len(alone), GROUP_FRAMES_MAX)]
        for group in self._executor.map(self._opened_group, groups):
            self._opened |= group

    def _opened_group(self, frames: Iterable[tuple[_Place, memoryview]]) -> dict[_Place, bytes]:
        return {place: open_frame(frame, key=self.key_of(place[0])) for place, frame in frames}

    def _check_size(self, ref: BlobRef, extents: Sequence[Extent]) -> None:
        total = sum(extent.length for extent in extents)
        if total != ref.size_bytes:
            key = self.key_of(extents[0].pack) if extents else ""
            raise CorruptObjectError(key, f"extents of {total} bytes where {ref} was expected")

    def _assembled(self, ref: BlobRef, extents: Sequence[Extent]) -> bytes:
        key = self.key_of(extents[0].pack) if extents else ""
        if len(extents) == 1:
            data = self._piece(extents[0], memoryview(b""))
        else:
            whole = bytearray(ref.size_bytes)
            view, position = memoryview(whole), 0
            for extent in extents:
                view[position : position + extent.length] = self._piece(extent, view[:position])
                position += extent.length
            data = bytes(whole)
        verify(data, ref, key=key)
        return data

    def _piece(self, extent: Extent, before: memoryview) -> bytes:
        raw = self._opened.get(extent[:3])
        if raw is None:
            raw = self._opened[extent[:3]] = self._continued(extent, before)
        piece = raw[extent.skip : extent.skip + extent.length]
        if len(piece) != extent.length:
            raise CorruptObjectError(self.key_of(extent.pack), "an extent ends behind its frame")
        return piece

    def _continued(self, extent: Extent, before: memoryview) -> bytes:
        """Return the raw bytes of a frame that continues a log (rule 4)."""
        key = self.key_of(extent.pack)
        if extent.skip:
            raise CorruptObjectError(key, "an extent begins within a frame that continues a log")
        prefix = before[-PREFIX_BYTES_MAX:]
        opener = Prefix(prefix) if prefix.nbytes >= PREFIX_BYTES_MIN else None
        return open_frame(self._stored(extent[:3]), key=key, prefix=opener)


def read_blobs(
    store: ObjectStore,
    blobs: Mapping[BlobRef, Sequence[Extent]],
    key_of: Callable[[str], str],
    executor: Executor,
) -> dict[BlobRef, bytes]:
    """Return whole blobs, read once. Raises as `PackReader.blobs`."""
    return PackReader(store, key_of, executor).blobs(blobs)


def read_pieces(
    store: ObjectStore, extents: Sequence[Extent], key_of: Callable[[str], str], executor: Executor
) -> list[bytes]:
    """Return single extents, read once. Raises as `PackReader.pieces`."""
    return PackReader(store, key_of, executor).pieces(extents)
