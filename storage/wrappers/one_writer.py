"""`OneWriterStore`: looks before it writes, on a server that keeps no conditions. Right only while nobody else writes.

Rules:
1. It passes everything on until it is told that the server keeps no conditions (`ServerFacts.keeps_conditions`): where
   it is not needed it costs nothing, and a probe sees the server as it is.
2. A create is a look whether something is there, a replace one whether it is still that version; then comes a plain
   write. What another process writes between the two is lost: one process at a time may write.
3. All of a process that look and write do so one after the other, through whichever store; only what has a name that
   is never used twice, a large pack, goes beside them.
4. A server that knows no conditions is sent none: a stream that fits into a plain write becomes one.

    store = OneWriterStore(server_without_conditions)
    store.adapt(probe(store, "~probe/", clock).verdict.facts)
    store.put("a/b", b"one", Create())  # a stat, then a put
"""

from __future__ import annotations

import io
import os
import threading
from typing import BinaryIO, ClassVar, cast

from storage.errors import NotFoundError, PreconditionFailedError
from storage.server import ServerFacts
from storage.store import CONDITIONAL_BYTES_MAX, Create, ObjectStore, Overwrite, PutMode, Replace, Version
from storage.wrappers.passing import PassingStore


class OneWriterStore(PassingStore):
    """An `ObjectStore` for one writer at a time.

    Args:
        store: Where everything lies.
    """

    _turn: ClassVar[threading.Lock] = threading.Lock()  # rule 3

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self._looks = False

    @property
    def allows_one_writer(self) -> bool:
        """Say yes. See `Server.allows_one_writer`."""
        return True

    def adapt(self, facts: ServerFacts) -> None:
        """Look first from now on, or no longer. See `Server.adapt`."""
        self._looks = not facts.keeps_conditions
        super().adapt(facts)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Look, then store `data`. See `ObjectStore.put`."""
        if not self._looks:
            return super().put(key, data, mode)
        if isinstance(mode, Create) and not isinstance(data, bytes):
            data = _read_ahead(data)
        if isinstance(data, bytes) and len(data) <= CONDITIONAL_BYTES_MAX:
            with OneWriterStore._turn:
                self._look(key, mode)
                return super().put(key, data, Overwrite())
        if isinstance(mode, Create):  # else the store within refuses that
            self._look(key, mode)
        return super().put(key, data, mode)

    def _look(self, key: str, mode: PutMode) -> None:
        """Raise PreconditionFailedError if this is not what the mode allows."""
        if isinstance(mode, Create) and self._is_there(key):
            raise PreconditionFailedError(key, "the object exists already")
        if isinstance(mode, Replace) and not self._is_still(key, mode.version):
            raise PreconditionFailedError(key, "the object changed or is gone")

    def _is_there(self, key: str) -> bool:
        try:
            self._store.stat(key)
        except NotFoundError:
            return False
        return True

    def _is_still(self, key: str, version: Version) -> bool:
        try:
            return self._store.stat(key).version == version
        except NotFoundError:
            return False


class _Ahead:
    """A stream of which the beginning was read."""

    def __init__(self, first: bytes, rest: BinaryIO) -> None:
        self._first = io.BytesIO(first)
        self._rest = rest

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, of the beginning first; all of it below 0."""
        first = self._first.read(size)
        if size < 0:
            return first + self._rest.read()
        return first or self._rest.read(size)


def _read_ahead(stream: BinaryIO) -> bytes | BinaryIO:
    """Return the stream's bytes if a plain write takes them, else the stream as it was."""
    first = bytearray()
    while len(first) <= CONDITIONAL_BYTES_MAX and (piece := stream.read(CONDITIONAL_BYTES_MAX + 1 - len(first))):
        first += piece
    return bytes(first) if len(first) <= CONDITIONAL_BYTES_MAX else cast("BinaryIO", _Ahead(bytes(first), stream))


def _take_no_turn_over() -> None:
    """Begin a child of `os.fork` with a turn that nobody has: whoever had it is not in this process."""
    OneWriterStore._turn = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_take_no_turn_over)
