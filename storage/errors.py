"""What can go wrong between us and a store, one class per remedy.

StorageError
├─ NotFoundError (also KeyError)     nothing is stored under this key
├─ PreconditionFailedError           read again, then decide
├─ UnavailableError(applied)         retry; `applied` says whether the write may have landed
├─ PermissionDeniedError             fix the policy or the credentials
├─ InvalidKeyError (also ValueError) give another id or key
├─ CorruptObjectError(key, reason)   verify, then repair
└─ UnsupportedServerError(findings)  use a server that keeps conditions
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

Applied = Literal["no", "unknown"]


class StorageError(Exception):
    """Any failure of a store. Catch a subclass: each names its remedy."""

    def __reduce__(self) -> Recipe:
        return recipe(self)


Recipe = tuple[Callable[..., Exception], tuple[type[Exception], tuple[Any, ...], dict[str, Any]]]


def recipe(error: Exception) -> Recipe:
    """Return how `pickle` makes an error again in another process: class, message, attributes and notes."""
    return rebuilt, (type(error), error.args, dict(vars(error)))


def rebuilt(kind: type[Exception], args: tuple[Any, ...], facts: Mapping[str, Any]) -> Exception:
    """Return an error as it was, without calling its constructor, whose arguments are not its `args`."""
    error = kind.__new__(kind, *args)
    vars(error).update(facts)
    return error


class NotFoundError(StorageError, KeyError):
    """Nothing is stored under `key` (or the bucket is missing). Remedy: check the key; create it."""

    def __init__(self, key: str, message: str | None = None) -> None:
        self.key = key
        self.message = message or f"nothing is stored under {key!r}"
        super().__init__(self.message)

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class PreconditionFailedError(StorageError):
    """The object was not as the condition demanded; nothing was written. Remedy: read again, then decide."""

    def __init__(self, key: str, reason: str = "the object changed or exists already") -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{key}: {reason}; read it again before deciding")


class UnavailableError(StorageError):
    """The store gave no usable answer. Remedy: retry.

    Attributes:
        applied: "no" when the write certainly did not happen, "unknown" when it may have, or may yet.
    """

    def __init__(self, key: str, reason: str, *, applied: Applied = "unknown") -> None:
        self.key = key
        self.reason = reason
        self.applied: Applied = applied
        super().__init__(f"{key}: {reason} (applied: {applied}); retry")


class PermissionDeniedError(StorageError):
    """The store refused us. Remedy: fix the credentials or the policy, or what `remedy` says."""

    def __init__(
        self,
        key: str,
        reason: str,
        *,
        remedy: str = "check the credentials and the policy of the bucket or directory",
    ) -> None:
        self.key = key
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{key}: {reason}; {remedy}")


class InvalidKeyError(StorageError, ValueError):
    """A key or id that the grammar does not admit. Remedy: give another."""

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{key[:80]!r}: {reason}")


class CorruptObjectError(StorageError):
    """Stored bytes are not what was written. Remedy: verify the store, then repair it, or what `remedy` says."""

    def __init__(self, key: str, reason: str, *, remedy: str = "run snapshots verify, then snapshots repair") -> None:
        self.key = key
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{key}: {reason}; {remedy}")


class UnsupportedServerError(StorageError):
    """The server does not keep what commits rest on. Remedy: use another server, or what `remedy` says."""

    def __init__(self, findings: Sequence[str], *, remedy: str = "use a server that keeps them") -> None:
        self.findings = tuple(findings)
        self.remedy = remedy
        super().__init__(f"this server would lose data: {'; '.join(self.findings)}; {remedy}")
