"""What can go wrong with a session, one class per remedy. Facts are attributes; messages may change.

    SnapshotError
    ├─ SessionNotFoundError · RevisionNotFoundError · StoreNotFoundError (also KeyError)   check the name; create it
    ├─ SessionExistsError · SessionDeletedError · SessionMovedError(destination)           choose another id, or follow
    ├─ RevisionConflictError(expected, actual) · TurnConflictError                         load, re-apply
    ├─ CopyConflictError(session_id, revision, reason, what)  copy it under another id
    ├─ EffectConflictError(session_id, turn_id, key)        give the effect a new key, or abandon the turn
    ├─ FencedError(fence, holder) · LeaseHeldError(holder, expires_at)                     stop, or acquire again
    ├─ CommitUnknownError(commit_id, stamp)                 repeat with the same state object or stamp
    ├─ CorruptSnapshotError(key, ref, reason)               verify, then repair
    ├─ UnsupportedSchemaError(record, found, supported)     use a newer version of this software, or upgrade
    ├─ InvalidStateError(reason) · IllegalTransitionError(from, to) (also ValueError)      mend the argument
    ├─ InvalidInputError(source, position, reason)          mend the input
    └─ LimitExceededError(limit, value)                     send less

Failures of the store itself pass through as `storage.errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from storage.errors import Recipe, recipe

REPEAT_THE_COMMIT = "commit the same state object or stamp again, it is recognised"
STOP_OR_ACQUIRE = "stop writing; its Writer commits, or whoever acquires it next"
CHOOSE_RETAINED = "choose one that is retained (snapshots log shows them)"
VERIFY_THEN_REPAIR = "run snapshots verify, then snapshots repair"
USE_NEWER = "use a newer version of it"
UPGRADE = "run snapshots upgrade"
LOOK_FIRST = "look for this commit id in the session's history, and only if it is not there do it again"


class SnapshotError(Exception):
    """Any failure that concerns sessions. Catch a subclass: each names its remedy."""

    def __reduce__(self) -> Recipe:
        return recipe(self)


class _MissingError(SnapshotError, KeyError):
    __str__ = Exception.__str__  # KeyError would print the repr of the message


class SessionNotFoundError(_MissingError):
    """No such session (a reservation counts as none). Remedy: check the id and tenant, or create it by a commit.

    Attributes:
        what: What of the session is not there, "session" for all of it.
    """

    def __init__(self, session_id: str, *, what: str = "session") -> None:
        self.session_id = session_id
        self.what = what
        whose = f"session {session_id!r}" if what == "session" else f"{what} of session {session_id!r}"
        remedy = "create it by a commit" if what == "session" else "create it"
        super().__init__(f"no {whose} in this store and tenant; check the id, or {remedy}")


class RevisionNotFoundError(_MissingError):
    """The session has no such revision or pin, or it was dropped. Remedy: choose one that is retained.

    Attributes:
        revision: The number, or the name of a pin.
        reason: Why not, where it is not simply unknown.
    """

    def __init__(self, session_id: str, revision: int | str, *, reason: str = "") -> None:
        self.session_id = session_id
        self.revision = revision
        self.reason = reason
        what = f"pin {revision!r}" if isinstance(revision, str) else f"revision {revision}"
        because = f" ({reason})" if reason else ""
        super().__init__(f"session {session_id!r} has no {what}{because}; {CHOOSE_RETAINED}")


class StoreNotFoundError(_MissingError):
    """There is no store at this place. Remedy: check the URL, or open it with `create=True`."""

    def __init__(
        self,
        url: str,
        reason: str = "there is no store here",
        *,
        remedy: str = "check the URL, or create one (create=True, `snapshots probe --create`)",
    ) -> None:
        self.url = url
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{url}: {reason}; {remedy}")


class SessionExistsError(SnapshotError):
    """The id is taken by a live session. Remedy: choose another id, or load this one.

    Attributes:
        what: What of the session is there already, "session" for all of it.
    """

    def __init__(self, session_id: str, *, what: str = "session") -> None:
        self.session_id = session_id
        self.what = what
        whose = f"session {session_id!r}" if what == "session" else f"{what} of session {session_id!r}"
        super().__init__(f"{whose} exists already; load it, or choose another id")


class SessionDeletedError(SnapshotError):
    """The session was deleted; its id is spent. Remedy: choose another id."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(f"session {session_id!r} was deleted and its id is spent; choose another id")


class SessionMovedError(SnapshotError):
    """The session lives elsewhere now. Remedy: open the store at `destination`."""

    def __init__(self, session_id: str, destination: str) -> None:
        self.session_id = session_id
        self.destination = destination
        super().__init__(f"session {session_id!r} was moved to {destination}; use it there")


class CopyConflictError(SnapshotError):
    """What stands in the other store is no part of this session's past; nothing was changed. Remedy: copy it beside.

    Attributes:
        session_id: Its id there.
        revision: Its revision there, 0 for what lies beside it.
        reason: How they differ.
        what: What of the session differs, "session" for its revisions.
    """

    def __init__(self, session_id: str, revision: int, reason: str, *, what: str = "session") -> None:
        self.session_id = session_id
        self.revision = revision
        self.reason = reason
        self.what = what
        whose = f"session {session_id!r}" if what == "session" else f"{what} of session {session_id!r}"
        super().__init__(f"{whose} was not copied: {reason}; copy it under another id (--as)")


class RevisionConflictError(SnapshotError):
    """Someone else committed first; nothing of this commit was or will be applied. Remedy: load, re-apply, commit.

    Attributes:
        expected: The revision this commit was built on; None when it meant to create the session.
        actual: The revision found.
        what: What of the session was to be changed, "session" for all of it; others count versions of their own.
    """

    def __init__(self, session_id: str, *, expected: int | None, actual: int, what: str = "session") -> None:
        self.session_id = session_id
        self.expected = expected
        self.actual = actual
        self.what = what
        if what == "session":
            wanted = "no session yet" if expected is None else f"revision {expected}"
            found = f"session {session_id!r} is at revision {actual}, not at {wanted}; load it and apply the turn again"
        else:
            found = f"{what} of session {session_id!r}: version {actual}, not {expected}; read it and decide anew"
        super().__init__(found)


class TurnConflictError(SnapshotError):
    """This turn id was committed already with other content. Remedy: load; use a new turn id for a new turn."""

    def __init__(self, session_id: str, turn_id: str, revision: int) -> None:
        self.session_id = session_id
        self.turn_id = turn_id
        self.revision = revision
        super().__init__(
            f"turn {turn_id!r} of session {session_id!r} stands at revision {revision} with other content; "
            "load it, and give a new turn its own id"
        )


class EffectConflictError(SnapshotError):
    """This turn recorded the effect with another call or result. Remedy: give it a new key, or abandon the turn.

    The turn is not repeatable as it stands: run again, it asked for something else under the same key.
    """

    def __init__(self, session_id: str, turn_id: str, key: str) -> None:
        self.session_id = session_id
        self.turn_id = turn_id
        self.key = key
        super().__init__(
            f"turn {turn_id!r} of session {session_id!r} recorded effect {key!r} with another content or result; "
            "give the effect a new key, or abandon the turn"
        )


class FencedError(SnapshotError):
    """Another owner has taken over; this one can do no more. Remedy: stop, or acquire again; `remedy` says it.

    Attributes:
        fence: The fence now in the head, or that of the lease.
        holder: Owner who holds it, or "" when nobody is named.
        remedy: What to do now.
    """

    def __init__(
        self, session_id: str, *, fence: int, holder: str, what: str = "session", remedy: str = STOP_OR_ACQUIRE
    ) -> None:
        self.session_id = session_id
        self.fence = fence
        self.holder = holder
        self.what = what
        self.remedy = remedy
        by = f"is held by {holder!r}" if holder else "was taken over"
        super().__init__(f"{what} {session_id!r} {by} (fence {fence}); {remedy}")


class LeaseHeldError(SnapshotError):
    """Someone else holds the lease. Remedy: wait until `expires_at`, or ask the holder."""

    def __init__(self, session_id: str, *, holder: str, expires_at: datetime) -> None:
        self.session_id = session_id
        self.holder = holder
        self.expires_at = expires_at
        super().__init__(f"session {session_id!r} is leased by {holder!r} until {expires_at.isoformat()}; wait or ask")


class CommitUnknownError(SnapshotError):
    """The commit may or may not have been applied. Remedy: commit the same state object (or stamp) again; that is safe.

    A fork or a rewind in doubt has no state object: look for `commit_id` in the history first.

    Attributes:
        commit_id: Id of the commit in doubt.
        stamp: Turn id of its stamp, or "" without one.
        reason: Why nobody can tell, "" for lost answers alone.
        remedy: What to do now.
    """

    def __init__(
        self, session_id: str, *, commit_id: str, stamp: str, reason: str = "", remedy: str = REPEAT_THE_COMMIT
    ) -> None:
        self.session_id = session_id
        self.reason = reason
        self.commit_id = commit_id
        self.stamp = stamp
        self.remedy = remedy
        super().__init__(
            f"commit {commit_id} of session {session_id!r} may or may not have been applied; "
            f"{reason + '; ' if reason else ''}{remedy}"
        )


class CorruptSnapshotError(SnapshotError):
    """A stored record or blob is missing, altered or misplaced. Remedy: verify the store, then repair it.

    Attributes:
        key: Object in which it was found.
        ref: Digest of the blob concerned, or "" for a record without one.
        reason: What is wrong.
    """

    def __init__(self, key: str, reason: str, *, ref: str = "") -> None:
        self.key = key
        self.ref = ref
        self.reason = reason
        where = f" [{ref}]" if ref else ""
        super().__init__(f"{key}: {reason}{where}; {VERIFY_THEN_REPAIR}")


class UnsupportedSchemaError(SnapshotError):
    """A record of another schema version than is needed. Remedy: use software that reads it; `remedy` says it.

    Attributes:
        record: Which one.
        found: Its version, or what stands there that no version known here has.
        supported: The versions that would do.
        remedy: What to do, "" for newer software.
    """

    def __init__(self, record: str, *, found: object, supported: Sequence[int], remedy: str = "") -> None:
        self.record = record
        self.found = found
        self.supported = tuple(supported)
        self.remedy = remedy
        known = ", ".join(map(str, self.supported))
        said = f"this needs {known}: {remedy}" if remedy else f"this software reads {known}: {USE_NEWER}"
        super().__init__(f"{record} has schema version {found!r}; {said}")


class InvalidStateError(SnapshotError, ValueError):
    """The state breaks a rule of its own; nothing was written. Remedy: mend what the reason names."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class IllegalTransitionError(SnapshotError, ValueError):
    """A life cycle does not allow this step. Remedy: check the status first; `remedy` says what leads on."""

    def __init__(self, what: str, *, from_status: str, to_status: str, remedy: str = "") -> None:
        self.what = what
        self.from_status = from_status
        self.to_status = to_status
        self.remedy = remedy
        super().__init__(f"{what} is {from_status} and cannot become {to_status}{'; ' + remedy if remedy else ''}")


class InvalidInputError(SnapshotError):
    """An input document cannot be used; nothing was written. Remedy: mend it at `position`.

    Attributes:
        source: File name or URL.
        position: Where in it, in its own terms ("line 3 column 7", "item 4: traj[2].role"), "" for all of it.
        reason: What is wrong.
    """

    def __init__(self, source: str, position: str, reason: str) -> None:
        self.source = source
        self.position = position
        self.reason = reason
        super().__init__(f"{source}: {position + ': ' if position else ''}{reason}")


class LimitExceededError(SnapshotError):
    """A documented limit would be passed; nothing was written. Remedy: send less.

    Attributes:
        limit: Name and value of the limit.
        value: What was asked.
    """

    def __init__(self, limit: str, value: int) -> None:
        self.limit = limit
        self.value = value
        super().__init__(f"{value} is over the limit: {limit}")
