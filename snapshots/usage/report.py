"""What a usage log comes to: totals by source, model or day. Pure.

Rules:
1. Every row counts, one with nothing but cached tokens as well.
2. The source of a row is its field `source`, if that is a text with something in it, else its provider. Its day is that
   of its `ts` in UTC. "" stands for what a row does not say.
3. The share of the cache is what was read from it, of all input: fresh, written to the cache and read from it.
4. `tokens` is all input and the output; reasoning is a part of the output, and counted beside.

    report = usage_report((row.record for row in log.read()), by="model")
    report.total.cache_hit_ratio
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Literal, get_args

from snapshots.usage.rows import TokenUsageRecord

Grouping = Literal["source", "model", "day"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)


@dataclass(slots=True)
class UsageTotals:
    """Sums over rows. Counts are whole numbers of any size."""

    calls: int = 0
    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    prompt_cached_tool_tokens_saved: int = 0
    truncations: int = 0
    segments_removed: int = 0

    @property
    def tokens(self) -> int:
        """Return all input and output (rule 4)."""
        return self._input + self.output_tokens

    @property
    def cache_hit_ratio(self) -> float | None:
        """Return which part of the input was read from the cache, None where there was none (rule 3)."""
        return self.cache_read_input_tokens / self._input if self._input else None

    @property
    def _input(self) -> int:
        return self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens

    def include(self, other: UsageTotals) -> None:
        """Take other totals in."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    def add(self, record: TokenUsageRecord) -> None:
        """Take another row in."""
        self.calls += 1
        self.input_tokens += record.input_tokens
        self.cache_creation_input_tokens += record.cache_creation_input_tokens
        self.cache_read_input_tokens += record.cache_read_input_tokens
        self.output_tokens += record.output_tokens
        self.thinking_tokens += record.thinking_tokens
        self.prompt_cached_tool_tokens_saved += record.prompt_cached_tool_tokens_saved
        self.truncations += record.truncation_occurred
        self.segments_removed += record.segments_removed


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Totals of rows.

    Attributes:
        by: What the groups are.
        groups: Label → its totals: days as they come, others with the most tokens first.
        total: Of all rows.
    """

    by: Grouping
    groups: Mapping[str, UsageTotals]
    total: UsageTotals


class Tally:
    """Totals that grow row by row, or log by log.

    Args:
        by: What the groups are.
    """

    def __init__(self, by: Grouping) -> None:
        self._by: Grouping = by
        self._total = UsageTotals()
        self._groups: dict[str, UsageTotals] = {}

    def add(self, record: TokenUsageRecord) -> None:
        """Take another row in."""
        self._total.add(record)
        self._groups.setdefault(LABELS[self._by](record), UsageTotals()).add(record)

    def include(self, other: Tally) -> None:
        """Take in what another one has counted, by the same groups."""
        self._total.include(other._total)
        for label, totals in other._groups.items():
            self._groups.setdefault(label, UsageTotals()).include(totals)

    def report(self) -> UsageReport:
        """Return what was counted so far."""
        by_day = self._by == "day"
        in_order = sorted(self._groups.items(), key=lambda one: (0 if by_day else -one[1].tokens, one[0]))
        return UsageReport(self._by, dict(in_order), self._total)


def usage_report(records: Iterable[TokenUsageRecord], *, by: Grouping) -> UsageReport:
    """Return the totals of rows; goes through them once."""
    tally = Tally(by)
    for record in records:
        tally.add(record)
    return tally.report()


def source_of(record: TokenUsageRecord) -> str:
    """Return who a row says it was (rule 2)."""
    source = record.extra.get("source")
    return source if isinstance(source, str) and source else record.provider


def day_of(record: TokenUsageRecord) -> str:
    """Return the day of a row in UTC, "" where its `ts` says none."""
    try:
        instant = datetime.fromisoformat(record.ts.strip().upper())
        return f"{(instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant).astimezone(UTC):%Y-%m-%d}"
    except (ValueError, OverflowError):
        return ""


LABELS: Mapping[Grouping, Callable[[TokenUsageRecord], str]] = {
    "source": source_of,
    "model": lambda record: record.model,
    "day": day_of,
}
