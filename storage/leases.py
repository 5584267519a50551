"""`LeaseRegister`: time-limited ownership on a register, with a rising fence. Nothing rests on it.

Rules:
1. A lease is held until its instant, by one owner. The same owner may claim it again: its older token is stale then.
2. The fence rises by one with every claim and by nothing else; it survives release and expiry.
3. Only the token of the last claim renews or releases. A stale token changes nothing and is told so.
4. Clocks may disagree: a lease keeps hosts from working on the same thing, it does not make a late write harmless.
5. The label says what the lease is for. It is compared on every read, and never interpreted.

    leases = LeaseRegister(store, key, clock, label="what it is for")
    match leases.claim("host-a", 30):
        case Lease() as lease:
            lease = leases.renew(lease, 30)
        case Busy(holder, expires_at):
            ...
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from storage.clock import Clock, backoff_seconds
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError, UnavailableError
from storage.keys import check_id
from storage.registers import Register
from storage.store import ObjectStore, Version

ATTEMPTS_MAX = 8  # of one step, against others who write at the same time
TTL_SECONDS_MAX = 30 * 24 * 3600  # a month: who needs longer is no longer in touch; a forgotten lease must end
SCHEMA_VERSION = 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FENCE_MAX = (1 << 63) - 1
_FIELDS = frozenset(("schema_version", "write_id", "label", "owner", "token", "fence", "expires_at_micros", "released"))


@dataclass(frozen=True, slots=True)
class Lease:
    """A right to ask for writing.

    Attributes:
        owner: Who holds it.
        token: Fresh with every claim.
        fence: Number of the claim, from 1.
        expires_at: First instant at which it is no longer held.
    """

    owner: str
    token: str
    fence: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Busy:
    """A claim was refused: another owner holds the lease."""

    holder: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Free:
    """Nobody holds the lease; `fence` is that of the last claim, 0 for none."""

    fence: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The token is stale; nothing was changed.

    Attributes:
        fence: Of the last claim.
        holder: Who holds the lease now, "" for nobody.
        reason: "superseded" by a later claim, "expired", or "released" by this very token (or gone).
    """

    fence: int
    holder: str
    reason: Literal["superseded", "expired", "released"]


@dataclass(frozen=True, slots=True)
class _Record:
    """What is stored: the last claim, and whether it was released."""

    lease: Lease
    released: bool

    def held(self, now: datetime) -> bool:
        return not self.released and now < self.lease.expires_at

    def lost(self, token: str, now: datetime) -> Lost | None:
        """Return why a token is stale, None if it is not."""
        held, fence = self.held(now), self.lease.fence
        if self.lease.token != token:
            return Lost(fence, self.lease.owner if held else "", "superseded")
        return None if held else Lost(fence, "", "released" if self.released else "expired")


Answer = Lease | Busy | Free | Lost
Step = Callable[["_Record | None", datetime], Answer | _Record]
"""What to do with the record read last: an answer, if there is nothing to write, or the record to be written."""


class LeaseRegister:
    """One lease.

    Args:
        store: Where it lies.
        key: Under which key.
        clock: Time, tokens and jitter.
        label: What the lease is for; a record with another one is refused as misplaced.
    """

    def __init__(self, store: ObjectStore, key: str, clock: Clock, *, label: str = "") -> None:
        self.key = key
        self._register = Register(store, key, clock)
        self._clock = clock
        self._label = label

    def read(self) -> Lease | Free:
        """Return the lease that is held now, or that there is none.

        Raises:
            CorruptObjectError: The record cannot be read, or is another lease's.
            UnavailableError: The store did not answer.
        """
        record, _ = self._read()
        if record is None:
            return Free(0)
        return record.lease if record.held(self._clock.now()) else Free(record.lease.fence)

    def claim(self, owner: str, ttl_seconds: float) -> Lease | Busy:
        """Take the lease unless another owner holds it.

        Args:
            owner: 1–512 bytes of text.
            ttl_seconds: Above 0, at most TTL_SECONDS_MAX.

        Raises:
            InvalidKeyError, ValueError: Not an owner; not a time to live. Nothing was written.
            UnavailableError: Nothing was confirmed; `applied` says whether the claim may stand or may yet.
            CorruptObjectError: The record cannot be read, or is another lease's.
        """
        check_id(owner, what="owner")
        ttl, token = lifetime(ttl_seconds), self._clock.new_id()

        def step(record: _Record | None, now: datetime) -> Answer | _Record:
            if record is not None and record.held(now) and record.lease.owner != owner:
                return Busy(record.lease.owner, record.lease.expires_at)
            fence = 1 if record is None else record.lease.fence + 1
            return _Record(Lease(owner, token, fence, now + ttl), released=False)

        answer = self._settle(step)
        assert isinstance(answer, Lease | Busy), "a claim is granted or refused"
        return answer

    def renew(self, lease: Lease, ttl_seconds: float) -> Lease | Lost:
        """Let the lease last `ttl_seconds` from now; token and fence stay.

        Raises:
            ValueError: Not a time to live.
            UnavailableError, CorruptObjectError: As for `claim`.
        """
        ttl = lifetime(ttl_seconds)

        def step(record: _Record | None, now: datetime) -> Answer | _Record:
            if record is None:
                return Lost(0, "", "released")
            lost = record.lost(lease.token, now)
            return lost or replace(record, lease=replace(record.lease, expires_at=now + ttl))

        answer = self._settle(step)
        assert isinstance(answer, Lease | Lost), "a renewal is granted or refused"
        return answer

    def release(self, lease: Lease) -> Free | Lost:
        """Give the lease up; the fence stays. Releasing it again, or after it expired, is no failure.

        Returns:
            Free, or Lost if there was a later claim, which stays as it is.

        Raises:
            UnavailableError, CorruptObjectError: As for `claim`.
        """

        def step(record: _Record | None, now: datetime) -> Answer | _Record:
            if record is None:
                return Free(0)
            lost = record.lost(lease.token, now)
            if lost is not None and lost.reason == "superseded":
                return lost
            return Free(record.lease.fence) if record.released else replace(record, released=True)

        answer = self._settle(step)
        assert isinstance(answer, Free | Lost), "a release is done or refused"
        return answer

    def _settle(self, step: Step) -> Answer:
        """Take one step on the record as it is, anew whenever somebody else wrote."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            record, version = self._read_for(attempt)
            wanted = step(record, self._clock.now())
            if not isinstance(wanted, _Record):
                return wanted
            try:
                self._register.compare_and_swap(version, self._encode(wanted))
            except PreconditionFailedError:
                self._clock.sleep(backoff_seconds(attempt, self._clock))
            else:
                return Free(wanted.lease.fence) if wanted.released else wanted.lease
        raise UnavailableError(self.key, "others kept writing the lease", applied="unknown")

    def _read_for(self, attempt: int) -> tuple[_Record | None, Version | None]:
        try:
            return self._read()
        except UnavailableError as error:
            # An earlier attempt may have landed before the write that refused it.
            raise UnavailableError(self.key, error.reason, applied="no" if attempt == 1 else "unknown") from error

    def _read(self) -> tuple[_Record | None, Version | None]:
        try:
            stored = self._register.read()
        except NotFoundError:
            return None, None
        return self._decode(stored.data), stored.version

    def _encode(self, record: _Record) -> bytes:
        plain = {
            "schema_version": SCHEMA_VERSION,
            "write_id": self._clock.new_id(),
            "label": self._label,
            "owner": record.lease.owner,
            "token": record.lease.token,
            "fence": record.lease.fence,
            "expires_at_micros": (record.lease.expires_at - _EPOCH) // _MICROSECOND,
            "released": record.released,
        }
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def _decode(self, data: bytes) -> _Record:
        try:
            plain = json.loads(data)
            if not isinstance(plain, dict) or plain.get("schema_version") != SCHEMA_VERSION:
                raise ValueError(f"not of schema version {SCHEMA_VERSION}; a newer version may read it")
            record, label = _record(plain), plain["label"]
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise CorruptObjectError(self.key, f"the lease cannot be read ({error})") from error
        if label != self._label:
            raise CorruptObjectError(self.key, f"this lease is for {str(label)[:200]!r}, moved here from its own key")
        return record


def lifetime(ttl_seconds: float) -> timedelta:
    """Return a time to live.

    Raises:
        ValueError: Not above 0 (a microsecond counts), or over TTL_SECONDS_MAX.
    """
    if not 0 < ttl_seconds <= TTL_SECONDS_MAX or not timedelta(seconds=ttl_seconds):
        raise ValueError(f"a lease lasts more than 0 and at most {TTL_SECONDS_MAX} seconds, not {ttl_seconds}")
    return timedelta(seconds=ttl_seconds)


def _record(plain: dict[str, Any]) -> _Record:
    """Return the record of a decoded map. Raises ValueError, TypeError, OverflowError."""
    if plain.keys() != _FIELDS:
        raise ValueError(f"fields {sorted(plain.keys() ^ _FIELDS)} are missing or unknown")
    owner, token, fence, released = plain["owner"], plain["token"], plain["fence"], plain["released"]
    micros = plain["expires_at_micros"]
    if not isinstance(token, str) or type(released) is not bool or type(micros) is not int:
        raise TypeError("a field is of another type")
    if type(fence) is not int or not 1 <= fence <= _FENCE_MAX:
        raise ValueError("the fence is no number from 1")
    return _Record(Lease(check_id(owner, what="owner"), token, fence, _EPOCH + micros * _MICROSECOND), released)
