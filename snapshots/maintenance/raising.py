"""Raising: the heads of some families, and every reservation, are raised to a number, and what they name is marked.

Rules (those of `snapshots.maintenance.collect`, 3 to 6):
1. Live heads come first. What the bytes put name is marked, of every attempt, the manifests read before the write. A
   list of staged packs that was not refreshed since the head was raised before is left out of these bytes.
2. A head with a higher number, or with this number from somebody else, ends the run.
3. The heads are listed again after the last raise, until a listing shows none of these families that was not raised.
4. A manifest that cannot be read spares its family; a head that cannot be read ends the run.
5. Heads of other families are read once in a run: a head never changes its family. What is remembered of a head is a
   digest of its key that nobody can have collide.

    run = Raising(environment, number, prefixes, progress)
    run.raise_all()
    run.marked
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from snapshots.environment import Environment
from snapshots.epochs import take_number
from snapshots.errors import SnapshotError
from snapshots.head import LIVE, RESERVED, Head
from snapshots.maintenance.marks import Marks, pack_mark
from snapshots.maintenance.progress import Progress, quiet
from snapshots.reading import HeadRead, head_at
from snapshots.roots import named_keys
from snapshots.sessions import PAGE
from snapshots.staged import is_stale
from storage.digest import short_hash
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError, UnavailableError
from storage.store import Version

ATTEMPTS_MAX = 8  # to raise one head, and to read one whose objects move
READS_KEPT_MAX = 512  # heads held from the listing until their turn, 64 KiB at most each; others are read again
KEY_DIGEST_BYTES = 16  # two keys never share one, by chance or by choice


def key_digest(key: str) -> bytes:
    """Return what stands for a key where many are remembered and no two may be taken for one."""
    return short_hash(key.encode(), KEY_DIGEST_BYTES)


class StoppedError(Exception):
    """Rule 2; caught by the collection, never seen outside. Remedy: collect again."""


class Homes:
    """In which batch of a run the family of a head is; for heads that were read and are not of the present one.

    Args:
        batches: Prefixes of the families of each batch.
    """

    def __init__(self, batches: Iterable[Iterable[str]]) -> None:
        self._batch_of = {prefix: number for number, prefixes in enumerate(batches) for prefix in prefixes}
        self._known: dict[bytes, int | None] = {}  # None: in no batch

    def add(self, key: str, prefix: str) -> None:
        """Note the family of a head."""
        self._known[key_digest(key)] = self._batch_of.get(prefix)

    def is_elsewhere(self, key: str, batch: int) -> bool:
        """Say whether a head is known to be in another batch than this one, or in none."""
        return self._known.get(key_digest(key), batch) != batch


@dataclass(frozen=True, slots=True)
class Concerned:
    """A head that has to be raised.

    Attributes:
        live: Whether it was live when it was read.
        read: As it was read, None if it was not kept (READS_KEPT_MAX).
    """

    live: bool
    read: HeadRead | None


class Raising:
    """The raising of one batch.

    Args:
        environment: Whose heads.
        number: To which they are raised: fresh, confirmed, this batch's own.
        prefixes: Of the families.
        progress: Told of every head.
        homes: What is known of heads from earlier batches.
        batch: The number of this one among them.
        marks: Where it notes what the heads raised name.

    Attributes:
        marked: Keys of packs that a raised head names.
        spared: Why a family is left alone, by prefix.
    """

    def __init__(
        self,
        environment: Environment,
        number: int,
        prefixes: frozenset[str],
        progress: Progress = quiet,
        *,
        homes: Homes | None = None,
        batch: int = 0,
        marks: Marks | None = None,
    ) -> None:
        self.number = number
        self.marked: set[str] = set()
        self.spared: dict[str, str] = {}
        self._environment = environment
        self._prefixes = prefixes
        self._progress = progress
        self._homes = Homes([prefixes]) if homes is None else homes
        self._batch = batch
        self._marks = Marks() if marks is None else marks
        self._raised: set[bytes] = set()  # digests of the keys of heads that need no more attention
        self._sent: set[bytes] = set()  # those to which this batch has sent its number, whatever the answer
        self._named: frozenset[str] | None = None  # what the head under way names, None if that cannot be told

    @property
    def raised(self) -> int:
        """Return how many heads need no more attention."""
        return len(self._raised)

    def raise_all(self) -> None:
        """Raise every head concerned.

        Raises:
            StoppedError: Rule 2; nothing may be deleted.
            CorruptSnapshotError: A head cannot be read; nothing may be deleted.
            UnavailableError: The store did not answer, or a head never stood still; nothing may be deleted.
        """
        while found := self.not_raised():
            for key, one in sorted(found.items(), key=lambda item: not item[1].live):
                self._raise(key, head_at(self._environment, key) if one.read is None else one.read)
                self._progress("heads raised", self.raised, 0)

    def not_raised(self) -> Mapping[str, Concerned]:
        """List the heads, and read those that may still have to be raised."""
        environment = self._environment
        found: dict[str, Concerned] = {}
        kept = 0
        listing = (row.key for row in environment.store.list(environment.layout.heads) if self._is_open(row.key))
        while page := list(islice(listing, PAGE)):
            reads = environment.executor.map(lambda key: head_at(environment, key), page)
            for key, read in zip(page, reads, strict=True):
                concerned = self.concerns(read.head)
                if concerned:
                    kept += 1
                    found[key] = Concerned(read.head.status == LIVE, read if kept <= READS_KEPT_MAX else None)
                if read.head.family or not concerned:
                    self._homes.add(key, self._prefix(read.head))
        return found

    def _is_open(self, key: str) -> bool:
        return key_digest(key) not in self._raised and not self._homes.is_elsewhere(key, self._batch)

    def _prefix(self, head: Head) -> str:
        return self._environment.layout.family(head.family) if head.family else ""

    def concerns(self, head: Head) -> bool:
        """Say whether a head may name packs of these families, now or as soon as it is published."""
        return head.status == RESERVED or self._prefix(head) in self._prefixes

    def _raise(self, key: str, read: HeadRead) -> None:
        environment = self._environment
        register = environment.register(read.head.session_id)
        for _ in range(ATTEMPTS_MAX):
            if not self.concerns(read.head):  # a reservation that was published meanwhile, in another family
                self._homes.add(key, self._prefix(read.head))
                return
            if not self._to_be_raised(key, read.head):
                break
            head = self._with_number(read.head)
            again = self.marked_by(key, replace(read, head=head))
            if again is not None:
                read = again
                continue
            self._sent.add(key_digest(key))
            try:
                version = register.swap_once(read.version, head.encode())
            except (PreconditionFailedError, UnavailableError):
                read = head_at(environment, key)  # whatever it means: the head, read again, tells
                if read.head.write_id != head.write_id:
                    continue
                version = read.version
            self._note(key, head, version)
            break
        else:
            raise UnavailableError(key, "the head could not be raised; collect again", applied="unknown")
        self._raised.add(key_digest(key))

    def _with_number(self, head: Head) -> Head:
        """Return the head as it is raised."""
        clock = self._environment.clock
        raised = replace(head, epoch=self.number, write_id=clock.new_id())
        if not is_stale(head):
            return raised
        return replace(raised, staged=None, state_id=raised.write_id, updated_at=clock.now())

    def _to_be_raised(self, key: str, head: Head) -> bool:
        """Say whether the head has still to be raised (rule 2)."""
        if head.epoch > self.number:
            take_number(self._environment, above=head.epoch)
            raise StoppedError(f"{key} has the number {head.epoch}, above {self.number}")
        if head.epoch == self.number and key_digest(key) not in self._sent:
            raise StoppedError(f"{key} has the number {self.number} from somebody else")
        return head.epoch < self.number

    def marked_by(self, key: str, read: HeadRead) -> HeadRead | None:
        """Mark what a head names; return the head read again if it moved meanwhile, None when it is marked.

        Args:
            key: Of the head.
            read: The bytes to be put, and the version that they replace.
        """
        self._named = None
        try:
            self._named = named_keys(self._environment, read.head)
            self.marked |= self._named
        except (NotFoundError, CorruptObjectError, SnapshotError) as error:
            again = head_at(self._environment, key)
            if again.version != read.version:
                return again
            self.spared[self._prefix(read.head)] = str(error)  # Rule 4.
        return None

    def _note(self, key: str, head: Head, version: Version) -> None:
        if head.status == LIVE and self._named is not None:
            self._marks.add(key, version, map(pack_mark, self._named))
