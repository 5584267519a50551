"""Pieces of blobs: what is left of a damaged blob, frame by frame, as well as a whole one.

Rules:
1. A frame is fetched once, as long as it is remembered.
2. Frames that lie near each other are one request; where not all of it is there, each is asked for alone.
3. A piece is believed for the checksum of its frame. Whoever puts pieces together checks the whole by its digest.

    fetched = Pieces(environment, head.family, memory.frames).fetch(extents)
    data = fetched.piece(extents[0])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from snapshots.environment import Environment
from snapshots.maintenance.memory import Frames, named
from storage.digest import short_hash
from storage.errors import CorruptObjectError, NotFoundError
from storage.extents import Extent, Frame, Read, plan_reads
from storage.frame import HEADER_BYTES, is_prefixed, open_frame
from storage.pack_reader import open_continued, piece_of, windows_of
from storage.store import ByteRange

READ_BYTES_MAX = 4 << 20  # raw bytes held for one read of several blobs, or of a window of a large one
_CHECKSUM_BYTES = 8  # at the end of a frame's header

Fault = NotFoundError | CorruptObjectError


def frame_of(extent: Extent) -> Frame:
    """Return the frame that a piece lies in."""
    return extent.pack, extent.offset, extent.stored_bytes


class Pieces:
    """The frames of one family's packs.

    Args:
        environment: Where they lie.
        family: Whose packs.
        frames: Remembers them.
    """

    def __init__(self, environment: Environment, family: str, frames: Frames) -> None:
        self._environment = environment
        self._family = family
        self._frames = frames

    def key_of(self, pack: str) -> str:
        """Return the key of a pack of the family."""
        return self._environment.layout.pack(self._family, pack)

    def fetch(self, extents: Iterable[Extent]) -> Fetched:
        """Return the frames in which these pieces lie, or why one of them cannot be had.

        Raises:
            UnavailableError: The store did not answer.
        """
        found: dict[Frame, bytes | Fault] = {}
        unread: dict[Frame, None] = {}
        for extent in extents:
            frame = frame_of(extent)
            if frame in found or frame in unread:
                continue
            remembered = self._frames.find(named(self._family, *frame))
            if remembered is None:
                unread[frame] = None
            else:
                found[frame] = remembered
        by_pack: dict[str, list[Frame]] = {}
        for frame in sorted(unread):
            by_pack.setdefault(frame[0], []).append(frame)
        for read in self._environment.executor.map(partial(self._read, by_pack), plan_reads(unread)):
            found |= read
        return Fetched(self, found)

    def _read(self, by_pack: Mapping[str, Sequence[Frame]], read: Read) -> dict[Frame, bytes | Fault]:
        pack, place = read
        frames = [one for one in by_pack[pack] if place.start <= one[1] and one[1] + one[2] <= place.end]
        try:
            data = self._environment.store.get(self.key_of(pack), place).data
        except NotFoundError as error:
            return dict.fromkeys(frames, error)
        except CorruptObjectError as error:
            if len(frames) == 1:
                return {frames[0]: self._kept(frames[0], error)}
            return self._alone(frames)
        found: dict[Frame, bytes | Fault] = {}
        for frame in frames:
            stored = data[frame[1] - place.start : frame[1] - place.start + frame[2]]
            if len(stored) == frame[2]:
                found[frame] = self._kept(frame, stored)
            elif len(frames) == 1:
                found[frame] = self._kept(frame, CorruptObjectError(self.key_of(pack), "it ends within a frame"))
        return found | self._alone([frame for frame in frames if frame not in found])

    def _alone(self, frames: Iterable[Frame]) -> dict[Frame, bytes | Fault]:
        """Ask for each frame alone (rule 2): what is said of one then is the same, whatever it is read with."""
        found: dict[Frame, bytes | Fault] = {}
        for frame in frames:
            found |= self._read({frame[0]: [frame]}, Read(frame[0], ByteRange(frame[1], frame[2])))
        return found

    def _kept(self, frame: Frame, stored: bytes | CorruptObjectError) -> bytes | CorruptObjectError:
        self._frames.keep(named(self._family, *frame), stored, len(stored) if isinstance(stored, bytes) else 1)
        return stored


class Fetched:
    """Frames that were fetched, each opened once."""

    def __init__(self, pieces: Pieces, stored: Mapping[Frame, bytes | Fault]) -> None:
        self._pieces = pieces
        self._stored = stored
        self._opened: dict[Frame, bytes] = {}

    def piece(self, extent: Extent, before: bytes = b"") -> bytes:
        """Return the bytes of a piece.

        Args:
            extent: One of those that were fetched.
            before: The last PREFIX_BYTES_MAX bytes before it in its blob; a frame that continues a log needs them.

        Raises:
            NotFoundError: Its pack is missing.
            CorruptObjectError: Its frame is not what was written, or needs other bytes before it.
        """
        frame = frame_of(extent)
        raw = self._opened.get(frame)
        if raw is None:
            raw = self._opened[frame] = self._open(extent, before)
        return piece_of(raw, extent.skip, extent.length, key=self._pieces.key_of(extent.pack))

    def fault(self, extent: Extent) -> Fault | None:
        """Return what is wrong with the frame of a piece, as far as that can be told from it alone."""
        stored = self._stored[frame_of(extent)]
        if isinstance(stored, Fault):
            return stored
        if not _is_sound(stored):
            return CorruptObjectError(self._pieces.key_of(extent.pack), "a frame's checksum does not match")
        return None

    def _open(self, extent: Extent, before: bytes) -> bytes:
        stored, key = self._stored[frame_of(extent)], self._pieces.key_of(extent.pack)
        if isinstance(stored, Fault):
            raise stored
        if not is_prefixed(stored):
            return open_frame(stored, key=key)
        return open_continued(extent, stored, before, key=key)


def _is_sound(stored: bytes) -> bool:
    """Say whether a frame matches its own checksum; one that continues a log cannot be opened alone to see that."""
    start = HEADER_BYTES - _CHECKSUM_BYTES
    return short_hash(stored[:start] + stored[HEADER_BYTES:], _CHECKSUM_BYTES) == stored[start:HEADER_BYTES]


def windows(extents: Iterable[Extent]) -> Iterator[list[Extent]]:
    """Yield the extents in their order, as many together as are held at a time."""
    return windows_of(extents, READ_BYTES_MAX)


def readable_runs(pieces: Pieces, extents: Sequence[Extent]) -> Iterator[bytes]:
    """Yield what can be read of a blob whose frames can be opened alone: the longest stretches without a gap."""
    run = bytearray()
    for window in windows(extents):
        fetched = pieces.fetch(window)
        for extent in window:
            try:
                run += fetched.piece(extent)
            except (NotFoundError, CorruptObjectError):
                if run:
                    yield bytes(run)
                run = bytearray()
    if run:
        yield bytes(run)
