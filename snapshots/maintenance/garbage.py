"""The plan of a collection: what nobody names, found out without writing. A hint, never the ground of a delete.

Rules:
1. Heads are read, and what they name is marked; a head at a version that the mark cache knows costs one request.
2. What is remembered of a head or a pack is a short digest: some hundred bytes each at most, in all.
3. Only the key of a pack is taken for one: whatever else lies among them is left alone, and its name too.
4. A list of staged packs of a reservation that nobody goes on with ends when it is raised twice. So what only such
   lists name is in the plan, though it may stay; what stands in one that ends next is named by nobody.
5. An unfinished write is old enough by the store's own time stamp. No reference rests on one: whoever still writes it
   is told that it failed, and writes it again.

    print(plan_collect(repo))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby

from snapshots.environment import Environment
from snapshots.errors import SnapshotError
from snapshots.head import LIVE, TOMBSTONE
from snapshots.maintenance.marks import Marks, MarksRead, pack_mark, read_marks
from snapshots.maintenance.progress import Progress, quiet
from snapshots.maintenance.raising import ATTEMPTS_MAX, key_digest
from snapshots.maintenance.superseded import LogsPlan, plan_logs
from snapshots.operations import operation
from snapshots.reading import HeadRead, head_at
from snapshots.repository import SnapshotRepository
from snapshots.roots import named_keys
from snapshots.sessions import for_each_head
from snapshots.staged import is_stale
from storage.errors import CorruptObjectError, NotFoundError, PermissionDeniedError, UnsupportedServerError
from storage.store import ListedObject
from storage.unfinished import UnfinishedWrite, unfinished_in

UNFINISHED_AGE_MIN = timedelta(days=1)  # no upload of ours takes so long; one that does begins again


@dataclass(frozen=True, slots=True)
class FamilyGarbage:
    """Packs of one family that no head named when the plan was made.

    Attributes:
        family: Id of its root session, or the family's part of a key where that is a digest of the id.
        prefix: Where its packs lie.
        packs: How many nobody named.
        bytes: Their size together.
        listed: How many packs the family has in all.
        staged: How many were named by reservations alone: they go unless whoever staged them goes on.
        staged_bytes: Their size together.
    """

    family: str
    prefix: str
    packs: int
    bytes: int
    listed: int
    staged: int = 0
    staged_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Spared:
    """A family that is left alone because something of it cannot be read."""

    family: str
    reason: str


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """What a collection would do. A hint: what is deleted is decided when it is executed.

    Attributes:
        environment: Whose store.
        families: Those with garbage, or with staged packs, in order of key.
        satellites: Registers of deleted sessions, by key.
        logs: Usage logs with segments that nobody names.
        unfinished: Writes that nobody will finish.
        unfinished_unknown: Why the store did not list unfinished writes, "" if it did or keeps none.
        heads: Heads read.
        heads_cached: Those of them whose packs the mark cache knew.
        packs: Packs listed.
        packs_bytes: Their size.
        spared: Families that cannot be collected, and why.
        marks: What the mark cache should say.
        marks_read: What it said.
    """

    environment: Environment = field(repr=False, compare=False)
    families: tuple[FamilyGarbage, ...]
    satellites: tuple[str, ...]
    logs: LogsPlan
    unfinished: tuple[UnfinishedWrite, ...]
    unfinished_unknown: str
    heads: int
    heads_cached: int
    packs: int
    packs_bytes: int
    spared: tuple[Spared, ...]
    marks: Marks = field(repr=False, compare=False)
    marks_read: MarksRead = field(repr=False, compare=False)

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing to delete."""
        return not (self.families or self.satellites or self.logs.superseded or self.unfinished)

    def __str__(self) -> str:
        garbage = sum(one.packs for one in self.families)
        staged = sum(one.staged for one in self.families)
        size = sum(one.bytes for one in self.families)
        return (
            f"{garbage} of {self.packs} packs ({size} of {self.packs_bytes} bytes) in {len(self.families)} families, "
            f"{staged} staged packs, "
            f"{len(self.satellites)} satellites of deleted sessions, "
            f"{sum(one.segments for one in self.logs.superseded)} superseded segments of usage logs, "
            f"{len(self.unfinished)} unfinished writes; "
            f"{self.heads} heads read, {len(self.spared) + len(self.logs.spared)} spared"
        )


@operation("collect.plan", "repo.environment")
def plan_collect(repo: SnapshotRepository, *, progress: Progress = quiet) -> CollectPlan:
    """Find out what nobody names, without writing anything.

    Memory is in proportion to the number of heads and packs (rule 2), not to their size.

    Raises:
        CorruptSnapshotError: A head cannot be read: its family is unknown, so nothing could be deleted.
        UnavailableError: The store did not answer.
    """
    return plan_on(repo.environment, progress=progress)


def plan_on(environment: Environment, *, progress: Progress = quiet) -> CollectPlan:
    """Return the plan for what a repository works with; see `plan_collect`."""
    heads = _Heads(environment, read_marks(environment))
    heads.read_all(progress)
    packs = _Packs()
    families = tuple(packs.garbage(environment, heads, progress))
    logs = plan_logs(environment, heads.is_dead, progress=progress)
    unfinished, unknown = _unfinished(environment)
    layout = environment.layout
    return CollectPlan(
        environment=environment,
        families=families,
        satellites=tuple(heads.satellites()),
        logs=logs,
        unfinished=unfinished,
        unfinished_unknown=unknown,
        heads=heads.count,
        heads_cached=heads.cached,
        packs=packs.count,
        packs_bytes=packs.bytes,
        spared=tuple(Spared(layout.family_id(prefix), reason) for prefix, reason in sorted(heads.spared.items())),
        marks=heads.marks,
        marks_read=heads.before,
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """A head, and the marks of the packs that it names; `reason` says why they cannot be told."""

    read: HeadRead
    named: frozenset[bytes]
    cached: bool = False
    reason: str = ""


class _Heads:
    """What is remembered of the heads."""

    def __init__(self, environment: Environment, before: MarksRead) -> None:
        self.before = before
        self.marks = Marks()
        self.named: set[bytes] = set()
        self.staged: set[bytes] = set()
        self.spared: dict[str, str] = {}  # prefix of a family → why
        self.count = self.cached = 0
        self._environment = environment
        self._dead: set[bytes] = set()  # digests of the session's part of the keys of deleted sessions
        self._roots: set[bytes] = set()  # digests of the prefixes of families whose first session was seen
        self._forks: dict[str, tuple[str, str]] = {}  # prefix of a family → it, and a session forked into it

    def read_all(self, progress: Progress) -> None:
        for seen in for_each_head(self._environment, lambda row: self._seen(row.key)):
            self._remember(seen)
            progress("heads read", self.count, 0)
        for prefix, (family, fork) in self._forks.items():
            if key_digest(prefix) not in self._roots:
                lost = self._environment.layout.head(family)
                why = f"session {fork!r} was forked from it, and heads are never deleted"
                self.spared[prefix] = f"{lost} is missing: {why}"

    def _remember(self, seen: _Seen) -> None:
        layout, head = self._environment.layout, seen.read.head
        key = layout.head(head.session_id)
        self.count += 1
        self.cached += seen.cached
        if head.staged is None:
            self.named |= seen.named
        elif not is_stale(head):
            self.staged |= seen.named
        if head.family == head.session_id:
            self._roots.add(key_digest(layout.family(head.family)))
        elif head.family:
            self._forks[layout.family(head.family)] = head.family, head.session_id
        if seen.reason:
            self.spared[layout.family(head.family)] = seen.reason
        elif head.status == LIVE:
            self.marks.add(key, seen.read.version, seen.named)
        elif head.status == TOMBSTONE:
            self._dead.add(key_digest(layout.session_part(key)))

    def _seen(self, key: str) -> _Seen:
        read = head_at(self._environment, key)
        for _ in range(ATTEMPTS_MAX):
            known = self.before.marks.packs_of(key, read.version)
            if known is not None:
                return _Seen(read, known, cached=True)
            try:
                return _Seen(read, frozenset(map(pack_mark, named_keys(self._environment, read.head))))
            except (NotFoundError, CorruptObjectError) as error:
                again = head_at(self._environment, key)
                if again.version == read.version:
                    return _Seen(read, frozenset(), reason=str(error))
                read = again
            except SnapshotError as error:
                return _Seen(read, frozenset(), reason=str(error))
        return _Seen(read, frozenset(), reason="the session kept moving while it was read")

    def satellites(self) -> Iterator[str]:
        """Yield the keys of what deleted sessions have beside the packs."""
        layout = self._environment.layout
        for prefix in layout.satellites if self._dead else ():
            for row in self._environment.store.list(prefix):
                if self.is_dead(row.key):
                    yield row.key

    def is_dead(self, key: str) -> bool:
        """Say whether a key is that of a deleted session's."""
        return key_digest(self._environment.layout.session_part(key)) in self._dead


class _Packs:
    """What is counted of the packs."""

    def __init__(self) -> None:
        self.count = self.bytes = 0

    def garbage(self, environment: Environment, heads: _Heads, progress: Progress) -> Iterator[FamilyGarbage]:
        """List the packs, and yield the families in which nobody names some."""
        layout = environment.layout
        for prefix, rows in groupby(self._listed(environment, progress), lambda row: layout.family_of_pack(row.key)):
            listed = 0
            sizes: list[int] = []
            staged: list[int] = []
            for row in rows:
                listed += 1
                mark = pack_mark(row.key)
                if mark not in heads.named:
                    (staged if mark in heads.staged else sizes).append(row.size_bytes)
            if (sizes or staged) and prefix not in heads.spared:
                yield FamilyGarbage(
                    family=layout.family_id(prefix),
                    prefix=prefix,
                    packs=len(sizes),
                    bytes=sum(sizes),
                    listed=listed,
                    staged=len(staged),
                    staged_bytes=sum(staged),
                )

    def _listed(self, environment: Environment, progress: Progress) -> Iterator[ListedObject]:
        for row in environment.store.list(environment.layout.packs):
            if environment.layout.family_of_pack(row.key):  # Rule 3.
                self.count += 1
                self.bytes += row.size_bytes
                progress("packs listed", self.count, 0)
                yield row


def _unfinished(environment: Environment) -> tuple[tuple[UnfinishedWrite, ...], str]:
    """Return the writes that are old enough (rule 5), and why they are not known if the store does not tell."""
    before = environment.clock.now() - UNFINISHED_AGE_MIN
    try:
        writes = unfinished_in(environment.store, environment.layout.everything)
        return tuple(write for write in writes if write.begun_at < before), ""
    except (PermissionDeniedError, UnsupportedServerError) as error:
        return (), str(error)  # packs can be collected all the same
