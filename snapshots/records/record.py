"""`SessionRecord` and its life cycle: created, active, closed or expired. Pure.

Rules:
1. Steps lead to new values and change nothing else: tenant, session, provider, model, ttl and initial tokens stay.
2. Each step has the statuses that it may be taken from (`STEPS`); from any other it is refused, naming both.
3. A record is judged by its time, not by whether somebody marked it: from `expires_at` on it counts as expired, and
   nothing but `expire` leads on.
4. What is closed or expired is final.

    stored = StoredRecord.create("s1", "tenant", provider_id="openai", model="gpt-5", created_at=now, ttl_secs=3600)
    stored = stored.activate(now).record_delta(120, at=now)
    stored.close(now).record.tokens_saved
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from snapshots.errors import IllegalTransitionError, InvalidStateError, LimitExceededError
from snapshots.state.values import U64, U64_MAX, Json, Value
from storage.keys import check_id

# Source: RFC 3339 §5.6; leap seconds are refused, no instant of ours can hold one.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)")


class SessionStatus(StrEnum):
    """Where a session is in its life."""

    CREATED = "created"
    ACTIVE = "active"
    CLOSED = "closed"
    EXPIRED = "expired"

    @classmethod
    def parse(cls, text: str) -> SessionStatus:
        """Return the status of this name, in capitals or not.

        Raises:
            InvalidStateError: There is none; the reason names those that there are.
        """
        try:
            return cls(text.lower())
        except (ValueError, AttributeError) as error:  # AttributeError: no text
            raise InvalidStateError(f"no status {text!r:.80}; there are {', '.join(cls)}") from error


_RUNNING = frozenset({SessionStatus.CREATED, SessionStatus.ACTIVE})
_FINAL = "that is final: create a record for another session"

STEPS: Mapping[str, tuple[frozenset[SessionStatus], SessionStatus]] = {
    "activate": (frozenset({SessionStatus.CREATED}), SessionStatus.ACTIVE),
    "record_delta": (frozenset({SessionStatus.ACTIVE}), SessionStatus.ACTIVE),
    "close": (frozenset({SessionStatus.ACTIVE}), SessionStatus.CLOSED),
    "expire": (_RUNNING, SessionStatus.EXPIRED),
}
"""The steps: from which statuses, to which."""


def _instant_in(value: Any) -> datetime:
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("not an aware instant")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the instant is outside the years 1 to 9999") from error


def check_instant(at: datetime) -> None:
    """Refuse what cannot be compared with the instants of a record. Raises InvalidStateError."""
    if not isinstance(at, datetime) or at.utcoffset() is None:
        raise InvalidStateError(f"{at!r:.80} is no aware instant; give one with its offset, as datetime.now(UTC)")


def instant_text(value: datetime) -> str:
    """Return an instant of a record as it is written for others: RFC 3339, UTC, microseconds."""
    return value.isoformat(timespec="microseconds").replace("+00:00", "Z")


Instant = Annotated[datetime, PlainValidator(_instant_in), PlainSerializer(instant_text)]
"""Aware UTC, to the microsecond; RFC 3339 on the wire."""
_Id = Annotated[str, Field(strict=True), AfterValidator(check_id)]


class SessionRecord(Value):
    """What is kept of a session beside its status. Equal by content.

    Attributes:
        session_id: Whose.
        tenant_id: And of which tenant.
        provider_id: Provider that the session belongs to, 1–512 bytes.
        model: Model that it is bound to, 1–512 bytes.
        created_at: When the record was made.
        activated_at: When it became active, None before.
        closed_at: When it was closed or expired, None before.
        ttl_secs: How long it lives from activation, or from creation while it is not active; 0 for ever.
        round_count: Rounds of the tool loop that were completed.
        initial_token_count: Tokens of the initial context.
        delta_token_count: Tokens of all that was sent since.
        metadata: Any JSON value. Read-only.
    """

    session_id: _Id
    tenant_id: _Id
    provider_id: _Id
    model: _Id
    created_at: Instant
    activated_at: Instant | None = None
    closed_at: Instant | None = None
    ttl_secs: U64 = 0
    round_count: U64 = 0
    initial_token_count: U64 = 0
    delta_token_count: U64 = 0
    metadata: Json = None

    @model_validator(mode="after")
    def _times_in_order(self) -> Self:
        if self.activated_at is not None and self.activated_at < self.created_at:
            raise ValueError("activated before it was created")
        if self.closed_at is not None and self.closed_at < self.began_at:
            raise ValueError("closed before it began")
        return self

    @property
    def began_at(self) -> datetime:
        """Return the instant from which its time to live is counted."""
        return self.created_at if self.activated_at is None else self.activated_at

    @property
    def expires_at(self) -> datetime | None:
        """Return the first instant at which its time is up; None for never, or not before the year 10000."""
        if self.ttl_secs == 0:
            return None
        try:
            return self.began_at + timedelta(seconds=self.ttl_secs)
        except OverflowError:
            return None

    @property
    def tokens_saved(self) -> int:
        """Return how many tokens were not sent because only what was new was; 0 if more was sent than all again."""
        return max(0, self.round_count * self.initial_token_count - self.delta_token_count)


class StoredRecord(Value):
    """A record and its status, as they are stored together."""

    record: SessionRecord
    status: SessionStatus

    @model_validator(mode="after")
    def _times_of_status(self) -> Self:
        record, status = self.record, self.status
        if (record.closed_at is None) != (status in _RUNNING):
            raise ValueError(f"closed_at does not go with the status {status}")
        began = {SessionStatus.CREATED: False, SessionStatus.ACTIVE: True, SessionStatus.CLOSED: True}
        if status in began and (record.activated_at is not None) != began[status]:
            raise ValueError(f"activated_at does not go with the status {status}")
        return self

    @classmethod
    def create(
        cls,
        session_id: str,
        tenant_id: str,
        *,
        provider_id: str,
        model: str,
        created_at: datetime,
        ttl_secs: int = 0,
        initial_token_count: int = 0,
        metadata: Any = None,
    ) -> StoredRecord:
        """Return a record that is created and nothing else yet.

        Raises:
            InvalidStateError: A value breaks a rule of `SessionRecord`; the reason says which.
        """
        try:
            record = SessionRecord(
                session_id=session_id,
                tenant_id=tenant_id,
                provider_id=provider_id,
                model=model,
                created_at=created_at,
                ttl_secs=ttl_secs,
                initial_token_count=initial_token_count,
                metadata=metadata,
            )
        except ValidationError as error:
            raise InvalidStateError(f"not a session record: {_reasons(error)}") from error
        return cls(record=record, status=SessionStatus.CREATED)

    @property
    def session_id(self) -> str:
        """Return whose record it is."""
        return self.record.session_id

    def is_due(self, now: datetime) -> bool:
        """Say whether its time is up and nobody expired it yet. Raises InvalidStateError for a naive instant."""
        check_instant(now)
        expires_at = self.record.expires_at
        return self.status in _RUNNING and expires_at is not None and now >= expires_at

    def status_at(self, now: datetime) -> SessionStatus:
        """Return the status that counts (rule 3): expired if its time is up, the stored one else."""
        return SessionStatus.EXPIRED if self.is_due(now) else self.status

    def activate(self, at: datetime) -> StoredRecord:
        """Return it active; its time to live begins again.

        Raises:
            IllegalTransitionError: It is not created, or its time was up.
            InvalidStateError: `at` is before it was created, or naive.
        """
        self._check("activate", at)
        self._check_clock(at)
        return self._with(SessionStatus.ACTIVE, activated_at=at)

    def record_delta(self, tokens: int, *, rounds: int = 1, at: datetime) -> StoredRecord:
        """Return it with so many tokens and rounds more.

        `at` only decides whether its time is up; it is not kept, so a clock that is a little behind loses no count.

        Raises:
            IllegalTransitionError: It is not active, or its time was up.
            InvalidStateError: A number is negative, or none; or `at` is naive.
            LimitExceededError: A count would leave 64 bits.
        """
        self._check("record_delta", at)
        record = self.record
        return self._with(
            SessionStatus.ACTIVE,
            delta_token_count=_sum("delta_token_count", record.delta_token_count, tokens),
            round_count=_sum("round_count", record.round_count, rounds),
        )

    def close(self, at: datetime) -> StoredRecord:
        """Return it closed.

        Raises:
            IllegalTransitionError: It is not active, or its time was up.
            InvalidStateError: `at` is before it became active, or naive.
        """
        self._check("close", at)
        self._check_clock(at)
        return self._with(SessionStatus.CLOSED, closed_at=at)

    def expire(self, at: datetime) -> StoredRecord:
        """Return it expired.

        Raises:
            IllegalTransitionError: It is closed or expired already, or its time is not up.
            InvalidStateError: `at` is naive.
        """
        check_instant(at)
        allowed, to = STEPS["expire"]
        if self.status not in allowed:
            raise self._refused(self.status, to, _FINAL)
        if not self.is_due(at):
            expires_at = self.record.expires_at
            until = "it never expires" if expires_at is None else f"its time is up at {instant_text(expires_at)}"
            raise self._refused(self.status, to, f"{until}; close it instead")
        return self._with(SessionStatus.EXPIRED, closed_at=at)

    def _check(self, step: str, at: datetime) -> None:
        """Refuse a step that its status, by the time `at`, does not allow (rules 2 and 3)."""
        (allowed, to), status = STEPS[step], self.status_at(at)
        if status in allowed:
            return
        if status != self.status:
            expires_at = self.record.expires_at
            assert expires_at is not None, "only what has an end is due"
            remedy = f"its time was up at {instant_text(expires_at)}; {_FINAL}"
        elif status not in _RUNNING:
            remedy = _FINAL
        else:
            remedy = "activate it first" if status is SessionStatus.CREATED else "it is active already"
        raise self._refused(status, to, remedy)

    def _check_clock(self, at: datetime) -> None:
        began_at = self.record.began_at
        if at < began_at:
            raise InvalidStateError(
                f"the clock runs behind: {instant_text(_instant_in(at))} is before {instant_text(began_at)}, "
                f"when the record of session {self.session_id!r} was last changed; set the clock, or wait"
            )

    def _refused(self, status: SessionStatus, to: SessionStatus, remedy: str) -> IllegalTransitionError:
        what = f"the record of session {self.session_id!r}"
        return IllegalTransitionError(what, from_status=status.value, to_status=to.value, remedy=remedy)

    def _with(self, status: SessionStatus, **changed: Any) -> StoredRecord:
        record = SessionRecord.model_validate({**dict(self.record), **changed})
        return StoredRecord(record=record, status=status)


def _sum(name: str, count: int, more: int) -> int:
    if type(more) is not int or not 0 <= more <= U64_MAX:
        raise InvalidStateError(f"{name} grows by a whole number from 0 to {U64_MAX}")
    if count + more > U64_MAX:
        raise LimitExceededError(f"{name} of {U64_MAX}", count + more)
    return count + more


def _reasons(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}" for one in found)
