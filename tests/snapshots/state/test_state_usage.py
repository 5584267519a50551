"""Usage, ledger and report: what is counted, what is kept, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from snapshots.errors import InvalidStateError
from snapshots.state import (
    PromptUsage,
    SessionUsageReport,
    TokenLedgerEntry,
    TokenUsage,
    UsageReportRow,
    UsageTotals,
    diff_token_ledger,
    diff_usage_reports,
    merge_ledger_entry,
    normalize_prompt_usage,
)


def entry(source: str, model: str, **counts: int) -> TokenLedgerEntry:
    return TokenLedgerEntry(source=source, model=model, usage=TokenUsage(**counts))


def test_total_leaves_cached_tokens_out() -> None:
    usage = TokenUsage(input_tokens=1, output_tokens=2, cached_input_tokens=100, reasoning_tokens=4)
    assert usage.total() == 7
    assert usage.add(usage) == TokenUsage(input_tokens=2, output_tokens=4, cached_input_tokens=200, reasoning_tokens=8)


def test_a_sum_beyond_64_bits_is_refused() -> None:
    full = TokenUsage(input_tokens=2**63 - 1)
    with pytest.raises(ValidationError):
        full.add(TokenUsage(input_tokens=1))


@pytest.mark.parametrize(
    ("usage", "excludes", "expected"),
    [
        (TokenUsage(), True, None),
        (TokenUsage(reasoning_tokens=5), True, None),
        (TokenUsage(input_tokens=-5, output_tokens=-1), False, None),
        (
            TokenUsage(input_tokens=10, output_tokens=3, cached_input_tokens=4),
            True,
            PromptUsage(prompt_context_tokens=14, input_tokens=10, cached_input_tokens=4, context_budget_tokens=17),
        ),
        (
            TokenUsage(input_tokens=10, output_tokens=3, cached_input_tokens=4),
            False,
            PromptUsage(prompt_context_tokens=10, input_tokens=6, cached_input_tokens=4, context_budget_tokens=13),
        ),
        (
            TokenUsage(input_tokens=2, cached_input_tokens=5),
            False,
            PromptUsage(prompt_context_tokens=2, input_tokens=0, cached_input_tokens=5, context_budget_tokens=5),
        ),
        (
            TokenUsage(cached_input_tokens=5, input_tokens=-1),
            True,
            PromptUsage(prompt_context_tokens=5, input_tokens=0, cached_input_tokens=5, context_budget_tokens=5),
        ),
    ],
)
def test_prompt_usage_is_normalised(usage: TokenUsage, excludes: bool, expected: PromptUsage | None) -> None:
    assert normalize_prompt_usage(usage, input_excludes_cached=excludes) == expected


def test_merging_adds_to_the_row_of_source_and_model() -> None:
    ledger: list[TokenLedgerEntry] = []
    merge_ledger_entry(ledger, entry("turn", "m", input_tokens=1))
    merge_ledger_entry(ledger, entry("turn", "n", input_tokens=2))
    merge_ledger_entry(ledger, entry("turn", "m", output_tokens=3))
    assert ledger == [entry("turn", "m", input_tokens=1, output_tokens=3), entry("turn", "n", input_tokens=2)]


def test_merging_without_cost_changes_nothing() -> None:
    ledger: list[TokenLedgerEntry] = []
    merge_ledger_entry(ledger, entry("turn", "m"))
    assert ledger == []


def test_cached_only_usage_is_kept_by_merge_diff_and_report() -> None:
    ledger: list[TokenLedgerEntry] = []
    cached = entry("child", "m", cached_input_tokens=7)
    merge_ledger_entry(ledger, cached)
    assert ledger == [cached]
    assert diff_token_ledger([], ledger) == [cached]
    report = SessionUsageReport.from_entries(ledger)
    assert report.entry_count == 1
    assert (report.usage.total_tokens, report.usage.context_total_tokens) == (0, 7)


def test_differences_are_sorted_and_leave_equal_rows_out() -> None:
    before = [entry("b", "m", input_tokens=1), entry("a", "z", output_tokens=1)]
    after = [entry("b", "m", input_tokens=4), entry("a", "z", output_tokens=1), entry("a", "c", reasoning_tokens=2)]
    assert diff_token_ledger(before, after) == [
        entry("a", "c", reasoning_tokens=2),
        entry("b", "m", input_tokens=3),
    ]


@pytest.mark.parametrize(
    "after",
    [
        [],
        [entry("turn", "m", input_tokens=4, output_tokens=9)],
        [entry("turn", "m", input_tokens=5, cached_input_tokens=-1)],
    ],
)
def test_a_decreasing_ledger_is_refused(after: list[TokenLedgerEntry]) -> None:
    with pytest.raises(InvalidStateError, match="token ledger decreased") as caught:
        diff_token_ledger([entry("turn", "m", input_tokens=5)], after)
    assert "'turn'" in caught.value.reason


def test_reports_sum_by_source_and_model() -> None:
    entries = [
        entry("turn", "m", input_tokens=1, cached_input_tokens=10),
        entry("child", "m", output_tokens=2),
        entry("turn", "n", reasoning_tokens=4),
    ]
    report = SessionUsageReport.from_entries(entries)
    assert report.entry_count == 3
    assert report.usage == UsageTotals(
        input_tokens=1,
        output_tokens=2,
        cached_input_tokens=10,
        reasoning_tokens=4,
        total_tokens=7,
        context_total_tokens=17,
    )
    assert report.by_source["turn"].total_tokens == 5
    assert report.by_model["m"].context_total_tokens == 13
    assert [(row.source, row.model) for row in report.by_source_model] == [("turn", "m"), ("child", "m"), ("turn", "n")]


def test_totals_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValidationError, match="totals do not match"):
        UsageTotals(input_tokens=1, total_tokens=2, context_total_tokens=2)


def test_report_differences_are_row_by_row_and_never_negative() -> None:
    before = SessionUsageReport.from_entries([entry("turn", "m", input_tokens=1)])
    after = SessionUsageReport.from_entries([entry("turn", "m", input_tokens=3)])
    assert diff_usage_reports(before, after) == [
        UsageReportRow(source="turn", model="m", usage=TokenUsage(input_tokens=2))
    ]
    with pytest.raises(InvalidStateError):
        diff_usage_reports(after, before)


counts = st.integers(0, 1000)
entries = st.builds(
    lambda source, model, i, o, c, r: entry(
        source, model, input_tokens=i, output_tokens=o, cached_input_tokens=c, reasoning_tokens=r
    ),
    st.sampled_from(["turn", "child"]),
    st.sampled_from(["m", "n"]),
    counts,
    counts,
    counts,
    counts,
)


@given(st.lists(entries), st.lists(entries))
def test_the_difference_added_to_the_start_gives_the_end(
    first: list[TokenLedgerEntry], more: list[TokenLedgerEntry]
) -> None:
    before: list[TokenLedgerEntry] = []
    for one in first:
        merge_ledger_entry(before, one)
    after = list(before)
    for one in more:
        merge_ledger_entry(after, one)
    rebuilt = list(before)
    for delta in diff_token_ledger(before, after):
        merge_ledger_entry(rebuilt, delta)
    assert {row.key: row.usage for row in rebuilt} == {row.key: row.usage for row in after}
