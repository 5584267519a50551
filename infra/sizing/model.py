"""The request model: what each operation on a whole fleet costs, from what the fleet has.

Rules:
1. A prediction is exact: for the fleets that it speaks of (`infra.sizing.fleets`) the measured counts are equal to it,
   at a hundred sessions and at a hundred thousand. `python -m infra.scale --measure N` prints both.
2. It holds for sessions whose manifests lie in their heads and whose packs were never carried into one another: young
   ones. What long sessions cost beyond that is measured, one of each kind (`infra.sizing.workloads`).
3. Waits are requests that nobody could send sooner: what runs side by side, THREADS at a time, waits once together.

    cost = predicted("collect", Fleet(100_000, deleted=1000))
    cost.source.get, waits("collect", Fleet(100_000, deleted=1000))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from infra.sizing.counts import Counts, pages
from infra.sizing.fleet_work import Done
from infra.sizing.fleets import Fleet
from snapshots.maintenance.collect import BATCH_PACKS
from snapshots.maintenance.marks import MARK_BYTES, ROW_BYTES, ROWS_BYTES_MAX
from snapshots.maintenance.raising import READS_KEPT_MAX
from snapshots.repository import THREADS_MAX

KINDS_COPIED = 4  # records, metadata, usage logs, realtime: each has a listing of its own
KINDS_DELETED = 6  # those, turns and leases
HEAD_PROBES = 2  # a full verification looks for a turn in flight and a lease of each head


@dataclass(frozen=True, slots=True)
class Store:
    """What of a store a count depends on.

    Attributes:
        lists_unfinished: Whether it lists unfinished uploads, as a directory and S3 do, and memory does not.
    """

    lists_unfinished: bool = True


def predicted(name: str, fleet: Fleet, store: Store | None = None) -> Done:
    """Return what an operation on a fleet costs. Bytes are not predicted here: `infra.scale` has them per session."""
    return _MODEL[name](fleet, store or Store())


def _heads(fleet: Fleet, gets_each: int = 1) -> Counts:
    """Return a listing of the heads, each of which is read."""
    return Counts(get=gets_each * fleet.heads, list=pages(fleet.heads))


def _places(fleet: Fleet) -> Counts:
    """Return reading the logs of places: one piece for each revision but the present one. A fork has none yet."""
    return Counts(get=fleet.live * (fleet.revisions - 1))


def _ls(fleet: Fleet, _store: Store) -> Done:
    return Done(_heads(fleet))


def _stats(fleet: Fleet, _store: Store) -> Done:
    return Done(_heads(fleet) + Counts(list=pages(fleet.packs)))


def _tree(fleet: Fleet, _store: Store) -> Done:
    return Done(_heads(fleet) + _places(fleet) + Counts(list=pages(fleet.packs)))


def _records(fleet: Fleet, _store: Store) -> Done:
    return Done(Counts(get=fleet.records, list=pages(fleet.records)))


def _upgrade(fleet: Fleet, _store: Store) -> Done:
    return Done(2 * (_heads(fleet) + Counts(get=1)))


def _verify_heads(fleet: Fleet, _store: Store) -> Done:
    return Done(_heads(fleet) + Counts(stat=fleet.forks))


def _verify_presence(fleet: Fleet, _store: Store) -> Done:
    logs = Counts(get=fleet.live * fleet.revisions, list=fleet.live)  # history and places; each family is listed
    return Done(_heads(fleet) + Counts(stat=fleet.forks) + logs)


def _verify_full(fleet: Fleet, _store: Store) -> Done:
    probed = _heads(fleet, 1 + HEAD_PROBES)
    whole = fleet.live * Counts(get=5 * fleet.revisions, stat=fleet.revisions)
    forks = fleet.forks * Counts(get=1, stat=1)
    beside = Counts(get=fleet.records, list=pages(fleet.records) + KINDS_COPIED - 1)
    return Done(probed + whole + forks + beside)


def _plan(fleet: Fleet, store: Store, *, packs: int, cached: int = 0) -> Counts:
    """Return a plan of a collection: the mark cache, the heads with what they name, the packs, what lies beside."""
    places = Counts(get=_places(fleet).get - min(cached, fleet.live) * (fleet.revisions - 1))
    beside = Counts(list=1 + store.lists_unfinished)
    if fleet.deleted:
        beside += Counts(list=KINDS_DELETED - 1 + pages(fleet.records))
    return _heads(fleet) + Counts(get=1, list=pages(packs)) + places + beside


def _plan_collect(fleet: Fleet, store: Store) -> Done:
    return Done(_plan(fleet, store, packs=fleet.packs))


def _collect(fleet: Fleet, store: Store) -> Done:
    return Done(_plan(fleet, store, packs=fleet.packs) + executed(fleet))


def executed(fleet: Fleet, batch_packs: int = BATCH_PACKS) -> Counts:
    """Return the execution of a plan: every batch, and the mark cache.

    Args:
        fleet: Whose deleted sessions are what is collected.
        batch_packs: Packs in a batch; a family is never cut.
    """
    if not fleet.garbage:
        return Counts()
    first, *others = _batches(fleet, batch_packs)
    found = _batch(fleet, first[0], first=True) + (first[1] - 1) * _batch(fleet, first[0], first=False)
    return sum((times * _batch(fleet, families, first=False) for families, times in others), found + Counts(put=1))


def _batches(fleet: Fleet, batch_packs: int) -> list[tuple[int, int]]:
    """Return how many families a batch has, and how many such batches there are: full ones first, then the rest."""
    most = max(1, batch_packs // fleet.revisions)
    whole, rest = divmod(fleet.deleted, most)
    return [(families, times) for families, times in ((most, whole), (rest, 1)) if families * times]


def _batch(fleet: Fleet, families: int, *, first: bool) -> Counts:
    """Return one batch: its families listed, its number taken, all heads listed twice, and those concerned raised.

    The first batch reads every head, to learn its family; the others those that they raise. Heads beyond
    READS_KEPT_MAX are read once more when it is their turn.
    """
    raised = families + fleet.reserved
    reads = fleet.heads if first else raised
    again = max(0, raised - READS_KEPT_MAX)
    listings = families * pages(fleet.revisions) + 2 * pages(fleet.heads)
    return Counts(
        get=1 + reads + again,
        put=1 + raised,
        list=listings,
        delete_many=pages(families * fleet.revisions),
    )


def marks_cached(fleet: Fleet) -> int:
    """Return how many heads the mark cache has room for, of those that are live."""
    row = ROW_BYTES + MARK_BYTES * (1 + fleet.revisions)
    return min(fleet.live + fleet.forks, ROWS_BYTES_MAX // row)


def _collect_again(fleet: Fleet, store: Store) -> Done:
    cached = marks_cached(fleet) if fleet.garbage else 0
    return Done(_plan(fleet, store, packs=fleet.packs - fleet.garbage, cached=cached))


def _surveyed(fleet: Fleet) -> Done:
    """Return a plan of a copy as far as it is always made: each live head is read twice, and looked for there."""
    live = fleet.live + fleet.forks
    beside = Counts(list=pages(fleet.records) + KINDS_COPIED - 1)
    return Done(_heads(fleet) + Counts(get=live) + beside, Counts(get=live))


def _copy(fleet: Fleet, _store: Store) -> Done:
    plan, revisions = _surveyed(fleet), fleet.revisions
    read = _places(fleet) + fleet.live * Counts(get=2 * revisions) + Counts(get=fleet.forks + fleet.records)
    written = fleet.live * Counts(get=1, put=3 if revisions == 1 else 4)
    forked = fleet.forks * Counts(get=2 if revisions == 1 else 3, put=2)
    return Done(plan.source + read, plan.destination + written + forked + fleet.records * Counts(get=2, put=1))


def _copy_unchanged(fleet: Fleet, _store: Store) -> Done:
    plan = _surveyed(fleet)
    return Done(plan.source + Counts(get=fleet.records), plan.destination + Counts(get=fleet.records))


def _copy_further(fleet: Fleet, store: Store) -> Done:
    same, revisions = _copy_unchanged(fleet, store), fleet.revisions
    read = fleet.going_on * Counts(get=2 * revisions + 3)
    written = fleet.going_on * Counts(get=2 if revisions == 1 else 4, put=3)
    return Done(same.source + read, same.destination + written)


def _prune(fleet: Fleet, _store: Store) -> Done:
    return Done(Counts(get=fleet.revisions + 3, put=1))


_MODEL: Mapping[str, Callable[[Fleet, Store], Done]] = {
    "ls": _ls,
    "stats": _stats,
    "tree": _tree,
    "records ls": _records,
    "upgrade, nothing to do": _upgrade,
    "verify --level heads": _verify_heads,
    "verify --level presence": _verify_presence,
    "verify --level full": _verify_full,
    "collect --dry-run": _plan_collect,
    "collect": _collect,
    "collect, nothing to do": _collect_again,
    "copy, the first": _copy,
    "copy, unchanged": _copy_unchanged,
    "copy, 1 % went on": _copy_further,
    "prune, one session": _prune,
}


# Waits.


def waits(name: str, fleet: Fleet, threads: int = THREADS_MAX) -> float:
    """Return how many requests have to wait for one another, in one process (rule 3).

    Listings go page after page; a collection lists and raises one family, one head after the other; what reads heads
    reads `threads` of them at a time.
    """
    if name == "collect":
        return collection(fleet, Way(threads=threads)).waits
    cost = predicted(name, fleet)
    both = cost.source + cost.destination
    if name == "prune, one session":
        return both.requests
    serial = both.list - (fleet.live if name == "verify --level presence" else 0)  # each thread lists its own family
    return serial + (both.requests - serial) / threads


def seconds(name: str, fleet: Fleet, *, latency_seconds: float, cpu_seconds: float) -> float:
    """Return how long an operation takes in one process: its waits, or the CPU of its requests if that is more.

    Args:
        name: Of the operation.
        fleet: What it is done to.
        latency_seconds: Of one request.
        cpu_seconds: That one request takes in the client; threads of one Python process share one CPU.
    """
    cost = predicted(name, fleet)
    both = cost.source + cost.destination
    return max(waits(name, fleet) * latency_seconds, both.requests * cpu_seconds)


# A collection at large, and what would change it.


@dataclass(frozen=True, slots=True)
class Way:
    """How a collection goes about it.

    Attributes:
        packs_at_once: In a batch; each batch lists all heads twice.
        rereads: Whether the first batch reads every head once more, though the plan has seen their families.
        listers: Threads that list heads, each a part of the 256 prefixes under which they lie.
        raisers: Threads that list the families of a batch and raise its heads.
        threads: That read heads.
        tenants: Into how many the sessions are divided, each with heads, packs and numbers of its own.
        processes: That work at once: parts of one batch, or whole tenants.
    """

    packs_at_once: int = BATCH_PACKS
    rereads: bool = True
    listers: int = 1
    raisers: int = 1
    threads: int = THREADS_MAX
    tenants: int = 1
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection costs, its plan among it.

    Attributes:
        counts: Requests, of all tenants.
        waits: How many of them wait for one another.
        batches: Of one tenant.
    """

    counts: Counts
    waits: float
    batches: int


def collection(fleet: Fleet, way: Way) -> Collection:
    """Return what a collection of a fleet costs if it goes about it in some way; the usual way is `predicted`."""
    one = Fleet(
        fleet.sessions // way.tenants,
        fleet.revisions,
        fleet.forks // way.tenants,
        fleet.deleted // way.tenants,
        fleet.reserved,
        fleet.records // way.tenants,
    )
    plan = _plan(one, Store(), packs=one.packs)
    batches = _batches(one, way.packs_at_once)
    run = executed(one, way.packs_at_once)
    if batches and not way.rereads:
        run += Counts(get=batches[0][0] + one.reserved - one.heads)
    counts = plan + run
    count = sum(times for _, times in batches)
    head_pages = (1 + 2 * count) * pages(one.heads)
    others = counts.list - head_pages - one.deleted  # of packs, and of what lies beside
    again = sum(times * max(0, families + one.reserved - READS_KEPT_MAX) for families, times in batches)
    waits_each = (
        head_pages / way.listers
        + (one.deleted + counts.put + again) / way.raisers
        + others
        + counts.delete_many
        + (counts.get - again) / way.threads
    )
    return Collection(way.tenants * counts, waits_each * way.tenants / way.processes, count)
