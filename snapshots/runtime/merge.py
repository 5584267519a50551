"""What is stored when a runtime saves its own copy of a session, which may be stale. Pure.

Rules:
1. Authoritative values – title, title version, pinned, metadata version, some keys of the metadata, and every key and
   further field that an authoritative writer has set or removed – are the stored ones, unless the saver's
   `metadata_version` is greater: then all are the saver's. On equal versions the stored copy wins, so whoever means to
   change them counts up (`RuntimeSessionStore.update_metadata`).
2. `agent_runtime_state.bypass_permissions` in the metadata is the stored one whatever the versions, and absent if the
   stored copy has none, or there is none: no runtime gives itself a permission by saving. Only the save that creates a
   session, which merges nothing, brings the first.
3. Everything else beside the messages is the saver's; `updated_at` is the later of both and decides nothing.
4. No save raises a version above VERSION_SAVED_MAX: one that did would leave no number to authoritative writers.
5. Messages are united by id: the stored ones in their order, then those that are not stored. Nothing stored is replaced
   or taken away; a saver's other content under a stored id is handed back (`Union.kept`), never dropped in silence.

    merged = merge(stored, mine)
    stored = amend(stored, mine.changed(title="Rome"))
    union = unite(stored_messages, my_messages)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snapshots.errors import LimitExceededError
from snapshots.runtime.session import JsonMessage, RuntimeMetadata, metadata_from_plain, moment
from snapshots.runtime.stored import StoredMetadata
from snapshots.state.values import json_text

AUTHORITATIVE_KEYS = frozenset({"gold_config"})
RUNTIME_STATE = "agent_runtime_state"
PERMISSION = "bypass_permissions"
VERSION_SAVED_MAX = 1 << 63  # as many changes again are left to those who count up one by one
_VERSIONS = ("metadata_version", "title_version")
_DECIDED = ("title", "pinned", *_VERSIONS)


def merge(
    stored: StoredMetadata | None, mine: RuntimeMetadata, *, authoritative: Collection[str] = AUTHORITATIVE_KEYS
) -> StoredMetadata:
    """Return what is to be stored of a session that exists: `stored` itself if that is the same.

    Args:
        stored: The stored copy, None if there is none. An unreadable copy is an error, not None.
        mine: The saver's.
        authoritative: Keys of the metadata that only authoritative writers change, beside those that one has changed.
    """
    if stored is None:
        return StoredMetadata(mine.changed(metadata=_with_stored_permission(dict(mine.metadata), {})))
    theirs, fields = stored.document.to_plain(), mine.to_plain()
    metadata = fields["metadata"]
    if stored.metadata_version >= mine.metadata_version:
        _take_over(fields, theirs, (*_DECIDED, *stored.fields))
        _take_over(metadata, theirs["metadata"], (*authoritative, *stored.keys))
    fields["metadata"] = _with_stored_permission(metadata, theirs["metadata"])
    fields["updated_at"] = _later(stored.document.updated_at, mine.updated_at)
    merged = metadata_from_plain(fields)
    return stored if merged.to_json() == stored.document.to_json() else replace(stored, document=merged)


def amend(stored: StoredMetadata, after: RuntimeMetadata) -> StoredMetadata:
    """Return what is to be stored when an authoritative writer makes `after` of what is stored.

    What a save from the former copy would undo is the authoritative writers' from now on.
    """
    undone = merge(StoredMetadata(after), stored.document.changed(metadata_version=0), authoritative=()).document
    return StoredMetadata(
        after,
        stored.keys | _differing(undone.metadata, after.metadata),
        stored.fields | _differing(undone.further, after.further),
    )


def check_versions(stored: RuntimeMetadata, saved: RuntimeMetadata) -> None:
    """Check what a save is to store by rule 4. Raises LimitExceededError."""
    for name in _VERSIONS:
        version = getattr(saved, name)
        if version > max(VERSION_SAVED_MAX, getattr(stored, name)):
            raise LimitExceededError(f"{name} of {VERSION_SAVED_MAX} by a save", version)


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Return the names under which the two say something else."""
    both = one.keys() & other.keys()
    return (one.keys() ^ other.keys()) | {name for name in both if json_text(one[name]) != json_text(other[name])}


def _take_over(into: dict[str, Any], stored: Mapping[str, Any], names: Collection[str]) -> None:
    """Make `into` say under these names what `stored` says, if anything."""
    for name in names:
        into.pop(name, None)
        if name in stored:
            into[name] = stored[name]


def _with_stored_permission(metadata: dict[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata by rule 2. A runtime state that is no object has no permission."""
    theirs, mine = stored.get(RUNTIME_STATE), metadata.get(RUNTIME_STATE)
    granted = isinstance(theirs, dict) and PERMISSION in theirs
    if isinstance(mine, dict) or granted:
        state = dict(mine) if isinstance(mine, dict) else {}
        _take_over(state, theirs if isinstance(theirs, dict) else {}, (PERMISSION,))
        metadata[RUNTIME_STATE] = state
    return metadata


def _later(stored: str | None, mine: str | None) -> str | None:
    if stored is None or mine is None:
        return mine if stored is None else stored
    return mine if moment(mine) > moment(stored) else stored


@dataclass(frozen=True, slots=True)
class Union:
    """The messages of two copies.

    Attributes:
        messages: All of them: what is to be stored.
        unseen: Those of the saver that are not stored, in its order: the end of `messages`.
        kept: Messages of the saver whose id stands for other content, stored or earlier in its own list; that stays.
    """

    messages: tuple[JsonMessage, ...]
    unseen: tuple[JsonMessage, ...]
    kept: tuple[JsonMessage, ...]


def unite(stored: Sequence[JsonMessage], mine: Sequence[JsonMessage]) -> Union:
    """Return the messages of two copies by rule 5. All have ids, the stored ones each its own."""
    known = {message["id"]: message for message in stored}
    unseen, kept = [], []
    for message in mine:
        present = known.get(message["id"])
        if present is None:
            known[message["id"]] = message
            unseen.append(message)
        elif json_text(present) != json_text(message):
            kept.append(message)
    return Union((*stored, *unseen), tuple(unseen), tuple(kept))
