"""Reading from packs: few requests, side by side, and nothing but what was stored.

Rules:
1. Near ranges of one pack are one request. What `fetch`, `gather` and `runs` brought is kept and not fetched again;
   what `blobs`, `pieces` and `windows` fetch is let go at once.
2. Every whole blob is checked against its `BlobRef`; what is read of one alone against its frames' checksums.
3. Beyond that no more is held in memory than the blobs declare, and for every thread one answer: a frame is opened
   once, when it arrives, and copied to every place that needs it. A blob read by windows is never held whole.
4. A frame that continues a log is opened with the bytes that stand before it in the blob.

    reader = PackReader(store, key_of, executor)
    data = reader.blobs({ref: placement.extents[ref.digest]})[ref]
"""

from __future__ import annotations

import io
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple, TypeVar

from storage.digest import BlobRef, Verifier, verify
from storage.errors import CorruptObjectError
from storage.extents import Extent, Frame, Read, plan_reads
from storage.frame import Opener, is_prefixed, open_frame, prefix_of
from storage.packs import PREFIX_BYTES_MAX
from storage.store import ObjectStore

_Target = tuple[memoryview, int, int, int]  # view, place there, raw bytes of the frame before the piece, length
_Raw = TypeVar("_Raw", bytes, memoryview)
GROUP_FRAMES_MAX = 64  # at hand already, opened by one thread at a time
WINDOW_BYTES = 32 << 20  # raw, of a blob that is not held whole; larger ones make fewer requests


class _Frames(NamedTuple):
    """Frames that lie in one range of a pack."""

    read: Read
    places: list[Frame]


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

    def fetch(self, reads: Sequence[Read]) -> None:
        """Fetch these ranges, side by side, and keep them.

        Raises:
            NotFoundError: A pack is missing; its key is in the error.
            CorruptObjectError: A pack ends before what it should hold.
            UnavailableError: No answer; retry.
        """
        chunks = self._executor.map(self._get, reads)
        for read, data in zip(reads, chunks, strict=True):
            insort(self._chunks.setdefault(read.pack, []), (read.place.start, data))

    def hold(self, pack: str, data: bytes) -> None:
        """Take note of how a pack begins; what lies in there is not fetched."""
        insort(self._chunks.setdefault(pack, []), (0, data))

    def gather(self, extents: Iterable[Extent]) -> None:
        """Fetch the frames of these extents, side by side: reading them takes no request then. Raises as `fetch`."""
        places = {extent[:3] for extent in extents}
        self.fetch(plan_reads(place for place in places if self._find(*place) is None))

    def ending(self, extents: Sequence[Extent], position: int, before: Callable[[int], bytes]) -> bytes:
        """Return what a log holds from `position` on. Its frames are checked, the whole is the caller's to check.

        Args:
            extents: Of the whole log, in order.
            position: Up to where it is known.
            before: Returns up to PREFIX_BYTES_MAX bytes of the log that stand before a position up to there.

        Raises:
            CorruptObjectError: A frame is not what it should be; and as `fetch`.
        """
        wanted, start = reaching(extents, position)
        self.gather(wanted)
        whole = bytearray(before(start))
        skip = len(whole) + position - start
        opener = Opener()
        for extent in wanted:
            stored, key = self._stored(extent[:3]), self.key_of(extent.pack)
            if is_prefixed(stored):
                raw = open_continued(extent, bytes(stored), bytes(whole[-PREFIX_BYTES_MAX:]), key=key)
            else:
                raw = opener.open(stored, key=key)
            whole += piece_of(raw, extent.skip, extent.length, key=key)
        return bytes(whole[skip:])

    def runs(self, places: Sequence[Frame]) -> list[memoryview]:
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
        found = dict(zip(wanted, self._joined(list(wanted.values())), strict=True))
        for ref, data in found.items():
            verify(data, ref, key=self._key(wanted[ref]))
        return found

    def pieces(self, extents: Sequence[Extent]) -> bytes:
        """Return the bytes of extents, checked by their frames' checksums alone; otherwise like `blobs`."""
        return self._joined([extents])[0]

    def windows(self, ref: BlobRef, extents: Sequence[Extent], window_bytes: int = WINDOW_BYTES) -> Iterator[bytes]:
        """Yield a whole blob, window by window; it is to be believed only once the last was yielded. Raises as `blobs`.

        Args:
            ref: The blob.
            extents: Where it lies, in order.
            window_bytes: Raw bytes that are held at a time.
        """
        self._check_size(ref, extents)
        verifier = Verifier(ref)
        for window in windows_of(extents, window_bytes):
            data = self.pieces(window)
            verifier.update(data)
            yield data
        verifier.finish(key=self._key(extents))

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

    def _stored(self, place: Frame) -> memoryview:
        found = self._find(*place)
        assert found is not None, "it was fetched"
        return found

    def _key(self, extents: Sequence[Extent]) -> str:
        return self.key_of(extents[0].pack) if extents else ""

    def _check_size(self, ref: BlobRef, extents: Sequence[Extent]) -> None:
        total = sum(extent.length for extent in extents)
        if total != ref.size_bytes:
            raise CorruptObjectError(self._key(extents), f"extents of {total} bytes where {ref} was expected")

    def _joined(self, wanted: Sequence[Sequence[Extent]]) -> list[bytes]:
        """Return the bytes of each row of extents, read together."""
        # What getbuffer() gives is the very bytes that getvalue() returns, as long as no view of them is left: no copy.
        buffers = [io.BytesIO(bytes(sum(extent.length for extent in extents))) for extents in wanted]
        views = [buffer.getbuffer() for buffer in buffers]
        targets: dict[Frame, list[_Target]] = {}
        for extents, view in zip(wanted, views, strict=True):
            at = 0
            for extent in extents:
                pack, offset, stored, skip, length = extent
                targets.setdefault((pack, offset, stored), []).append((view, at, skip, length))
                at += length
        continued = self._copied(targets)
        if continued:
            self._copy_continued(wanted, views, continued)
        for view in views:
            view.release()
        return [buffer.getvalue() for buffer in buffers]

    def _copied(self, targets: Mapping[Frame, Sequence[_Target]]) -> dict[Frame, bytes]:
        """Copy frames to their targets (rule 3); return those that continue a log, as they are stored."""
        at_hand = {place: found for place in targets if (found := self._find(*place)) is not None}
        continued: dict[Frame, bytes] = {}

        def copy(frames: Iterable[tuple[Frame, memoryview]]) -> None:
            opener = Opener()
            for place, stored in frames:
                if is_prefixed(stored):
                    continued[place] = bytes(stored)
                else:
                    self._copy(place, opener.open(stored, key=self.key_of(place[0])), targets[place])

        def copy_group(group: Iterable[Frame]) -> None:
            copy((place, at_hand[place]) for place in group)

        def copy_read(frames: _Frames) -> None:
            data, start = memoryview(self._get(frames.read)), frames.read.place.start
            copy((place, data[place[1] - start : place[1] - start + place[2]]) for place in frames.places)

        missing = _by_read(place for place in targets if place not in at_hand)
        every = list(at_hand)
        groups = [every[start : start + GROUP_FRAMES_MAX] for start in range(0, len(every), GROUP_FRAMES_MAX)]
        waiting = [self._executor.map(copy_read, missing), self._executor.map(copy_group, groups[1:])]
        copy_group(every[:GROUP_FRAMES_MAX])
        for results in waiting:
            for _ in results:
                pass
        return continued

    def _copy(self, place: Frame, raw: bytes, targets: Iterable[_Target]) -> None:
        frame, key = memoryview(raw), self.key_of(place[0])
        for view, at, skip, length in targets:
            view[at : at + length] = piece_of(frame, skip, length, key=key)

    def _copy_continued(
        self, wanted: Iterable[Sequence[Extent]], views: Iterable[memoryview], stored: Mapping[Frame, bytes]
    ) -> None:
        """Open the frames that continue a log where they stand first, everything else being in its place (rule 4)."""
        opened: dict[Frame, bytes] = {}
        for extents, view in zip(wanted, views, strict=True):
            at = 0
            for extent in extents:
                place = extent[:3]
                if place in stored:
                    if place not in opened:
                        before = bytes(view[max(0, at - PREFIX_BYTES_MAX) : at])
                        opened[place] = open_continued(extent, stored[place], before, key=self.key_of(extent.pack))
                    self._copy(place, opened[place], [(view, at, extent.skip, extent.length)])
                at += extent.length


def _by_read(places: Iterable[Frame]) -> list[_Frames]:
    """Return the ranges that cover these frames, each with its own."""
    ordered = sorted(places)
    found = [_Frames(read, []) for read in plan_reads(ordered)]
    index = 0
    for place in ordered:
        while place[0] != found[index].read.pack or place[1] + place[2] > found[index].read.place.end:
            index += 1
        found[index].places.append(place)
    return found


def open_continued(extent: Extent, stored: bytes, before: bytes, *, key: str) -> bytes:
    """Return the raw bytes of a frame that continues a log (rule 4).

    Args:
        extent: The first piece that the log has of it.
        stored: The frame.
        before: The last PREFIX_BYTES_MAX bytes that stand before it in the log.
        key: Of its pack.

    Raises:
        CorruptObjectError: It is not what it should be, or the log has not all of it.
    """
    if extent.skip:
        raise CorruptObjectError(key, "an extent begins within a frame that continues a log")
    return open_frame(stored, key=key, prefix=prefix_of(before))


def piece_of(frame: _Raw, skip: int, length: int, *, key: str) -> _Raw:
    """Return a piece of a frame that was opened. Raises CorruptObjectError where the frame ends before it does."""
    piece = frame[skip : skip + length]
    if len(piece) != length:
        raise CorruptObjectError(key, "an extent ends behind its frame")
    return piece


def windows_of(extents: Iterable[Extent], window_bytes: int) -> Iterator[list[Extent]]:
    """Yield extents in their order, so many together as hold `window_bytes` raw bytes, and one at least."""
    window: list[Extent] = []
    held = 0
    for extent in extents:
        if window and held + extent.length > window_bytes:
            yield window
            window, held = [], 0
        window.append(extent)
        held += extent.length
    if window:
        yield window


def reaching(extents: Sequence[Extent], position: int) -> tuple[Sequence[Extent], int]:
    """Return the extents of a blob that hold anything from `position` on, and where in the blob they begin."""
    start = 0
    for index, extent in enumerate(extents):
        if start + extent.length > position:
            return extents[index:], start
        start += extent.length
    return (), start
