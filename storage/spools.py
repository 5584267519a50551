"""Spools: frames that wait in a temporary file until their pack is written; and bytes that are partly there.

Rules:
1. A spool is written once, from its start to its end, and can be read as often as a put has to be repeated.
2. Its file has no name, holds compressed frames alone, and is gone once the spool is closed, or the process ends.
3. Frames lie in it as they will lie in the pack: the extents of a spool name the pack SPOOLED, and move with it.

    with Spool(executor) as spool:
        spool.add(b"new bytes")
        spool.finish()
        spool.frames, spool.size_bytes
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol, Self

from storage.digest import Buffer
from storage.errors import UnavailableError
from storage.extents import Extent
from storage.frame import FRAME_BYTES_MAX, seal_frame

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed import WriteableBuffer

SPOOLED = ""  # no pack has this name
TOGETHER_BYTES = 32 * FRAME_BYTES_MAX  # raw, sealed side by side; what is held in memory
COPY_BYTES = 1 << 20  # read at a time when it is put


class Spooled(Protocol):
    """Bytes that lie elsewhere and are read piece by piece, as often as they are asked for."""

    @property
    def size_bytes(self) -> int:
        """Return how many there are."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """Yield all bytes in order, no piece of them empty."""
        ...


class Spool:
    """Frames in a temporary file, made when there is a first one. Not for several threads.

    Args:
        executor: Seals frames side by side.

    Attributes:
        frames: Where each lies, in order; complete after `finish`.
        size_bytes: Size of all of them.
    """

    def __init__(self, executor: Executor) -> None:
        self.frames: list[Extent] = []
        self.size_bytes = 0
        self._executor = executor
        self._waiting = bytearray()
        self._file: IO[bytes] | None = None

    def add(self, raw: Buffer) -> None:
        """Append raw bytes.

        Raises:
            UnavailableError: The temporary file cannot be written, most likely for want of room.
        """
        self._waiting += raw
        if len(self._waiting) >= TOGETHER_BYTES:
            self._seal(TOGETHER_BYTES)

    def finish(self) -> None:
        """Append what waits for its frame; nothing may be added afterwards. Raises as `add`."""
        self._seal(len(self._waiting))

    def read(self, start: int, length: int) -> bytes:
        """Return stored bytes. Raises UnavailableError."""
        assert self._file is not None, "an empty spool has nothing to be read"
        with _as_unavailable():
            self._file.seek(start)
            data = self._file.read(length)
            if len(data) != length:
                raise OSError(f"it has {len(data)} bytes where {length} were written")
        return data

    def chunks(self) -> Iterator[bytes]:
        """Yield all stored bytes, piece by piece. Raises UnavailableError."""
        for start in range(0, self.size_bytes, COPY_BYTES):
            yield self.read(start, min(COPY_BYTES, self.size_bytes - start))

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            with suppress(OSError):  # of what could not be written to it; nobody needs that any more
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _seal(self, length: int) -> None:
        raw = bytes(self._waiting[:length])
        del self._waiting[:length]
        view = memoryview(raw)
        pieces = [view[start : start + FRAME_BYTES_MAX] for start in range(0, length, FRAME_BYTES_MAX)]
        for piece, frame in zip(pieces, self._executor.map(seal_frame, pieces), strict=True):
            self._write(frame)
            self.frames.append(Extent(SPOOLED, self.size_bytes, len(frame), 0, piece.nbytes))
            self.size_bytes += len(frame)

    def _write(self, frame: bytes) -> None:
        with _as_unavailable():
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="snapshots-")  # noqa: SIM115  closed by `close`
            self._file.write(frame)


@contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"the temporary file of a large commit: {error.strerror or error}; make room there, or set TMPDIR"
        raise UnavailableError(tempfile.gettempdir(), reason, applied="no") from error


@dataclass(frozen=True, slots=True)
class SpooledBytes:
    """Bytes in memory and elsewhere, one behind the other.

    Attributes:
        pieces: All of them, in order.
    """

    pieces: tuple[bytes | Spooled, ...]

    @property
    def size_bytes(self) -> int:
        """Return how many there are."""
        return sum(len(one) if isinstance(one, bytes) else one.size_bytes for one in self.pieces)

    def open(self) -> BinaryIO:
        """Return a stream of all bytes, from the first one on; any number may be opened, one after another."""
        return io.BufferedReader(_Stream(self.pieces), COPY_BYTES)


class _Stream(io.RawIOBase):
    """Reads pieces from their start to their end."""

    def __init__(self, pieces: Sequence[bytes | Spooled]) -> None:
        self._runs = _runs(pieces)
        self._run = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if not self._run.nbytes:
            self._run = memoryview(next(self._runs, b""))
        count = min(view.nbytes, self._run.nbytes)
        view[:count] = self._run[:count]
        self._run = self._run[count:]
        return count


def _runs(pieces: Sequence[bytes | Spooled]) -> Iterator[bytes]:
    """Yield what the pieces hold, no run of it empty: that would be the end of the stream."""
    for piece in pieces:
        if not isinstance(piece, bytes):
            yield from piece.chunks()
        elif piece:
            yield piece
