"""What a save makes of a stored copy and a stale one: who decides over which value, and that no message is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.runtime.merge import merge, unite
from snapshots.runtime.session import JsonMessage, RuntimeMetadata
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


def decided(metadata: RuntimeMetadata) -> list[Any]:
    return [getattr(metadata, name) for name in AUTHORITATIVE]


def test_without_a_stored_copy_mine_is_stored() -> None:
    assert merge(None, MINE) is MINE


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
    assert merge(None, mine_whole).metadata == state(mine)  # the first save is the stored copy


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
    assert merge(STORED, STORED.changed()) is STORED
    assert merge(STORED, STORED.changed(title="mine", pinned=False)) is STORED


def test_true_and_one_are_not_the_same() -> None:
    merged = merge(STORED, STORED.changed(metadata={**STORED.metadata, "theirs": True}))
    assert merged is not STORED
    assert merged.metadata["theirs"] is True


@given(st.integers(0, 3), st.integers(0, 3))
def test_a_merge_is_done_once(stored_version: int, mine_version: int) -> None:
    stored, mine = STORED.changed(metadata_version=stored_version), MINE.changed(metadata_version=mine_version)
    merged = merge(stored, mine)
    assert merged.metadata_version == max(stored_version, mine_version)
    assert merge(merged, mine) is merged


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
