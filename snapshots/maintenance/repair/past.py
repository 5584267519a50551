"""What the history keeps of revisions that are not whole. Pure.

Rules:
1. Rows that can be read stay as they are.
2. Of the others commit id and turn are kept, which stand in the rings of the head: these make commits idempotent.
   What such a revision added to the ledger is not known; nothing that follows has it for an ancestor.

    rows = rows_after(head, known, last, node_count)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from snapshots.head import Head
from snapshots.history import COMMIT, REPLACE, RESTORE, REWIND, HistoryRow


class UnknownCommitError(Exception):
    """The rings of the head do not reach back to a revision. Never leaves this package."""


def rows_after(
    head: Head, known: Mapping[int, HistoryRow], last: HistoryRow, node_count: int
) -> tuple[HistoryRow, ...]:
    """Return the rows behind `last`, up to the present revision.

    Args:
        head: The head.
        known: Rows that can be read, by revision.
        last: Row of the last revision that is whole.
        node_count: Nodes of the present revision.

    Raises:
        UnknownCommitError: A row is neither known nor within the rings.
    """
    rows: list[HistoryRow] = []
    for number in range(last.revision + 1, head.revision + 1):
        last = known[number] if number in known else _stand_in(head, number, last, node_count)
        rows.append(last)
    return tuple(rows)


def _stand_in(head: Head, number: int, before: HistoryRow, node_count: int) -> HistoryRow:
    if number == head.revision:
        return _last(head, node_count)
    commit_id = head.commits.commit_id(number)
    if commit_id is None:
        raise UnknownCommitError(f"the commit id of revision {number} stands neither in the history nor in the head")
    stamp = next((row.mark for row in head.stamps if row.revision == number), None)
    return replace(before, revision=number, parent=number - 1, kind=COMMIT, commit_id=commit_id, stamp=stamp, usage=())


def _last(head: Head, node_count: int) -> HistoryRow:
    number = head.revision
    stamp = next((row.mark for row in head.stamps if row.revision == number), None)
    return HistoryRow(number, number - 1, COMMIT, head.commit_id, head.updated_at, stamp, node_count, ())


def last_rows(head: Head, node_count: int) -> Iterator[HistoryRow]:
    """Yield what the row of the present revision is if it added nothing to the ledger: all else stands in the head."""
    row = _last(head, node_count)
    yield row
    yield replace(row, kind=REPLACE)
    for parent in range(row.revision - 1, 0, -1):
        yield replace(row, kind=RESTORE, parent=parent)
        yield replace(row, kind=REWIND, parent=parent)
