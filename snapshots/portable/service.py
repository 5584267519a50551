"""`SessionService`: portable sessions of one tenant, created, appended to, listed, rewound, exported and imported.

Rules:
1. What it returns holds its events: nothing has to be joined before an export.
2. Writers of one session lose nothing to each other: each change is made anew on what the others committed.
3. An event is known by its id: given again it is not appended again.
4. A rewind and an import over a session are new revisions; the old ones can be restored.
5. Sessions that something else made are left alone, and listed nowhere.

    service = SessionService(repo)
    session = service.create_session("support", "user-1", state={"tier": "gold"})
    service.append_event(session.id, Event.new("agent", "hello", invocation_id="i1"))
    document = service.export_session(session.id)
    for entry in service.list_sessions("support"): print(entry.session_id)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from snapshots.commit import commit, has_changes
from snapshots.delete import delete
from snapshots.environment import Environment, HasEnvironment
from snapshots.errors import (
    CommitUnknownError,
    InvalidInputError,
    InvalidStateError,
    RevisionConflictError,
    SessionDeletedError,
    SessionExistsError,
    SessionMovedError,
    SessionNotFoundError,
    SnapshotError,
)
from snapshots.head import LIVE, MOVED, RESERVED, TOMBSTONE
from snapshots.operations import operation, yielding_operation
from snapshots.portable import conversion
from snapshots.portable.session import Event, Session
from snapshots.portable.warm import WarmSession, warm_sessions
from snapshots.reading import HeadRead, Manifest, head_at, read_head, read_manifest, retried_while_moving
from snapshots.sessions import Unforgetting, for_each_head
from snapshots.state import PersistedSessionState
from snapshots.state.values import json_text
from snapshots.update import load_to_commit, update, update_or_create
from storage.errors import CorruptObjectError, InvalidKeyError, NotFoundError, StorageError
from storage.keys import check_id
from storage.store import ListedObject


class ImportPolicy(StrEnum):
    """What an import does with the id in the document."""

    KEEP_ID = "keep-id"  # and become the next revision of a session that has it
    NEW_ID = "new-id"
    FAIL_IF_EXISTS = "fail-if-exists"


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """A session as a listing shows it.

    Attributes:
        session_id: Its id.
        app_name: The application.
        user_id: The user.
        created_at: When it was created.
        updated_at: When it last changed.
        revision: Its present revision.
    """

    session_id: str
    app_name: str
    user_id: str
    created_at: str
    updated_at: str
    revision: int


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as it was stored, and the revision that holds it."""

    session: Session
    revision: int


class SessionListing:
    """The sessions of an application, read while they are gone through, in the order of their keys.

    May be gone through again, from its beginning. An iterator that failed raises that again, so that it never looks
    complete.

    Args:
        environment: Where.
        app_name: Of which application.
        user_id: Of which user, None for all.
        start_after: Key after which to begin, "" for the first.

    Attributes:
        read: Number of heads read so far, those of other sessions included.
        next_after: Key after which to go on: that of the last head read; "" before the first of all, and once all
            were read.

    Raises:
        InvalidStateError: `start_after` is no key among this tenant's heads.
    """

    def __init__(self, environment: Environment, app_name: str, user_id: str | None, start_after: str) -> None:
        heads = environment.layout.heads
        if not isinstance(start_after, str) or not (start_after == "" or start_after.startswith(heads)):
            raise InvalidStateError(
                f"{start_after!r:.200} is no key among the heads of tenant {environment.layout.tenant!r}; "
                "give the next_after of an earlier listing, or begin at the first"
            )
        self.read = 0
        self.next_after = start_after
        self._environment = environment
        self._app_name = app_name
        self._user_id = user_id
        self._start_after = start_after

    def __iter__(self) -> Iterator[SessionEntry]:
        return Unforgetting(self._entries())

    @yielding_operation("portable.list", "self._environment")
    def _entries(self) -> Iterator[SessionEntry]:
        self.read, self.next_after = 0, self._start_after
        rows = for_each_head(self._environment, lambda row: (row.key, self._entry(row)), start_after=self._start_after)
        for key, entry in rows:
            self.read += 1
            self.next_after = key
            if entry is not None and self._is_wanted(entry):
                yield entry
        self.next_after = ""

    def _is_wanted(self, entry: SessionEntry) -> bool:
        return entry.app_name == self._app_name and self._user_id in (None, entry.user_id)

    def _entry(self, row: ListedObject) -> SessionEntry | None:
        """Return what the manifest says, None for what is no portable session. Reads no graph."""
        read = head_at(self._environment, row.key)
        if read.head.status != LIVE:
            return None
        try:
            checkpoint = _manifest(self._environment, read).checkpoint
        except (SessionNotFoundError, SessionDeletedError, SessionMovedError):
            return None  # since its head was read
        facts = conversion.facts_in(checkpoint.small.turn.mode_turn_options)
        if facts is None:
            return None
        return SessionEntry(session_id=read.head.session_id, revision=checkpoint.revision, **facts.model_dump())


def _manifest(environment: Environment, read: HeadRead) -> Manifest:
    """Return the manifest of a live head just read; no request while it stands in the head."""
    try:
        return read_manifest(environment, read.head)
    except (NotFoundError, CorruptObjectError):  # it may have moved on since
        return retried_while_moving(
            environment, read.head.session_id, lambda live: read_manifest(environment, live.head)
        )


@contextmanager
def _remedied(remedy: str) -> Iterator[None]:
    """Let a commit in doubt say what a caller can do who has no state object to commit again."""
    try:
        yield
    except CommitUnknownError as error:
        raise CommitUnknownError(
            error.session_id, commit_id=error.commit_id, stamp=error.stamp, reason=error.reason, remedy=remedy
        ) from error


class _NothingToDoError(Exception):
    """Leaves an update without a commit; never seen outside."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        super().__init__()


class SessionService:
    """Portable sessions in a store. Safe for threads.

    Args:
        repo: Where: a `SnapshotRepository`.
    """

    def __init__(self, repo: HasEnvironment) -> None:
        self._environment = repo.environment
        self._warm = warm_sessions()

    @operation("portable.create", "self._environment", "session_id")
    def create_session(
        self, app_name: str, user_id: str, *, state: Mapping[str, Any] | None = None, session_id: str | None = None
    ) -> Session:
        """Create a session without events.

        Args:
            app_name: The application.
            user_id: The user.
            state: What it begins with, None for nothing.
            session_id: Its id, 1-512 bytes of text; None for a fresh one.

        Raises:
            SessionExistsError: The id is taken.
            SessionDeletedError: The id is spent.
            InvalidStateError: The state is no JSON object.
            LimitExceededError: The names are too long.
            CommitUnknownError: It may or may not have been created. Look for the `session_id` that the error names.
            UnavailableError: The store did not answer; there is no session.
        """
        clock = self._environment.clock
        wanted = clock.new_id() if session_id is None else check_id(session_id, what="session id")
        session = Session.new(app_name, user_id, state, session_id=wanted, at=clock.now())
        return self._created(session).session

    @operation("portable.get", "self._environment", "session_id")
    def get_session(self, session_id: str, revision: int | str | None = None) -> Session:
        """Return a session with its events.

        Args:
            session_id: Which.
            revision: Number or pin of a revision, None for the present one.

        Raises:
            SessionNotFoundError: No such session.
            SessionDeletedError: It was deleted.
            RevisionNotFoundError: No such revision.
            InvalidStateError: Something else made it; the reason says how to read it.
            CorruptSnapshotError: Something stored is missing or altered.
            UnavailableError: The store did not answer.
        """
        return conversion.from_state(load_to_commit(self._environment, session_id, revision=revision))

    def get_events(self, session_id: str) -> list[Event]:
        """Return the events of a session, oldest first. Raises as `get_session`."""
        return self.get_session(session_id).events

    def list_sessions(self, app_name: str, user_id: str | None = None, *, start_after: str = "") -> SessionListing:
        """Return the sessions of an application, of all its users or of one; deleted ones are left out.

        Every head of the tenant is read, side by side: one request for each, and one more where the manifest is too
        large to stand in the head (over 16 KiB).

        Args:
            app_name: The application.
            user_id: The user, None for all.
            start_after: Key after which to begin: the `next_after` of an earlier listing.

        Raises:
            InvalidStateError: `start_after` is no key among this tenant's heads.
            CorruptSnapshotError, UnavailableError: While it is gone through.
        """
        return SessionListing(self._environment, app_name, user_id, start_after)

    @operation("portable.append", "self._environment", "session_id")
    def append_event(self, session_id: str, event: Event) -> int:
        """Append an event; its `state_delta` goes into the state.

        May be repeated, whatever it raised: an event that stands in the session is not appended again.

        Returns:
            Number of a revision that holds it.

        Raises:
            InvalidStateError: There is an event of its id with other content, or it is no JSON; or as `get_session`.
            LimitExceededError: Something else made the session, and left no room for its times.
            RevisionConflictError: Others were faster, again and again. Repeat it.
            CommitUnknownError: It may or may not have been appended. Repeat it.
            And as `get_session`.
        """
        now = self._environment.clock.now()
        warm = self._warm.take(session_id)
        with _remedied("repeat it: an event that stands in the session is not appended again"):
            if warm is None or event.id in warm.event_ids:
                return self._append_loaded(session_id, event, now)
            try:
                return self._appended(warm, event, now)
            except RevisionConflictError:
                return self._append_loaded(session_id, event, now)  # what it stood on has moved on
            except CommitUnknownError as doubt:
                return self._append_in_doubt(session_id, event, now, doubt)

    def _append_in_doubt(self, session_id: str, event: Event, now: datetime, doubt: CommitUnknownError) -> int:
        """Let the present revision tell; whatever keeps it from telling does not end the doubt."""
        try:
            return self._append_loaded(session_id, event, now)
        except SessionDeletedError:
            raise
        except (SnapshotError, StorageError) as error:
            raise doubt from error

    def _appended(self, warm: WarmSession, event: Event, now: datetime) -> int:
        """Append to the revision that was seen last: nothing is read."""
        conversion.append(warm.state, event, at=now)
        result = commit(self._environment, warm.state, None, execution_state=None)
        self._warm.keep(warm.state.session_id, warm.with_event(event.id))
        return result.head_revision

    def _append_loaded(self, session_id: str, event: Event, now: datetime) -> int:
        attempts: list[WarmSession] = []

        def append(state: PersistedSessionState) -> None:
            attempts[:] = [WarmSession.of(state, conversion.from_state(state))]
            if event.id in attempts[0].event_ids:
                _check_same_event(state, event)
                raise _NothingToDoError(state.head_revision or 0)
            conversion.append(state, event, at=now)

        try:
            result = update(self._environment, session_id, append)
        except _NothingToDoError as found:
            self._warm.keep(session_id, attempts[0])
            return found.revision
        self._warm.keep(session_id, attempts[0].with_event(event.id))
        return result.head_revision

    @operation("portable.rewind", "self._environment", "session_id")
    def rewind_to_invocation(self, session_id: str, invocation_id: str) -> int:
        """Drop all events after the last one of an invocation and replay the state, as a new revision.

        The revision before can be restored. See `Session.rewind_to_invocation`.

        Returns:
            Number of events dropped; 0 if there were none, and then there is no new revision.

        Raises:
            CommitUnknownError: It may or may not have been done. Look at the session. Repeated, it drops whatever
                follows the invocation then, what others appended since too; 0 says that nothing follows it.
            RevisionConflictError: Others were faster, again and again. Repeat it.
            LimitExceededError: Something else made the session, and left no room for its times.
            And as `get_session`.
        """
        now = self._environment.clock.now()
        dropped: list[int] = []

        def rewind(state: PersistedSessionState) -> None:
            session = conversion.from_state(state)
            dropped[:] = [session.rewind_to_invocation(invocation_id, at=now)]
            if dropped == [0]:
                raise _NothingToDoError(state.head_revision or 0)
            conversion.write(session, state)

        self._warm.take(session_id)
        with _remedied(f"look at session {session_id!r}: repeated, it drops what others appended since as well"):
            self._unless_done(lambda: update(self._environment, session_id, rewind).head_revision)
        return dropped[0]

    @operation("portable.delete", "self._environment", "session_id")
    def delete_session(self, session_id: str) -> None:
        """Delete a session; its id is spent. One that is not there, or was deleted before, is no error.

        Raises:
            InvalidStateError: Something else made it; delete it with SnapshotRepository.delete.
            SessionMovedError: It lives elsewhere now.
            UnavailableError: The store did not answer; repeat it.
        """
        read = read_head(self._environment, session_id)
        if read is None or read.head.status in (RESERVED, TOMBSTONE):
            return
        if read.head.status == MOVED:
            raise SessionMovedError(session_id, read.head.destination)
        self._warm.take(session_id)
        try:
            checkpoint = _manifest(self._environment, read).checkpoint
            conversion.facts_of_options(session_id, checkpoint.small.turn.mode_turn_options)
            delete(self._environment, session_id)
        except SessionDeletedError:
            return  # by somebody else, meanwhile

    def export_session(self, session_id: str, revision: int | str | None = None) -> dict[str, Any]:
        """Return the export document of a session, events included; see `Session.export`. Raises as `get_session`."""
        return self.get_session(session_id, revision).export()

    def import_session(
        self,
        document: Any,
        *,
        policy: ImportPolicy | str = ImportPolicy.FAIL_IF_EXISTS,
        source: str = "document",
    ) -> StoredSession:
        """Store the session of an export document.

        Args:
            document: What an export returned.
            policy: See `store_session`.
            source: How to name the document in errors.

        Raises:
            InvalidInputError, UnsupportedSchemaError: As `Session.import_`; nothing was written.
            And as `store_session`.
        """
        return self.store_session(Session.import_(document, source=source), policy=policy, source=source)

    @operation("portable.store", "self._environment", "session.id")
    def store_session(
        self,
        session: Session,
        *,
        policy: ImportPolicy | str = ImportPolicy.FAIL_IF_EXISTS,
        source: str = "session",
    ) -> StoredSession:
        """Store a session as it is, events, times and unknown fields included.

        Args:
            session: It.
            policy: "fail-if-exists"; "new-id"; or "keep-id": a session of this id gets it as its next revision, unless
                it is just the same already.
            source: How to name it in errors.

        Raises:
            SessionExistsError: The id is taken, and the policy does not allow that.
            SessionDeletedError: The id is spent, whatever the policy; choose "new-id".
            InvalidInputError: The id cannot be one of a store; choose "new-id".
            InvalidStateError: Something else made the session of this id; choose "new-id". Or a value is no JSON.
            CommitUnknownError: It may or may not have been stored, under the `session_id` that the error names. With
                "keep-id" repeat it; else look for that.
            And as `create_session`.
        """
        check_storable(session, policy, source=source)
        if policy == ImportPolicy.NEW_ID:
            session = session.model_copy(update={"id": self._environment.clock.new_id()}, deep=True)
        return self._put(session) if policy == ImportPolicy.KEEP_ID else self._created(session)

    def _created(self, session: Session) -> StoredSession:
        attempts: list[PersistedSessionState] = []

        def create(state: PersistedSessionState) -> None:
            if state.head_revision is not None:
                raise SessionExistsError(session.id)
            attempts[:] = [state]
            conversion.write(session, state)

        with _remedied(f"look for session {session.id!r}: if it is there, it was stored"):
            revision = update_or_create(self._environment, session.id, create).head_revision
        self._warm.keep(session.id, WarmSession.of(attempts[0], session))
        return StoredSession(session, revision)

    def _put(self, session: Session) -> StoredSession:
        def put(state: PersistedSessionState) -> None:
            if state.head_revision is not None:
                conversion.from_state(state)
            conversion.write(session, state)
            if state.head_revision is not None and not has_changes(self._environment, state):
                raise _NothingToDoError(state.head_revision)

        self._warm.take(session.id)
        with _remedied("repeat it: a session that stands there already is not stored again"):
            revision = self._unless_done(lambda: update_or_create(self._environment, session.id, put).head_revision)
        return StoredSession(session, revision)

    def _unless_done(self, write: Callable[[], int]) -> int:
        """Return the revision that `write` made, or the present one if it had nothing to do."""
        try:
            return write()
        except _NothingToDoError as found:
            return found.revision


def check_storable(session: Session, policy: ImportPolicy | str, *, source: str) -> None:
    """Check what a store is not needed for, so that nothing is created for a session that cannot be stored.

    Raises:
        InvalidInputError: The policy keeps the id, which cannot be one of a store.
        InvalidStateError, LimitExceededError: As `to_state`; or there is no such policy.
    """
    if policy not in set(ImportPolicy):
        raise InvalidStateError(f"a policy is one of {', '.join(ImportPolicy)}, not {policy!r:.80}")
    conversion.to_state(session)
    if policy == ImportPolicy.NEW_ID:
        return
    try:
        check_id(session.id, what="session id")
    except InvalidKeyError as error:
        raise InvalidInputError(source, "id", f"{error.reason}; or choose the policy {ImportPolicy.NEW_ID}") from error


def _check_same_event(state: PersistedSessionState, event: Event) -> None:
    text = json_text(event.to_plain())
    if all(json_text(body) != text for body in conversion.event_bodies(state) if body["id"] == event.id):
        raise InvalidStateError(
            f"event {event.id!r} stands in session {state.session_id!r} with other content; give a new event its own id"
        )
