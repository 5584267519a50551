"""What a session has cost: one accumulated row per (source, model). Pure.

Rules:
1. The ledger counts cost; `PersistedSessionState.token_usage` counts the context window. Neither feeds the other.
2. A row whose only count is cached tokens is a row: it is kept, added and compared like any other.
3. A ledger only grows. A difference with a negative count is refused, never clamped.

    merge_ledger_entry(ledger, TokenLedgerEntry(source="turn", model="m", usage=TokenUsage(input_tokens=5)))
    diff_token_ledger(before, ledger)   # what was added since `before`

Usage of a child is booked in its parent once if only the difference is booked, and remembered:

    new = diff_token_ledger(booked, child.token_ledger)
    parent.book_usage(new, source="subagent")
    booked = list(child.token_ledger)   # the next difference starts here
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from snapshots.errors import InvalidStateError
from snapshots.state.usage import ZERO_USAGE, TokenUsage
from snapshots.state.values import Value

CHILD_SOURCE = "child"  # label of a child session's usage when its creator gave none


class TokenLedgerEntry(Value):
    """The accumulated usage of one source ("turn", "subagent", "compaction", …) with one model."""

    source: str
    model: str
    usage: TokenUsage = ZERO_USAGE

    @property
    def key(self) -> tuple[str, str]:
        """Source and model."""
        return (self.source, self.model)


def merge_ledger_entry(entries: list[TokenLedgerEntry], entry: TokenLedgerEntry) -> None:
    """Add `entry` to the first row with its source and model, or append it as a new row.

    An entry without cost (total 0 and nothing cached) changes nothing.
    """
    if entry.usage.total() == 0 and entry.usage.cached_input_tokens == 0:
        return
    for index, row in enumerate(entries):
        if row.key == entry.key:
            entries[index] = row.model_copy(update={"usage": row.usage.add(entry.usage)})
            return
    entries.append(entry)


def ledger_with(
    ledger: Sequence[TokenLedgerEntry], entries: Iterable[TokenLedgerEntry], *, source: str
) -> list[TokenLedgerEntry]:
    """Return the ledger with `entries` added under `source`, each with its own model.

    Raises:
        InvalidStateError: The source is empty, a count is negative, or a sum leaves 64 bits. Mend the entry.
    """
    if not source:
        raise InvalidStateError("usage is booked under a source; name one")
    rows = list(ledger)
    for entry in entries:
        if entry.usage.has_negative():
            raise InvalidStateError(f"usage of source {entry.source!r}, model {entry.model!r} has a negative count")
        try:
            merge_ledger_entry(rows, entry.model_copy(update={"source": source}))
        except ValidationError as error:
            raise InvalidStateError(f"the usage of source {source!r}, model {entry.model!r} leaves 64 bits") from error
    return rows


def diff_token_ledger(before: Sequence[TokenLedgerEntry], after: Sequence[TokenLedgerEntry]) -> list[TokenLedgerEntry]:
    """Return what `after` has more than `before`, sorted by source and model; rows without a difference are left out.

    Raises:
        InvalidStateError: A count decreased, or a row is gone. Give the two ledgers in the right order, or rebuild
            the later one from the earlier.
    """
    old, new = _sums(before), _sums(after)
    rows = []
    for source, model in sorted(old.keys() | new.keys()):
        delta = new.get((source, model), ZERO_USAGE).subtract(old.get((source, model), ZERO_USAGE))
        if delta.has_negative():
            raise InvalidStateError(f"token ledger decreased for source {source!r}, model {model!r}")
        if not delta.is_zero():
            rows.append(TokenLedgerEntry(source=source, model=model, usage=delta))
    return rows


def _sums(entries: Iterable[TokenLedgerEntry]) -> dict[tuple[str, str], TokenUsage]:
    sums: dict[tuple[str, str], TokenUsage] = {}
    for entry in entries:
        known = sums.get(entry.key)
        sums[entry.key] = entry.usage if known is None else known.add(entry.usage)
    return sums
