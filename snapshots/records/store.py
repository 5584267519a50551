"""`SessionRecords`: the session records of one tenant.

Rules:
1. A record's tenant is the repository's, always. It needs no session beside it; the id of a deleted one is spent.
2. Each step is one compare-and-swap, decided by what is stored and by one reading of the clock; a count whose answer
   was lost is counted once.
3. Records end with their session: a collection takes that of a deleted one. Nothing here removes one.

    records = SessionRecords(repo)
    records.create("s1", provider_id="openai", model="gpt-5", ttl_secs=3600)
    records.activate("s1")
    records.record_delta("s1", 120)
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from snapshots.environment import HasEnvironment
from snapshots.operations import operation
from snapshots.records.record import SessionStatus, StoredRecord, check_instant
from snapshots.records.scan import RecordListing, Scan
from snapshots.records.stored import first_record, register_of


class SessionRecords:
    """Creates, reads, changes and lists session records. Safe for threads; holds nothing.

    Args:
        repo: Whose tenant's.
    """

    def __init__(self, repo: HasEnvironment) -> None:
        self._environment = repo.environment

    @operation("records.create", "self._environment", "session_id")
    def create(
        self,
        session_id: str,
        *,
        provider_id: str,
        model: str,
        ttl_secs: int = 0,
        initial_token_count: int = 0,
        metadata: Any = None,
    ) -> StoredRecord:
        """Store the record of a session, created now.

        Args:
            session_id: 1–512 bytes of text. The session itself need not exist.
            provider_id: 1–512 bytes; never changes.
            model: 1–512 bytes; never changes.
            ttl_secs: How long it lives, 0 for ever; within 64 bits.
            initial_token_count: Tokens of the initial context, within 64 bits.
            metadata: Any JSON value.

        Raises:
            SessionExistsError: There is one already; nothing was written.
            SessionDeletedError, SessionMovedError: The id is spent, or the session lives elsewhere.
            InvalidStateError, InvalidKeyError: A value is out of bounds; nothing was written.
            LimitExceededError: The metadata is too large for a register, with all that steps may add; nothing was
                written.
            UnavailableError: Nothing was confirmed; if `applied` is "unknown", `read` tells.
        """
        first = first_record(
            self._environment.layout,
            session_id,
            created_at=self._environment.clock.now(),
            provider_id=provider_id,
            model=model,
            ttl_secs=ttl_secs,
            initial_token_count=initial_token_count,
            metadata=metadata,
        )
        return register_of(self._environment, session_id).create(first).value

    @operation("records.read", "self._environment", "session_id")
    def read(self, session_id: str) -> StoredRecord:
        """Return the record of a session. Whether the session was deleted is not asked.

        Raises:
            SessionNotFoundError: There is none.
            SessionMovedError: The session was moved to another store.
            CorruptSnapshotError: It cannot be read, or belongs to another session or tenant.
            UnsupportedSchemaError: It is of a later format.
            UnavailableError: The store did not answer.
        """
        return register_of(self._environment, session_id).read().value

    @operation("records.activate", "self._environment", "session_id")
    def activate(self, session_id: str) -> StoredRecord:
        """Make a created record active; its time to live begins again.

        Raises:
            IllegalTransitionError: It is not created, or its time was up; nothing was written.
            InvalidStateError: This clock is behind that of whoever created it; nothing was written.
            LimitExceededError: Something else made it, and filled its register; nothing was written.
            SessionDeletedError: A collection took it with its session.
            UnavailableError: Nothing was confirmed; if `applied` is "unknown", `read` tells.
            And as `read`.
        """
        return self._step(session_id, StoredRecord.activate)

    @operation("records.record_delta", "self._environment", "session_id")
    def record_delta(self, session_id: str, tokens: int, *, rounds: int = 1) -> StoredRecord:
        """Count what was sent to the model in a round, or in several.

        Args:
            session_id: Whose record.
            tokens: How many tokens were sent, from 0.
            rounds: How many rounds that completed, from 0.

        Raises:
            IllegalTransitionError: It is not active, or its time was up; nothing was written.
            InvalidStateError: A number is negative, or none; nothing was written.
            LimitExceededError: A count would leave 64 bits, or as `activate`; nothing was written.
            UnavailableError: Nothing was confirmed; if `applied` is "unknown" it may have been counted: read it first,
                a second call counts again.
            And as `activate`.
        """
        return self._step(session_id, lambda stored, at: stored.record_delta(tokens, rounds=rounds, at=at))

    @operation("records.close", "self._environment", "session_id")
    def close(self, session_id: str) -> StoredRecord:
        """Close an active record; that is final.

        Raises:
            IllegalTransitionError: It is not active, or its time was up; nothing was written.
            InvalidStateError: This clock is behind that of whoever activated it; nothing was written.
            And as `activate`.
        """
        return self._step(session_id, StoredRecord.close)

    @operation("records.expire", "self._environment", "session_id")
    def expire(self, session_id: str) -> StoredRecord:
        """Expire a record whose time is up; that is final. `reap` does it for all that are due.

        Raises:
            IllegalTransitionError: It is closed or expired, or its time is not up; nothing was written.
            And as `activate`.
        """
        return self._step(session_id, StoredRecord.expire)

    def list(
        self, *, status: SessionStatus | None = None, expired_by: datetime | None = None, start_after: str = ""
    ) -> RecordListing:
        """Return an iterator over the tenant's records in the order of their keys, which counts what it reads.

        Args:
            status: Only those that are stored with it, whatever the time is.
            expired_by: Only those whose time is up at this instant and which nobody expired or closed.
            start_after: Key after which to begin: the `next_after` of an earlier listing.

        Raises:
            InvalidStateError: `start_after` is no key among this tenant's records, `status` no status, or `expired_by`
                no aware instant.
            UnavailableError, PermissionDeniedError: While going through: the store did not answer, or refused us.
                A record that cannot be read raises nothing: the listing names it in `damaged`.
        """

        chosen = None if status is None else SessionStatus.parse(status)
        if expired_by is not None:
            check_instant(expired_by)

        def wanted(stored: StoredRecord) -> bool:
            right_status = chosen is None or stored.status is chosen
            return right_status and (expired_by is None or stored.is_due(expired_by))

        return RecordListing(Scan(self._environment, start_after=start_after), wanted)

    def _step(self, session_id: str, step: Callable[[StoredRecord, datetime], StoredRecord]) -> StoredRecord:
        at = self._environment.clock.now()  # rule 2: once, or the outcome of an attempt would depend on its number
        return register_of(self._environment, session_id).update(lambda stored: step(stored, at)).value
