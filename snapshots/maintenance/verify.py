"""Verifying a store: a read-only look for damage, reported as findings, session by session, and then beside them.

Rules:
1. Damage is a finding, never an exception; a store that does not answer is an exception, never a finding.
2. Something that is missing counts only if the head, read again, is still the same, or still needs it; what others do
   meanwhile is no finding.
3. Sessions are verified side by side, those of one family one after another, and reported in the order of their keys:
   with `start_after` a verification goes on where another one ended.
4. A blob is read once, as long as it is remembered (`snapshots.maintenance.blobs`).

Levels: "heads": every head can be read and belongs to its key. "presence": also the present manifest and the logs of
each session, and every pack exists that a retained revision needs, or that a reservation names. "full": also every
retained revision loads whole, every blob of it re-hashed, every pack's index and the session's registers can be read,
and all of it fits together; and after the sessions whatever lies beside them, also where there is no session
(`snapshots.maintenance.beside`).

    for found in verify(repo):
        print(found)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Literal

from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, SessionNotFoundError, UnsupportedSchemaError
from snapshots.head import LIVE, Head
from snapshots.leases import read_lease
from snapshots.maintenance.beside import satellites_of, verify_satellites
from snapshots.maintenance.blobs import Blobs
from snapshots.maintenance.findings import DAMAGE, Finding, Subject, Verified, VerifiedSatellite, What
from snapshots.maintenance.manifests import Manifests
from snapshots.maintenance.memory import Memory, named
from snapshots.maintenance.pieces import Fault
from snapshots.maintenance.revisions import DamagedError, Logs, Present, RevisionCheck, head_findings, read_present
from snapshots.operations import yielding_operation
from snapshots.placement import ManifestPlace, PackUse, PlaceRow
from snapshots.reading import LOAD_ATTEMPTS_MAX, HeadRead, head_at, read_head, with_tail
from snapshots.repository import SnapshotRepository
from snapshots.roots import named_keys
from snapshots.turns import TurnRecord
from storage.errors import CorruptObjectError, NotFoundError

Level = Literal["heads", "presence", "full"]
SESSIONS_SIDE_BY_SIDE = 32  # bounds what waits to be reported, not the result
MANIFESTS_TOGETHER = 32  # read at once before their revisions are verified


@yielding_operation("verify", "repo.environment", "session_id")
def verify(
    repo: SnapshotRepository, *, level: Level = "full", session_id: str | None = None, start_after: str = ""
) -> Iterator[Finding | Verified | VerifiedSatellite]:
    """Yield what is wrong with the sessions of a tenant, and each session when it was looked through.

    At the level "full" what lies beside the sessions comes after them, in the same manner, all of it wherever the
    sessions begin.

    Args:
        repo: The repository; nothing in it is changed.
        level: How closely to look.
        session_id: One session, None for all.
        start_after: Key of the last session that was reported, to go on behind it.

    Yields:
        The findings of a session, then its `Verified`; sessions in the order of their keys. Then the findings of what
        lies beside a session, then its `VerifiedSatellite`.

    Raises:
        SessionNotFoundError: There is no such session at all, and at the level "full" nothing beside one either.
        UnavailableError: The store did not answer; go on from the last `Verified`.
    """
    environment, memory = repo.environment, Memory()
    if session_id is not None:
        yield from _verify_alone(environment, memory, level, session_id)
        return
    one = partial(_verify_session, environment, memory, level)
    listing = environment.store.list(environment.layout.heads, start_after=start_after)
    while page := [row.key for row in islice(listing, SESSIONS_SIDE_BY_SIDE)]:
        for reported in environment.executor.map(one, page):
            yield from reported
    if level == "full":
        yield from verify_satellites(environment)


def _verify_alone(
    environment: Environment, memory: Memory, level: Level, session_id: str
) -> Iterator[Finding | Verified | VerifiedSatellite]:
    is_there = not _is_absent(environment, session_id)
    if is_there:
        yield from _verify_session(environment, memory, level, environment.layout.head(session_id))
    for one in satellites_of(environment, session_id) if level == "full" else ():
        is_there = True
        yield one
    if not is_there:
        raise SessionNotFoundError(session_id)


def session_findings(environment: Environment, session_id: str) -> list[Finding]:
    """Return what is wrong with one session that exists, at the level "full"; not what lies beside it.

    Raises:
        UnavailableError: The store did not answer.
    """
    reported = _verify_session(environment, Memory(), "full", environment.layout.head(session_id))
    return [one for one in reported if isinstance(one, Finding)]


def _is_absent(environment: Environment, session_id: str) -> bool:
    try:
        return read_head(environment, session_id) is None
    except (CorruptSnapshotError, UnsupportedSchemaError):
        return False  # there, and damaged: that is for the verification to say


def _verify_session(environment: Environment, memory: Memory, level: Level, key: str) -> list[Finding | Verified]:
    try:
        read = head_at(environment, key)
    except DAMAGE as error:
        return [Subject("", key).found(error, What.HEAD), Verified(key, "", 0, 1)]
    check = _SessionCheck(environment, memory, read, key)
    found = check.family()
    if level != "heads":
        found += check.staged()
    if level == "presence":
        found += check.presence()
    elif level == "full":
        with memory.alone_in(read.head.family or read.head.session_id):
            found += check.full()
    return [*found, Verified(key, read.head.session_id, check.revisions, len(found))]


def _is_live(head: Head) -> bool:
    return head.status == LIVE


def _retains(revision: int, head: Head) -> bool:
    return _is_live(head) and head.retains(revision)


def _has_staged(head: Head) -> bool:
    return head.staged is not None


class _View:
    """What a verification looks through, as one head names it.

    Args:
        environment: Where to look.
        read: The head.
        memory: What was looked at before.
        subject: The session.
    """

    def __init__(self, environment: Environment, read: HeadRead, memory: Memory, subject: Subject) -> None:
        self.environment = with_tail(environment, read.head)
        self.blobs = Blobs(self.environment, read.head, memory)
        self.manifests = Manifests(self.environment, read.head.family, memory)
        self.logs = Logs(self.blobs)
        self.revision_check = RevisionCheck(self.logs, subject)


class _SessionCheck:
    """The verification of one session.

    Attributes:
        revisions: Number of revisions that were looked through.
    """

    def __init__(self, environment: Environment, memory: Memory, read: HeadRead, key: str) -> None:
        self.revisions = 0
        self._environment = environment
        self._memory = memory
        self._read = read
        self._key = key
        self._subject = Subject(read.head.session_id, key)
        self._view = _View(environment, read, memory, self._subject)
        self._known: tuple[HeadRead, Present] | None = None

    def family(self) -> list[Finding]:
        """Return whether the session that a fork's family began with is lost: heads are never deleted."""
        head = self._read.head
        if head.family in ("", head.session_id):
            return []
        key = self._environment.layout.head(head.family)
        name = named("first", head.family)
        there = self._memory.firsts.find(name)
        if there is None:
            there = self._is_there(key)
            self._memory.firsts.keep(name, there)
        reason = f"the head is missing, and session {head.session_id!r} was forked from it; restore it from a copy"
        return [] if there else [Finding(head.session_id, None, key, "", What.HEAD, reason)]

    def staged(self) -> list[Finding]:
        """Return which packs are missing of those that a reservation names: while it does, no collection takes them."""
        return self._settled(self._staged, _has_staged)

    def presence(self) -> list[Finding]:
        """Return what a look at manifest, logs and the listing of packs finds."""
        return self._settled(self._presence)

    def full(self) -> list[Finding]:
        """Return what a look at everything finds."""
        found = [*self._registers(), *self._settled(self._whole)]
        rows = [] if self._known is None else self._known[1].retained()
        for start in range(0, len(rows), MANIFESTS_TOGETHER):
            found += self._revisions(rows[start : start + MANIFESTS_TOGETHER])
        return list(dict.fromkeys(found))  # a damaged log is found with the session, and with its revision

    def _settled(
        self, look: Callable[[HeadRead], list[Finding]], concerns: Callable[[Head], bool] = _is_live
    ) -> list[Finding]:
        """Return what `look` finds; by rule 2 again while something is missing and the session moves on."""
        found: list[Finding] = []
        for _ in range(LOAD_ATTEMPTS_MAX):
            if not concerns(self._read.head):
                return []
            found = look(self._read)
            if not any(one.what is What.MISSING for one in found):
                break
            try:
                again = head_at(self._environment, self._key)
            except DAMAGE:
                break
            if again.version == self._read.version:
                break
            self._read = again
            self._view = _View(self._environment, again, self._memory, self._subject)
        return found

    def _present(self, read: HeadRead) -> Present:
        if self._known is None or self._known[0].version != read.version:
            environment, logs = self._view.environment, self._view.logs
            self._known = (read, read_present(environment, read.head, logs, self._of(read.head.revision)))
        return self._known[1]

    def _of(self, revision: int) -> Subject:
        return replace(self._subject, revision=revision)

    def _staged(self, read: HeadRead) -> list[Finding]:
        keys = sorted(named_keys(self._environment, read.head))
        there = self._environment.executor.map(self._is_there, keys)
        return [
            self._subject.found(NotFoundError(key), What.MISSING)
            for key, is_there in zip(keys, there, strict=True)
            if not is_there
        ]

    def _presence(self, read: HeadRead) -> list[Finding]:
        try:
            present = self._present(read)
        except DamagedError as error:
            return [error.finding]
        listed = self._listing(read.head)
        return list(present.damage) + [
            self._of(present.first_need(use)).found(NotFoundError(self._view.blobs.key_of(use.pack)), What.MISSING)
            for use in present.uses
            if use.pack not in listed and not self._exists(use)
        ]

    def _listing(self, head: Head) -> frozenset[str]:
        """Return the packs of the family as they were listed at some time during this verification."""
        name = named("listing", head.family)
        found = self._memory.listings.find(name)
        if found is None:
            assert head.manifest is not None, "a live head names a manifest"
            prefix = self._view.blobs.key_of(head.manifest.pack).removesuffix(head.manifest.pack)
            rows = self._environment.store.list(prefix)
            found = frozenset(row.key.removeprefix(prefix) for row in rows)
            self._memory.listings.keep(name, found, max(1, len(found)))
        return found

    def _exists(self, use: PackUse) -> bool:
        """Say whether a pack that was not listed came after the listing, or lies in the head."""
        return self._is_there(self._view.blobs.key_of(use.pack))

    def _is_there(self, key: str) -> bool:
        try:
            self._view.environment.store.stat(key)
        except NotFoundError:
            return False
        return True

    def _whole(self, read: HeadRead) -> list[Finding]:
        """Return what is wrong with the session as a whole: head and logs, and the indexes of its packs."""
        try:
            present = self._present(read)
        except DamagedError as error:
            return [error.finding]
        packs = sorted({use.pack for use in present.uses})
        indexes = self._environment.executor.map(self._index, packs)
        return [*present.damage, *head_findings(present, self._subject), *(one for many in indexes for one in many)]

    def _index(self, pack: str) -> list[Finding]:
        verdict = self._view.blobs.index_verdict(pack)
        if verdict is None:
            return []
        if isinstance(verdict, NotFoundError):
            return [self._subject.found(verdict, What.PACK)]
        return [self._subject.finding(What.PACK, verdict.reason, key=verdict.key)]

    def _revisions(self, rows: Sequence[PlaceRow]) -> list[Finding]:
        against = dict.fromkeys(row.manifest.against for row in rows if row.manifest.against is not None)
        list(self._environment.executor.map(self._full, against))  # and remember it
        stored = self._environment.executor.map(self._stored, (row.manifest for row in rows))
        found: list[Finding] = []
        for row, manifest in zip(rows, stored, strict=True):
            first = [(row.manifest, manifest)]  # read ahead; after that the revision is looked up again
            found += self._settled(partial(self._revision, row.revision, first), partial(_retains, row.revision))
            self.revisions += 1
        return found

    def _revision(
        self, revision: int, read_ahead: list[tuple[ManifestPlace, bytes | Fault]], read: HeadRead
    ) -> list[Finding]:
        try:
            present = self._present(read)
        except DamagedError as error:
            return [error.finding]
        if revision not in present.places:
            return list(present.damage)
        row = present.places[revision]
        place, stored = read_ahead.pop() if read_ahead else (row.manifest, self._stored(row.manifest))
        if place != row.manifest:
            stored = self._stored(row.manifest)
        raw = self._opened(row.manifest, stored) if isinstance(stored, bytes) else stored
        if not isinstance(raw, bytes):
            return [self._of(revision).found(raw, What.MANIFEST)]
        return self._view.revision_check.findings(present, row, raw)

    def _full(self, place: ManifestPlace) -> bytes | Fault:
        try:
            return self._view.manifests.full(place)
        except (NotFoundError, CorruptObjectError) as error:
            return error

    def _stored(self, place: ManifestPlace) -> bytes | Fault:
        try:
            return self._view.manifests.stored(place)
        except (NotFoundError, CorruptObjectError) as error:
            return error

    def _opened(self, place: ManifestPlace, stored: bytes) -> bytes | Fault:
        try:
            return self._view.manifests.opened(place, stored)
        except (NotFoundError, CorruptObjectError) as error:
            return error

    def _registers(self) -> list[Finding]:
        """Return what is wrong with turn in flight and lease; a session may have neither."""
        found = []
        session_id, environment = self._read.head.session_id, self._environment
        try:
            self._turn(environment.layout.turns(session_id))
        except NotFoundError:
            pass
        except DAMAGE as error:
            found.append(self._subject.found(error, What.REGISTER))
        try:
            read_lease(environment, session_id)
        except DAMAGE as error:
            found.append(self._subject.found(error, What.REGISTER))
        return found

    def _turn(self, key: str) -> None:
        record = TurnRecord.decode(self._environment.store.get(key).data, key=key)
        if (record.session_id, record.tenant) != (self._read.head.session_id, self._environment.layout.tenant):
            whose = f"session {record.session_id!r} of tenant {record.tenant!r}"
            raise CorruptSnapshotError(key, f"this is the turn in flight of {whose}, moved here from its own key")
