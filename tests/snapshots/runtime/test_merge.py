"""What a save makes of a stored copy and a stale one: who decides over which value, and that no message is lost."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.errors import LimitExceededError
from snapshots.runtime import merge as rules
from snapshots.runtime.merge import AUTHORITATIVE_KEYS, VERSION_SAVED_MAX, amend, check_versions, unite
from snapshots.runtime.session import JsonMessage, RuntimeMetadata
from snapshots.runtime.stored import StoredMetadata
from snapshots.state.values import json_text

AUTHORITATIVE = ("title", "title_version", "pinned", "metadata_version")
STORED = RuntimeMetadata(
    title="stored",
    title_version=2,
    pinned=True,
    metadata_version=5,
    metadata={"gold_config": 1, "theirs": 1},
    updated_at="2026-01-01T00:00:00Z",
    further="theirs",  # a field of others
)
MINE = RuntimeMetadata(
    title="mine",
    title_version=9,
    metadata_version=5,
    metadata={"gold_config": 2, "mine": 1},
    updated_at="2026-01-02T00:00:00Z",
    other="mine",  # a field of others
)


def merge(
    stored: RuntimeMetadata | None, mine: RuntimeMetadata, authoritative: Collection[str] = AUTHORITATIVE_KEYS
) -> RuntimeMetadata:
    """Merge with what no authoritative writer has changed."""
    present = None if stored is None else StoredMetadata(stored)
    return rules.merge(present, mine, authoritative=authoritative).document


def decided(metadata: RuntimeMetadata) -> list[Any]:
    return [getattr(metadata, name) for name in AUTHORITATIVE]


def test_without_a_stored_copy_mine_is_stored() -> None:
    assert merge(None, MINE) == MINE


@pytest.mark.parametrize("version", [0, 4, 5])
def test_equal_versions_and_older_ones_keep_the_stored_values(version: int) -> None:
    merged = merge(STORED, MINE.changed(metadata_version=version))
    assert decided(merged) == decided(STORED)
    assert merged.metadata == {"gold_config": 1, "mine": 1}
    assert merged.further == {"other": "mine"}


def test_a_greater_version_of_mine_wins_entirely() -> None:
    mine = MINE.changed(metadata_version=6)
    assert merge(STORED, mine) == mine


def test_an_authoritative_key_that_is_not_stored_is_removed() -> None:
    merged = merge(STORED.changed(metadata={}), MINE)
    assert merged.metadata == {"mine": 1}


def test_which_keys_are_authoritative_is_the_callers_to_say() -> None:
    merged = merge(STORED, MINE, authoritative=("theirs", "mine"))
    assert merged.metadata == {"gold_config": 2, "theirs": 1}


@pytest.mark.parametrize("version", [0, 5, 6])
@pytest.mark.parametrize(
    ("stored", "mine", "merged"),
    [
        ({"bypass_permissions": False}, {"bypass_permissions": True, "x": 1}, {"bypass_permissions": False, "x": 1}),
        ({"bypass_permissions": True}, {"x": 1}, {"bypass_permissions": True, "x": 1}),
        ({"bypass_permissions": True}, None, {"bypass_permissions": True}),
        ({"bypass_permissions": True}, "text", {"bypass_permissions": True}),
        ({"y": 1}, {"bypass_permissions": True}, {}),
        ("text", {"bypass_permissions": True, "x": 1}, {"x": 1}),
        (None, {"bypass_permissions": True}, {}),
        (None, "text", "text"),
    ],
)
def test_no_save_gives_itself_a_permission_whatever_its_version(
    version: int, stored: Any, mine: Any, merged: Any
) -> None:
    def state(value: Any) -> dict[str, Any]:
        return {} if value is None else {"agent_runtime_state": value}

    mine_whole = MINE.changed(metadata_version=version, metadata=state(mine))
    found = merge(STORED.changed(metadata=state(stored)), mine_whole)
    assert found.metadata.get("agent_runtime_state") == merged
    without = {key: mine[key] for key in mine if key != "bypass_permissions"} if isinstance(mine, dict) else mine
    assert merge(None, mine_whole).metadata == state(without)


@pytest.mark.parametrize(
    ("stored", "mine", "merged"),
    [
        (None, None, None),
        ("2026-01-01T00:00:00Z", None, "2026-01-01T00:00:00Z"),
        (None, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-01-01T01:00:00Z", "2026-01-01T02:30:00+02:00", "2026-01-01T01:00:00Z"),
        ("2026-01-01T00:00:00Z", "2026-01-01T02:00:01+02:00", "2026-01-01T02:00:01+02:00"),
        ("2026-01-01T00:00:00Z", "2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00Z"),
    ],
)
def test_the_later_instant_is_stored_and_decides_nothing(
    stored: str | None, mine: str | None, merged: str | None
) -> None:
    found = merge(STORED.changed(updated_at=stored), MINE.changed(updated_at=mine))
    assert (found.updated_at, found.title) == (merged, "stored")


def test_what_is_the_same_is_the_stored_value_itself() -> None:
    stored = StoredMetadata(STORED)
    assert rules.merge(stored, STORED.changed()) is stored
    assert rules.merge(stored, STORED.changed(title="mine", pinned=False)) is stored


def test_true_and_one_are_not_the_same() -> None:
    merged = merge(STORED, STORED.changed(metadata={**STORED.metadata, "theirs": True}))
    assert merged is not STORED
    assert merged.metadata["theirs"] is True


@given(st.integers(0, 3), st.integers(0, 3))
def test_a_merge_is_done_once(stored_version: int, mine_version: int) -> None:
    stored, mine = STORED.changed(metadata_version=stored_version), MINE.changed(metadata_version=mine_version)
    merged = merge(stored, mine)
    assert merged.metadata_version == max(stored_version, mine_version)
    assert merge(merged, mine) == merged


# What authoritative writers have decided.

JSON = st.sampled_from(
    [None, 0, False, "x", {}, {"bypass_permissions": True}, {"bypass_permissions": 1, "y": 1}, {"y": 2}]
)
DOCUMENTS = st.builds(
    lambda metadata, further, version: RuntimeMetadata(metadata=metadata, metadata_version=version, **further),
    st.dictionaries(st.sampled_from(["a", "b", "gold_config", "agent_runtime_state"]), JSON, max_size=4),
    st.dictionaries(st.sampled_from(["c", "_d"]), JSON, max_size=2),
    st.integers(0, 3),
)


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    texts = [{name: json_text(value) for name, value in values.items()} for values in (one, other)]
    return {name for name in {*one, *other} if texts[0].get(name) != texts[1].get(name)}


@given(DOCUMENTS, DOCUMENTS, DOCUMENTS)
def test_no_stale_save_undoes_what_was_changed_with_authority(
    before: RuntimeMetadata, after: RuntimeMetadata, saver: RuntimeMetadata
) -> None:
    after = after.changed(metadata_version=before.metadata_version + 1)
    amended = amend(StoredMetadata(before), after)
    for stale in (before, saver.changed(metadata_version=before.metadata_version)):
        merged = rules.merge(amended, stale, authoritative=()).document
        changed = differing(before.metadata, after.metadata) - {"agent_runtime_state"}
        assert not changed & differing(merged.metadata, after.metadata)
        assert not differing(before.further, after.further) & differing(merged.further, after.further)
    assert rules.merge(amended, before, authoritative=()).document == after


def test_what_was_changed_with_authority_is_remembered_and_nothing_else() -> None:
    before = StoredMetadata(RuntimeMetadata(metadata={"a": 1, "b": 1, "c": 1}, x=1, y=1))
    after = amend(before, before.document.changed(metadata={"a": 1, "b": 2}, x=2, z=1))
    assert (set(after.keys), set(after.fields)) == ({"b", "c"}, {"x", "z"})
    again = amend(after, after.document.changed(metadata={"a": 2, "b": 2}))
    assert (set(again.keys), set(again.fields)) == ({"a", "b", "c"}, {"x", "z"})
    mine = RuntimeMetadata(metadata={"a": 0, "b": 0, "c": 0, "d": 0}, x=0, w=0)
    merged = rules.merge(again, mine)
    assert (merged.document.metadata, merged.document.further) == ({"a": 2, "b": 2, "d": 0}, {"x": 2, "z": 1, "w": 0})
    assert (merged.keys, merged.fields) == (again.keys, again.fields)


def test_a_greater_version_wins_over_what_was_changed_with_authority_and_leaves_it_protected() -> None:
    stored = amend(StoredMetadata(), RuntimeMetadata(metadata={"a": 1}, metadata_version=1, x=1))
    mine = RuntimeMetadata(metadata={"a": 2}, metadata_version=2)
    won = rules.merge(stored, mine)
    assert won.document == mine
    assert rules.merge(won, mine.changed(metadata={"a": 3}, metadata_version=1, x=3)) is won


def test_a_permission_that_is_given_leaves_the_runtime_its_state() -> None:
    before = StoredMetadata(RuntimeMetadata(metadata={"agent_runtime_state": {"step": 1}}))
    given_to = {"agent_runtime_state": {"step": 1, "bypass_permissions": True}}
    after = amend(before, before.document.changed(metadata=given_to))
    assert after.keys == frozenset()
    merged = rules.merge(after, RuntimeMetadata(metadata={"agent_runtime_state": {"step": 2}}))
    assert merged.document.metadata == {"agent_runtime_state": {"step": 2, "bypass_permissions": True}}


@pytest.mark.parametrize("name", ["metadata_version", "title_version"])
def test_a_save_raises_no_version_above_its_limit(name: str) -> None:
    def at(version: int) -> RuntimeMetadata:
        return RuntimeMetadata().changed(**{name: version})

    check_versions(at(0), at(VERSION_SAVED_MAX))
    check_versions(at(VERSION_SAVED_MAX + 2), at(VERSION_SAVED_MAX + 2))  # counted up to there by authoritative writers
    for stored in (0, VERSION_SAVED_MAX, VERSION_SAVED_MAX + 1):
        with pytest.raises(LimitExceededError, match=f"{name} of 9223372036854775808 by a save"):
            check_versions(at(stored), at(VERSION_SAVED_MAX + 2))


# Messages.

MESSAGES = st.lists(
    st.fixed_dictionaries({"id": st.sampled_from("abcdef"), "content": st.sampled_from([0, False, "x"])}), max_size=8
)


def ids(messages: Any) -> list[str]:
    return [message["id"] for message in messages]


def test_a_stale_copy_loses_no_message() -> None:
    stored: list[JsonMessage] = [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    union = unite(stored, [{"id": "a"}, {"id": "x"}, {"id": "y"}])
    assert ids(union.messages) == ["a", "b", "c", "x", "y"]
    assert ids(union.unseen) == ["x", "y"]
    assert union.kept == ()


def test_an_edited_message_is_handed_back_and_the_stored_one_stays() -> None:
    union = unite([{"id": "a", "content": 1}], [{"id": "a", "content": True}, {"id": "b"}])
    assert union.messages == ({"id": "a", "content": 1}, {"id": "b"})
    assert union.kept == ({"id": "a", "content": True},)


def test_two_contents_under_one_id_in_one_copy_are_not_lost_in_silence() -> None:
    union = unite([], [{"id": "a", "content": 1}, {"id": "a", "content": 1}, {"id": "a", "content": 2}])
    assert union.messages == ({"id": "a", "content": 1},)
    assert union.kept == ({"id": "a", "content": 2},)


@given(MESSAGES, MESSAGES)
def test_every_message_is_stored_or_handed_back(theirs: list[JsonMessage], mine: list[JsonMessage]) -> None:
    stored = unite([], theirs).messages
    union = unite(stored, mine)
    assert union.messages[: len(stored)] == stored
    assert len(set(ids(union.messages))) == len(union.messages)
    everything = [json_text(message) for message in (*union.messages, *union.kept)]
    assert all(json_text(message) in everything for message in mine)
    again = unite(union.messages, mine)
    assert (again.messages, again.unseen, again.kept) == (union.messages, (), union.kept)
