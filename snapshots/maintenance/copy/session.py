"""Copying one session: packs under new names, then books, then the head by compare-and-swap. The source is only read.

Rules:
1. What identifies a revision is copied as it is; where it lies is new. The head here keeps its own epoch, fence and
   version, and holder.
2. A head exists here, reserved, before anything is uploaded for it. A pack is published only if its upload began after
   that head was read at the epoch which it has at the publish, or if the reserved head names it: after every pack of
   many this one names all, so that a long copy outlives collections, and whoever repeats it goes on.
3. A session is copied only onto a part of its own past: the head here must stand at a revision of the source, or there
   is none. Whatever else stands there is a conflict, and stays. What is later than the head of the source is one if it
   is later still than that head read again. What was moved on from here may come back, where that is meant.
4. A fork shares the packs of the session here that it came from: of the head of that one as it was read in this very
   attempt, and only while its epoch is at least the fork's; a head that lags behind is helped.
5. Every frame is checked by its checksum before the head names it. What is damaged in the source is not copied: nothing
   of that session is published.
6. An answer that is lost is settled by reading the head: by its write id, or by what it says already.

    copied = copy_session(source, destination, SessionJob("s1"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from snapshots.environment import Environment
from snapshots.epochs import raised, take_number
from snapshots.errors import (
    CopyConflictError,
    CorruptSnapshotError,
    RevisionConflictError,
    SessionDeletedError,
    SessionMovedError,
    SessionNotFoundError,
)
from snapshots.head import HEAD_BYTES_MAX, HEAD_COMMIT_BYTES_MAX, LIVE, MOVED, RESERVED, TOMBSTONE, Head
from snapshots.laying import PLACES
from snapshots.layout import pack_name
from snapshots.logs import NO_LOG, HeldLog, encode_rows
from snapshots.maintenance.copy.books import CopiedBooks, Retention, only_here_in, retention_of
from snapshots.maintenance.copy.survey import WHOLE, History, Survey, places_in, survey
from snapshots.placement import ManifestPlace, PackUse, Placement, PlaceRow, manifest_bytes, seal_manifest
from snapshots.publish import Publication, intent_on
from snapshots.reading import HeadRead, read_head, read_live_head, retried_while_moving
from snapshots.rewrite import rewrite_head
from snapshots.staged import admits, staged_with
from snapshots.staging import Identity, inline_manifest, reads_of
from snapshots.stretches import Stretch, as_many_as_fit, last_rows
from storage.clock import backoff_seconds
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError, UnavailableError
from storage.extents import Read, Spliceable
from storage.pack_copies import WHOLE_BYTES_MAX, body_of
from storage.packs import PackBody, PackBuilder, PackData, carrying, finished, read_index, write_pack

ATTEMPTS_MAX = 8  # of a publish, with jitter between them
SURVEYS_MAX = 32  # of a source that is collected while it is copied
PACK_BYTES = 8 << 20  # packs are copied into packs of about this size
KEPT_CHANGING = "the head kept changing"
CARRIES = "carries"  # the fact in the index of a pack that says what was copied into it
FETCHED_AT_ONCE = 8  # packs of a session, WHOLE_BYTES_MAX each at most


@dataclass(frozen=True, slots=True)
class SessionJob:
    """Which session to copy.

    Attributes:
        session_id: Its id in the source.
        target: Its id here, "" for the same.
        history: Every retained revision, or the present one alone.
        relatives: Sessions here that may have packs of it (rule 4), best first.
        may_return: Whether it may take the place of what it left here when it was moved away.
    """

    session_id: str
    target: str = ""
    history: History = WHOLE
    relatives: tuple[str, ...] = ()
    may_return: bool = False

    @property
    def target_id(self) -> str:
        """Return its id here."""
        return self.target or self.session_id


@dataclass(frozen=True, slots=True)
class SessionCopied:
    """What became of a session.

    Attributes:
        session_id: Its id in the source.
        target: Its id here.
        before: Its revision here before, 0 if there was none.
        revision: Its revision here now.
        is_changed: Whether anything was written.
        packs: Packs of the source that were uploaded.
        shared: Packs of the source that it shares with another session here, or had already.
        uploaded_bytes: Size of all that was uploaded.
    """

    session_id: str
    target: str
    before: int
    revision: int
    is_changed: bool = True
    packs: int = 0
    shared: int = 0
    uploaded_bytes: int = 0


Told = Callable[[int], None]
"""Told how many bytes were copied."""


def unheard(_bytes: int) -> None:
    """Tell nobody."""


def copy_session(source: Environment, here: Environment, job: SessionJob, told: Told = unheard) -> SessionCopied:
    """Copy a session, or what is new of it.

    Interrupted at any request it leaves the session here as it was; whoever repeats it goes on.

    Raises:
        CopyConflictError: What stands here is no part of the session's past; nothing was changed.
        SessionNotFoundError, SessionDeletedError, SessionMovedError: There is no such session in the source.
        CorruptSnapshotError: Something of it is missing in the source, or altered; nothing was changed.
        LimitExceededError: The head here has no room for what both retain.
        UnavailableError: A store did not answer; repeat it.
    """
    return _SessionCopy(source, here, job, told).run()


def conflict_of(there: Head, here: Head, job: SessionJob) -> str:
    """Return why a session cannot be copied onto a head that is not reserved, as far as both heads tell; "" if it can.

    Args:
        there: Its head in the source.
        here: The head that stands here.
        job: What is to be copied.
    """
    if here.status == TOMBSTONE:
        return "it was deleted here, and its id is spent"
    if here.status == MOVED and not job.may_return:
        return f"it was moved on from here, to {here.destination}"
    if here.revision > there.revision:
        return f"it stands at revision {here.revision} here, and at {there.revision} in the source"
    if here.holder is not None:
        return f"it is held here by {here.holder.owner!r}"
    if here.revision == there.revision and here.checkpoint_ref != there.checkpoint_ref:
        return _another(here)
    return ""


def _another(here: Head) -> str:
    return f"its revision {here.revision} here is another one than in the source"


def is_copied(there: Head, here: Head, history: History) -> bool:
    """Say whether a live head here has everything of the source's that is to be copied."""
    if here.status != LIVE or (here.revision, here.checkpoint_ref) != (there.revision, there.checkpoint_ref):
        return False
    return retention_of(there, here, history) == Retention(here.floor, here.kept, here.pins)


class _SourceMovedError(Exception):
    """Something of the source is missing: its head has to be read again. Never leaves this module."""

    def __init__(self, error: NotFoundError) -> None:
        self.error = error
        super().__init__(str(error))


class _HereMovedError(Exception):
    """Something here is missing: the head has to be read again. Never leaves this module."""

    def __init__(self, error: NotFoundError) -> None:
        self.error = error
        super().__init__(str(error))


@dataclass(frozen=True, slots=True)
class _Uploaded:
    """Where a pack of the source was put.

    Attributes:
        pack: The pack here.
        start: Its first byte there.
        epoch: Of the head that was read before the upload began.
        family: In which the pack lies.
    """

    pack: str
    start: int
    epoch: int
    family: str


@dataclass(frozen=True, slots=True)
class _Laid:
    """What the head has to say of where the present revision lies."""

    manifest: ManifestPlace
    inline_manifest: bytes
    reads: tuple[Read, ...]
    stretches: tuple[Stretch, ...]


@dataclass(slots=True)
class _Work:
    """What there is to do before a head can be sent.

    Attributes:
        read: The head here, as it was just read.
        found: The session in the source.
        before: The session here, None while the head names no revision of it.
        family: In which its packs lie here.
        here: Where packs lie that the head may name; grows with what is uploaded.
        groups: Packs that are missing, those together that go into one.
    """

    read: HeadRead
    found: Survey
    before: Survey | None
    family: str
    here: dict[str, tuple[str, int]]
    groups: list[list[str]]


class _SessionCopy:
    """One call of `copy_session`."""

    def __init__(self, source: Environment, here: Environment, job: SessionJob, told: Told) -> None:
        self._source = source
        self._here = here
        self._job = job
        self._told = told
        self._register = here.register(job.target_id)
        self._found: Survey | None = None
        self._uploaded: dict[str, _Uploaded] = {}
        self._shared: set[str] = set()
        self._uploaded_bytes = 0
        self._body_bytes: dict[str, int] = {}  # of packs here, as far as they are known
        self._reason = KEPT_CHANGING  # why the last head that was sent was not stored

    def run(self) -> SessionCopied:
        there = read_live_head(self._source, self._job.session_id)
        read, surveys, attempt = self._target(), 0, 1
        before, is_changed = read.head.revision, False
        while attempt <= ATTEMPTS_MAX:
            there = self._source_head(there if self._found is None else self._found.read, read.head)
            if self._is_done(there.head, read.head):
                return self._copied(before, read.head, is_changed=is_changed)
            try:
                head = self._next_head(read, there)
            except (_SourceMovedError, _HereMovedError) as moved:
                surveys += 1
                there, read = self._read_again(there, read, moved, surveys)
                continue
            is_changed = True
            stored = self._sent(read, head)
            if stored is None:
                self._here.clock.sleep(backoff_seconds(attempt, self._here.clock))
                stored = self._target()
            attempt = 1 if stored.head.write_id == head.write_id else attempt + 1
            read = stored
        raise UnavailableError(self._register.key, f"{self._reason}; copy it again", applied="unknown")

    def _copied(self, before: int, head: Head, *, is_changed: bool) -> SessionCopied:
        return SessionCopied(
            session_id=self._job.session_id,
            target=self._job.target_id,
            before=before,
            revision=head.revision,
            is_changed=is_changed,
            packs=len(self._uploaded),
            shared=len(self._shared.difference(self._uploaded)),
            uploaded_bytes=self._uploaded_bytes,
        )

    # The head here.

    def _target(self) -> HeadRead:
        """Return the head here; a reserved one where there was none (rule 2)."""
        read = read_head(self._here, self._job.target_id)
        if read is not None:
            return read
        identity = Identity(self._here.clock.new_id(), self._here.clock.now(), None)
        intent = intent_on(self._here, self._job.target_id, None, identity)
        try:
            return Publication(self._here, intent, identity).reserve()
        except (RevisionConflictError, SessionDeletedError, SessionMovedError) as error:  # what stands there is judged
            read = read_head(self._here, self._job.target_id)
            if read is None:
                raise CorruptSnapshotError(
                    self._register.key, "the head is gone, and heads are never deleted"
                ) from error
            return read

    def _source_head(self, there: HeadRead, here: Head) -> HeadRead:
        """Return the head of the source: as it is now, if somebody else may have copied a later one, or moved it.

        What was moved here and on from here was left in the source before: nobody brings it back from there.
        """
        if here.status != MOVED and here.revision <= there.head.revision:
            return there
        again = read_live_head(self._source, self._job.session_id)
        if again.version != there.version:
            self._found = None
        return again

    def _is_done(self, there: Head, here: Head) -> bool:
        """Say whether everything was copied. Raises CopyConflictError by rule 3."""
        if here.status == RESERVED:
            return False
        if reason := conflict_of(there, here, self._job):
            raise CopyConflictError(here.session_id, here.revision, reason)
        return is_copied(there, here, self._job.history)

    def _sent(self, read: HeadRead, head: Head) -> HeadRead | None:
        """Send a head once; return it if it is stored, None if that has to be found out (rule 6)."""
        limit = HEAD_COMMIT_BYTES_MAX if head.status == LIVE else HEAD_BYTES_MAX
        try:
            return HeadRead(head, self._register.swap_once(read.version, head.encode(limit_bytes=limit)))
        except PreconditionFailedError:
            self._reason = KEPT_CHANGING
        except UnavailableError as error:
            self._reason = error.reason
        return None

    def _read_again(
        self, there: HeadRead, read: HeadRead, moved: _SourceMovedError | _HereMovedError, surveys: int
    ) -> tuple[HeadRead, HeadRead]:
        """Return both heads as they are now: what is missing is damage only if the head still names it."""
        self._found = None
        if isinstance(moved, _SourceMovedError):
            again = read_live_head(self._source, self._job.session_id)
            is_same = again.version == there.version
            there = again
        else:
            again = self._target()
            is_same = again.version == read.version
            read = again
        if is_same:
            reason = "this object is missing, though the head names it"
            raise CorruptSnapshotError(moved.error.key, reason) from moved.error
        if surveys >= SURVEYS_MAX:
            raise UnavailableError(moved.error.key, "the session kept moving while it was copied", applied="no")
        return there, read

    # What it will say.

    def _next_head(self, read: HeadRead, there: HeadRead) -> Head:
        """Upload what is missing; return the head to send: a reserved one that names it, as long as there is more."""
        found = self._surveyed(there)
        before = self._surveyed_here(read) if read.head.status == LIVE else None
        if read.head.revision and found.checkpoint_ref(read.head.revision) != read.head.checkpoint_ref:
            raise CopyConflictError(read.head.session_id, read.head.revision, _another(read.head))
        retention = retention_of(found.head, None if before is None else before.head, self._job.history)
        work = self._work(read, found, before)
        self._put_own_tail(work)
        while work.groups:
            bodies = self._fetched(work)
            work.here.update(self._put(work, bodies))
            if read.head.status == RESERVED and (work.groups or sum(body.size_bytes for body in bodies) >= PACK_BYTES):
                return self._registration(work)
        return self._published(work, retention, self._with_books(work) if found.rows else self._first(work))

    def _sizes(self, found: Survey) -> dict[str, int]:
        return {use.pack: use.body_bytes for use in found.uses}

    def _registration(self, work: _Work) -> Head:
        """Return the reserved head with the packs that were uploaded in its list (rule 2)."""
        clock, head = self._here.clock, work.read.head
        uploads = {one.pack: one.epoch for one in self._uploaded.values() if self._may_name(one, work)}
        return staged_with(head, uploads, family=work.family, write_id=clock.new_id(), at=clock.now())

    def _published(self, work: _Work, retention: Retention, laid: _Laid) -> Head:
        source, write_id = work.found.head, self._here.clock.new_id()
        return replace(
            work.read.head,
            family=work.family,
            status=LIVE,
            staged=None,
            destination="",
            revision=source.revision,
            write_id=write_id,
            commit_id=source.commit_id,
            state_id=write_id,
            checkpoint_ref=source.checkpoint_ref,
            manifest=laid.manifest,
            inline_manifest=laid.inline_manifest,
            reads=laid.reads,
            stretches=laid.stretches,
            tail=(),
            overrides=source.overrides,
            commits=source.commits,
            stamps=source.stamps,
            floor=retention.floor,
            kept=retention.kept,
            pins=retention.pins,
            origin=source.origin,
            relation=source.relation,
            created_at=source.created_at,
            updated_at=source.updated_at,
        )

    def _surveyed(self, there: HeadRead) -> Survey:
        if self._found is None:
            with _reading(_SourceMovedError):
                self._found = survey(self._source, there)
        return self._found

    def _surveyed_here(self, read: HeadRead) -> Survey:
        with _reading(_HereMovedError):
            return survey(self._here, read)

    def _work(self, read: HeadRead, found: Survey, before: Survey | None) -> _Work:
        """Return what there is to do: where packs lie here that the head may name, and which are missing."""
        if before is not None:
            self._body_bytes |= _body_bytes(before)
            family, known = read.head.family, places_in(before)
        else:
            self._resume(read.head)
            family, known = self._of_relatives(read.head, found)
        needed = found.needed(self._job.history)
        here = {name: place for name, place in known.items() if name in needed}
        self._shared.update(here)
        work = _Work(read, found, before, family, here, [])
        for name, one in self._uploaded.items():
            if name in needed and self._may_name(one, work):
                here.setdefault(name, (one.pack, one.start))
        work.groups = _groups(found, needed.difference(here))
        return work

    def _resume(self, head: Head) -> None:
        """Find out what the packs carry that the reservation names, by whoever uploaded them."""
        staged = head.staged
        known = {one.pack for one in self._uploaded.values()}
        names = [] if staged is None else [name for name in staged.names if name not in known]
        for carried in self._here.executor.map(lambda name: _carried(self._here, head, name), names):
            for name, one in carried.items():
                self._uploaded.setdefault(name, one)

    def _of_relatives(self, head: Head, found: Survey) -> tuple[str, dict[str, tuple[str, int]]]:
        """Return the family of a new session, and where packs lie that it shares (rule 4)."""
        family = head.family if head.staged is None else head.staged.family
        for relative in self._job.relatives if found.head.origin is not None else ():
            try:
                shared = retried_while_moving(self._here, relative, lambda other: self._shared_with(other, head))
            except (SessionNotFoundError, SessionDeletedError, SessionMovedError):
                continue
            if family in ("", shared.head.family):
                self._body_bytes |= _body_bytes(shared)
                return shared.head.family, places_in(shared)
        return family or self._job.target_id, {}

    def _shared_with(self, other: HeadRead, child: Head) -> Survey:
        return survey(self._here, self._helped(other, child))

    def _helped(self, other: HeadRead, child: Head) -> HeadRead:
        """Return the head of a relative at an epoch that is at least the child's (rule 4)."""
        if other.head.epoch >= child.epoch:
            return other
        number = take_number(self._here, above=child.epoch)
        return rewrite_head(self._here, other, lambda head: raised(head, number))

    # Packs.

    def _may_name(self, uploaded: _Uploaded, work: _Work) -> bool:
        """Say whether the head may name a pack (rule 2): of its family, which may be another one in each attempt."""
        return uploaded.family == work.family and admits(work.read.head, uploaded.pack, uploaded.epoch)

    def _fetched(self, work: _Work) -> list[PackBody]:
        """Read the packs of the next group, as many as make a pack here; the others stay a group."""
        found, names = work.found, work.groups.pop(0)
        tail = {pack.name: PackBody(pack.name, pack.data, (), found.runs_in(pack.name)) for pack in found.head.tail}
        sizes = self._sizes(found)

        def fetched(name: str) -> PackBody:
            return tail[name] if name in tail else self._body(found, name, sizes[name])

        bodies: list[PackBody] = []
        while names and sum(body.size_bytes for body in bodies) < PACK_BYTES:
            some, names = names[:FETCHED_AT_ONCE], names[FETCHED_AT_ONCE:]
            with _reading(_SourceMovedError):
                bodies += self._source.executor.map(fetched, some)
        if names:
            work.groups.insert(0, names)
        return bodies

    def _body(self, found: Survey, name: str, size_bytes: int) -> PackBody:
        key = self._source.layout.pack(found.head.family, name)
        copy = body_of(self._source.store, key, name, size_bytes=size_bytes)
        whose = (copy.facts.get("tenant"), copy.facts.get("family"), copy.facts.get("commit"))
        if whose != (self._source.layout.tenant, found.head.family, name.partition(".")[0]):
            raise CorruptSnapshotError(key, f"this pack is of tenant, family and commit {whose}, moved here")
        return copy.body

    def _put_own_tail(self, work: _Work) -> None:
        """Upload what lies in the head here, where revisions need it that are retained here alone."""
        before = work.before
        if before is None or not only_here_in(work.found, before, self._job.history):
            return
        left = []
        for pack in before.head.tail:
            kept = self._uploaded.get(pack.name)
            if kept is not None and self._may_name(kept, work):
                work.here[pack.name] = (kept.pack, kept.start)
            elif pack.name not in work.here:
                left.append(PackBody(pack.name, pack.data, (), before.runs_in(pack.name)))
        if left:
            work.here.update(self._put(work, left))

    def _put(self, work: _Work, bodies: Sequence[PackBody]) -> dict[str, tuple[str, int]]:
        """Upload packs as one; return where they lie."""
        name = self._new_name(work.found)
        body = carrying(name, bodies)
        self._body_bytes[name] = body.size_bytes
        self._write(name, work.family, finished(body, self._facts(work, bodies)))
        places: dict[str, tuple[str, int]] = {}
        start = 0
        for one in bodies:
            places[one.name] = (name, start)
            self._uploaded[one.name] = _Uploaded(name, start, work.read.head.epoch, work.family)
            start += one.size_bytes
        return places

    def _new_name(self, found: Survey) -> str:
        return pack_name(found.head.commit_id, self._here.clock.new_id())

    def _facts(self, work: _Work, bodies: Sequence[PackBody]) -> dict[str, str]:
        return {
            "tenant": self._here.layout.tenant,
            "family": work.family,
            "session": self._job.target_id,
            "commit": work.found.head.commit_id,
            CARRIES: " ".join(f"{body.name}:{body.size_bytes}" for body in bodies),
        }

    def _write(self, name: str, family: str, data: PackData) -> None:
        key = self._here.layout.pack(family, name)
        with _reading(_SourceMovedError):  # a large pack is read while it is written
            write_pack(self._here.store, key, data, self._here.clock)
        size = len(data) if isinstance(data, bytes) else data.size_bytes
        self._uploaded_bytes += size
        self._told(size)

    # Books.

    def _first(self, work: _Work) -> _Laid:
        """Return what the head says of a first revision: nothing has to be written."""
        found = work.found
        books = CopiedBooks(found, work.before, work.here, self._job.history)
        place = books.first_place()
        placement = Placement(books.extents(), books.present_uses(), NO_LOG)
        inline = found.head.inline_manifest
        reads = () if inline else reads_of(found.manifest.checkpoint, placement, place)
        return _Laid(place, inline, reads, ())

    def _with_books(self, work: _Work) -> _Laid:
        """Upload the log of places and the manifest: a pack by itself, as the next copy writes another one."""
        found, name = work.found, self._new_name(work.found)
        builder = PackBuilder(name)
        books = CopiedBooks(found, work.before, work.here, self._job.history, self._body_bytes)
        rows = books.rows()
        data = encode_rows(rows)
        log: HeldLog[PlaceRow] = HeldLog()
        log = log.appended(data, rows)
        builder.add_spliced(PLACES, log.at.ref, [memoryview(data)])
        extents = books.extents() | {log.at.ref.digest: builder.extents_of(log.at.ref)}
        uses = {use.pack: use for use in books.present_uses()}
        uses.setdefault(name, PackUse(name, books.revision, 0, builder.size_bytes))
        placement = Placement(extents, tuple(uses.values()), log.at)
        raw = manifest_bytes(found.record, placement.encode())
        run = builder.append_run(seal_manifest(raw))
        self._write(name, work.family, finished(builder.body(), self._facts(work, ())))
        place = ManifestPlace(name, run.start, run.length)
        inline = inline_manifest(raw)
        reads = () if inline else reads_of(found.manifest.checkpoint, placement, place)
        stretch = last_rows(Spliceable(extents[log.at.ref.digest]), len(data), range(1, books.revision), 0)
        return _Laid(place, inline, reads, as_many_as_fit([stretch]))


def _body_bytes(found: Survey) -> dict[str, int]:
    return {use.pack: use.body_bytes for use in found.uses if use.body_bytes}


def _carried(here: Environment, head: Head, name: str) -> dict[str, _Uploaded]:
    """Return what a staged pack carries, as its index says; nothing where that cannot be told: it is uploaded again."""
    assert head.staged is not None, "it names the pack"
    try:
        facts = read_index(here.store, here.layout.pack(head.staged.family, name), name).facts
    except (NotFoundError, CorruptObjectError):
        return {}
    carried: dict[str, _Uploaded] = {}
    start = 0
    for one in facts.get(CARRIES, "").split():
        pack, _, size = one.partition(":")
        carried[pack] = _Uploaded(name, start, head.staged.epoch, head.staged.family)
        start += int(size)
    return carried


@contextmanager
def _reading(moved: type[_SourceMovedError] | type[_HereMovedError]) -> Iterator[None]:
    """Say of what is missing where it is; what is altered is damage."""
    try:
        yield
    except NotFoundError as error:
        raise moved(error) from error
    except CorruptObjectError as error:
        raise CorruptSnapshotError(error.key, error.reason) from error


def _groups(found: Survey, names: frozenset[str]) -> list[list[str]]:
    """Return which packs are copied into one: of the same time, and those of the present revision last."""
    present = found.head.revision
    needs: dict[str, tuple[int, int, str]] = {}
    sizes: dict[str, int] = {}
    for use in found.uses:
        if use.pack in names:
            last = use.last_revision or present
            needs[use.pack] = max((last, use.first_revision, use.pack), needs.get(use.pack, (0, 0, "")))
            sizes[use.pack] = max(sizes.get(use.pack, 0), use.body_bytes)
    groups: list[list[str]] = []
    room, is_present = 0, False
    for last, _, name in sorted(needs.values()):
        size = sizes[name]
        if not groups or size > room or is_present != (last == present) or size >= WHOLE_BYTES_MAX:
            groups.append([])
            room = PACK_BYTES
        groups[-1].append(name)
        room -= size or WHOLE_BYTES_MAX // 64
        is_present = last == present
    return groups
