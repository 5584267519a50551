"""Reading a realtime session: what it has come to, and subscriptions to its records.

Rules:
1. The scope of a subscription – session, highest privacy class, first record – is fixed when it is opened. No replay
   from any position shows more.
2. A record that says anything of a frame above that class is left out whole; its number is missing then. So is one
   that names a response, and not its class, for all but who may see what is secret.
3. Records come in the order of their numbers, each once, and none is skipped because it came late.

    subscription = subscribe(repo, "s1", after=12, privacy=PrivacyClass.INTERNAL)
    for record in subscription.new(): ...
    for record in subscription.replay(after=20): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from snapshots.environment import Environment, HasEnvironment
from snapshots.errors import InvalidStateError, SessionDeletedError, SessionNotFoundError
from snapshots.fields import is_whole
from snapshots.operations import operation, yielding_operation
from snapshots.realtime.journal import WHAT, load_progress, read_records, register_of
from snapshots.realtime.progress import RealtimeProgress
from snapshots.realtime.values import PrivacyClass, RealtimeSessionRecord
from storage.keys import check_id


@dataclass(frozen=True, slots=True)
class SubscriptionScope:
    """What a subscription may show.

    Attributes:
        session_id: Of this session only.
        privacy: Nothing above this class.
        first_sequence: Nothing before this record.
    """

    session_id: str
    privacy: PrivacyClass
    first_sequence: int


class RealtimeSubscription:
    """The records of one session, within a fixed scope. For one thread at a time.

    Attributes:
        scope: What it may show.
        position: Number of the last record that `new` has gone past.
    """

    def __init__(self, environment: Environment, scope: SubscriptionScope) -> None:
        self.scope = scope
        self.position = scope.first_sequence - 1
        self._environment = environment

    def new(self) -> Iterator[RealtimeSessionRecord]:
        """Yield the records behind the position, and move it along. Raises as `replay`."""
        for record in self._records(self.position):
            self.position = record.sequence
            if self._shows(record):
                yield record

    def replay(self, *, after: int) -> Iterator[RealtimeSessionRecord]:
        """Yield the records behind number `after`, oldest first; the position stays.

        Raises:
            InvalidStateError: That is before the first record of the scope.
            SessionNotFoundError, SessionDeletedError, SessionMovedError: The session is gone, or elsewhere.
            CorruptSnapshotError, UnsupportedSchemaError: A record cannot be read, is missing, or belongs elsewhere.
            UnavailableError: The store did not answer.
        """
        first = self.scope.first_sequence
        if not is_whole(after, first - 1):
            raise InvalidStateError(f"this subscription begins behind record {first - 1}; open another one")
        return filter(self._shows, self._records(after))

    @yielding_operation("realtime.read", "self._environment", "self.scope.session_id")
    def _records(self, after: int) -> Iterator[RealtimeSessionRecord]:
        session_id = self.scope.session_id
        register = register_of(self._environment, session_id)
        found = register.find()
        if found is None:
            if register.is_spent():
                raise SessionDeletedError(session_id)
            raise SessionNotFoundError(session_id, what=WHAT)
        known_to = found.value.sequence
        yield from read_records(self._environment, session_id, after=after, known_to=known_to)

    def _shows(self, record: RealtimeSessionRecord) -> bool:
        return record.is_covered_by(self.scope.privacy)


def subscribe(
    repo: HasEnvironment, session_id: str, *, after: int = 0, privacy: PrivacyClass = PrivacyClass.PUBLIC
) -> RealtimeSubscription:
    """Return a subscription to the records behind number `after`. Nothing is read yet.

    Args:
        repo: Where.
        session_id: Of which session.
        after: 0 for all.
        privacy: The highest class that the subscriber may see.

    Raises:
        InvalidStateError: `after` is no number of a record, or `privacy` no class.
        InvalidKeyError: Not a session id.
    """
    if not is_whole(after):
        raise InvalidStateError(f"a record's number is a whole one from 0, not {after!r:.80}")
    if privacy not in list(PrivacyClass):
        raise InvalidStateError(f"want one of the classes {', '.join(PrivacyClass)}")
    scope = SubscriptionScope(check_id(session_id, what="session id"), PrivacyClass(privacy), after + 1)
    return RealtimeSubscription(repo.environment, scope)


@operation("realtime.load", "repo.environment", "session_id")
def load_realtime(repo: HasEnvironment, session_id: str) -> RealtimeProgress:
    """Return what a realtime session has come to: its state, its queue, and what is in doubt. Writes nothing.

    Raises:
        SessionNotFoundError, SessionDeletedError, SessionMovedError: There is none here.
        CorruptSnapshotError: Something of it cannot be read, is missing, or belongs to another session or tenant.
        UnsupportedSchemaError: It is of a later format.
        UnavailableError: The store did not answer.
    """
    return load_progress(repo.environment, session_id)
