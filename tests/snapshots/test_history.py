"""The history: rows come back, run without a gap, and give the ledger of any lineage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots import codec
from snapshots.history import (
    COMMIT,
    REPLACE,
    HistoryRow,
    check_history,
    ledger_along,
    lineage,
    row_from_plain,
)
from snapshots.stamps import StampMark
from snapshots.state import TokenLedgerEntry, TokenUsage, merge_ledger_entry
from snapshots.state.values import I64_MAX
from tests.snapshots.records import AT, ID, history_rows, usages


def entry(source: str, tokens: int) -> TokenLedgerEntry:
    return TokenLedgerEntry(source=source, model="m", usage=TokenUsage(input_tokens=tokens))


def row(revision: int, parent: int | None = None, *usage: TokenLedgerEntry, kind: str = COMMIT) -> HistoryRow:
    return HistoryRow(revision, revision - 1 if parent is None else parent, kind, ID, AT, None, 0, usage)


@given(history_rows)
def test_a_row_comes_back(one: HistoryRow) -> None:
    data = codec.encode(one.to_plain())
    found = row_from_plain(codec.decode(data, key="k"))
    assert found == one
    assert codec.encode(found.to_plain()) == data


FULL = HistoryRow(3, 2, COMMIT, ID, AT, StampMark(b"t" * 16, b"c" * 16), 5, (entry("turn", 7),))


@pytest.mark.parametrize("position", range(8))
@pytest.mark.parametrize("value", [True, -1, 1.5, "x", b"x", [1], {"a": 1}, [[1, 2]], 1 << 70])
def test_a_row_with_a_value_of_another_kind_is_refused(position: int, value: Any) -> None:
    plain = FULL.to_plain()
    if position == 4 and value == -1:
        value = "later"  # an instant may lie before 1970
    plain[position] = value
    with pytest.raises((ValueError, TypeError, OverflowError)):
        row_from_plain(plain)


@pytest.mark.parametrize("position", [0, 1, 2, 3, 4, 6, 7])
def test_only_a_stamp_may_be_null(position: int) -> None:
    plain = FULL.to_plain()
    plain[5] = None
    assert row_from_plain(plain).stamp is None
    plain[position] = None
    with pytest.raises((ValueError, TypeError)):
        row_from_plain(plain)


@pytest.mark.parametrize(
    "usage",
    [
        ["turn", "m", 1, 0, 0],
        ["turn", "m", 1, 0, 0, 0, 0],
        [b"turn", "m", 1, 0, 0, 0],
        ["turn", b"m", 1, 0, 0, 0],
        ["turn", None, 1, 0, 0, 0],
        ["turn", "m", -1, 0, 0, 0],
        ["turn", "m", 1, 0, 0, -5],
        ["turn", "m", I64_MAX + 1, 0, 0, 0],
        ["turn", "m", True, 0, 0, 0],
        ["turn", "m", "1", 0, 0, 0],
        ["turn", "m", 1.0, 0, 0, 0],
        "turn12",
        {},
    ],
)
def test_usage_that_no_ledger_adds_is_refused(usage: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        row_from_plain([*FULL.to_plain()[:7], [usage]])


@pytest.mark.parametrize(("revision", "parent"), [(0, 0), (3, 3), (3, 4), (1, 1)])
def test_a_parent_comes_before_its_child(revision: int, parent: int) -> None:
    with pytest.raises(ValueError, match="history"):
        row_from_plain([revision, parent, *FULL.to_plain()[2:]])


@pytest.mark.parametrize("plain", [None, [], "abcdefgh", b"abcdefgh", {}, FULL.to_plain()[:7], [*FULL.to_plain(), 1]])
def test_what_is_no_list_of_eight_is_refused(plain: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        row_from_plain(plain)


def test_a_history_runs_without_a_gap() -> None:
    rows = [row(number) for number in range(1, 6)]
    check_history(rows, 5)
    check_history([], 0)
    for wrong in (rows[:-1], rows[1:], rows[::-1], [*rows, rows[-1]], [*rows[:2], *rows[3:]], [rows[0], *rows]):
        with pytest.raises(ValueError, match="1 to 5"):
            check_history(wrong, 5)


def test_a_lineage_skips_what_a_rewind_left_behind() -> None:
    rows = [row(1), row(2), row(3), row(4, 1), row(5)]
    assert [one.revision for one in lineage(rows, 5)] == [5, 4, 1]
    assert [one.revision for one in lineage(rows, 3)] == [3, 2, 1]
    assert lineage(rows, 0) == []


def test_a_ledger_is_what_its_lineage_added() -> None:
    rows = [row(1, 0, entry("a", 1)), row(2, 1, entry("b", 2), entry("a", 4)), row(3, 1, entry("a", 8)), row(4)]
    assert ledger_along(rows, 2) == [entry("a", 5), entry("b", 2)]
    assert ledger_along(rows, 4) == [entry("a", 9)]
    assert ledger_along(rows, 0) == []


def test_a_ledger_starts_afresh_with_a_replacement() -> None:
    rows = [row(1, 0, entry("a", 1)), row(2, 1, entry("b", 2), kind=REPLACE), row(3, 2, entry("b", 1))]
    assert ledger_along(rows, 3) == [entry("b", 3)]
    assert ledger_along(rows, 1) == [entry("a", 1)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1000), st.integers(0, 100)), max_size=30))
def test_a_ledger_along_any_tree_is_the_sum_of_its_path(drawn: list[tuple[str, int, int]]) -> None:
    rows = [row(number, back % number, entry(source, tokens)) for number, (source, tokens, back) in enumerate(drawn, 1)]
    for revision in range(len(rows) + 1):
        expected: list[TokenLedgerEntry] = []
        for one in reversed(lineage(rows, revision)):
            for added in one.usage:
                merge_ledger_entry(expected, added)
        assert ledger_along(rows, revision) == expected


@given(st.lists(usages.filter(lambda usage: max(usage.model_dump().values()) < 1 << 50), max_size=5))
def test_the_usage_of_a_revision_is_the_sum_of_its_rows(many: list[TokenUsage]) -> None:
    entries = [TokenLedgerEntry(source="s", model=str(number), usage=usage) for number, usage in enumerate(many)]
    total = row(1, 0, *entries).total_usage
    assert total.output_tokens == sum(usage.output_tokens for usage in many)
    assert total.cached_input_tokens == sum(usage.cached_input_tokens for usage in many)
