"""The commit: stage one pack, publish the head by compare-and-swap.

Write order (FORMAT.md): reservation (first commit only) → pack → head.

Rules:
1. A head exists (reserved) before anything is uploaded on its behalf.
2. A pack is published only if its upload began after the head was read at the epoch which it has at the publish.
3. Every answer but 200 is settled by a fresh read of the head and `verdict.decide`; none is taken at its word.
4. The head sent is built from the head just read, so that no pin, fence or epoch of somebody else is lost.
5. Whoever cannot tell says so: `CommitUnknownError`, and the same state or stamp can be committed again.

    result = commit(environment, state, TurnStamp("turn-7"), execution_state=None)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from snapshots.base import Base, Pending, Tracking, base_for, track, tracking_of
from snapshots.checkpoint import UNBORN
from snapshots.content import Content, content_of
from snapshots.environment import Environment
from snapshots.errors import (
    CommitUnknownError,
    InvalidStateError,
    RevisionConflictError,
    SessionDeletedError,
    SessionMovedError,
    SnapshotError,
    TurnConflictError,
)
from snapshots.head import (
    HEAD_COMMIT_BYTES_MAX,
    INLINE_MANIFEST_BYTES_MAX,
    LIVE,
    RESERVED,
    RING_MAX,
    Head,
    Ring,
    stamps_appended,
)
from snapshots.history import lineage
from snapshots.layout import pack_name
from snapshots.logs import entries_of
from snapshots.restore import HeadRead, load, read_base, read_head, read_history, retried_while_moving
from snapshots.staging import Identity, Staged, stage
from snapshots.stamps import StampMark, TurnStamp, mark
from snapshots.state import CommitResult, PersistedSessionState
from snapshots.verdict import Committed, Intent, NeedsHistory, Refused, Retry, Verdict, decide
from storage.clock import backoff_seconds
from storage.errors import (
    PreconditionFailedError,
    StorageError,
    UnavailableError,
)
from storage.packs import write_pack
from storage.wrappers.metered import MeteredStore

ATTEMPTS_MAX = 8  # of a publish, with jitter between them


def commit(
    environment: Environment,
    state: PersistedSessionState,
    stamp: TurnStamp | None,
    *,
    execution_state: bytes | None,
) -> CommitResult:
    """Commit `state`; afterwards it stands on the new revision. See `SnapshotRepository.commit`."""
    metered = MeteredStore(environment.store)
    return _Commit(replace(environment, store=metered), metered, state, stamp, execution_state).run()


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
    for row in lineage(entries_of(base.history), base.revision):
        if row.stamp is not None and row.stamp.turn == wanted.turn:
            if stamp.content_hash is not None and row.stamp != wanted:
                raise TurnConflictError(state.session_id, stamp.turn_id, row.revision)
            if row.revision != base.revision:
                base = load(environment, state.session_id, revision=row.revision, execution_state=False).base
            return _result(base, uploaded_bytes=0, requests=0)
    return None


def _result(base: Base, *, uploaded_bytes: int, requests: int) -> CommitResult:
    assert base.checkpoint_ref is not None, "only a revision has a result"
    return CommitResult(
        head_revision=base.revision,
        checkpoint_ref=base.checkpoint_ref,
        manifest=base.checkpoint.manifest(),
        commit_id=entries_of(base.history[-1:])[-1].commit_id,
        uploaded_bytes=uploaded_bytes,
        requests=requests,
    )


class _Found(Exception):  # noqa: N818  an answer on its way up, caught in `run`, never seen outside
    """This commit, or its turn, stands in the history already."""

    def __init__(self, read: HeadRead, committed: Committed) -> None:
        self.read = read
        self.committed = committed
        super().__init__()


class _Commit:
    """One call of `commit`."""

    def __init__(
        self,
        environment: Environment,
        metered: MeteredStore,
        state: PersistedSessionState,
        stamp: TurnStamp | None,
        execution_state: bytes | None,
    ) -> None:
        self._environment = environment
        self._metered = metered
        self._register = environment.register(state.session_id)
        self._state = state
        known = base_for(state, environment.home)
        base = self._read_own_base() if known is None and state.head_revision is not None else known
        self._base = base
        self._content = self._content_on(base, execution_state, replaces=known is None and base is not None)
        self._identity = self._identify(stamp)
        self._intent = self._intend("" if stamp is None else stamp.turn_id)

    # What is to be done.

    def _read_own_base(self) -> Base:
        """Return the base of a state that has a revision but no base: one read of the head, and its logs."""
        session_id = self._state.session_id
        read = read_head(self._environment, session_id)
        if read is None or read.head.status == RESERVED:
            raise self._conflict(0)
        base = retried_while_moving(self._environment, session_id, lambda live: read_base(self._environment, live))
        if base.revision != self._state.head_revision:
            raise self._conflict(base.revision)
        if base.checkpoint_ref != self._state.checkpoint_ref:
            raise InvalidStateError(
                f"this state is not revision {base.revision} of session {session_id!r}, its checkpoint_ref differs; "
                "load the session and apply the turn again, or start a new one with PersistedSessionState.from_state"
            )
        return base

    def _conflict(self, actual: int) -> RevisionConflictError:
        state = self._state
        return RevisionConflictError(state.session_id, expected=state.head_revision, actual=actual)

    def _content_on(self, base: Base | None, execution_state: bytes | None, *, replaces: bool) -> Content:
        checkpoint, ledger = (UNBORN, ()) if base is None else (base.checkpoint, base.ledger)
        return content_of(self._state, checkpoint, ledger, execution_state=execution_state, replaces=replaces)

    def _identify(self, stamp: TurnStamp | None) -> Identity:
        tracking = tracking_of(self._state)
        digest = self._content.digest()
        pending = tracking.pending
        if pending is None or pending.content != digest:
            pending = Pending(self._environment.clock.new_id(), digest)
        self._pending = pending
        self._ambiguous = (
            pending.sent
        )  # whether any PUT of the head may have landed, or may yet: of an earlier call too
        track(self._state, Tracking(tracking.base, pending))
        seal = None if stamp is None else mark(stamp.turn_id, stamp.content_hash or self._content.turn_hash())
        return Identity(pending.commit_id, self._environment.clock.now(), seal)

    def _intend(self, turn_id: str) -> Intent:
        head = None if self._base is None else self._base.head
        return Intent(
            session_id=self._state.session_id,
            key=self._register.key,
            commit_id=self._identity.commit_id,
            turn_id=turn_id,
            stamp=self._identity.stamp,
            base_revision=0 if self._base is None else self._base.revision,
            state_id="" if head is None else head.state_id,
            staged_epoch=-1,
            fence=0 if head is None else head.fence,
            nonce="",
            sent=self._pending.sent,
        )

    # The protocol.

    def run(self) -> CommitResult:
        try:
            base = self._reserved() if self._base is None else self._checked(self._base)
            return self._applied(self._published(base))
        except _Found as found:
            return self._found(found)

    def _checked(self, base: Base) -> Base:
        """Return `base` if nothing in it refuses this commit already."""
        self._settle(HeadRead(base.head, base.version))
        if self._intent.stamp is not None and len(base.head.stamps) == RING_MAX:
            self._refuse_old_turn(base, self._intent.stamp)
        return base

    def _refuse_old_turn(self, base: Base, stamp: StampMark) -> None:
        """Look for the turn in the whole history: the ring no longer reaches back to its beginning."""
        for row in lineage(entries_of(base.history), base.revision):
            if row.stamp is not None and row.stamp.turn == stamp.turn:
                if row.stamp != stamp:
                    raise TurnConflictError(self._intent.session_id, self._intent.turn_id, row.revision)
                raise _Found(HeadRead(base.head, base.version), Committed(row.revision, own=False))

    def _reserved(self) -> Base:
        """Reserve the id (rule 1) and return the base of the reserved head."""
        found: HeadRead | None = None
        reason = "the head kept changing"
        for attempt in range(1, ATTEMPTS_MAX + 1):
            head = self._reservation(found)
            try:
                with self._in_doubt(unanswered=False):
                    version = self._register.swap_once(None if found is None else found.version, head.encode())
                return self._on_reservation(HeadRead(head, version))
            except PreconditionFailedError:
                pass
            except UnavailableError as error:
                reason = error.reason
            self._pause(attempt)
            found = self._read()
            if found is None:
                continue
            if found.head.write_id == head.write_id:
                return self._on_reservation(found)
            if found.head.status != RESERVED:
                self._intent = replace(self._intent, fence=found.head.fence)  # the fence first read
                self._settle(found)
                raise self._conflict(found.head.revision)
        raise self._gave_up(
            UnavailableError(self._register.key, f"the id could not be reserved: {reason}", applied="no")
        )

    def _reservation(self, found: HeadRead | None) -> Head:
        """Return a reserved head: a new one, or another creator's taken over with its epoch and fence."""
        now, write_id = self._environment.clock.now(), self._environment.clock.new_id()
        if found is not None:
            return replace(found.head, write_id=write_id, state_id=write_id, updated_at=now)
        return Head(
            session_id=self._state.session_id,
            tenant=self._environment.layout.tenant,
            family="",
            status=RESERVED,
            revision=0,
            write_id=write_id,
            commit_id="",
            state_id=write_id,
            epoch=0,
            fence=0,
            holder=None,
            checkpoint_ref=None,
            manifest=None,
            inline_manifest=b"",
            commits=Ring(),
            stamps=(),
            floor=1,
            destination="",
            created_at=now,
            updated_at=now,
        )

    def _on_reservation(self, read: HeadRead) -> Base:
        self._intent = replace(self._intent, fence=read.head.fence, state_id=read.head.state_id)
        return Base(home=self._environment.home, head=read.head, version=read.version)

    def _published(self, base: Base) -> Base:
        """Stage and publish; return the base that the new head makes."""
        staged = self._staged(base)
        self._intent = replace(self._intent, sent=True)
        # Before the first PUT, so that a crash of this call is covered.
        track(self._state, Tracking(tracking_of(self._state).base, replace(self._pending, sent=True)))
        reason = "the head kept changing"
        for attempt in range(1, ATTEMPTS_MAX + 1):
            head = self._next_head(base.head, staged)
            data = head.encode(limit_bytes=HEAD_COMMIT_BYTES_MAX)
            doubtful = self._ambiguous
            try:
                with self._in_doubt(unanswered=False):
                    version = self._register.swap_once(base.version, data)
                return self._new_base(base, HeadRead(head, version), staged)
            except PreconditionFailedError:
                self._ambiguous = True  # until the head is read: a repeated delivery of our own PUT looks the same
            except UnavailableError as error:
                self._ambiguous = doubtful = doubtful or error.applied == "unknown"
                reason = error.reason
            self._pause(attempt)
            read = self._read()
            verdict = self._settle(read)
            assert read is not None, "without a head the verdict is a refusal"
            self._ambiguous = doubtful
            if attempt < ATTEMPTS_MAX:
                base, staged = self._prepared_again(base, read, staged, verdict)
        raise self._gave_up(UnavailableError(self._register.key, reason, applied="no"))

    def _prepared_again(self, base: Base, read: HeadRead, staged: Staged, verdict: Retry) -> tuple[Base, Staged]:
        """Return base and pack for another attempt on the head just read (rule 4)."""
        if not verdict.rebuild:
            base = replace(base, head=read.head, version=read.version)
        elif read.head.status == RESERVED:
            base = Base(home=self._environment.home, head=read.head, version=read.version)
        else:
            base = self._base_again()
        self._intent = replace(self._intent, state_id=base.head.state_id)  # not the fence: the first one read counts
        if verdict.restage or (verdict.rebuild and read.head.status != RESERVED):
            staged = self._staged(base)
        return base, staged

    def _base_again(self) -> Base:
        """Read the base anew: somebody changed what the head names, but not the revision."""
        with self._in_doubt():
            base = retried_while_moving(
                self._environment, self._intent.session_id, lambda live: read_base(self._environment, live)
            )
        self._settle(HeadRead(base.head, base.version))  # it may have moved on while it was read
        return base

    def _staged(self, base: Base) -> Staged:
        """Upload the pack for a revision after `base`, under a name that was never used (rule 2)."""
        environment = self._environment
        name = pack_name(self._identity.commit_id, environment.clock.new_id())
        staged = stage(self._content, base, self._identity, name)
        key = environment.layout.pack(base.head.family or base.head.session_id, name)
        with self._in_doubt():
            write_pack(environment.store, key, staged.data, environment.clock)
        self._intent = replace(self._intent, staged_epoch=staged.epoch)
        return staged

    def _next_head(self, head: Head, staged: Staged) -> Head:
        write_id = self._environment.clock.new_id()
        revision = staged.checkpoint.revision
        inline = staged.manifest_run if len(staged.manifest_run) <= INLINE_MANIFEST_BYTES_MAX else b""
        return replace(
            head,
            family=head.family or head.session_id,
            status=LIVE,
            revision=revision,
            write_id=write_id,
            commit_id=self._identity.commit_id,
            state_id=write_id,
            checkpoint_ref=staged.checkpoint_ref,
            manifest=staged.manifest,
            inline_manifest=inline,
            commits=head.commits.appended(self._identity.commit_id),
            stamps=stamps_appended(head.stamps, revision, self._identity.stamp),
            updated_at=self._identity.created_at,
        )

    def _new_base(self, base: Base, read: HeadRead, staged: Staged) -> Base:
        return replace(
            base,
            head=read.head,
            version=read.version,
            checkpoint=staged.checkpoint,
            checkpoint_ref=staged.checkpoint_ref,
            placement=staged.placement,
            history=staged.history,
            places=staged.places,
            ledger=self._content.ledger,
        )

    # Answers.

    def _read(self) -> HeadRead | None:
        """Read the head, patiently: the answer decides what became of a PUT."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                with self._in_doubt(unanswered=False):
                    return read_head(self._environment, self._state.session_id)
            except UnavailableError as error:
                if attempt == ATTEMPTS_MAX:
                    raise self._gave_up(error) from error
                self._pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    def _settle(self, read: HeadRead | None) -> Retry:
        """Return how to go on; raise what was decided (rule 3)."""
        verdict = decide(self._intent, None if read is None else read.head)
        if isinstance(verdict, NeedsHistory):
            read, verdict = self._decided_by_history()
        if isinstance(verdict, Refused):
            raise verdict.error
        if isinstance(verdict, Committed) and read is not None:
            raise _Found(read, verdict)
        assert isinstance(verdict, Retry), "with head and history the verdict is one of the four"
        return verdict

    def _decided_by_history(self) -> tuple[HeadRead | None, Verdict]:
        """Return the head and what it and its whole history say."""
        environment = self._environment
        try:
            with self._in_doubt():
                read, rows = retried_while_moving(
                    environment, self._intent.session_id, lambda live: (live, read_history(environment, live.head))
                )
        except (SessionDeletedError, SessionMovedError):  # just now: its ring alone decides
            last = self._read()
            return last, decide(self._intent, None if last is None else last.head)
        return read, decide(self._intent, read.head, rows)

    @contextmanager
    def _in_doubt(self, *, unanswered: bool = True) -> Iterator[None]:
        """Turn failures into `CommitUnknownError` once a PUT of the head may have landed (rule 5).

        Before that, no answer means that nothing was committed. With `unanswered=False` the caller sees to it.
        """
        try:
            yield
        except PreconditionFailedError:
            raise
        except UnavailableError as error:
            if unanswered:
                raise self._gave_up(error) from error
            raise
        except (SessionDeletedError, SessionMovedError):
            raise
        except (StorageError, SnapshotError) as error:
            if self._ambiguous:
                raise self._unknown(str(error)) from error
            raise

    def _gave_up(self, error: UnavailableError) -> CommitUnknownError | UnavailableError:
        if self._ambiguous:
            return self._unknown(error.reason)
        return UnavailableError(error.key, error.reason, applied="no")

    def _unknown(self, reason: str) -> CommitUnknownError:
        commit_id, turn_id = self._intent.commit_id, self._intent.turn_id
        return CommitUnknownError(self._intent.session_id, commit_id=commit_id, stamp=turn_id, reason=reason)

    def _pause(self, attempt: int) -> None:
        self._environment.clock.sleep(backoff_seconds(attempt, self._environment.clock))

    # What the caller gets.

    def _applied(self, base: Base) -> CommitResult:
        result = self._result(base)
        self._state.apply_persisted_commit_result(result)
        track(self._state, Tracking(base))
        return result

    def _found(self, found: _Found) -> CommitResult:
        """Return the stored result of a commit that stands in the history, and bring the state to it."""
        revision = found.committed.revision
        self._ambiguous = True  # it was applied: that its result cannot be read is no "no"
        with self._in_doubt():
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
            lambda live: read_base(environment, live) if live.head.revision == revision else None,
        )

    def _result(self, base: Base) -> CommitResult:
        counts = self._metered.metrics.snapshot()
        return _result(base, uploaded_bytes=counts["put"].bytes_out, requests=counts.total_requests)
