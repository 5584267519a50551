"""Publishing: how a new revision gets into a head. Reserve, stage, compare-and-swap, and find out what happened.

Rules:
1. A head exists (reserved) before anything is uploaded or read on its behalf.
2. A pack is published only if its upload began after the head was read at the epoch which it has at the publish.
3. Every answer but 200 is settled by a fresh read of the head and `verdict.decide`; none is taken at its word.
4. The head sent is built from the head just read, so that no pin, fence or epoch of somebody else is lost.
5. Whoever cannot tell says so: `CommitUnknownError`.

    publication = Publication(environment, intent_on(environment, "s1", head, identity, revision=7), identity)
    base = publication.publish(base, build, sending)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from snapshots.base import Base
from snapshots.environment import Environment
from snapshots.errors import (
    REPEAT_THE_COMMIT,
    CommitUnknownError,
    RevisionConflictError,
    SessionDeletedError,
    SessionMovedError,
    SnapshotError,
)
from snapshots.head import (
    HEAD_COMMIT_BYTES_MAX,
    LIVE,
    RESERVED,
    Head,
    Ring,
)
from snapshots.layout import pack_name
from snapshots.reading import HeadRead, read_base, read_head, read_history, retried_while_moving
from snapshots.staging import Identity, Staged
from snapshots.verdict import Committed, Intent, NeedsHistory, Refused, Retry, Verdict, decide
from storage.clock import backoff_seconds
from storage.errors import PreconditionFailedError, StorageError, UnavailableError
from storage.packs import write_pack
from storage.store import Version

ATTEMPTS_MAX = 8  # of a publish, with jitter between them

Build = Callable[[Base, str], Staged]
"""What makes a pack of a given name for a revision after a base; called again whenever the base had to change."""


class Found(Exception):  # noqa: N818  an answer on its way up, caught by whoever publishes, never seen outside
    """This commit, or its turn, stands in the history already."""

    def __init__(self, read: HeadRead, committed: Committed) -> None:
        self.read = read
        self.committed = committed
        super().__init__()


@dataclass(frozen=True, slots=True)
class NotStored:
    """A head that was sent and is not stored: the one that stands there, and how to go on from it."""

    read: HeadRead
    verdict: Retry


@dataclass(frozen=True, slots=True)
class Ownership:
    """On whose behalf a Writer commits.

    Attributes:
        fence: Its fence.
        nonce: Its holder nonce.
    """

    fence: int
    nonce: str


def intent_on(
    environment: Environment,
    session_id: str,
    head: Head | None,
    identity: Identity,
    *,
    revision: int = 0,
    ownership: Ownership | None = None,
    turn_id: str = "",
    sent: bool = False,
    remedy: str = REPEAT_THE_COMMIT,
) -> Intent:
    """Return what a commit rests on.

    Args:
        environment: Where.
        session_id: Which session.
        head: The head first read, None to create the session.
        identity: Which commit.
        revision: The revision it builds on, 0 to create the session.
        ownership: The Writer on whose behalf, None for anyone.
        turn_id: Of its stamp, "" without one.
        sent: Whether a head with this commit id may have been sent already.
        remedy: What to do when nobody can tell.
    """
    first_read = 0 if head is None else head.fence
    return Intent(
        session_id=session_id,
        key=environment.layout.head(session_id),
        commit_id=identity.commit_id,
        turn_id=turn_id,
        stamp=identity.stamp,
        base_revision=revision,
        state_id="" if head is None else head.state_id,
        staged_epoch=-1,
        fence=first_read if ownership is None else ownership.fence,
        nonce="" if ownership is None else ownership.nonce,
        sent=sent,
        remedy=remedy,
    )


class Publication:
    """One commit id on its way into one head.

    Attributes:
        intent: What it rests on, kept up to date.
        identity: Which commit it is.
        ambiguous: Whether any PUT of the head may have landed, or may yet: of an earlier call too.
    """

    def __init__(self, environment: Environment, intent: Intent, identity: Identity) -> None:
        self.intent = intent
        self.identity = identity
        self.ambiguous = intent.sent
        self._environment = environment
        self._register = environment.register(intent.session_id)

    # The protocol.

    def reserve(self) -> HeadRead:
        """Reserve the id (rule 1), or take another creator's reservation over; return the reserved head.

        Raises:
            RevisionConflictError: The session exists already; and as `settle`.
        """
        found: HeadRead | None = None
        reason = "the head kept changing"
        for attempt in range(1, ATTEMPTS_MAX + 1):
            head = self._reservation(found)
            try:
                with self.doubting(unanswered=False):
                    version = self._register.swap_once(None if found is None else found.version, head.encode())
                return self._on_reservation(HeadRead(head, version))
            except PreconditionFailedError:
                pass
            except UnavailableError as error:
                reason = error.reason
            self.pause(attempt)
            found = self.read()
            if found is None:
                continue
            if found.head.write_id == head.write_id:
                return self._on_reservation(found)
            if found.head.status != RESERVED:
                self._settle_creation(found)
                raise RevisionConflictError(self.intent.session_id, expected=None, actual=found.head.revision)
        raise self.gave_up(
            UnavailableError(self._register.key, f"the id could not be reserved: {reason}", applied="no")
        )

    def _settle_creation(self, found: HeadRead) -> None:
        """Raise what a head that exists means to a creation; who holds it does not matter, it is taken."""
        held = found.head.holder
        self.intent = replace(self.intent, fence=found.head.fence, nonce="" if held is None else held.nonce)
        self.settle(found)

    def _reservation(self, found: HeadRead | None) -> Head:
        """Return a reserved head: a new one, or another creator's taken over with its epoch and fence, but no list."""
        now, write_id = self._environment.clock.now(), self._environment.clock.new_id()
        if found is not None:
            return replace(found.head, write_id=write_id, state_id=write_id, staged=None, updated_at=now)
        return Head(
            session_id=self.intent.session_id,
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
            schema_version=self._environment.schema_version,
        )

    def _on_reservation(self, read: HeadRead) -> HeadRead:
        self.intent = replace(self.intent, fence=read.head.fence, state_id=read.head.state_id)
        return read

    def publish(
        self,
        base: Base,
        build: Build,
        *,
        sending: Callable[[], None] = lambda: None,
        born: Callable[[Head], Head] = lambda head: head,
    ) -> Base:
        """Stage and publish the revision after `base`; return the base that the new head makes.

        Args:
            base: What it stands on; that of a reserved head for a first revision.
            build: Makes the pack.
            sending: Called once, before the first PUT of the head, so that a crash of this call is covered.
            born: Completes the head of a first revision.

        Raises:
            Found: It stands in the history already; and as `settle`.
        """
        staged = self._staged(base, build)
        sending()
        for attempt in range(1, ATTEMPTS_MAX + 1):
            head = self._next_head(base.head, staged)
            sent = self.send(base.version, born(head) if base.head.status == RESERVED else head, attempt)
            if isinstance(sent, HeadRead):
                return _new_base(base, sent, staged)
            base, staged = self._prepared_again(base, sent.read, staged, sent.verdict, build)
        raise AssertionError("the last attempt returns or raises")

    def send(self, version: Version, head: Head, attempt: int) -> HeadRead | NotStored:
        """Send a head once; return it as it is stored, or the head that stands there instead (rule 3).

        Args:
            version: Of the head that it replaces.
            head: What to send.
            attempt: Number of this attempt, from 1; the one numbered ATTEMPTS_MAX is the last.

        Raises:
            Found: It, or an earlier attempt, was applied; and as `settle`.
            CommitUnknownError, UnavailableError: It was the last attempt.
            LimitExceededError: The head is too large; nothing was sent.
        """
        data = head.encode(limit_bytes=HEAD_COMMIT_BYTES_MAX)
        self.intent = replace(self.intent, sent=True)
        doubtful, reason = self.ambiguous, "the head kept changing"
        try:
            with self.doubting(unanswered=False):
                return HeadRead(head, self._register.swap_once(version, data))
        except PreconditionFailedError:
            self.ambiguous = True  # until the head is read: a repeated delivery of our own PUT looks the same
        except UnavailableError as error:
            self.ambiguous = doubtful = doubtful or error.applied == "unknown"
            reason = error.reason
            self.pause(attempt)
        read = self.read()  # after a refusal at once: what was refused is not on its way
        verdict = self.settle(read)
        assert read is not None, "without a head the verdict is a refusal"
        self.ambiguous = doubtful
        if attempt == ATTEMPTS_MAX:
            raise self.gave_up(UnavailableError(self._register.key, reason, applied="no"))
        self.pause(attempt)
        return NotStored(read, verdict)

    def _prepared_again(
        self, base: Base, read: HeadRead, staged: Staged, verdict: Retry, build: Build
    ) -> tuple[Base, Staged]:
        """Return base and pack for another attempt on the head just read (rule 4)."""
        if not verdict.rebuild:
            base = replace(base, head=read.head, version=read.version)
        elif read.head.status == RESERVED:
            base = Base(home=self._environment.home, head=read.head, version=read.version)
        else:
            base = self._base_again(base)
        self.intent = replace(self.intent, state_id=base.head.state_id)  # not the fence: the first one read counts
        if verdict.restage or (verdict.rebuild and read.head.status != RESERVED):
            staged = self._staged(base, build)
        return base, staged

    def _base_again(self, before: Base) -> Base:
        """Read the base anew: somebody changed what the head names, but not the revision."""
        with self.doubting():
            base = retried_while_moving(
                self._environment, self.intent.session_id, lambda live: read_base(self._environment, live)
            )
        self.settle(HeadRead(base.head, base.version))  # it may have moved on while it was read
        return replace(base, graph=before.graph, parts=before.parts, at_hand=before.at_hand)  # of the same revision

    def _staged(self, base: Base, build: Build) -> Staged:
        """Make the pack of a revision after `base`, under a name never used before; upload it if it is not small."""
        environment = self._environment
        name = pack_name(self.identity.commit_id, environment.clock.new_id())
        with self.doubting():
            staged = build(base, name)
            if staged.data is not None:
                key = environment.layout.pack(base.head.family or base.head.session_id, name)
                write_pack(environment.store, key, staged.data, environment.clock)
        self.intent = replace(self.intent, staged_epoch=staged.epoch)
        return staged

    def _next_head(self, head: Head, staged: Staged) -> Head:
        write_id = self._environment.clock.new_id()
        return replace(
            head,
            family=head.family or head.session_id,
            status=LIVE,
            revision=staged.checkpoint.revision,
            write_id=write_id,
            commit_id=self.identity.commit_id,
            state_id=write_id,
            checkpoint_ref=staged.checkpoint_ref,
            manifest=staged.manifest,
            inline_manifest=staged.inline_manifest,
            reads=staged.reads,
            stretches=staged.stretches,
            tail=staged.tail,
            staged=None,
            overrides=None,
            commits=head.commits.appended(self.identity.commit_id),
            stamps=staged.stamps,
            updated_at=self.identity.created_at,
        )

    # Answers.

    def read(self) -> HeadRead | None:
        """Read the head, patiently: the answer decides what became of a PUT."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                with self.doubting(unanswered=False):
                    return read_head(self._environment, self.intent.session_id)
            except UnavailableError as error:
                if attempt == ATTEMPTS_MAX:
                    raise self.gave_up(error) from error
                self.pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Read what was applied: that it cannot be read is no "no"."""
        self.ambiguous = True
        with self.doubting():
            yield

    def settle(self, read: HeadRead | None) -> Retry:
        """Return how to go on; raise what was decided (rule 3).

        Raises:
            Found: It was applied.
            RevisionConflictError, TurnConflictError, FencedError, SessionDeletedError, SessionMovedError: It was not,
                and never will be.
            CommitUnknownError: Nobody can tell.
        """
        verdict = decide(self.intent, None if read is None else read.head)
        if isinstance(verdict, NeedsHistory):
            read, verdict = self._decided_by_history()
        if isinstance(verdict, Refused):
            raise verdict.error
        if isinstance(verdict, Committed) and read is not None:
            raise Found(read, verdict)
        assert isinstance(verdict, Retry), "with head and history the verdict is one of the four"
        return verdict

    def _decided_by_history(self) -> tuple[HeadRead | None, Verdict]:
        """Return the head and what it and its whole history say."""
        environment = self._environment
        try:
            with self.doubting():
                read, rows = retried_while_moving(
                    environment, self.intent.session_id, lambda live: (live, read_history(environment, live.head))
                )
        except (SessionDeletedError, SessionMovedError):  # just now: its ring alone decides
            last = self.read()
            return last, decide(self.intent, None if last is None else last.head)
        return read, decide(self.intent, read.head, rows)

    @contextmanager
    def doubting(self, *, unanswered: bool = True) -> Iterator[None]:
        """Turn failures into `CommitUnknownError` once a PUT of the head may have landed (rule 5).

        Before that, no answer means that nothing was committed. With `unanswered=False` the caller sees to it.
        """
        try:
            yield
        except PreconditionFailedError:
            raise
        except UnavailableError as error:
            if unanswered:
                raise self.gave_up(error) from error
            raise
        except (StorageError, SnapshotError) as error:
            if not self.ambiguous or self._decides(error):
                raise
            raise self._unknown(str(error)) from error

    def _decides(self, error: Exception) -> bool:
        """Say whether an error decides by itself what became of this session; another session's end does not."""
        if not isinstance(error, SessionDeletedError | SessionMovedError):
            return False
        return error.session_id == self.intent.session_id

    def gave_up(self, error: UnavailableError) -> CommitUnknownError | UnavailableError:
        """Return what to raise when the store does not answer."""
        if self.ambiguous:
            return self._unknown(error.reason)
        return UnavailableError(error.key, error.reason, applied="no")

    def _unknown(self, reason: str) -> CommitUnknownError:
        intent = self.intent
        return CommitUnknownError(
            intent.session_id, commit_id=intent.commit_id, stamp=intent.turn_id, reason=reason, remedy=intent.remedy
        )

    def pause(self, attempt: int) -> None:
        """Wait before the next attempt, with jitter."""
        self._environment.clock.sleep(backoff_seconds(attempt, self._environment.clock))


def _new_base(base: Base, read: HeadRead, staged: Staged) -> Base:
    return replace(
        base,
        head=read.head,
        version=read.version,
        checkpoint=staged.checkpoint,
        checkpoint_ref=staged.checkpoint_ref,
        placement=staged.placement,
        graph=staged.graph,
        history=staged.history,
        unstored=(),
        places=staged.places,
        ledger=staged.ledger,
        parts=staged.parts,
        full=staged.full,
        at_hand=staged.at_hand,
        commits=base.commits + 1,
        ahead=None,
        moves=(),
    )
