"""Saving a session as a runtime does: from a copy that may be stale, without losing what others saved meanwhile.

Write order (FORMAT.md): messages (head) → metadata register. Read order: metadata register → messages.

Rules:
1. A save merges what is stored into the saver's copy (`snapshots.runtime.merge`), stores that, and leaves it in the
   argument. If it raises, the argument is as before, and saving it again does what is not done yet. Once messages are
   written, no error says that nothing was: it is UnavailableError with `applied="unknown"`, or SessionDeletedError.
2. A copy that cannot be read is an error, never "there is none". It is read, and all that is to be stored is checked,
   before anything is written.
3. Both places are written by compare-and-swap only. Between the two writes the session is whole: it has its messages,
   and the metadata of an earlier save. Saved again, a session gets all its metadata but a first permission, which then
   only `update_metadata` gives.
4. Nothing is written where nothing changed.
5. Authoritative writers (`update_metadata`) count `metadata_version` up, and the register remembers which keys and
   further fields they have decided on, so that no stale save undoes them.
6. A state that was loaded or committed is kept in memory, and used again only while the head names what it holds.

    store = RuntimeSessionStore(repo)
    session = store.load_runtime_session("s1")
    session.messages.append({"role": "user", "content": "hello"})
    store.save_runtime_session(session)
    store.update_metadata("s1", lambda metadata: metadata.changed(title="Trip to Rome"))
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from snapshots.environment import Environment, HasEnvironment
from snapshots.errors import InvalidStateError, RevisionConflictError
from snapshots.fields import U64_MAX
from snapshots.operations import operation
from snapshots.queues import SessionQueues
from snapshots.reading import read_live_head
from snapshots.recent import Recent, recent_states
from snapshots.runtime.merge import AUTHORITATIVE_KEYS, Union, amend, check_versions, merge, unite
from snapshots.runtime.messages import messages_along, to_node, with_ids
from snapshots.runtime.session import JsonMessage, RuntimeMetadata, RuntimeSession
from snapshots.runtime.stored import StoredMetadata, stored_from_plain
from snapshots.satellite import RING_MAX, Found, Kind, SatelliteRegister, encode, failures_in_doubt
from snapshots.state import PersistedSessionState
from snapshots.update import load_again, update_or_create
from snapshots.usage import UsageLog

METADATA: Kind[StoredMetadata] = Kind("metadata", StoredMetadata.to_plain, stored_from_plain)
LOGS_MAX = 256  # usage logs kept at hand; another one of the same session is another writer, nothing worse
_RING_OF_ANY = ("0" * 32,) * RING_MAX  # as large as a ring can be

Change = Callable[[RuntimeMetadata], RuntimeMetadata]


@dataclass(frozen=True, slots=True)
class SaveResult:
    """What a save did.

    Attributes:
        revision: Of the session, with all its messages.
        metadata_version: As it is stored now.
        appended: Ids of the messages that were stored by it.
        kept_messages: Messages of the argument that were not stored, because their id stands for other content; the
            argument has the stored ones now. Give an edited message an id of its own.
    """

    revision: int
    metadata_version: int
    appended: tuple[str, ...]
    kept_messages: tuple[JsonMessage, ...]


class RuntimeSessionPersistence(Protocol):
    """What a runtime asks of a store. Neither method has a default: one that does nothing loses data."""

    @abstractmethod
    def save_runtime_session(self, session: RuntimeSession) -> SaveResult:
        """Save a session, merged with what is stored; afterwards `session` is what is stored."""
        ...

    @abstractmethod
    def append_token_usage_record(self, session_id: str, json_line: str) -> str:
        """Append a line to the session's usage log, and return the id of its row when it is durable."""
        ...


class _NothingUnseenError(Exception):
    """Leaves `update_or_create` without a commit; caught where it is called, never seen outside."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        super().__init__()


class _Appending:
    """The messages of one save on their way into the graph, on whatever state is given."""

    def __init__(self, messages: list[JsonMessage], key: str) -> None:
        self._messages = messages
        self._key = key
        self.union = Union((), (), ())
        self.state = PersistedSessionState()
        self.attempts = 0
        self.creates = False

    def __call__(self, state: PersistedSessionState) -> None:
        self.state = state
        self.attempts += 1
        self.creates = state.head_revision is None
        self.union = unite(messages_in(state, key=self._key), self._messages)  # anew in every attempt
        if not self.commits and state.head_revision is not None:
            raise _NothingUnseenError(state.head_revision)
        state.append_session_nodes(map(to_node, self.union.unseen))

    @property
    def commits(self) -> bool:
        """Return whether there is anything to commit."""
        return self.creates or bool(self.union.unseen)


def messages_in(state: PersistedSessionState, *, key: str) -> list[JsonMessage]:
    """Return the messages of a state as a runtime has them. Raises CorruptSnapshotError, InvalidStateError."""
    return messages_along(state.session_graph.active_path_nodes(), key=key)


class RuntimeSessionStore:
    """Runtime sessions of one repository. Safe for threads; saves of one session wait for each other.

    Args:
        repo: Where they are.
        authoritative: Keys of the metadata that only `update_metadata` changes; it adds those that it has changed.
    """

    def __init__(self, repo: HasEnvironment, *, authoritative: Collection[str] = AUTHORITATIVE_KEYS) -> None:
        self._repo = repo
        self._environment = repo.environment
        self._authoritative = frozenset(authoritative)
        self._queues = SessionQueues()
        self._states = recent_states()
        self._logs: Recent[UsageLog] = Recent(LOGS_MAX)

    @property
    def waiting_sessions(self) -> int:
        """Return how many sessions are being saved or wait for it, for those who watch."""
        return len(self._queues)

    @operation("runtime.save", "self._environment", "session.session_id", revision="revision")
    def save_runtime_session(self, session: RuntimeSession) -> SaveResult:
        """Save `session`, merged with what is stored; afterwards it is what is stored. Creates it if there is none.

        Messages without an id get one. Messages of others that this copy has not seen come first, then its own.

        Args:
            session: The saver's copy, however stale.

        Raises:
            InvalidStateError, LimitExceededError: It cannot be stored; nothing was written.
            SessionDeletedError: It is spent; nothing of it stays.
            SessionMovedError: It is elsewhere; nothing was written.
            FencedError: Somebody has acquired the session, and commits alone; nothing was written.
            CorruptSnapshotError, UnsupportedSchemaError: What is stored cannot be read; nothing was written.
            UnavailableError: Not confirmed; `applied` says whether anything may stand. For every failure after messages
                were written it is "unknown": they stand, the metadata may. Save again.
            CommitUnknownError: The messages may stand or not. Save again: they are known by their ids.
            RevisionConflictError: Others were faster `snapshots.update.ATTEMPTS_MAX` times. Save again.
        """
        mine = session.checked()
        with self._queues.one_at_a_time(mine.session_id):
            metadata = mine.authoritative()
            register = self._register(mine.session_id)
            found = register.find()
            self._check(mine.session_id, None if found is None else found.value, metadata)
            revision, appending = self._append(mine.session_id, with_ids(mine.messages))
            # After a race for the head it may be too old to tell what becomes of a write that rests on it.
            known = found if appending.attempts == 1 else None
            made = self._created if appending.creates else self._merged
            with failures_in_doubt(register.key, lambda: appending.commits):
                stored = _put(register, lambda present: made(present, metadata), known)
        union = appending.union
        session.adopt(stored.document, list(union.messages))
        appended = tuple(message["id"] for message in union.unseen)
        return SaveResult(revision, stored.metadata_version, appended, union.kept)

    def _merged(self, stored: StoredMetadata | None, mine: RuntimeMetadata) -> StoredMetadata:
        return merge(stored, mine, authoritative=self._authoritative)

    def _created(self, stored: StoredMetadata | None, mine: RuntimeMetadata) -> StoredMetadata:
        """Return what the save that creates a session stores: the first metadata, unless somebody was faster."""
        return StoredMetadata(mine) if stored is None else self._merged(stored, mine)

    def _check(self, session_id: str, stored: StoredMetadata | None, mine: RuntimeMetadata) -> None:
        """Refuse what cannot be stored. Raises InvalidStateError, LimitExceededError."""
        wanted = self._created(stored, mine)  # at least as large as what is merged
        check_versions(_document(stored), wanted.document)
        encode(self._environment.layout.tenant, session_id, METADATA, wanted, _RING_OF_ANY)

    def _append(self, session_id: str, messages: list[JsonMessage]) -> tuple[int, _Appending]:
        """Return the revision that has all messages, and how these came into it."""
        appending = _Appending(messages, self._environment.layout.head(session_id))
        try:
            revision = update_or_create(
                self._environment, session_id, appending, known=self._states.find(session_id)
            ).head_revision
        except _NothingUnseenError as found:
            revision = found.revision
        self._states.keep(session_id, appending.state)  # Rule 6: what stands in the store, and nothing ahead of it.
        return revision, appending

    @operation("runtime.load", "self._environment", "session_id")
    def load_runtime_session(self, session_id: str) -> RuntimeSession:
        """Load a session, one that no runtime ever saved as well.

        Raises:
            SessionNotFoundError, SessionDeletedError, SessionMovedError: There is none here.
            CorruptSnapshotError: Something stored is missing or altered.
            UnavailableError: The store did not answer.
        """
        found = self._register(session_id).find()  # before the messages: it must not speak of any that are not loaded
        state = load_again(self._environment, session_id, self._states.find(session_id))
        messages = messages_in(state, key=self._environment.layout.head(session_id))
        self._states.keep(session_id, state)
        return RuntimeSession.of(session_id, _document(None if found is None else found.value), messages)

    @operation("runtime.read_metadata", "self._environment", "session_id")
    def read_metadata(self, session_id: str) -> RuntimeMetadata:
        """Return all of a session but its messages; the default if nobody ever saved it. Raises as `load`."""
        read_live_head(self._environment, session_id)
        found = self._register(session_id).find()
        return _document(None if found is None else found.value)

    @operation("runtime.update_metadata", "self._environment", "session_id")
    def update_metadata(
        self, session_id: str, function: Change, *, expected_version: int | None = None
    ) -> RuntimeMetadata:
        """Change metadata with authority: no stale save undoes it.

        The keys of `metadata` and the further fields that it sets or removes are decided here from now on, or by savers
        of a greater `metadata_version`; a permission (`agent_runtime_state.bypass_permissions`) is decided here alone.

        `metadata_version` goes up by one, and `title_version` with another title; what `function` says of the two is
        not asked. If nothing changes, nothing is written.

        Args:
            session_id: Of a session that exists.
            function: Returns the new metadata, decided by the present one alone; it may be called several times.
                It may raise to refuse.
            expected_version: The `metadata_version` that it must be based on, None for any.

        Returns:
            What is stored now.

        Raises:
            RevisionConflictError: `metadata_version` is not as expected. Read, then decide anew.
            SessionNotFoundError, SessionDeletedError, SessionMovedError: There is no such session here.
            InvalidStateError, LimitExceededError: It cannot be stored.
            UnavailableError: Not confirmed; `applied` says whether it may stand.
        """

        def changed(present: StoredMetadata | None) -> StoredMetadata:
            before = StoredMetadata() if present is None else present
            if expected_version is not None and before.metadata_version != expected_version:
                version = before.metadata_version
                raise RevisionConflictError(session_id, expected=expected_version, actual=version, what=METADATA.name)
            after = _counted(before.document, function(before.document.changed()))
            return before if after is before.document else amend(before, after)

        read_live_head(self._environment, session_id)
        register = self._register(session_id)
        found = register.find()
        if found is None and changed(None) == StoredMetadata():
            return RuntimeMetadata()  # nothing is said that would have to be stored
        return _put(register, changed, found).document

    def append_token_usage_record(self, session_id: str, json_line: str) -> str:
        """Append a line to the session's usage log; see `UsageLog.append`."""
        log = self._logs.find_or_make(session_id, lambda: UsageLog(self._repo, session_id))
        return log.append(json_line)

    def _register(self, session_id: str) -> SatelliteRegister[StoredMetadata]:
        return metadata_register(self._environment, session_id)


def metadata_register(environment: Environment, session_id: str) -> SatelliteRegister[StoredMetadata]:
    """Return the register of a session's metadata. Raises InvalidKeyError for what is no id."""
    return SatelliteRegister(environment, session_id, environment.layout.metadata(session_id), METADATA)


def _put(
    register: SatelliteRegister[StoredMetadata],
    change: Callable[[StoredMetadata | None], StoredMetadata],
    found: Found[StoredMetadata] | None,
) -> StoredMetadata:
    """Change the register. What was found within this very call is ground enough for changing nothing, or refusing."""
    if found is not None and change(found.value) is found.value:
        return found.value
    return register.put(change, known=found).value


def _document(stored: StoredMetadata | None) -> RuntimeMetadata:
    return RuntimeMetadata() if stored is None else stored.document


def _counted(before: RuntimeMetadata, after: RuntimeMetadata) -> RuntimeMetadata:
    """Return `after` with the versions that follow on `before`; those of `before` if nothing else changed."""
    same: dict[str, Any] = {"metadata_version": before.metadata_version, "title_version": before.title_version}
    if after.changed(**same).to_json() == before.to_json():
        return before
    return after.changed(
        metadata_version=_next(before.metadata_version, "metadata_version"),
        title_version=before.title_version
        if after.title == before.title
        else _next(before.title_version, "title_version"),
    )


def _next(version: int, name: str) -> int:
    if version == U64_MAX:
        raise InvalidStateError(f"{name} is at its greatest value; save the session under another id, and count from 0")
    return version + 1
