"""Copying a usage log: the rows that the log here does not have are appended to it, byte for byte.

Rules:
1. A row is known by its id, and rows never go: copies unite, whatever either log has of its own. So there is no
   conflict, and a run that was interrupted goes on.
2. They come in the source's order, and through the log's own writer: many together, all of them or none.
3. A mark of the source's index among the write ids of the one here says that all its rows are here. While it stands
   there, two GETs find out that there is nothing to do.
4. A segment's rows are held at a time, and of every row here a digest of its id.

    copied = copy_usage(source, here, "s1", "s1")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from snapshots.environment import Environment
from snapshots.maintenance.copy.satellites.marks import made_by, mark_of
from snapshots.maintenance.copy.satellites.outcome import KindCopied, not_from_there, writing_here
from snapshots.satellite import Found
from snapshots.usage import UsageLog, UsageRow
from snapshots.usage.callers import ID_BYTES_MAX
from snapshots.usage.index import KIND, index_register, last_index, present_index
from snapshots.usage.reading import Distinct, stored_rows
from snapshots.usage.segments import SEGMENT_BYTES_MAX, SEGMENT_ROWS_MAX, Index


@dataclass(frozen=True, slots=True)
class _Host:
    """What a usage log is opened on."""

    environment: Environment


def copy_usage(source: Environment, here: Environment, session_id: str, target_id: str) -> KindCopied:
    """Append the rows of a usage log that the one here does not have. Raises as `copy_satellites`."""
    there = index_register(source, session_id).look()
    if there is None:
        return KindCopied("usage", "absent")
    mark = mark_of(made_by(there.ring))
    register = index_register(here, target_id)
    with writing_here(target_id, KIND.name):
        present = register.find()
    if present is not None and mark in present.ring:
        return KindCopied("usage", "same" if present.ring[-1] == mark else "ahead")
    unseen = Distinct()
    if present is not None:
        for rows in stored_rows(here, target_id, lambda: present_index(register).value):
            unseen.note(rows)
    log = UsageLog(_Host(here), target_id)
    count = size = 0
    for some in _together(unseen.of(row for rows in _rows_of(source, session_id) for row in rows)):
        with writing_here(target_id, KIND.name):
            log.append_rows(some)
        count += len(some)
        size += sum(len(row.text.encode()) for row in some)
    with writing_here(target_id, KIND.name):
        register.check_not_moved(register.copy_in(_unchanged, (mark,)))
    return KindCopied("usage", "copied" if count else "same", count, size)


def check_usage_returns(source: Environment, here: Environment, session_id: str, target_id: str) -> None:
    """Check that the source has all rows that were left behind here, if any were. Raises CopyConflictError."""
    left = index_register(here, target_id).look()
    if left is None or not left.destination:
        return
    found = index_register(source, session_id).look()
    if found is None or found.destination:
        raise not_from_there(target_id, KIND.name, left.destination)
    if mark_of(made_by(left.ring)) in found.ring:
        return
    unseen = Distinct()
    for rows in _rows_of(source, session_id):
        unseen.note(rows)
    if any(True for _ in unseen.of(row for rows in _rows_of(here, target_id) for row in rows)):
        raise not_from_there(target_id, KIND.name, left.destination)


def _rows_of(source: Environment, session_id: str) -> Iterator[Iterator[UsageRow]]:
    register = index_register(source, session_id)
    return stored_rows(source, session_id, lambda: last_index(register).value)


def _unchanged(present: Found[Index] | None) -> Index:
    """Return the index as it is, to be written all the same (rule 3)."""
    return Index() if present is None else replace(present.value)


def _together(rows: Iterable[UsageRow]) -> Iterator[list[UsageRow]]:
    """Yield rows, as many together as one segment holds (rule 2)."""
    some: list[UsageRow] = []
    room = SEGMENT_BYTES_MAX
    for row in rows:
        size = len(row.text.encode()) + ID_BYTES_MAX
        if some and (size > room or len(some) == SEGMENT_ROWS_MAX):
            yield some
            some, room = [], SEGMENT_BYTES_MAX
        some.append(row)
        room -= size
    if some:
        yield some
