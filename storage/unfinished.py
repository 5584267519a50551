"""Unfinished writes: what a store still holds of writes that never became an object. An ability beside the six verbs.

Rules:
1. An unfinished write is no object: no get, stat or list shows it, and no reference can rest on it.
2. What was discarded fails for whoever still writes it, with `UnavailableError(applied="no")`. An object that the write
   has become meanwhile is not touched.
3. A store without this ability keeps no unfinished writes.

    for write in unfinished_in(store, "default/"):
        discard_in(store, write)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from storage.store import ObjectStore


@dataclass(frozen=True, slots=True)
class UnfinishedWrite:
    """A write that was begun and neither finished nor given up.

    Attributes:
        key: Where its object would lie; "" where the store does not keep that.
        id: The store's name for the write.
        begun_at: When it began, or later, by the store's own clock.
        size_bytes: What it holds so far, None where the store does not tell.
    """

    key: str
    id: str
    begun_at: datetime
    size_bytes: int | None


@runtime_checkable
class KeepsUnfinished(Protocol):
    """A store that keeps unfinished writes until somebody discards them."""

    def unfinished(self, prefix: str) -> Iterator[UnfinishedWrite]:
        """Yield the unfinished writes of keys that begin with `prefix`, and those whose key the store does not know.

        Raises:
            UnsupportedServerError: The server does not list them.
            PermissionDeniedError: Refused.
            UnavailableError: No answer; retry.
        """
        ...

    def discard(self, write: UnfinishedWrite) -> None:
        """Remove what a write holds; silent if it was finished or given up meanwhile.

        Raises:
            PermissionDeniedError: Refused.
            UnavailableError: No answer; retry.
        """
        ...


def unfinished_in(store: ObjectStore, prefix: str) -> Iterator[UnfinishedWrite]:
    """Return the unfinished writes below a prefix; none for a store without the ability."""
    return store.unfinished(prefix) if isinstance(store, KeepsUnfinished) else iter(())


def discard_in(store: ObjectStore, write: UnfinishedWrite) -> None:
    """Discard what `unfinished_in` gave for this store.

    Raises:
        TypeError: The store has no unfinished writes: the row is another's.
    """
    if not isinstance(store, KeepsUnfinished):
        raise TypeError(f"{type(store).__name__} keeps no unfinished writes")
    store.discard(write)
