"""`ReadOnlyStore`: a store in which nothing is written or deleted, and why.

store = ReadOnlyStore(store, "nobody has probed this server", remedy="run snapshots probe")
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from storage.errors import PermissionDeniedError
from storage.server import Attempt, Variant
from storage.store import DeleteFailure, ObjectStore, PutMode, Version
from storage.unfinished import UnfinishedWrite
from storage.wrappers.passing import PassingStore


class ReadOnlyStore(PassingStore):
    """An `ObjectStore` for readers.

    Args:
        store: Where everything lies.
        reason: Why nothing may be written.
        remedy: What would change that.
    """

    def __init__(self, store: ObjectStore, reason: str, *, remedy: str) -> None:
        super().__init__(store)
        self._reason = reason
        self._remedy = remedy

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:  # noqa: ARG002  refused whatever it is
        """Refuse. Raises PermissionDeniedError."""
        raise self._refusal(key)

    def delete(self, key: str) -> None:
        """Refuse. Raises PermissionDeniedError."""
        raise self._refusal(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Give every key back."""
        return tuple(DeleteFailure(key, self._refusal(key)) for key in keys)

    def discard(self, write: UnfinishedWrite) -> None:
        """Refuse. Raises PermissionDeniedError."""
        raise self._refusal(write.key)

    def attempt(self, key: str, data: bytes, variant: Variant, version: Version) -> Attempt:  # noqa: ARG002  refused whatever it is
        """Refuse. Raises PermissionDeniedError."""
        raise self._refusal(key)

    def _refusal(self, key: str) -> PermissionDeniedError:
        return PermissionDeniedError(key, self._reason, remedy=self._remedy)
