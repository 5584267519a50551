"""Leases of sessions: who may ask to work on one, for a while. They spare work; safety rests on the fence of the head.

Rules:
1. A lease is bound to tenant and session id; a record of another session is corruption.
2. A claim is refused while another owner holds the lease. The same owner claims again, which makes its older one stale.
3. A stale lease changes nothing. After a later claim the answer is `FencedError`: stop, another one works on it. If
   there was none since it expired or was released, it is `IllegalTransitionError`: nobody does, claim it again.
4. The session need not exist. A lease says nothing about it, and goes with it.

    lease = claim_lease(environment, "s1", "host-a", 30)
    lease = renew_lease(environment, "s1", lease, 30)
    release_lease(environment, "s1", lease)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    FencedError,
    IllegalTransitionError,
    InvalidStateError,
    LeaseHeldError,
)
from storage.errors import CorruptObjectError
from storage.leases import Busy, Free, Lease, LeaseRegister, Lost, lifetime


def claim_lease(environment: Environment, session_id: str, owner: str, ttl_seconds: float) -> Lease:
    """Take the lease of a session for `ttl_seconds`, unless another owner holds it.

    Args:
        environment: Where.
        session_id: Which session; it need not exist.
        owner: 1–512 bytes of text; equal names share the lease.
        ttl_seconds: Above 0, at most 30 days.

    Raises:
        LeaseHeldError: Another owner holds it; says who, and until when.
        InvalidKeyError, InvalidStateError: Not an id or owner; not a time to live. Nothing was written.
        CorruptSnapshotError: The record cannot be read, or is another session's.
        UnavailableError: Nothing was confirmed; claim it again.
    """
    _check_lifetime(ttl_seconds)
    with _corruption_named():
        answer = _register(environment, session_id).claim(owner, ttl_seconds)
    if isinstance(answer, Busy):
        raise LeaseHeldError(session_id, holder=answer.holder, expires_at=answer.expires_at)
    return answer


def renew_lease(environment: Environment, session_id: str, lease: Lease, ttl_seconds: float) -> Lease:
    """Let a lease last `ttl_seconds` from now; token and fence stay.

    Raises:
        FencedError: It was claimed since (rule 3); stop.
        IllegalTransitionError: It has expired, or was released; claim it again.
        InvalidStateError, CorruptSnapshotError, UnavailableError: As for `claim_lease`.
    """
    _check_lifetime(ttl_seconds)
    with _corruption_named():
        answer = _register(environment, session_id).renew(lease, ttl_seconds)
    if isinstance(answer, Lost):
        raise _lost(session_id, answer, to_status="renewed")
    return answer


def release_lease(environment: Environment, session_id: str, lease: Lease) -> None:
    """Give a lease up; releasing it again, or after it expired, is no failure.

    Raises:
        FencedError: It was claimed since; that claim stays as it is.
        CorruptSnapshotError, UnavailableError: As for `claim_lease`.
    """
    with _corruption_named():
        answer = _register(environment, session_id).release(lease)
    if isinstance(answer, Lost):
        raise _lost(session_id, answer, to_status="released")


def read_lease(environment: Environment, session_id: str) -> Lease | Free:
    """Return the lease of a session that is held now, or `Free` with the fence of the last one.

    Raises:
        CorruptSnapshotError, UnavailableError: As for `claim_lease`.
    """
    with _corruption_named():
        return _register(environment, session_id).read()


def _register(environment: Environment, session_id: str) -> LeaseRegister:
    layout = environment.layout
    label = json.dumps([layout.tenant, session_id], ensure_ascii=False)
    return LeaseRegister(environment.store, layout.lease(session_id), environment.clock, label=label)


def _check_lifetime(ttl_seconds: float) -> None:
    try:
        lifetime(ttl_seconds)
    except ValueError as error:
        raise InvalidStateError(str(error)) from error


def _lost(session_id: str, lost: Lost, *, to_status: str) -> FencedError | IllegalTransitionError:
    if lost.reason == "superseded":
        remedy = "this lease is older; stop, or claim another one"
        return FencedError(session_id, fence=lost.fence, holder=lost.holder, what="lease of session", remedy=remedy)
    what = f"lease of session {session_id!r}"
    return IllegalTransitionError(what, from_status=lost.reason, to_status=to_status, remedy="claim it again")


@contextmanager
def _corruption_named() -> Iterator[None]:
    try:
        yield
    except CorruptObjectError as error:
        raise CorruptSnapshotError(error.key, error.reason) from error
