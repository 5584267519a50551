"""What must hold of the copies that the hosts of a seeded run made, in the end.

Rules (each a named check):
1. "as it was": what was published as a revision of a copy is what that revision was in the source; so is its history.
2. "acknowledged": a copy that was told as done was there between call and answer, of a revision that the source had
   then or before, and no older than what the source had at the call.
3. "refused": a conflict is told of only where somebody changed the copy.
4. "whole": copied once more, with nothing in the way, whatever nobody changed there equals its source.

    found = problems(notes.copies, source, copies)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from snapshots.environment import Environment
from snapshots.errors import SnapshotError
from snapshots.head import LIVE, Head
from snapshots.maintenance.copy.compare import Difference, Differs, verify_copy
from snapshots.maintenance.copy.session import SessionJob, copy_session
from snapshots.reading import named_by
from snapshots.repository import SnapshotRepository
from snapshots.testing.simulation.hosts import CopyNotes, CopyTold
from snapshots.testing.simulation.operations import HeadWritten
from snapshots.testing.simulation.watch import Watch

BY_ITSELF = {Differs.RETENTION, Differs.FIELD}  # what a copy may have dropped by itself
Written = Mapping[str, list[HeadWritten]]
"""Every head that was written, by session."""


def by_session(watch: Watch) -> Written:
    """Return every head that was written."""
    return {rows[-1].head.session_id: rows for rows in watch.written.values()}


def is_as_it_was(head: Head, source: Written) -> bool:
    """Say whether a head of a copy says of its revision what one of the source has said (rule 1)."""
    then = (one.head for one in source.get(head.session_id, []) if one.head.revision == head.revision)
    mine = (head.commit_id, named_by(head).checkpoint_ref)
    return any(one.status == LIVE and (one.commit_id, named_by(one).checkpoint_ref) == mine for one in then)


def problems(notes: CopyNotes, source: Written, copies: Written) -> Iterator[str]:
    """Yield what is wrong with what copiers were told (rules 2 and 3)."""
    for one in notes.told:
        if one.operation.told == "done":
            yield from _not_there(one, source.get(one.session_id, []), copies.get(one.session_id, []))
        elif one.is_conflict and one.session_id not in notes.changed:
            yield f"refused: {one} was told of a conflict that was none"


def _not_there(one: CopyTold, source: list[HeadWritten], copies: list[HeadWritten]) -> Iterator[str]:
    there = [row for row in copies if row.head.status == LIVE and row.head.revision == one.revision]
    if not there or there[0].instant > one.operation.answered:
        yield f"acknowledged: {one}, revision {one.revision}, was not there"
    before = max((row.head.revision for row in source if row.instant <= one.operation.called), default=0)
    if one.revision < before:
        yield f"acknowledged: {one} is of revision {one.revision}, and the source was at {before}"


@dataclass(frozen=True, slots=True)
class _Opened:
    """As much of a repository as a comparison needs."""

    environment: Environment


def differences(notes: CopyNotes, source: Environment, here: Environment, names: list[str]) -> Iterator[str]:
    """Copy once more, with nothing in the way, and yield what is not equal then (rule 4)."""
    repositories = [cast(SnapshotRepository, _Opened(one)) for one in (source, here)]  # nothing else of it is used
    for name in names:
        if name in notes.changed:
            continue
        try:
            copy_session(source, here, SessionJob(name))
        except SnapshotError as error:
            yield f"whole: {name} cannot be copied: {error}"
            continue
        for found in verify_copy(*repositories, sessions=[name], level="names"):
            if not isinstance(found, Difference) or found.what is Differs.BESIDE:  # only sessions are copied here
                continue
            if name not in notes.partial or found.what not in BY_ITSELF:
                yield f"whole: {found}"
