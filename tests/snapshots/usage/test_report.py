"""Reports: every row counts, and the share of the cache is of all input."""

from __future__ import annotations

import pytest

from snapshots.usage import TokenUsageRecord, usage_report
from snapshots.usage.report import Tally, day_of, source_of


def test_usage_with_cached_tokens_alone_counts() -> None:
    record = TokenUsageRecord(model="m", cache_read_input_tokens=7)
    report = usage_report([record], by="model")
    assert report.groups["m"] == report.total
    assert (report.total.calls, report.total.tokens, report.total.cache_read_input_tokens) == (1, 7, 7)
    assert report.total.cache_hit_ratio == 1.0


def test_the_share_of_the_cache_is_of_all_input() -> None:
    record = TokenUsageRecord(
        input_tokens=10, cache_creation_input_tokens=20, cache_read_input_tokens=70, output_tokens=900
    )
    total = usage_report([record, record], by="day").total
    assert (total.cache_hit_ratio, total.tokens, total.calls) == (0.7, 2000, 2)
    assert usage_report([TokenUsageRecord(output_tokens=5)], by="day").total.cache_hit_ratio is None
    assert usage_report([], by="day").groups == {}


def test_groups_stand_by_size_and_days_in_order() -> None:
    records = [
        TokenUsageRecord(ts="2026-01-02T00:00:00Z", model="b", output_tokens=1),
        TokenUsageRecord(ts="2026-01-01T00:00:00Z", model="a", output_tokens=5),
        TokenUsageRecord(ts="2026-01-02T00:00:00Z", model="c", output_tokens=1, thinking_tokens=2),
    ]
    assert list(usage_report(records, by="model").groups) == ["a", "b", "c"]
    days = usage_report(records, by="day").groups
    assert list(days) == ["2026-01-01", "2026-01-02"]
    assert (days["2026-01-02"].calls, days["2026-01-02"].thinking_tokens) == (2, 2)


def test_the_source_is_the_field_of_that_name_or_else_the_provider() -> None:
    assert source_of(TokenUsageRecord(provider="p", extra={"source": "agent"})) == "agent"
    nothing: list[object] = ["", None, 7, {}]
    for source in nothing:
        assert source_of(TokenUsageRecord(provider="p", extra={"source": source})) == "p"
    assert source_of(TokenUsageRecord()) == ""


@pytest.mark.parametrize(
    ("ts", "day"),
    [
        ("2026-01-01T23:30:00-02:00", "2026-01-02"),
        ("2026-01-01t00:00:00.123456789z", "2026-01-01"),
        ("2026-01-01T00:00:00", "2026-01-01"),
        ("9999-12-31T23:59:59-23:59", ""),
        ("yesterday", ""),
        ("", ""),
    ],
)
def test_a_day_is_that_of_utc(ts: str, day: str) -> None:
    assert day_of(TokenUsageRecord(ts=ts)) == day


def test_tallies_add_up_to_the_report_of_all_rows() -> None:
    some = [TokenUsageRecord(model=f"m{n % 3}", output_tokens=n, truncation_occurred=n % 2 == 0) for n in range(20)]
    first, second = Tally("model"), Tally("model")
    for number, record in enumerate(some):
        (first if number < 9 else second).add(record)
    first.include(second)
    assert first.report() == usage_report(some, by="model")
    assert first.report().total.truncations == 10
