"""`OneWriterStore`: looks before it writes, on a server that keeps no conditions. Right only while nobody else writes.

Rules:
1. It passes everything on until it is told that the server keeps no conditions (`ServerFacts.keeps_conditions`): where
   it is not needed it costs nothing, and a probe sees the server as it is.
2. A create is a look whether something is there, a replace one whether it is still that version; then comes a plain
   write. What another process writes between the two is lost: one process at a time may write.
3. Its own threads look and write one after the other.

    store = OneWriterStore(server_without_conditions)
    store.adapt(probe(store, "~probe/", clock).verdict.facts)
    store.put("a/b", b"one", Create())  # a stat, then a put
"""

from __future__ import annotations

import threading
from typing import BinaryIO

from storage.errors import NotFoundError, PreconditionFailedError
from storage.server import ServerFacts
from storage.store import CONDITIONAL_BYTES_MAX, Create, ObjectStore, Overwrite, PutMode, Replace, Version
from storage.wrappers.passing import PassingStore


class OneWriterStore(PassingStore):
    """An `ObjectStore` for one writer at a time.

    Args:
        store: Where everything lies.
    """

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self._looks = False
        self._lock = threading.Lock()

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
        is_small = isinstance(data, bytes) and len(data) <= CONDITIONAL_BYTES_MAX
        if not self._looks or not (is_small or isinstance(mode, Create)):  # the store within refuses that
            return super().put(key, data, mode)
        with self._lock:
            if isinstance(mode, Create) and self._is_there(key):
                raise PreconditionFailedError(key, "the object exists already")
            if isinstance(mode, Replace) and not self._is_still(key, mode.version):
                raise PreconditionFailedError(key, "the object changed or is gone")
            # What is larger goes with Create only; it is a pack, whose name is never used twice.
            return super().put(key, data, Overwrite() if is_small else mode)

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
