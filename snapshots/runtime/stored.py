"""`StoredMetadata`: metadata of a session as its register has it, with what authoritative writers have decided. Pure.

Rules:
1. A key or field that an authoritative writer has set or removed is theirs from then on: its name stays here, whatever
   becomes of its value, so that the saver of a stale copy is told from one who may decide.
2. The names are part of the register, and of its limit in bytes.

    stored = StoredMetadata(RuntimeMetadata(metadata={"theme": "dark"}), keys=frozenset({"theme"}))
    stored_from_plain(stored.to_plain()) == stored
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from snapshots.errors import InvalidStateError
from snapshots.runtime.session import RuntimeMetadata, metadata_from_plain

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StoredMetadata:
    """What the register holds.

    Attributes:
        document: The metadata.
        keys: Of its `metadata`: those that authoritative writers have set or removed.
        fields: Of its further fields: those that authoritative writers have set or removed.
    """

    document: RuntimeMetadata = field(default_factory=RuntimeMetadata)
    keys: frozenset[str] = _NOTHING
    fields: frozenset[str] = _NOTHING

    @property
    def metadata_version(self) -> int:
        """Return how often authoritative writers have changed it."""
        return self.document.metadata_version

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "document": self.document.to_plain(),
            "authoritative_keys": sorted(self.keys),
            "authoritative_fields": sorted(self.fields),
        }


def stored_from_plain(plain: Any) -> StoredMetadata:
    """Return what `to_plain` gave.

    Raises:
        InvalidStateError: It is something else; the reason says what is wrong.
    """
    if type(plain) is not dict or plain.keys() != {"document", "authoritative_keys", "authoritative_fields"}:
        raise InvalidStateError("want a document and the names that authoritative writers have decided on")
    stored = StoredMetadata(
        metadata_from_plain(plain["document"]),
        _names(plain["authoritative_keys"], "authoritative_keys"),
        _names(plain["authoritative_fields"], "authoritative_fields"),
    )
    if not stored.fields.isdisjoint({*RuntimeMetadata.model_fields, "session_id", "messages"}):
        raise InvalidStateError("authoritative_fields names a field of our own")
    return stored


def _names(plain: Any, what: str) -> frozenset[str]:
    if type(plain) is not list or not all(type(name) is str for name in plain) or sorted(set(plain)) != plain:
        raise InvalidStateError(f"{what} is no list of names, each once, in order")
    return frozenset(plain)
