"""Comparing a copy with its source, revision by revision: that everything of the one is in the other. Read-only.

Rules:
1. What identifies a revision must be equal: its row in the history, its checkpoint, and what that names.
2. The copy must have every revision that the source retains, and whatever else it has is no difference, as long as the
   source's history is the beginning of its own, or its own the beginning of the source's where that went on since.
3. At the level "full" every retained revision of the copy is read and hashed as well: what it names is what is there.

    for found in verify_copy(source, copy):
        print(found)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Literal

from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.head import LIVE, RESERVED, Head
from snapshots.maintenance.copy.presence import presence_in
from snapshots.maintenance.copy.satellites import compare_satellites
from snapshots.maintenance.copy.survey import PRESENT_ONLY, WHOLE, History, Survey, survey
from snapshots.maintenance.verify import session_findings
from snapshots.operations import yielding_operation
from snapshots.reading import (
    HeadRead,
    head_at,
    named_by,
    pack_reader,
    read_head,
    read_history,
    read_live_head,
    read_manifest_at,
    retried_while_moving,
)
from snapshots.repository import SnapshotRepository
from snapshots.sessions import for_each_head
from storage.digest import BlobRef
from storage.extents import plan_reads

Level = Literal["names", "full"]
MANIFESTS_TOGETHER = 64  # of one session, read at once
SIDE_BY_SIDE = 32  # sessions compared at once; bounds what waits, not the result


class Differs(StrEnum):
    """What is different."""

    SESSION = "session"
    REVISION = "revision"
    HISTORY = "history"
    RETENTION = "retention"
    CHECKPOINT = "checkpoint"
    BLOBS = "blobs"
    FIELD = "field"
    DAMAGE = "damage"
    BESIDE = "beside"


@dataclass(frozen=True, slots=True)
class Difference:
    """Something of the source that the copy has not, or has otherwise.

    Attributes:
        session_id: Its id in the source.
        revision: Of which revision, None for the session as a whole.
        what: What is different.
        reason: How.
    """

    session_id: str
    revision: int | None
    what: Differs
    reason: str

    def __str__(self) -> str:
        where = self.session_id if self.revision is None else f"{self.session_id}@{self.revision}"
        return f"{where}: {self.what}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Compared:
    """A session that was compared.

    Attributes:
        session_id: Its id in the source.
        revisions: How many of its revisions were compared.
        differences: How many there are.
    """

    session_id: str
    revisions: int
    differences: int


@yielding_operation("verify_copy", "copy.environment")
def verify_copy(
    source: SnapshotRepository,
    copy: SnapshotRepository,
    *,
    sessions: Iterable[str] | None = None,
    history: History = WHOLE,
    target: str = "",
    level: Level = "full",
) -> Iterator[Difference | Compared]:
    """Yield how a copy differs from its source, and each session when it was compared.

    Args:
        source: What was copied.
        copy: Where to.
        sessions: Which, None for all that are live in the source.
        history: What was copied of each.
        target: The id that the one session has in the copy, "" for its own.
        level: "names": what revisions are and what they name; "full": also that all of it is there, and is that.

    Raises:
        SessionNotFoundError: One of `sessions` is not in the source.
        CorruptSnapshotError: A head of the source cannot be read, or what lies beside a session and alone has its id.
        UnavailableError: A store did not answer; begin again.
    """
    a, b = source.environment, copy.environment
    wanted = _all(a) if sessions is None else ((name, True, True) for name in dict.fromkeys(sessions))
    while some := list(islice(wanted, SIDE_BY_SIDE)):
        pairs = [_Pair(a, b, name, target or name, history, level, *flags) for name, *flags in some]
        for reported in b.executor.map(_Pair.compared, pairs):
            yield from reported


def _all(environment: Environment) -> Iterator[tuple[str, bool, bool]]:
    """Yield what can be copied: the id, whether there is such a session, and whether anything lies beside it."""
    presence = presence_in(environment)
    for read in for_each_head(environment, lambda row: head_at(environment, row.key)):
        has_satellites = bool(presence.kinds(read.head.session_id))
        if read.head.status == LIVE:
            yield read.head.session_id, True, has_satellites
        elif read.head.status == RESERVED and has_satellites:
            yield read.head.session_id, False, True
    for other in presence.others():
        if other.damage is not None:
            raise other.damage
        yield other.session_id, False, True


@dataclass(frozen=True, slots=True)
class _Revision:
    """What identifies a revision, read from its own manifest."""

    checkpoint_ref: BlobRef
    blobs: frozenset[BlobRef]


@dataclass(frozen=True, slots=True)
class _Pair:
    """A session and its copy."""

    source: Environment
    copy: Environment
    session_id: str
    target: str
    history: History
    level: Level
    has_head: bool
    has_satellites: bool

    def compared(self) -> list[Difference | Compared]:
        found: list[Difference] = []
        revisions = 0
        if self.has_head:
            there = read_live_head(self.source, self.session_id)
            found += self._differences(there)
            revisions = len(self._wanted(there.head))
        if self.has_satellites:
            found += self._beside()
        return [*found, Compared(self.session_id, revisions, len(found))]

    def _beside(self) -> Iterator[Difference]:
        """Yield what lies beside the session in the source and is not so in the copy (rule 2)."""
        try:
            for one in compare_satellites(self.source, self.copy, self.session_id, self.target):
                if one.kind != "more":
                    yield self._differs(Differs.BESIDE, f"{one.what} {one.position}: {one.reason}")
        except (CorruptSnapshotError, UnsupportedSchemaError) as error:
            yield self._differs(Differs.DAMAGE, str(error))

    def _wanted(self, head: Head) -> list[int]:
        if self.history == PRESENT_ONLY:
            return [head.revision]
        return [number for number in range(1, head.revision + 1) if head.retains(number)]

    def _differs(self, what: Differs, reason: str, revision: int | None = None) -> Difference:
        return Difference(self.session_id, revision, what, reason)

    def _differences(self, there: HeadRead) -> Iterator[Difference]:
        try:
            here = read_head(self.copy, self.target)
            if here is None or here.head.status == RESERVED:
                yield self._differs(Differs.SESSION, "it is not there")
            elif here.head.status != LIVE:
                yield self._differs(Differs.SESSION, f"it is a {here.head.status} there")
            else:
                yield from self._of_sessions(there, here)
        except (CorruptSnapshotError, UnsupportedSchemaError) as error:
            yield self._differs(Differs.DAMAGE, str(error))

    def _of_sessions(self, there: HeadRead, here: HeadRead) -> Iterator[Difference]:
        yield from self._fields(there.head, here.head)
        a = retried_while_moving(self.source, self.session_id, lambda read: read_history(self.source, read.head))
        b = retried_while_moving(self.copy, self.target, lambda read: read_history(self.copy, read.head))
        if len(b) < there.head.revision:
            yield self._differs(Differs.REVISION, f"it stands at {len(b)}, and at {there.head.revision} in the source")
        different = [one.revision for one, other in zip(a, b, strict=False) if one != other]
        if different:
            yield self._differs(Differs.HISTORY, "the rows of the histories differ from here on", different[0])
        wanted = self._wanted(there.head)
        missing = [number for number in wanted if number <= len(b) and not here.head.retains(number)]
        for number in missing:
            yield self._differs(Differs.RETENTION, "the copy does not retain it", number)
        common = [number for number in wanted if number <= len(b) and number not in set(missing)]
        yield from self._revisions(common)
        if self.level == "full":
            for one in session_findings(self.copy, self.target):
                yield self._differs(Differs.DAMAGE, f"{one.what}: {one.key or one.ref}: {one.reason}", one.revision)

    def _fields(self, there: Head, here: Head) -> Iterator[Difference]:
        for name in ("origin", "relation", "created_at"):
            one, other = getattr(there, name), getattr(here, name)
            if one != other:
                yield self._differs(Differs.FIELD, f"{name} is {other}, and {one} in the source")
        wanted = set(self._wanted(there))
        missing = {pin for pin in there.pins if pin.revision in wanted}.difference(here.pins)
        for pin in sorted(missing, key=lambda one: one.name):
            until = "" if pin.expires_at is None else f" that expires at {pin.expires_at.isoformat()}"
            yield self._differs(Differs.FIELD, f"there is no pin {pin.name!r} of it{until}", pin.revision)

    def _revisions(self, numbers: Sequence[int]) -> Iterator[Difference]:
        a = _all_revisions(self.source, self.session_id, numbers)
        b = _all_revisions(self.copy, self.target, numbers)
        for number in numbers:
            if number not in a or number not in b:
                continue  # dropped, or gone on, since the heads were read
            one, other = a[number], b[number]
            if one.checkpoint_ref != other.checkpoint_ref:
                reason = f"its checkpoint is {other.checkpoint_ref}, and {one.checkpoint_ref} in the source"
                yield self._differs(Differs.CHECKPOINT, reason, number)
            for ref in sorted(one.blobs ^ other.blobs, key=str):
                yield self._differs(Differs.BLOBS, f"{ref} is named by one of both only", number)


def _all_revisions(environment: Environment, session_id: str, numbers: Sequence[int]) -> dict[int, _Revision]:
    """Return what identifies these revisions, as far as they are retained still."""
    return retried_while_moving(
        environment, session_id, lambda read: dict(_revisions_in(environment, survey(environment, read), numbers))
    )


def _revisions_in(environment: Environment, found: Survey, numbers: Sequence[int]) -> Iterator[tuple[int, _Revision]]:
    rows = {row.revision: row for row in (*found.books.rows, named_by(found.head))}
    retained = [number for number in numbers if found.head.retains(number)]
    for start in range(0, len(retained), MANIFESTS_TOGETHER):
        some = retained[start : start + MANIFESTS_TOGETHER]
        reader = pack_reader(environment, found.head)
        runs = (run for number in some for run in rows[number].manifest.runs())
        reader.fetch(plan_reads((run.pack, run.offset, run.stored_bytes) for run in runs))
        for number in some:
            is_present = number == found.head.revision
            read = found.manifest if is_present else read_manifest_at(environment, found.head, rows[number], reader)
            yield number, _Revision(read.checkpoint_ref, frozenset(read.checkpoint.refs()))
