"""A readable account of a token ledger: totals, by source, by model, row by row. Pure.

Rules:
1. A report is derived from ledger rows and holds nothing that they do not.
2. Rows keep the ledger's order; maps keep the order of first appearance.

    SessionUsageReport.from_entries(state.token_ledger).by_source["turn"].total_tokens
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from snapshots.state.ledger import TokenLedgerEntry, diff_token_ledger
from snapshots.state.usage import ZERO_USAGE, TokenUsage
from snapshots.state.values import I64, U64, Items, Value


class UsageTotals(Value):
    """The four counts with their two sums: billed tokens, and those plus the cached ones."""

    input_tokens: I64 = 0
    output_tokens: I64 = 0
    cached_input_tokens: I64 = 0
    reasoning_tokens: I64 = 0
    total_tokens: I64 = 0
    context_total_tokens: I64 = 0

    @model_validator(mode="after")
    def _check_sums(self) -> UsageTotals:
        total = self.input_tokens + self.output_tokens + self.reasoning_tokens
        if (self.total_tokens, self.context_total_tokens) != (total, total + self.cached_input_tokens):
            raise ValueError("totals do not match the counts")
        return self

    @classmethod
    def from_usage(cls, usage: TokenUsage) -> UsageTotals:
        """Return the totals of `usage`."""
        total = usage.total()
        return cls(**usage.model_dump(), total_tokens=total, context_total_tokens=total + usage.cached_input_tokens)


class UsageReportRow(Value):
    """One ledger row of a report."""

    source: str
    model: str
    usage: TokenUsage


class SessionUsageReport(Value):
    """What a session has cost.

    Attributes:
        entry_count: Number of ledger rows.
        usage: Grand total.
        by_source: Source → totals.
        by_model: Model → totals.
        by_source_model: The rows, in ledger order.
    """

    entry_count: U64 = 0
    usage: UsageTotals = UsageTotals()
    by_source: dict[str, UsageTotals] = Field(default_factory=dict)
    by_model: dict[str, UsageTotals] = Field(default_factory=dict)
    by_source_model: Items[UsageReportRow] = ()

    @classmethod
    def from_entries(cls, entries: Sequence[TokenLedgerEntry]) -> SessionUsageReport:
        """Return the report of these rows."""
        total = ZERO_USAGE
        by_source: dict[str, TokenUsage] = {}
        by_model: dict[str, TokenUsage] = {}
        for entry in entries:
            total = total.add(entry.usage)
            by_source[entry.source] = by_source.get(entry.source, ZERO_USAGE).add(entry.usage)
            by_model[entry.model] = by_model.get(entry.model, ZERO_USAGE).add(entry.usage)
        return cls(
            entry_count=len(entries),
            usage=UsageTotals.from_usage(total),
            by_source={name: UsageTotals.from_usage(usage) for name, usage in by_source.items()},
            by_model={name: UsageTotals.from_usage(usage) for name, usage in by_model.items()},
            by_source_model=tuple(
                UsageReportRow(source=entry.source, model=entry.model, usage=entry.usage) for entry in entries
            ),
        )


def diff_usage_reports(before: SessionUsageReport, after: SessionUsageReport) -> list[UsageReportRow]:
    """Return what `after` has more than `before`, row by row, sorted by source and model.

    Raises:
        InvalidStateError: A count decreased; give the reports in the right order.
    """
    delta = diff_token_ledger(_entries(before), _entries(after))
    return [UsageReportRow(source=row.source, model=row.model, usage=row.usage) for row in delta]


def _entries(report: SessionUsageReport) -> list[TokenLedgerEntry]:
    return [TokenLedgerEntry(source=row.source, model=row.model, usage=row.usage) for row in report.by_source_model]
