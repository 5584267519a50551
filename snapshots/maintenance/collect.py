"""Collecting: deleting packs that no head names. No clock, no lock; it may run at any time, several at once.

Rules:
1. A plan marks without writing, as a hint: which families have garbage. Nothing is written when there is none.
2. Executing lists the packs of those families anew, and then takes a fresh, confirmed number.
3. Every head of those families and every reservation is raised to the number by compare-and-swap, live ones first.
   What the bytes put name is marked, of every attempt, the manifests read before the write.
4. A head with a higher number, or with this number from somebody else, ends the run: nothing is deleted.
5. The heads are listed again after the last raise, until a listing shows none of these families that was not raised.
6. What was listed and is not marked is deleted. A manifest that cannot be read spares its family; a head that cannot
   be read spares everything.
7. Registers of the turn in flight and leases of deleted sessions go as well: a tombstone is final.

    plan = plan_collect(repo)
    print(plan)
    report = execute(plan)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from snapshots.environment import Environment
from snapshots.epochs import take_number
from snapshots.errors import SnapshotError
from snapshots.head import LIVE, RESERVED, TOMBSTONE, Head
from snapshots.repository import SnapshotRepository
from snapshots.restore import HeadRead, head_at
from snapshots.roots import named_packs
from snapshots.sessions import for_each_head
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError, UnavailableError
from storage.store import DeleteFailure
from storage.wrappers.metered import MeteredStore

ATTEMPTS_MAX = 8  # to raise one head, and to read one whose objects move
DELETED_AT_ONCE = 1000  # keys at a time, so that progress is told


@dataclass(frozen=True, slots=True)
class FamilyGarbage:
    """Packs of one family that no head named when the plan was made.

    Attributes:
        family: Id of its root session, or the family's part of a key when no head of it is left.
        prefix: Where its packs lie.
        packs: How many nobody named.
        bytes: Their size together.
    """

    family: str
    prefix: str
    packs: int
    bytes: int


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
        families: Those with garbage, in order of key.
        satellites: Registers of deleted sessions, by key.
        heads: Heads read.
        packs: Packs listed.
        packs_bytes: Their size.
        spared: Families that cannot be collected, and why.
    """

    environment: Environment = field(repr=False, compare=False)
    families: tuple[FamilyGarbage, ...]
    satellites: tuple[str, ...]
    heads: int
    packs: int
    packs_bytes: int
    spared: tuple[Spared, ...]

    def __str__(self) -> str:
        garbage = sum(one.packs for one in self.families)
        size = sum(one.bytes for one in self.families)
        return (
            f"{garbage} of {self.packs} packs ({size} of {self.packs_bytes} bytes) in {len(self.families)} families, "
            f"{len(self.satellites)} registers of deleted sessions; {self.heads} heads read, {len(self.spared)} spared"
        )


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What a collection did.

    Attributes:
        number: Its number, 0 if there was nothing to do.
        raised: Heads that were raised to it.
        kept: Packs of the families concerned that a head names.
        deleted: Packs deleted.
        deleted_bytes: Their size.
        satellites: Registers of deleted sessions deleted.
        spared: Families left alone, and why.
        stopped: Why the run ended without deleting a pack, "" if it did not.
        requests: Made for it, the plan not included.
        seconds: How long it took.
    """

    number: int = 0
    raised: int = 0
    kept: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    satellites: int = 0
    spared: tuple[Spared, ...] = ()
    stopped: str = ""
    requests: int = 0
    seconds: float = 0.0


Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much; the last is 0 where that is not known."""


def _quiet(_what: str, _done: int, _total: int) -> None:
    pass


def plan_collect(repo: SnapshotRepository, *, progress: Progress = _quiet) -> CollectPlan:
    """Find out what nobody names, without writing anything.

    Memory is in proportion to the number of packs and heads (some hundred bytes each), not to their size.

    Raises:
        CorruptSnapshotError: A head cannot be read: its family is unknown, so nothing could be deleted.
        UnavailableError: The store did not answer.
    """
    return plan_on(repo.environment, progress=progress)


def plan_on(environment: Environment, *, progress: Progress = _quiet) -> CollectPlan:
    """Return the plan for what a repository works with; see `plan_collect`."""
    layout = environment.layout
    named: set[str] = set()
    names: dict[str, str] = {}  # prefix of a family's packs → its id
    spared: dict[str, str] = {}
    dead: set[str] = set()
    heads = 0
    for seen in for_each_head(environment, lambda row: _seen(environment, row.key)):
        heads += 1
        progress("heads read", heads, 0)
        if seen.head.status == TOMBSTONE:
            dead |= {layout.turns(seen.head.session_id), layout.lease(seen.head.session_id)}
        if seen.head.family:
            names[layout.family(seen.head.family)] = seen.head.family
        named |= seen.named
        if seen.reason:
            spared[layout.family(seen.head.family)] = seen.reason
    packs = packs_bytes = 0
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row in environment.store.list(layout.packs):
        packs += 1
        packs_bytes += row.size_bytes
        progress("packs listed", packs, 0)
        if row.key not in named:
            found[row.key.rpartition("/")[0] + "/"].append(row.size_bytes)
    return CollectPlan(
        environment=environment,
        families=tuple(
            FamilyGarbage(names.get(prefix, prefix), prefix, len(sizes), sum(sizes))
            for prefix, sizes in sorted(found.items())
            if prefix not in spared
        ),
        satellites=tuple(
            row.key for prefix in layout.satellites for row in environment.store.list(prefix) if row.key in dead
        ),
        heads=heads,
        packs=packs,
        packs_bytes=packs_bytes,
        spared=tuple(Spared(names[prefix], reason) for prefix, reason in sorted(spared.items())),
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """A head with the keys of the packs it names; `reason` says why they cannot be told."""

    head: Head
    named: frozenset[str]
    reason: str = ""


def _seen(environment: Environment, key: str) -> _Seen:
    read = head_at(environment, key)
    for _ in range(ATTEMPTS_MAX):
        try:
            return _Seen(read.head, _keys(environment, read.head))
        except (NotFoundError, CorruptObjectError) as error:
            again = head_at(environment, key)
            if again.version == read.version:
                return _Seen(read.head, frozenset(), str(error))
            read = again
        except SnapshotError as error:
            return _Seen(read.head, frozenset(), str(error))
    return _Seen(read.head, frozenset(), "the session kept moving while it was read")


def _keys(environment: Environment, head: Head) -> frozenset[str]:
    return frozenset(environment.layout.pack(head.family, name) for name in named_packs(environment, head))


def execute(plan: CollectPlan, *, progress: Progress = _quiet) -> CollectReport:
    """Delete what nobody names, in the families of the plan.

    Interrupted at any request it leaves a correct store, and the next run finishes.

    Raises:
        CorruptSnapshotError: A head cannot be read; nothing was deleted.
        UnavailableError: The store did not answer; run it again.
    """
    metered = MeteredStore(plan.environment.store)
    environment = replace(plan.environment, store=metered)
    begun = environment.clock.monotonic()
    report = _collected(environment, plan, progress) if plan.families else CollectReport(spared=plan.spared)
    _delete(environment, plan.satellites, "registers deleted", progress)
    return replace(
        report,
        satellites=len(plan.satellites),
        requests=metered.metrics.snapshot().total_requests,
        seconds=environment.clock.monotonic() - begun,
    )


def _collected(environment: Environment, plan: CollectPlan, progress: Progress) -> CollectReport:
    names = {one.prefix: one.family for one in plan.families}
    sizes = {row.key: row.size_bytes for prefix in names for row in environment.store.list(prefix)}  # Rule 2.
    run = Raising(environment, take_number(environment), frozenset(names), progress)
    try:
        run.raise_all()
    except _StoppedError as stopped:
        kept = len(sizes)
        return CollectReport(run.number, len(run.raised), kept, spared=plan.spared, stopped=str(stopped))
    garbage = [key for key in sizes if key not in run.marked and key.rpartition("/")[0] + "/" not in run.spared]
    _delete(environment, garbage, "packs deleted", progress)  # Rule 6.
    return CollectReport(
        number=run.number,
        raised=len(run.raised),
        kept=len(sizes) - len(garbage),
        deleted=len(garbage),
        deleted_bytes=sum(sizes[key] for key in garbage),
        spared=(*plan.spared, *(Spared(names[prefix], reason) for prefix, reason in sorted(run.spared.items()))),
    )


def _delete(environment: Environment, keys: Iterable[str], what: str, progress: Progress) -> None:
    wanted = list(keys)
    for start in range(0, len(wanted), DELETED_AT_ONCE):
        failures: tuple[DeleteFailure, ...] = environment.store.delete_many(wanted[start : start + DELETED_AT_ONCE])
        if failures:
            raise failures[0].error
        progress(what, min(start + DELETED_AT_ONCE, len(wanted)), len(wanted))


class _StoppedError(Exception):
    """Rule 4; caught in `_collected`, never seen outside."""


class Raising:
    """The raising of one collection.

    Attributes:
        raised: Keys of the heads that need no more attention.
        marked: Keys of packs that a raised head names.
        spared: Why a family is left alone, by prefix.
    """

    def __init__(self, environment: Environment, number: int, prefixes: frozenset[str], progress: Progress) -> None:
        self.number = number
        self.raised: set[str] = set()
        self.marked: set[str] = set()
        self.spared: dict[str, str] = {}
        self._environment = environment
        self._prefixes = prefixes
        self._progress = progress
        self._others: set[str] = set()  # heads of other families, which never change theirs
        self._sent: set[str] = set()  # heads to which this run has sent its number, whatever the answer

    def raise_all(self) -> None:
        """Raise every head concerned (rules 3 and 5)."""
        while reads := self.not_raised():
            for key, read in sorted(reads.items(), key=lambda one: one[1].head.status != LIVE):
                self._raise(key, read)
                self._progress("heads raised", len(self.raised), 0)

    def not_raised(self) -> Mapping[str, HeadRead]:
        """List the heads, and read those that still have to be raised."""
        environment = self._environment
        known = self.raised | self._others
        listing = environment.store.list(environment.layout.heads)
        keys = [row.key for row in listing if row.key not in known]
        reads = dict(zip(keys, environment.executor.map(lambda key: head_at(environment, key), keys), strict=True))
        others = {key for key, read in reads.items() if not self.concerns(read.head)}
        self._others |= others
        return {key: read for key, read in reads.items() if key not in others}

    def concerns(self, head: Head) -> bool:
        """Say whether a head may name packs of these families, now or as soon as it is published."""
        if head.status == RESERVED:
            return True
        return self._environment.layout.family(head.family) in self._prefixes

    def _raise(self, key: str, read: HeadRead) -> None:
        environment = self._environment
        register = environment.register(read.head.session_id)
        for _ in range(ATTEMPTS_MAX):
            if not self.concerns(read.head):  # a reservation that was published meanwhile, in another family
                self._others.add(key)
                return
            if not self._to_be_raised(key, read.head):
                break
            again = self.marked_by(key, read)
            if again is not None:
                read = again
                continue
            head = replace(read.head, epoch=self.number, write_id=environment.clock.new_id())
            self._sent.add(key)
            try:
                register.swap_once(read.version, head.encode())
                break
            except (PreconditionFailedError, UnavailableError):
                pass  # whatever it means: the head, read again, tells
            read = head_at(environment, key)
            if read.head.write_id == head.write_id:
                break
        else:
            raise UnavailableError(key, "the head could not be raised; collect again", applied="unknown")
        self.raised.add(key)

    def _to_be_raised(self, key: str, head: Head) -> bool:
        """Say whether the head has still to be raised (rule 4)."""
        if head.epoch > self.number:
            take_number(self._environment, above=head.epoch)
            raise _StoppedError(f"{key} has the number {head.epoch}, above {self.number}")
        if head.epoch == self.number and key not in self._sent:
            raise _StoppedError(f"{key} has the number {self.number} from somebody else")
        return head.epoch < self.number

    def marked_by(self, key: str, read: HeadRead) -> HeadRead | None:
        """Mark what a head names; return the head read again if it moved meanwhile, None when it is marked."""
        try:
            self.marked |= _keys(self._environment, read.head)
        except (NotFoundError, CorruptObjectError, SnapshotError) as error:
            again = head_at(self._environment, key)
            if again.version != read.version:
                return again
            self.spared[self._environment.layout.family(read.head.family)] = str(error)  # Rule 6.
        return None
