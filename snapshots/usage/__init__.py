"""The usage log of a session: one JSON line per call of a model, appended by many, read once each.

log = UsageLog(repo, "s1")
log.append(TokenUsageRecord(ts="2026-01-01T00:00:00Z", model="m", input_tokens=10).to_line())
usage_report((row.record for row in log.read()), by="model").total.tokens
compact(repo, "s1")
"""

from snapshots.usage.compaction import CompactReport, compact
from snapshots.usage.log import UsageLog
from snapshots.usage.report import UsageReport, UsageTotals, usage_report
from snapshots.usage.rows import ROW_BYTES_MAX, TokenUsageRecord, UsageRow
from snapshots.usage.segments import LiveSegment

__all__ = [
    "ROW_BYTES_MAX",
    "CompactReport",
    "LiveSegment",
    "TokenUsageRecord",
    "UsageLog",
    "UsageReport",
    "UsageRow",
    "UsageTotals",
    "compact",
    "usage_report",
]
