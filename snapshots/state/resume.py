"""What resuming a session changed, missed or refused. Pure.

Rules:
1. Nothing that a load repairs, cannot find or cannot restore goes unsaid: it is a finding here, not only a log line.
2. A report is true if it has findings, so `if report:` asks whether anything needs a look.

    report = healing.report() + plugins.restore(snapshot)
"""

from __future__ import annotations

from typing import Literal

from snapshots.state.values import Items, Value, omit_empty

FindingKind = Literal["leaf", "node", "part", "plugin", "tool_state", "execution_state", "policy"]


class ResumeFinding(Value):
    """One thing found while resuming: what it is about, its name or id, and what happened."""

    kind: FindingKind
    name: str
    reason: str


class ResumeReport(Value):
    """All findings of one resume.

    Attributes:
        healed: Repaired; the session differs from what was stored.
        missing: Stored, but not found or not installed here.
        refused: Found, but whoever should take it did not.
    """

    healed: Items[ResumeFinding] = omit_empty(tuple)
    missing: Items[ResumeFinding] = omit_empty(tuple)
    refused: Items[ResumeFinding] = omit_empty(tuple)

    def __bool__(self) -> bool:
        return bool(self.healed or self.missing or self.refused)

    def __add__(self, other: ResumeReport) -> ResumeReport:
        return ResumeReport(
            healed=self.healed + other.healed,
            missing=self.missing + other.missing,
            refused=self.refused + other.refused,
        )
