"""Updating: load, change, commit; again on the newer state whenever somebody was faster.

Rules:
1. The change is made anew in every attempt, to a fresh state; what others committed meanwhile stays.
2. A commit in doubt is repeated with the same state object, which is recognised.
3. A turn that stands in the session already is not applied again.
4. Who lost waits, and who has won some times in a row lets others go first (`snapshots.rivalry`).
5. Updates of one session within a process go one after the other (`snapshots.queues`), each from where the last one
   ended (`snapshots.sources`): the state may be older than what others have committed. A commit that rests on such a
   state is refused by the store, and made anew. Whatever else comes of it – `function` refuses, the turn stands there
   already, the state cannot be stored – counts only if the session is seen to stand there still.

    update(environment, "s1", lambda state: state.append_active_read_delta([message], []))
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from snapshots.base import Base, Tracking, base_for, track, tracking_of
from snapshots.commit import commit, stored_turn
from snapshots.environment import Environment
from snapshots.errors import (
    CommitUnknownError,
    InvalidStateError,
    LimitExceededError,
    RevisionConflictError,
    SessionNotFoundError,
)
from snapshots.fork import InitialNodes
from snapshots.head import LIVE
from snapshots.queues import SessionQueues
from snapshots.reading import read_head
from snapshots.recent import STATES_BYTES_MAX, STATES_MAX, Recent
from snapshots.restore import load
from snapshots.rivalry import lost_wait_seconds
from snapshots.sources import FollowingSource, KnownSession, LoadingSource, Source, let_others_go_first
from snapshots.stamps import TurnStamp
from snapshots.state import AppendedNodes, CommitResult, PersistedSessionState, StaleBranch
from storage.clock import Clock, backoff_seconds

ATTEMPTS_MAX = 32  # enough for eight writers on one head, each losing to each other a few times
DOUBTS_MAX = 3  # how often a commit whose outcome could not be read is repeated

Function = Callable[[PersistedSessionState], None]
"""Changes a state in place; called once per attempt, on a fresh state."""


class _StaleBranchFoundError(Exception):
    """Leaves `update` without a commit; caught in `append_session_nodes`, never seen outside."""

    def __init__(self, answer: StaleBranch) -> None:
        self.answer = answer
        super().__init__()


def load_to_commit(
    environment: Environment, session_id: str, *, revision: int | str | None = None, execution_state: bool = False
) -> PersistedSessionState:
    """Load a revision as a state that can be committed; see `SnapshotRepository.load`."""
    loaded = load(environment, session_id, revision=revision, execution_state=execution_state)
    track(loaded.state, Tracking(loaded.base))
    return loaded.state


def load_again(environment: Environment, session_id: str, known: PersistedSessionState | None) -> PersistedSessionState:
    """Load the present revision; while the session stands where `known` does, that is one read of the head.

    Args:
        environment: Where.
        session_id: Which session.
        known: A state loaded or committed before and not changed since, None for none; what is returned is a copy.
    """
    if known is not None and _is_present(environment, session_id, known):
        return known.copy()
    return load_to_commit(environment, session_id)


def _is_present(environment: Environment, session_id: str, known: PersistedSessionState) -> bool:
    """Say whether a state stands on what the head of this session names now."""
    base = base_for(known, environment.home)
    if base is None or known.session_id != session_id:
        return False
    read = read_head(environment, session_id)
    named = (LIVE, base.head.state_id, base.revision)
    return read is not None and (read.head.status, read.head.state_id, read.head.revision) == named


class Updates:
    """The updates of one repository. Safe for threads.

    Args:
        environment: Of the repository.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._queues = SessionQueues()
        self._known: Recent[KnownSession] = Recent(
            STATES_MAX, bytes_max=STATES_BYTES_MAX, size_of=KnownSession.size_bytes
        )

    @property
    def known_sessions(self) -> int:
        """Return of how many sessions something is kept at hand, for those who watch."""
        return len(self._known)

    def update(self, session_id: str, function: Function, stamp: TurnStamp | None = None) -> CommitResult:
        """Load, apply `function`, commit; see `SnapshotRepository.update`."""
        with self._queues.one_at_a_time(session_id):
            known = self._known.take(session_id)
            source = FollowingSource(self._environment, session_id, let_others_go_first(known, self._environment.clock))
            try:
                return _updated(self._environment, source, function, stamp)
            finally:
                if source.known is not None:
                    self._known.keep(session_id, source.known)

    def append_session_nodes(
        self, session_id: str, items: InitialNodes, *, requires_ancestor_node_id: str | None
    ) -> AppendedNodes | StaleBranch:
        """Append nodes and commit, unless the branch moved away; see `SnapshotRepository.append_session_nodes`."""
        nodes = tuple(items)
        appended: list[AppendedNodes] = []

        def append(state: PersistedSessionState) -> None:
            answer = state.append_session_nodes(nodes, requires_ancestor_node_id=requires_ancestor_node_id)
            if isinstance(answer, StaleBranch):
                raise _StaleBranchFoundError(answer)
            appended.append(answer)

        try:
            self.update(session_id, append)
        except _StaleBranchFoundError as found:
            return found.answer
        return appended[-1]


def update(
    environment: Environment, session_id: str, function: Function, stamp: TurnStamp | None = None
) -> CommitResult:
    """Load, apply `function`, commit; as `SnapshotRepository.update`, but from a load in every attempt."""
    return _updated(environment, LoadingSource(lambda: load_to_commit(environment, session_id)), function, stamp)


def update_or_create(
    environment: Environment, session_id: str, function: Function, *, known: PersistedSessionState | None = None
) -> CommitResult:
    """As `update`; where there is no such session, `function` is given a fresh state, and its commit creates one.

    A state that is `known` saves a load, as for `load_again`.
    """

    def present() -> PersistedSessionState:
        try:
            return load_again(environment, session_id, known)
        except SessionNotFoundError:
            return PersistedSessionState(session_id=session_id)

    return _updated(environment, LoadingSource(present), function, None)


def _updated(environment: Environment, source: Source, function: Function, stamp: TurnStamp | None) -> CommitResult:
    for number in range(1, ATTEMPTS_MAX + 1):
        began = environment.clock.monotonic()
        with suppress(_StaleStateError):
            attempt = _Attempt(environment, source, source.state(), stamp)
            found = attempt.change(function)
            if found is not None:
                return found
            try:
                return attempt.commit()
            except RevisionConflictError as conflict:
                if number == ATTEMPTS_MAX:
                    raise
                _back_off(environment.clock, source, conflict, began)
    raise AssertionError("the last attempt returns or raises")


class _StaleStateError(Exception):
    """Leaves an attempt that counts for nothing; caught in `_updated`, never seen outside."""


class _Attempt:
    """One attempt to change the state that a source gave, and to commit it. Raises as rule 5 lets it.

    Args:
        environment: Where to.
        source: What gave the state.
        state: Fresh.
        stamp: The turn, None without one.
    """

    def __init__(
        self, environment: Environment, source: Source, state: PersistedSessionState, stamp: TurnStamp | None
    ) -> None:
        self._environment = environment
        self._source = source
        self._state = state
        self._stamp = stamp
        self._given = tracking_of(state)

    def change(self, function: Function) -> CommitResult | None:
        """Apply `function`; where the turn stands in the session already, return its result instead (rule 3)."""
        try:
            found = None if self._stamp is None else stored_turn(self._environment, self._state, self._stamp)
            if found is None:
                function(self._state)
        except Exception:
            self._check_counts()
            raise
        if found is not None:
            self._check_counts()
        return found

    def commit(self) -> CommitResult:
        """Commit what was changed; the source is told how it went, but for a conflict."""
        try:
            result = _commit_patiently(self._environment, self._state, self._stamp)
        except RevisionConflictError:
            raise
        except (InvalidStateError, LimitExceededError):
            self._check_counts()
            raise
        except BaseException:
            self._source.failed()
            raise
        self._source.won(tracking_of(self._state).base)
        return result

    def _check_counts(self) -> None:
        """Raise _StaleStateError unless a commit was sent, or the session still stands where the state does."""
        now = tracking_of(self._state)
        is_sent = now.pending is not None and now.pending.sent
        if not is_sent and _stands_at(now.base) == _stands_at(self._given.base) and not self._source.confirm():
            raise _StaleStateError


def _stands_at(base: Base | None) -> tuple[str, int] | None:
    """Return what tells one revision from another; what was read of it meanwhile makes no difference."""
    return None if base is None else (base.head.state_id, base.revision)


def _back_off(clock: Clock, source: Source, conflict: RevisionConflictError, began: float) -> None:
    """Wait after an attempt that was lost; not at all if it had no chance."""
    if losses := source.lost():
        clock.sleep(lost_wait_seconds(losses, conflict, clock.monotonic() - began, clock))


def _commit_patiently(environment: Environment, state: PersistedSessionState, stamp: TurnStamp | None) -> CommitResult:
    """Commit by rule 2."""
    for _ in range(DOUBTS_MAX):
        try:
            return commit(environment, state, stamp, execution_state=None)
        except CommitUnknownError:
            environment.clock.sleep(backoff_seconds(DOUBTS_MAX, environment.clock))
    return commit(environment, state, stamp, execution_state=None)
