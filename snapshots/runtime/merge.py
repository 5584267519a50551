"""What is stored when a runtime saves its own copy of a session, which may be stale. Pure.

Rules:
1. Authoritative values – title, title version, pinned, metadata version, and some keys of the metadata – are the stored
   ones, unless the saver's `metadata_version` is greater: then all of the saver's. On equal versions the stored copy
   wins, so whoever means to change them counts up (`RuntimeSessionStore.update_metadata`).
2. `agent_runtime_state.bypass_permissions` in the metadata is the stored one whatever the versions, and absent if the
   stored copy has none: no runtime gives itself a permission by saving.
3. Everything else beside the messages is the saver's; `updated_at` is the later of both and decides nothing.
4. Messages are united by id: the stored ones in their order, then those that are not stored. Nothing stored is replaced
   or taken away; a saver's other content under a stored id is handed back (`Union.kept`), never dropped in silence.

    merged = merge(stored, mine)
    union = unite(stored_messages, my_messages)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snapshots.runtime.session import JsonMessage, RuntimeMetadata, moment
from snapshots.state.values import json_text

AUTHORITATIVE_KEYS = frozenset({"gold_config"})
RUNTIME_STATE = "agent_runtime_state"
PERMISSION = "bypass_permissions"


def merge(
    stored: RuntimeMetadata | None, mine: RuntimeMetadata, *, authoritative: Collection[str] = AUTHORITATIVE_KEYS
) -> RuntimeMetadata:
    """Return what is to be stored: `stored` itself if that is the same.

    Args:
        stored: The stored copy, None if there is none. An unreadable copy is an error, not None.
        mine: The saver's.
        authoritative: Keys of the metadata that only an authoritative writer changes.
    """
    if stored is None:
        return mine
    changes: dict[str, Any] = {"updated_at": _later(stored.updated_at, mine.updated_at)}
    metadata = dict(mine.metadata)
    if stored.metadata_version >= mine.metadata_version:
        changes |= {
            "title": stored.title,
            "title_version": stored.title_version,
            "pinned": stored.pinned,
            "metadata_version": stored.metadata_version,
        }
        for key in authoritative:
            _take_over(metadata, stored.metadata, key)
    merged = mine.changed(**changes, metadata=_with_stored_permission(metadata, stored.metadata))
    return stored if merged.to_json() == stored.to_json() else merged


def _take_over(metadata: dict[str, Any], stored: Mapping[str, Any], key: str) -> None:
    """Make `metadata` say under `key` what `stored` says, if anything."""
    metadata.pop(key, None)
    if key in stored:
        metadata[key] = stored[key]


def _with_stored_permission(metadata: dict[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata by rule 2. A runtime state that is no object has no permission."""
    theirs, mine = stored.get(RUNTIME_STATE), metadata.get(RUNTIME_STATE)
    granted = isinstance(theirs, dict) and PERMISSION in theirs
    if isinstance(mine, dict) or granted:
        state = dict(mine) if isinstance(mine, dict) else {}
        _take_over(state, theirs if isinstance(theirs, dict) else {}, PERMISSION)
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
    """Return the messages of two copies by rule 4. All have ids, the stored ones each its own."""
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
