"""What an answer to the PUT of a head means: a pure decision from a fresh read of the head.

Asked after 412, 409, 404 or no answer at all, and before the first attempt. In this order, each step after a loss:

0. No head: heads are never deleted, so it is corruption.
1. Our commit id at base + 1 (in the ring, else in the history), or our turn along the present lineage: committed;
   the same turn with other content: `TurnConflictError`.
2. A tombstone: `SessionDeletedError`, or unknown if a PUT of ours was sent and the ring no longer reaches back.
   Moved: `SessionMovedError`.
3. A fence above ours, or a holder that is not ours: `FencedError`.
4. The revision moved on: `RevisionConflictError`.
5. The same revision: build the head anew from the head just read and send it. Rebuild the records if the state id
   changed; stage the pack again if the epoch is not the one it was staged under.

    decide(intent, head, history=None) -> Committed | Retry | NeedsHistory | Refused
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from snapshots.errors import (
    REPEAT_THE_COMMIT,
    CommitUnknownError,
    CorruptSnapshotError,
    FencedError,
    RevisionConflictError,
    SessionDeletedError,
    SessionMovedError,
    SnapshotError,
    TurnConflictError,
)
from snapshots.head import LIVE, MOVED, TOMBSTONE, Head
from snapshots.history import HistoryRow, lineage
from snapshots.stamps import StampMark


@dataclass(frozen=True, slots=True)
class Intent:
    """What a commit means to do, and what it rests on.

    Attributes:
        session_id: The session.
        key: Key of its head.
        commit_id: This commit's id.
        turn_id: Its stamp's turn id, "" without one.
        stamp: Its stamp's mark, None without one.
        base_revision: Revision it builds on, 0 to create the session.
        state_id: State id of the head it builds on, "" before a head was read.
        staged_epoch: Epoch read before the pack's upload began, -1 before that.
        fence: Fence first read, carried over all retries.
        nonce: Holder nonce of our Writer, "" without one.
        sent: Whether a head with this commit id may have been sent already, in this call or an earlier one.
        remedy: What to do when nobody can tell.
    """

    session_id: str
    key: str
    commit_id: str
    turn_id: str
    stamp: StampMark | None
    base_revision: int
    state_id: str
    staged_epoch: int
    fence: int
    nonce: str
    sent: bool = True
    remedy: str = REPEAT_THE_COMMIT


@dataclass(frozen=True, slots=True)
class Committed:
    """It was applied, as this revision; `own` tells whether by this very commit id or by the same turn earlier."""

    revision: int
    own: bool


@dataclass(frozen=True, slots=True)
class Retry:
    """It was not applied and still can be: send again, after what the flags ask for."""

    rebuild: bool
    restage: bool


@dataclass(frozen=True, slots=True)
class NeedsHistory:
    """The rings do not reach back far enough: read the history and decide again."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It was not applied and never will be, or nobody can tell; raise `error`."""

    error: SnapshotError


Verdict = Committed | Retry | NeedsHistory | Refused


def decide(intent: Intent, head: Head | None, history: Sequence[HistoryRow] | None = None) -> Verdict:
    """Return what follows for `intent` from the head just read.

    Args:
        intent: The commit in question.
        head: The head, None if there is none.
        history: All rows of the head's history, None while they were not read.
    """
    if head is None:
        return Refused(CorruptSnapshotError(intent.key, "the head is gone, and heads are never deleted"))
    return (
        _landed(intent, head, history)
        or _ended(intent, head)
        or _fenced(intent, head)
        or _moved_on(intent, head)
        or Retry(
            rebuild=head.state_id != intent.state_id,
            restage=head.epoch != intent.staged_epoch,
        )
    )


def _landed(intent: Intent, head: Head, history: Sequence[HistoryRow] | None) -> Verdict | None:
    next_revision = intent.base_revision + 1
    if head.commits.commit_id(next_revision) == intent.commit_id:
        return Committed(next_revision, own=True)
    if (turn := _turn_in_ring(intent, head)) is not None:
        return turn
    if not _out_of_reach(intent, head) or head.status != LIVE:
        return None
    if history is None:
        return NeedsHistory()
    if history[next_revision - 1].commit_id == intent.commit_id:
        return Committed(next_revision, own=True)
    rows = lineage(history, head.revision)
    marks = [(row.revision, row.stamp) for row in rows if row.stamp is not None]
    return _turn_among(intent, marks)


def _out_of_reach(intent: Intent, head: Head) -> bool:
    return head.revision > intent.base_revision and intent.base_revision + 1 < head.commits.first_revision


def _turn_in_ring(intent: Intent, head: Head) -> Verdict | None:
    return _turn_among(intent, [(row.revision, row.mark) for row in reversed(head.stamps)])


def _turn_among(intent: Intent, marks: Sequence[tuple[int, StampMark]]) -> Verdict | None:
    if intent.stamp is None:
        return None
    for revision, mark in marks:
        if mark.turn == intent.stamp.turn:
            if mark == intent.stamp:
                return Committed(revision, own=False)
            return Refused(TurnConflictError(intent.session_id, intent.turn_id, revision))
    return None


def _ended(intent: Intent, head: Head) -> Verdict | None:
    if head.status == TOMBSTONE:
        if intent.sent and _out_of_reach(intent, head):
            return _unknown(intent)
        return Refused(SessionDeletedError(intent.session_id))
    if head.status == MOVED:
        return Refused(SessionMovedError(intent.session_id, head.destination))
    return None


def _fenced(intent: Intent, head: Head) -> Verdict | None:
    held = head.holder is not None and head.holder.nonce != intent.nonce
    if head.fence > intent.fence or held:
        return Refused(FencedError(intent.session_id, fence=head.fence, holder=head.held_by))
    return None


def _moved_on(intent: Intent, head: Head) -> Verdict | None:
    if head.revision > intent.base_revision:
        expected = intent.base_revision or None
        return Refused(RevisionConflictError(intent.session_id, expected=expected, actual=head.revision))
    if head.revision < intent.base_revision:
        reason = f"the head is at revision {head.revision}, below {intent.base_revision} that was read before"
        return Refused(CorruptSnapshotError(intent.key, reason))
    return None


def _unknown(intent: Intent) -> Refused:
    return Refused(
        CommitUnknownError(intent.session_id, commit_id=intent.commit_id, stamp=intent.turn_id, remedy=intent.remedy)
    )
