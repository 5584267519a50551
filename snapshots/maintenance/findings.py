"""What a verification says: findings, and that a session or a satellite was looked through. Values.

Finding("s1", 3, key, "b3:…", What.ALTERED, "a frame's checksum does not match")
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from storage.errors import CorruptObjectError, NotFoundError

Damage = NotFoundError | CorruptObjectError | CorruptSnapshotError | UnsupportedSchemaError
DAMAGE = (NotFoundError, CorruptObjectError, CorruptSnapshotError, UnsupportedSchemaError)
"""What reading a damaged store raises; anything else is no finding and passes through."""


class What(StrEnum):
    """The kinds of findings; the list is closed."""

    HEAD = "head"  # unreadable, or another session's
    RING = "ring"  # commit ids or turns of the head are not the history's
    MISSING = "missing"  # an object that the head names
    ALTERED = "altered"  # bytes that are not what was written
    MANIFEST = "manifest"  # unreadable, another revision's, or not where it should lie
    PACKS = "packs"  # a revision needs a pack that the head does not keep for it
    PACK = "pack"  # the index of a pack is unreadable, or says that it is another family's
    HISTORY = "history"  # unreadable or broken
    LEDGER = "ledger"  # usage where none can be, or sums over the limit
    PLACES = "places"  # the log of places is unreadable or broken
    GRAPH = "graph"  # nodes are unreadable, or break the rules of a graph
    PART = "part"  # tool state or plugin snapshot is unreadable
    REGISTER = "register"  # turn in flight or lease
    SATELLITE = "satellite"  # what lies beside a session is unreadable, another session's, or contradicts itself
    SCHEMA = "schema"  # of a later version, which this one cannot verify


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is wrong.

    Attributes:
        session_id: Which session, "" if nothing tells.
        revision: Which revision cannot be trusted, None if it concerns the session or no single one.
        key: Object in which it was found.
        ref: Digest of the blob concerned, "" for none.
        what: Which kind.
        reason: What exactly, for people.
    """

    session_id: str
    revision: int | None
    key: str
    ref: str
    what: What
    reason: str


@dataclass(frozen=True, slots=True)
class Verified:
    """A session was looked through; its findings came before.

    Attributes:
        key: Key of its head; a verification goes on from here by `start_after`.
        session_id: Its id, "" if its head does not tell.
        revisions: Number of revisions that were looked through, 0 but for the level "full".
        findings: How many findings there were.
    """

    key: str
    session_id: str
    revisions: int
    findings: int


@dataclass(frozen=True, slots=True)
class VerifiedSatellite:
    """What lies beside a session was looked through, one of its kinds; its findings came before.

    Attributes:
        key: Of its register, or the prefix under which all of it lies.
        session_id: Of which session, "" if nothing tells. That session need not exist.
        findings: How many findings there were.
    """

    key: str
    session_id: str
    findings: int


@dataclass(frozen=True, slots=True)
class Subject:
    """What is being looked at: makes findings about it.

    Attributes:
        session_id: Which session.
        key: What to name when an error names no object.
        revision: Which revision, None for all.
    """

    session_id: str
    key: str
    revision: int | None = None

    def finding(self, what: What, reason: str, *, key: str = "", ref: str = "") -> Finding:
        """Return a finding about the subject, in the object `key`."""
        return Finding(self.session_id, self.revision, key or self.key, ref, what, reason)

    def found(self, error: Damage, what: What, *, ref: str = "") -> Finding:
        """Return the finding that an error is; `what` is meant for a record that cannot be read."""
        if isinstance(error, UnsupportedSchemaError):
            return self.finding(What.SCHEMA, str(error), ref=ref)
        if isinstance(error, NotFoundError):
            return self.finding(
                What.MISSING, "this object is missing, though the head names it", key=error.key, ref=ref
            )
        if isinstance(error, CorruptObjectError):
            return self.finding(What.ALTERED, error.reason, key=error.key, ref=ref)
        return self.finding(what, error.reason, key=error.key, ref=error.ref or ref)
