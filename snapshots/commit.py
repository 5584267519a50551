"""The commit: what a state adds to the revision it stands on becomes the next one.

Write order (FORMAT.md): reservation (first commit only) → pack → head; `snapshots.publish` sees to it.

Rules:
1. The same content committed again has the same commit id, so that a commit that was applied after all is recognised.
2. If it raises, the state is as before; afterwards it stands on the new revision.
3. A turn that stands in the session already returns its stored result.
4. Of a new execution state only what differs from the parent's is stored, also by a process that has not read that one:
   it is read then. Nothing is read where nothing is new.

    result = commit(environment, state, TurnStamp("turn-7"), execution_state=None)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import BinaryIO

from snapshots.ahead import tail_stored, upload_ahead
from snapshots.base import Base, Pending, Tracking, base_for, track, tracking_of
from snapshots.checkpoint import UNBORN
from snapshots.content import Content, content_of
from snapshots.environment import Environment
from snapshots.errors import (
    CommitUnknownError,
    FencedError,
    InvalidStateError,
    RevisionConflictError,
    RevisionNotFoundError,
    TurnConflictError,
)
from snapshots.execution import with_execution_state
from snapshots.head import LIVE, RESERVED, RING_MAX, Head, check_relation
from snapshots.history import lineage
from snapshots.operations import operation
from snapshots.parts import EXECUTION_STATE, SpooledPart, held_part, is_large
from snapshots.publish import Found, Ownership, Publication, intent_on
from snapshots.reading import HeadRead, read_base, read_head, retried_while_moving
from snapshots.restore import load, load_from
from snapshots.spooling import can_seek, taken
from snapshots.staging import Identity, Staged, stage
from snapshots.stamps import StampMark, TurnStamp, mark
from snapshots.state import ROOT, CommitResult, PersistedSessionState, SessionRelation
from snapshots.verdict import Committed
from storage.errors import UnavailableError
from storage.spools import Spool
from storage.wrappers.metered import MeteredStore


@operation("commit", "environment", "state.session_id", revision="head_revision")
def commit(
    environment: Environment,
    state: PersistedSessionState,
    stamp: TurnStamp | None,
    *,
    execution_state: bytes | BinaryIO | None,
    ownership: Ownership | None = None,
    relation: SessionRelation = ROOT,
) -> CommitResult:
    """Commit `state`; afterwards it stands on the new revision. See `SnapshotRepository.commit`.

    Args:
        environment: Where to.
        state: What to commit.
        stamp: Its turn, None without one.
        execution_state: New execution state, bytes or a stream at its start; None for the state's own.
        ownership: The Writer that commits, None for anyone.
        relation: Of a session that this commit creates.
    """
    metered = MeteredStore(environment.store)
    own = replace(environment, store=metered)
    with Spool(environment.executor) as spool, _at_its_start_again(execution_state):
        committing = _prepared(own, metered, spool, state, stamp, execution_state, ownership, check_relation(relation))
        result = committing.run()
    base = tracking_of(state).base
    assert base is not None, "a committed state stands on its revision"
    track(state, Tracking(upload_ahead(environment, base)))
    return result


@contextmanager
def _at_its_start_again(given: bytes | BinaryIO | None) -> Iterator[None]:
    """Bring a stream back to where it was if the commit fails, as far as it can be: it may be committed again."""
    if given is None or isinstance(given, bytes | bytearray | memoryview) or not can_seek(given):
        yield
        return
    start = given.tell()
    try:
        yield
    except BaseException:
        with suppress(OSError, ValueError):  # a broken or closed one stays as it is: what is wrong is raised already
            given.seek(start)
        raise


def has_changes(environment: Environment, state: PersistedSessionState) -> bool:
    """Say whether a commit of `state` would store anything new; true for a state that stands on nothing here.

    Raises:
        InvalidStateError: The state breaks a rule, as for `commit`.
    """
    base = base_for(state, environment.home)
    if base is None:
        return True
    return content_of(state, base.checkpoint, base.ledger, execution_state=None).adds_to(base.checkpoint)


def stored_turn(environment: Environment, state: PersistedSessionState, stamp: TurnStamp) -> CommitResult | None:
    """Return the stored result of a turn that stands in the lineage of a loaded state, None if it does not.

    Without a content hash the turn id alone is compared: what the turn would do again is not known yet.

    Raises:
        TurnConflictError: It stands there with another content hash.
    """
    base = tracking_of(state).base
    if base is None:
        return None
    wanted = mark(stamp.turn_id, stamp.content_hash or "")
    for row in lineage(base.rows, base.revision):
        if row.stamp is not None and row.stamp.turn == wanted.turn:
            if stamp.content_hash is not None and row.stamp != wanted:
                raise TurnConflictError(state.session_id, stamp.turn_id, row.revision)
            if row.revision != base.revision:
                base = load(environment, state.session_id, revision=row.revision, execution_state=False).base
            return result_of(base, uploaded_bytes=0, requests=0)
    return None


def result_of(base: Base, *, uploaded_bytes: int, requests: int) -> CommitResult:
    """Return what a commit says of the revision that `base` stands on."""
    assert base.checkpoint_ref is not None, "only a revision has a result"
    return CommitResult(
        head_revision=base.revision,
        checkpoint_ref=base.checkpoint_ref,
        manifest=base.checkpoint.manifest(),
        commit_id=base.row.commit_id,
        uploaded_bytes=uploaded_bytes,
        requests=requests,
    )


def _prepared(
    environment: Environment,
    metered: MeteredStore,
    spool: Spool,
    state: PersistedSessionState,
    stamp: TurnStamp | None,
    execution_state: bytes | BinaryIO | None,
    ownership: Ownership | None,
    relation: SessionRelation,
) -> _Commit:
    """Read what a commit rests on and compares with, and make out what it stores; nothing is sent yet."""
    known = base_for(state, environment.home)
    with _before_any_put(state):
        base = _read_own_base(environment, state) if known is None and state.head_revision is not None else known
        given = state.execution_state_snapshot if execution_state is None else execution_state
        part, base = (None, base) if given is None else taken(environment, base, given, spool)
    if known is not None:
        track(state, replace(tracking_of(state), base=base))  # with what was read, lest it be read again
    content = _content_on(state, base, part, replaces=known is None and base is not None)
    seal = None if stamp is None else mark(stamp.turn_id, stamp.content_hash or content.turn_hash())
    pending = _pend(environment, state, content, seal)
    identity = Identity(pending.commit_id, environment.clock.now(), pending.stamp)
    intent = intent_on(
        environment,
        state.session_id,
        None if base is None else base.head,
        identity,
        revision=0 if base is None else base.revision,
        ownership=ownership,
        turn_id="" if stamp is None else stamp.turn_id,
        sent=pending.sent,
    )
    publication = Publication(environment, intent, identity)
    return _Commit(environment, metered, state, relation, base, content, pending, publication)


@contextmanager
def _before_any_put(state: PersistedSessionState) -> Iterator[None]:
    """Say of a store that does not answer what became of this commit: an earlier call may have sent it."""
    try:
        yield
    except UnavailableError as error:
        pending = tracking_of(state).pending
        if pending is None or not pending.sent:
            raise UnavailableError(error.key, error.reason, applied="no") from error
        session_id, commit_id = state.session_id, pending.commit_id
        raise CommitUnknownError(session_id, commit_id=commit_id, stamp="", reason=error.reason) from error


def _read_own_base(environment: Environment, state: PersistedSessionState) -> Base:
    """Return the base of a state that has a revision but no base: one read of the head, and its logs."""
    session_id = state.session_id
    read = read_head(environment, session_id)
    if read is None or read.head.status == RESERVED:
        raise _conflict(state, 0)
    base = retried_while_moving(environment, session_id, lambda live: read_base(environment, live))
    if base.revision != state.head_revision:
        raise _conflict(state, base.revision)
    if base.checkpoint_ref != state.checkpoint_ref:
        raise InvalidStateError(
            f"this state is not revision {base.revision} of session {session_id!r}, its checkpoint_ref differs; "
            "load the session and apply the turn again, or start a new one with PersistedSessionState.from_state"
        )
    return base


def _conflict(state: PersistedSessionState, actual: int) -> RevisionConflictError:
    return RevisionConflictError(state.session_id, expected=state.head_revision, actual=actual)


def _content_on(
    state: PersistedSessionState, base: Base | None, part: bytes | SpooledPart | None, *, replaces: bool
) -> Content:
    checkpoint, ledger = (UNBORN, ()) if base is None else (base.checkpoint, base.ledger)
    return content_of(state, checkpoint, ledger, execution_state=part, replaces=replaces)


def _pend(environment: Environment, state: PersistedSessionState, content: Content, seal: StampMark | None) -> Pending:
    """Return the commit begun for this very content and turn, or a new one (rule 1).

    In doubt the same state object is repeated also without the stamp that it was given before.
    """
    tracking = tracking_of(state)
    digest = content.digest()
    pending = tracking.pending
    repeats = pending is not None and (pending.stamp == seal or (seal is None and pending.sent))
    if pending is None or pending.content != digest or not repeats:
        pending = Pending(environment.clock.new_id(), digest, seal)
    track(state, Tracking(tracking.base, pending))
    return pending


class _Commit:
    """One call of `commit`.

    Args:
        environment: Where to.
        metered: Its store, which counts what this call asks of it.
        state: What to commit.
        relation: Of a session that this commit creates.
        base: What it rests on, None for a new session.
        content: What it stores.
        pending: The commit begun.
        publication: What puts it into the head.
    """

    def __init__(
        self,
        environment: Environment,
        metered: MeteredStore,
        state: PersistedSessionState,
        relation: SessionRelation,
        base: Base | None,
        content: Content,
        pending: Pending,
        publication: Publication,
    ) -> None:
        self._environment = environment
        self._metered = metered
        self._state = state
        self._relation = relation
        self._base = base
        self._content = content
        self._pending = pending
        self._publication = publication

    # The protocol.

    def run(self) -> CommitResult:
        try:
            base = self._reserved() if self._base is None else self._with_parent(self._checked(self._base))
            return self._applied(self._publication.publish(base, self._build, sending=self._sending, born=self._born))
        except Found as found:
            return self._found(found)

    def _with_parent(self, base: Base) -> Base:
        """Return the base with the bytes that the new execution state is compared with (rule 4)."""
        part, parent = self._content.execution_state, base.checkpoint.execution_state
        if part is None or not isinstance(part.data, bytes) or parent is None or is_large(parent.size_bytes):
            return base
        with self._publication.doubting():
            return with_execution_state(self._environment, base)

    def _build(self, base: Base, name: str) -> Staged:
        return stage(self._content, tail_stored(base), self._publication.identity, name, self._environment.limits)

    def _born(self, head: Head) -> Head:
        return replace(head, relation=self._relation)

    def _sending(self) -> None:
        track(self._state, Tracking(tracking_of(self._state).base, replace(self._pending, sent=True)))

    def _reserved(self) -> Base:
        read = self._publication.reserve()
        return Base(home=self._environment.home, head=read.head, version=read.version)

    def _checked(self, base: Base) -> Base:
        """Return `base` if nothing refuses this commit already.

        The head that the base remembers may be old: that a session was held then does not mean that it still is.
        """
        try:
            self._publication.settle(HeadRead(base.head, base.version))
        except FencedError:
            self._publication.settle(self._publication.read())
        stamp = self._publication.intent.stamp
        if stamp is not None and len(base.head.stamps) == RING_MAX:
            self._refuse_old_turn(base, stamp)
        return base

    def _refuse_old_turn(self, base: Base, stamp: StampMark) -> None:
        """Look for the turn in the whole history: the ring no longer reaches back to its beginning."""
        intent = self._publication.intent
        for row in lineage(base.rows, base.revision):
            if row.stamp is not None and row.stamp.turn == stamp.turn:
                if row.stamp != stamp:
                    raise TurnConflictError(intent.session_id, intent.turn_id, row.revision)
                raise Found(HeadRead(base.head, base.version), Committed(row.revision, own=False))

    # What the caller gets.

    def _applied(self, base: Base) -> CommitResult:
        result = self._result(base)
        self._state.apply_persisted_commit_result(result)
        track(self._state, Tracking(base))
        return result

    def _found(self, found: Found) -> CommitResult:
        """Return the stored result of a commit that stands in the history, and bring the state to it."""
        revision, head = found.committed.revision, found.read.head
        if head.status == LIVE and not head.retains(revision):
            raise RevisionNotFoundError(
                head.session_id, revision, reason="this turn was committed as it, and retention has dropped it since"
            )
        with self._publication.applied():
            if found.committed.own and (base := self._base_at(revision)) is not None:
                return self._applied(base)
            loaded = load(self._environment, self._state.session_id, revision=revision, execution_state=False)
        self._state.adopt(loaded.state)
        return self._applied(loaded.base)

    def _base_at(self, revision: int) -> Base | None:
        """Return the base of the present revision if it is this one: then the state is what it holds."""
        environment = self._environment
        return retried_while_moving(
            environment,
            self._state.session_id,
            lambda live: self._own_base(live) if live.head.revision == revision else None,
        )

    def _own_base(self, live: HeadRead) -> Base:
        base = load_from(self._environment, live, live.head.revision, execution_state=False).base
        part = self._content.execution_state
        if part is None or part.data is None:
            return base
        held = part.data.held() if isinstance(part.data, SpooledPart) else held_part(part.ref, part.data)
        return base if held is None else replace(base, parts=base.parts.holding(EXECUTION_STATE, held))

    def _result(self, base: Base) -> CommitResult:
        counts = self._metered.metrics.snapshot()
        return result_of(base, uploaded_bytes=counts["put"].bytes_out, requests=counts.total_requests)
