"""What is done to a whole fleet, each thing by its name, to be counted: listings, looks, collections, copies.

Rules:
1. An operation works on repositories that were just opened, as another process would: nothing is remembered.
2. They are done in the order in which they stand here: a collection finds what the fleet's deletions left, the one
   after it finds nothing, a copy after the first one finds most of it there.
3. What a session goes on by between two copies belongs to neither.

    for name in OPERATIONS:
        print(name, done(name, source, destination, fleet))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from infra.sizing.counts import Counts
from infra.sizing.fleets import Fleet, go_on, session_id
from snapshots import SnapshotRepository
from snapshots.benchmarks.places import Place
from snapshots.maintenance import collect, prune, upgrade
from snapshots.maintenance.copy import fleet as copying
from snapshots.maintenance.retention import Retention
from snapshots.maintenance.verify import Level, verify
from snapshots.records import SessionRecords

NOTHING = Counts()


@dataclass(frozen=True, slots=True)
class Done:
    """What an operation cost at either store.

    Attributes:
        source: At the store of the fleet.
        destination: At the store that it is copied to.
    """

    source: Counts = NOTHING
    destination: Counts = NOTHING

    def without_bytes(self) -> Done:
        """Return the requests alone."""
        return Done(self.source.without_bytes(), self.destination.without_bytes())


Step = Callable[[SnapshotRepository, SnapshotRepository, Fleet], None]


def _sessions(source: SnapshotRepository, _there: SnapshotRepository, fleet: Fleet) -> None:
    assert sum(1 for _ in source.sessions()) == fleet.heads, "a listing shows every head"


def _stats(source: SnapshotRepository, _there: SnapshotRepository, fleet: Fleet) -> None:
    assert source.stats().packs == fleet.packs, "every pack is counted"


def _tree(source: SnapshotRepository, _there: SnapshotRepository, _fleet: Fleet) -> None:
    source.forest()


def _verified(level: Level) -> Step:
    def look(source: SnapshotRepository, _there: SnapshotRepository, _fleet: Fleet) -> None:
        for _ in verify(source, level=level):
            continue

    return look


def _records(source: SnapshotRepository, _there: SnapshotRepository, fleet: Fleet) -> None:
    assert sum(1 for _ in SessionRecords(source).list()) == fleet.records, "a listing shows every record"


def _upgrade(source: SnapshotRepository, _there: SnapshotRepository, _fleet: Fleet) -> None:
    plan = upgrade.plan_upgrade(source)
    assert plan.is_empty, "a fleet is of the newest schema version"
    upgrade.execute(plan)


def _plan_collect(source: SnapshotRepository, _there: SnapshotRepository, fleet: Fleet) -> None:
    assert len(collect.plan_collect(source).families) == fleet.deleted, "a deleted session leaves packs behind"


def _collect(source: SnapshotRepository, _there: SnapshotRepository, fleet: Fleet) -> None:
    report = collect.execute(collect.plan_collect(source))
    assert report.deleted == fleet.garbage, "a collection deletes what nobody names"


def _collect_again(source: SnapshotRepository, _there: SnapshotRepository, _fleet: Fleet) -> None:
    plan = collect.plan_collect(source)
    assert plan.is_empty, "it was collected"


def _copy(source: SnapshotRepository, there: SnapshotRepository, _fleet: Fleet) -> None:
    report = copying.execute(copying.plan_copy(source, there))
    assert not report.not_copied, "a fleet has no damage"


def _prune(source: SnapshotRepository, _there: SnapshotRepository, fleet: Fleet) -> None:
    plan = prune.plan_prune(source, session_id(fleet.first_kept), Retention(last=1))
    assert plan.writes, "this session went on"
    prune.execute(plan)


OPERATIONS: Mapping[str, Step] = {
    "ls": _sessions,
    "stats": _stats,
    "tree": _tree,
    "records ls": _records,
    "upgrade, nothing to do": _upgrade,
    "verify --level heads": _verified("heads"),
    "verify --level presence": _verified("presence"),
    "verify --level full": _verified("full"),
    "collect --dry-run": _plan_collect,
    "collect": _collect,
    "collect, nothing to do": _collect_again,
    "copy, the first": _copy,
    "copy, unchanged": _copy,
    "copy, 1 % went on": _copy,
    "prune, one session": _prune,
}
GOES_ON_BEFORE = "copy, 1 % went on"


def prepare(name: str, place: Place, fleet: Fleet) -> None:
    """Let sessions of the fleet go on by a revision each, where the operation is about that (rule 3)."""
    if name == GOES_ON_BEFORE:
        with place.repository(inline_limit_bytes=0) as repo:
            go_on(repo, fleet)


def done(name: str, source: Place, destination: Place, fleet: Fleet) -> Done:
    """Do an operation; return what it cost at either store."""
    with (
        source.repository() as repo,
        destination.repository() as there,
        counting(repo) as mine,
        counting(there) as theirs,
    ):
        OPERATIONS[name](repo, there, fleet)
    return Done(mine[0], theirs[0])


@contextmanager
def counting(repo: SnapshotRepository) -> Iterator[list[Counts]]:
    """Give a list that holds what the block cost when it has ended."""
    counts: list[Counts] = []
    before = repo.metrics.snapshot()
    yield counts
    repo.drain()
    counts.append(Counts.of(repo.metrics.snapshot() - before))
