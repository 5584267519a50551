"""`ObjectStore`: six verbs on objects under keys. The docstrings are the contract.

Rules:
1. A put is atomic: a reader sees the old object or the new one, whole.
2. A get that begins after a put was acknowledged sees that put or a later one; so do `stat` and `list`.
3. `Create` and `Replace` decide and write in one step, also between processes and hosts.
4. A failed write says whether it may have landed (`UnavailableError.applied`).
5. No answer is ever made up: no default for "missing", no silent retry of a conditional write.

    version = store.put("a/b", b"one", Create())
    store.put("a/b", b"two", Replace(version))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, NewType, Protocol

from storage.errors import StorageError

Version = NewType("Version", str)
"""The store's opaque token for the content of one object; only compared for equality.

Another content has another; the same content put again may have the same one (S3) or not (Google, Azure).
"""

CONDITIONAL_BYTES_MAX = 8 << 20  # one request on every server; only packs (Create) may be larger
LIST_PAGE_KEYS = 1000  # what S3 returns at most per page


@dataclass(frozen=True, slots=True)
class Create:
    """Write only if nothing is stored under the key."""


@dataclass(frozen=True, slots=True)
class Overwrite:
    """Write whatever is there. Never used for a head."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Write only if the object still has this version."""

    version: Version


PutMode = Create | Overwrite | Replace


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `start`; both in bytes, length at least 1."""

    start: int
    length: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.length < 1:
            raise ValueError(f"not a byte range: start {self.start}, length {self.length}")

    @property
    def end(self) -> int:
        """Return the first byte behind the range."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a get returns: the bytes asked for, and the version of the whole object."""

    data: bytes
    version: Version


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """What a stat returns."""

    key: str
    size_bytes: int
    version: Version


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One row of a listing. It has no version: that would cost some stores a read per object."""

    key: str
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class DeleteFailure:
    """One key that `delete_many` could not delete, and why."""

    key: str
    error: StorageError


class ObjectStore(Protocol):
    """Objects under keys. Safe for use by several threads."""

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range` (cut at the object's end).

        Raises:
            NotFoundError: Nothing is stored under `key`.
            CorruptObjectError: The range begins at or behind the object's end.
            UnavailableError: No answer; retry.
            PermissionDeniedError: Refused.
            InvalidKeyError: Not a key.
        """
        ...

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` under `key` as `mode` allows; afterwards every reader sees all of it.

        If it raises `PreconditionFailedError` nothing was written by this call.

        Args:
            key: Where.
            data: Bytes, or a readable binary stream at its start (Create only; read once, to its end).
            mode: `Create`, `Overwrite` or `Replace(version)`. Overwrite and Replace take at most
                CONDITIONAL_BYTES_MAX bytes; so does Create, except under a name that is never used twice
                (a server may not keep a condition on a multipart upload).

        Returns:
            The version now stored.

        Raises:
            PreconditionFailedError: Create: something is there. Replace: another version, or nothing, is there.
            UnavailableError: No usable answer; `applied` says whether it may have landed.
            PermissionDeniedError: Refused.
            InvalidKeyError: Not a key.
            ValueError: Too large for this mode.
        """
        ...

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version without the bytes.

        Raises:
            NotFoundError: Nothing is stored under `key`.
            UnavailableError: No answer; retry.
        """
        ...

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`, in key order.

        Complete for what existed before the call and still does; what comes or goes meanwhile may be missing.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove the object; silent if nothing is there."""
        ...

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects; return those that could not be removed, in no order. Empty means all are gone."""
        ...
