"""Changes of JSON values: applied to `before` they give `after`; nothing that differs is passed over."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.changes import MISSING, Change, changes
from snapshots.state.values import json_text
from tests.snapshots.state.strategies import json_values

# Few keys and scalars that Python takes for equal, so that two values often meet.
near_values: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, 0, 0.0, -0.0, False, 1, 1.0, True, "", "a", "0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, max_size=3),
    max_leaves=10,
)
pairs = st.tuples(near_values, near_values) | st.tuples(json_values, json_values)


def applied(before: Any, found: Iterable[Change]) -> Any:
    """Return `before` with every change made: first what is set, then, from the end, what goes."""
    root = {"": copy.deepcopy(before)}
    found = list(found)
    for change in found:
        if change.after is not MISSING:
            _set(root, ("", *change.path), copy.deepcopy(change.after))
    for change in reversed(found):
        if change.after is MISSING:
            _parent(root, ("", *change.path)).pop(change.path[-1])
    return root[""]


def _parent(root: Any, path: tuple[str | int, ...]) -> Any:
    for key in path[:-1]:
        root = root[key]
    return root


def _set(root: Any, path: tuple[str | int, ...], value: Any) -> None:
    parent = _parent(root, path)
    if isinstance(parent, list) and path[-1] == len(parent):
        parent.append(value)
    else:
        parent[path[-1]] = value


def flipped(change: Change) -> Change:
    return Change(change.path, change.after, change.before)


@given(pairs)
def test_changes_applied_to_before_give_after(pair: tuple[Any, Any]) -> None:
    before, after = pair
    assert json_text(applied(before, changes(before, after))) == json_text(after)


@given(pairs)
def test_there_are_changes_exactly_if_the_texts_differ(pair: tuple[Any, Any]) -> None:
    before, after = pair
    assert bool(changes(before, after)) == (json_text(before) != json_text(after))


@given(pairs)
def test_the_other_way_round_before_and_after_change_places(pair: tuple[Any, Any]) -> None:
    before, after = pair
    there, back = changes(before, after), changes(after, before)
    assert list(map(repr, there)) == [repr(flipped(change)) for change in back]


@given(pairs)
def test_no_two_changes_have_one_name(pair: tuple[Any, Any]) -> None:
    names = [change.name for change in changes(*pair)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 2}, Change(("a",), 1, 2)),
        ({"a": 1}, {}, Change(("a",), 1, MISSING)),
        ({}, {"a": None}, Change(("a",), MISSING, None)),
        ({"a": None}, {}, Change(("a",), None, MISSING)),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1]}}, Change(("a", "b", 1), 2, MISSING)),
        ({"a": {}}, {"a": []}, Change(("a",), {}, [])),
        (1, "1", Change((), 1, "1")),
    ],
)
def test_one_change(before: Any, after: Any, expected: Change) -> None:
    assert changes(before, after) == (expected,)


@pytest.mark.parametrize(("before", "after"), [(1, True), (0, False), (1, 1.0), (0.0, -0.0), (None, False)])
def test_what_python_takes_for_equal_is_told_apart(before: Any, after: Any) -> None:
    (change,) = changes([{"a": before}], [{"a": after}])
    assert (repr(change.before), repr(change.after)) == (repr(before), repr(after))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ((), ""),
        (("tools", "search", "manifest", "description"), "tools.search.manifest.description"),
        (("aliases", 0, "x"), "aliases[0].x"),
        ((0, 1), "[0][1]"),
        (("a.b", "c"), '"a.b".c'),
        (("a", "[0]"), 'a."[0]"'),
        (("a", ""), 'a.""'),
        (("a", "0"), "a.0"),
        (("two words", 'q"'), '"two words"."q\\""'),
        (("\x1b[1m", "a\x9bb"), '"\\u001b[1m"."a\\u009bb"'),
    ],
)
def test_names_of_paths(path: tuple[str | int, ...], name: str) -> None:
    assert Change(path, 1, 2).name == name
