"""Replaying transcripts into a store, turn by turn, from wherever it stopped.

Rules:
1. All files are read and checked before anything is committed.
2. A session goes on after the turns that its loaded state has completed; that these are the transcript's own turns is
   checked, so that two runs of one name are never mixed.
3. Every turn is a commit with its own stamp: committed once, whoever repeats it and however often.
4. A commit whose fate is unknown is repeated with the same state; a conflict means to load and go on. Both are bounded.

    report = replay_session(repo, written, session, on_turn=lambda: None)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshots.adapters.transcripts import TranscriptSession, apply_turn, check_continues, read_transcripts
from snapshots.cli.written import WrittenStore
from snapshots.errors import CommitUnknownError, InvalidInputError, RevisionConflictError, SessionNotFoundError
from snapshots.repository import SnapshotRepository
from snapshots.stamps import TurnStamp
from snapshots.state import PersistedSessionState
from storage.clock import SystemClock, backoff_seconds

ATTEMPTS_MAX = 8  # in a row without getting further, for a commit in doubt and for conflicts

_clock = SystemClock()


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What replaying one session did.

    Attributes:
        session_id: Which session.
        turns: Turns committed by this run.
        revision: Where the session stands now.
        requests: Requests made for it.
        uploaded_bytes: Bytes sent for it.
        stored_bytes: What this run's commits left in the store: packs, and the head.
        seconds: How long it took.
    """

    session_id: str
    turns: int
    revision: int
    requests: int
    uploaded_bytes: int
    stored_bytes: int
    seconds: float


def read_files(files: Sequence[Path], limit: int | None) -> list[TranscriptSession]:
    """Return the first `limit` sessions of the files, all of which are checked.

    Raises:
        InvalidInputError: A file is no good, or two files have a session of one id.
    """
    found: dict[str, TranscriptSession] = {}
    for file in files:
        for session in read_transcripts(file):
            other = found.setdefault(session.session_id, session)
            if other is not session:
                reason = f"session {session.session_id!r} is in {other.source} too; give one file another name"
                raise InvalidInputError(session.source, "", reason)
    return list(found.values())[:limit]


def replay_session(
    repo: SnapshotRepository, written: WrittenStore, session: TranscriptSession, *, on_turn: Callable[[], None]
) -> ReplayReport:
    """Commit the turns of `session` that the store does not have yet.

    Args:
        repo: Where to.
        written: The store under `repo`, with nobody else writing through it.
        session: A checked transcript.
        on_turn: Called for every turn that is done, those that were there before included.

    Raises:
        InvalidInputError: The session in the store is not this transcript.
        SessionDeletedError: Its id is spent.
        RevisionConflictError, CommitUnknownError, UnavailableError: Run it again; it goes on where it stopped.
    """
    written.sizes.clear()
    before, start = repo.metrics.snapshot(), _clock.monotonic()
    state = _loaded(repo, session)
    turns = conflicts = 0
    for _ in range(state.turn_index):
        on_turn()
    while state.turn_index < len(session.turns):
        index = state.turn_index
        apply_turn(state, session, index)
        try:
            _commit(repo, state, TurnStamp(turn_id=f"turn-{index}"))
        except RevisionConflictError:
            conflicts += 1
            if conflicts == ATTEMPTS_MAX:
                raise
            state = _loaded(repo, session)
            continue
        conflicts = 0
        turns += 1
        on_turn()
    repo.drain()
    used = repo.metrics.snapshot() - before
    return ReplayReport(
        session_id=session.session_id,
        turns=turns,
        revision=state.head_revision or 0,
        requests=used.total_requests,
        uploaded_bytes=used["put"].bytes_out,
        stored_bytes=sum(written.sizes.values()),
        seconds=round(_clock.monotonic() - start, 6),
    )


def _loaded(repo: SnapshotRepository, session: TranscriptSession) -> PersistedSessionState:
    try:
        state = repo.load(session.session_id)
    except SessionNotFoundError:
        return PersistedSessionState(session_id=session.session_id)
    check_continues(state, session)
    return state


def _commit(repo: SnapshotRepository, state: PersistedSessionState, stamp: TurnStamp) -> None:
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            repo.commit(state, stamp=stamp)
            return
        except CommitUnknownError:
            if attempt == ATTEMPTS_MAX:
                raise
            _clock.sleep(backoff_seconds(attempt, _clock))
