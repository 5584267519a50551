"""The history: one row per revision, kept for ever. Pure.

Rules:
1. Revisions rise by one; a row is never changed.
2. `parent` is the lineage: the revision whose content this one builds on (the one before it, but for a rewind or
   restore).
3. Ledger and turn stamps are what the rows along the lineage say.

    ledger_along(rows, revision), lineage(rows, revision)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from snapshots.fields import columns, id_bytes, id_text, instant, is_whole, micros
from snapshots.stamps import StampMark, mark_from_plain
from snapshots.state import TokenLedgerEntry, TokenUsage, merge_ledger_entry

COMMIT, REPLACE, FORK, REWIND, RESTORE = "commit", "replace", "fork", "rewind", "restore"
KINDS = frozenset({COMMIT, REPLACE, FORK, REWIND, RESTORE})


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One revision.

    Attributes:
        revision: 1, 2, 3 …
        parent: Revision whose content this one builds on, 0 for none.
        kind: "commit"; "replace": ledger and graph start afresh with it; "fork": the first revision of a fork;
            "rewind", "restore": the content of `parent` again.
        commit_id: 32 hex digits.
        created_at: When the commit began, by the writer's clock; for people, not for decisions.
        stamp: The turn, or None without one.
        node_count: Nodes in the graph of this revision.
        usage: What this revision added to the ledger.
    """

    revision: int
    parent: int
    kind: str
    commit_id: str
    created_at: datetime
    stamp: StampMark | None
    node_count: int
    usage: tuple[TokenLedgerEntry, ...]

    def to_plain(self) -> list[Any]:
        """Return the row as a list, fields in order."""
        stamp = None if self.stamp is None else self.stamp.to_plain()
        usage = [[entry.source, entry.model, *_counts(entry.usage)] for entry in self.usage]
        created = micros(self.created_at)
        return [self.revision, self.parent, self.kind, id_bytes(self.commit_id), created, stamp, self.node_count, usage]

    @property
    def total_usage(self) -> TokenUsage:
        """Return the sum of what this revision added to the ledger."""
        total = TokenUsage()
        for entry in self.usage:
            total = total.add(entry.usage)
        return total


def _counts(usage: TokenUsage) -> list[int]:
    return [usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.reasoning_tokens]


def row_from_plain(plain: Any) -> HistoryRow:
    """Return the row that `to_plain` wrote. Raises ValueError, TypeError."""
    revision, parent, kind, commit_id, created, stamp, nodes, usage = columns(plain, 8)
    if not is_whole(revision, 1) or not is_whole(parent, 0, revision - 1) or not is_whole(nodes):
        raise ValueError("not a row of a history")
    if kind not in KINDS or not isinstance(usage, list | tuple):
        raise ValueError("not a row of a history")
    entries = tuple(map(_entry_from_plain, usage))
    mark = None if stamp is None else mark_from_plain(stamp)
    return HistoryRow(revision, parent, kind, id_text(commit_id), instant(created), mark, nodes, entries)


def _entry_from_plain(plain: Any) -> TokenLedgerEntry:
    source, model, given, output, cached, reasoning = columns(plain, 6)
    usage = TokenUsage(input_tokens=given, output_tokens=output, cached_input_tokens=cached, reasoning_tokens=reasoning)
    if not isinstance(source, str) or not isinstance(model, str) or usage.has_negative():
        raise ValueError("not a row of a ledger")  # a ledger only grows
    return TokenLedgerEntry(source=source, model=model, usage=usage)


def check_history(rows: Sequence[HistoryRow], revision: int) -> None:
    """Check that `rows` are revisions 1 to `revision`, without a gap. Raises ValueError."""
    if [row.revision for row in rows] != list(range(1, revision + 1)):
        raise ValueError(f"the history does not run from 1 to {revision}")


def lineage(rows: Sequence[HistoryRow], revision: int) -> list[HistoryRow]:
    """Return the rows whose content leads to `revision`, newest first; `rows[n]` is revision n + 1."""
    path = []
    while revision > 0:
        path.append(rows[revision - 1])
        revision = rows[revision - 1].parent
    return path


def ledger_along(rows: Sequence[HistoryRow], revision: int) -> list[TokenLedgerEntry]:
    """Return the token ledger of `revision`: what the rows of its lineage added, oldest first."""
    chosen: list[HistoryRow] = []
    for row in lineage(rows, revision):
        chosen.append(row)
        if row.kind == REPLACE:
            break
    ledger: list[TokenLedgerEntry] = []
    for row in reversed(chosen):
        for entry in row.usage:
            merge_ledger_entry(ledger, entry)
    return ledger


def ledger_after(
    ledger: Sequence[TokenLedgerEntry], known: int, rows: Sequence[HistoryRow], revision: int
) -> list[TokenLedgerEntry]:
    """Return the token ledger of `revision` from that of an earlier one; costs the revisions between the two.

    Args:
        ledger: Of the earlier revision.
        known: Its number.
        rows: The whole history.
        revision: Whose ledger is wanted; if it does not descend from the earlier one, the ledger is put together anew.
    """
    path: list[HistoryRow] = []
    while revision > known:
        path.append(rows[revision - 1])
        revision = rows[revision - 1].parent
    if revision != known or any(row.kind == REPLACE for row in path):
        return ledger_along(rows, path[0].revision if path else revision)
    after = list(ledger)
    for row in reversed(path):
        for entry in row.usage:
            merge_ledger_entry(after, entry)
    return after
