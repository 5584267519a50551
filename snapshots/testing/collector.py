"""A plain collector: the rules of collection to the letter. No paging, no cache, no hint; for tests.

It shares nothing with `snapshots.maintenance.collect` on purpose: what tests one does not rest on the other.

Rules:
1. All packs are listed before a number is taken; the number is fresh and confirmed.
2. Every head is raised to the number by compare-and-swap, live ones first, and what the bytes put name is marked:
   of every attempt, the manifests read before the write. A reservation's list of staged packs goes with that write if
   its epoch is not the one that the head had: nobody refreshed it since the last collection.
3. A head with a higher number, or with this number from somebody else, ends the run: nothing is deleted. A number above
   the higher one is taken first, so that the next run gets further.
4. The heads are listed again after the last raise, until a listing shows none that was not raised.
5. What was listed first and is not marked is deleted. Whatever cannot be read ends the run before that.

    report = collect(environment)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from snapshots.environment import Environment
from snapshots.epochs import take_number
from snapshots.errors import CorruptSnapshotError
from snapshots.head import LIVE, Head
from snapshots.reading import HeadRead, head_at
from snapshots.roots import named_packs
from storage.errors import NotFoundError, PreconditionFailedError, UnavailableError

ATTEMPTS_MAX = 8  # to raise one head


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What a collection did.

    Attributes:
        number: Its number, 0 if there was nothing to collect from.
        raised: Heads that were raised to it.
        kept: Packs that a head names.
        deleted: Packs that none does, by key.
        stopped: Why it ended without deleting, "" if it did not.
    """

    number: int
    raised: int
    kept: int
    deleted: tuple[str, ...]
    stopped: str = ""


def collect(environment: Environment) -> CollectReport:
    """Delete the packs of a tenant that no head names.

    Raises:
        CorruptSnapshotError: A head or manifest cannot be read; nothing was deleted.
        UnavailableError: The store did not answer; run it again.
    """
    candidates = [row.key for row in environment.store.list(environment.layout.packs)]  # Rule 1.
    if not candidates:
        return CollectReport(0, 0, 0, ())
    run = _Run(environment, take_number(environment))
    try:
        run.raise_all()
    except _StoppedError as stopped:
        return CollectReport(run.number, len(run.raised), len(candidates), (), str(stopped))
    garbage = tuple(key for key in candidates if key not in run.marked)
    failures = environment.store.delete_many(garbage) if garbage else ()  # Rule 5.
    if failures:
        raise failures[0].error
    return CollectReport(run.number, len(run.raised), len(candidates) - len(garbage), garbage)


class _StoppedError(Exception):
    """Rule 3; caught in `collect`, never seen outside."""


class _Run:
    def __init__(self, environment: Environment, number: int) -> None:
        self.number = number
        self.raised: set[str] = set()
        self.marked: set[str] = set()
        self._environment = environment
        self._sent: set[str] = set()  # heads to which this run has sent its number, whatever the answer

    def raise_all(self) -> None:
        """Raise every head (rules 2 and 4)."""
        while new := self._not_raised():
            reads = [(key, head_at(self._environment, key)) for key in new]
            for key, read in sorted(reads, key=lambda one: one[1].head.status != LIVE):
                self._raise(key, read)

    def _not_raised(self) -> list[str]:
        listing = self._environment.store.list(self._environment.layout.heads)
        return [row.key for row in listing if row.key not in self.raised]

    def _raise(self, key: str, read: HeadRead) -> None:
        environment = self._environment
        register = environment.register(read.head.session_id)
        for _ in range(ATTEMPTS_MAX):
            if not self._check(key, read.head):
                break
            head = replace(read.head, epoch=self.number, write_id=environment.clock.new_id())
            if read.head.staged is not None and read.head.staged.epoch < read.head.epoch:
                head = replace(head, staged=None, state_id=head.write_id, updated_at=environment.clock.now())
            try:
                self._mark(head)
            except NotFoundError as error:
                again = head_at(environment, key)
                if again.version == read.version:
                    raise CorruptSnapshotError(error.key, "this object is missing, though a head names it") from error
                read = again
                continue
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

    def _check(self, key: str, head: Head) -> bool:
        """Say whether the head has still to be raised (rule 3)."""
        if head.epoch > self.number:
            take_number(self._environment, above=head.epoch)
            raise _StoppedError(f"{key} has the number {head.epoch}, above {self.number}")
        if head.epoch == self.number and key not in self._sent:
            raise _StoppedError(f"{key} has the number {self.number} from somebody else")
        return head.epoch < self.number

    def _mark(self, head: Head) -> None:
        layout = self._environment.layout
        family = head.family if head.staged is None else head.staged.family
        self.marked.update(layout.pack(family, name) for name in named_packs(self._environment, head))
