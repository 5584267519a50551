"""A prefixed store is a store of its own inside another."""

from __future__ import annotations

import pytest

from storage import Create
from storage.backends.memory import MemoryStore
from storage.errors import InvalidKeyError, NotFoundError
from storage.wrappers.prefixed import PrefixedStore


def test_keys_lie_under_the_prefix_and_come_back_without_it() -> None:
    raw = MemoryStore()
    store = PrefixedStore(raw, "team/agents")
    version = store.put("a/b", b"one", Create())
    assert raw.get("team/agents/a/b").version == version
    assert store.stat("a/b").key == "a/b"
    assert [row.key for row in store.list("a/")] == ["a/b"]


def test_what_lies_outside_is_neither_seen_nor_touched() -> None:
    raw = MemoryStore()
    for key in ("other/a", "teams/a", "team/a"):
        raw.put(key, b"", Create())
    store = PrefixedStore(raw, "team")
    assert [row.key for row in store.list("")] == ["a"]
    assert [row.key for row in store.list("", start_after="a")] == []
    store.delete_many(["a"])
    assert [row.key for row in raw.list("")] == ["other/a", "teams/a"]


def test_a_start_before_the_prefix_is_taken_within_it() -> None:
    raw = MemoryStore()
    raw.put("team/zz", b"", Create())
    assert [row.key for row in PrefixedStore(raw, "team").list("", start_after="b")] == ["zz"]


def test_delete_failures_name_the_key_that_was_given() -> None:
    assert [failure.key for failure in PrefixedStore(MemoryStore(), "p").delete_many(["../x"])] == ["../x"]


def test_errors_name_the_full_key() -> None:
    with pytest.raises(NotFoundError) as caught:
        PrefixedStore(MemoryStore(), "p").get("a")
    assert caught.value.key == "p/a"


@pytest.mark.parametrize("prefix", ["", "/", "a/", "/a", "..", "a/../b", "G"])
def test_a_prefix_is_made_of_key_segments(prefix: str) -> None:
    with pytest.raises(InvalidKeyError):
        PrefixedStore(MemoryStore(), prefix)


def test_prefix_and_key_together_keep_the_limit() -> None:
    with pytest.raises(InvalidKeyError, match="900"):
        PrefixedStore(MemoryStore(), "/".join(["p" * 150] * 5)).put("a" * 150, b"", Create())
