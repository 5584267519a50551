"""Collecting: deleting packs that no head names. No clock, no lock; it may run at any time, several at once.

Rules:
1. A plan marks without writing, as a hint: which families have garbage. Nothing is written when there is none.
2. Executing goes through those families in batches. It lists the packs of a batch anew, and then takes a fresh,
   confirmed number for it.
3. Every head of those families and every reservation is raised to the number by compare-and-swap, live ones first.
   What the bytes put name is marked, of every attempt, the manifests read before the write.
4. A head with a higher number, or with this number from somebody else, ends the run: this batch deletes nothing.
5. The heads are listed again after the last raise, until a listing shows none of these families that was not raised.
6. What was listed and is not marked is deleted. A manifest that cannot be read spares its family; a head that cannot
   be read spares everything.
7. What deleted sessions have beside the packs goes as well: a tombstone is final. So do segments of usage logs that
   were superseded (`snapshots.maintenance.superseded`), and unfinished writes that are old: nothing can name them.
8. The mark cache is written last, and only if a pack was deleted. It serves plans; nothing is deleted because of it.

    plan = plan_collect(repo)
    print(plan)
    report = execute(plan)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from snapshots.environment import Environment
from snapshots.epochs import take_number
from snapshots.maintenance.garbage import CollectPlan, FamilyGarbage, Spared, plan_collect, plan_on
from snapshots.maintenance.marks import Marks, MarksRead, write_marks
from snapshots.maintenance.progress import Progress, quiet
from snapshots.maintenance.raising import Homes, Raising, StoppedError
from snapshots.maintenance.superseded import LOGS_SETTLED_AT_ONCE, SparedLog, SupersededLog, settle_logs
from snapshots.operations import operation
from storage.errors import PermissionDeniedError, StorageError, UnsupportedServerError
from storage.store import DeleteFailure
from storage.unfinished import UnfinishedWrite, discard_in
from storage.wrappers.metered import MeteredStore

__all__ = [
    "BATCH_PACKS",
    "CollectPlan",
    "CollectReport",
    "FamilyGarbage",
    "Progress",
    "Raising",
    "Spared",
    "execute",
    "plan_collect",
    "plan_on",
]

BATCH_PACKS = 20_000  # keys held at a time, some 10 MB; each batch costs two listings of all heads
DELETED_AT_ONCE = 1000  # keys at a time, so that progress is told


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What a collection did.

    Attributes:
        number: The last one it took, 0 if there was nothing to do.
        batches: How many were begun.
        raised: Heads that were raised; a reservation counts once per batch.
        kept: Packs of the families concerned that were listed and stay.
        kept_bytes: Their size.
        deleted: Packs deleted.
        deleted_bytes: Their size.
        satellites: Registers of deleted sessions deleted.
        segments: Superseded segments of usage logs deleted.
        segments_bytes: Their size.
        logs_spared: Usage logs left alone, and why.
        unfinished: Unfinished writes discarded.
        unfinished_left: Why some of them were not, "" if all were: packs are collected all the same.
        spared: Families left alone, and why.
        stopped: Why the run ended before its last batch was done, "" if it did not.
        marks: What became of the mark cache, "" if it was not to be written.
        requests: Made for it, the plan not included.
        seconds: How long it took.
    """

    number: int = 0
    batches: int = 0
    raised: int = 0
    kept: int = 0
    kept_bytes: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    satellites: int = 0
    segments: int = 0
    segments_bytes: int = 0
    logs_spared: tuple[SparedLog, ...] = ()
    unfinished: int = 0
    unfinished_left: str = ""
    spared: tuple[Spared, ...] = ()
    stopped: str = ""
    marks: str = ""
    requests: int = 0
    seconds: float = 0.0


@operation("collect", "plan.environment")
def execute(plan: CollectPlan, *, progress: Progress = quiet, batch_packs: int = BATCH_PACKS) -> CollectReport:
    """Delete what nobody names, in the families of the plan.

    Interrupted at any request it leaves a correct store, and the next run finishes.

    Args:
        plan: What to look at.
        progress: Told of every step.
        batch_packs: Packs in memory at a time; a family that has more is a batch by itself.

    Raises:
        CorruptSnapshotError: A head cannot be read; earlier batches are done, nothing else was deleted.
        UnavailableError: The store did not answer; run it again.
    """
    metered = MeteredStore(plan.environment.store)
    environment = replace(plan.environment, store=metered)
    begun = environment.clock.monotonic()
    marks = plan.marks.copy()
    report = _collected(environment, plan, marks, progress, batch_packs)
    _delete(environment, plan.satellites, "satellites deleted", progress)
    report = _without_superseded(environment, plan, report, progress)
    remembered = _remembered(environment, marks, plan.marks_read) if report.deleted else ""
    discarded, left = _discard(environment, plan.unfinished, progress)
    return replace(
        report,
        satellites=len(plan.satellites),
        unfinished=discarded,
        unfinished_left=left,
        marks=remembered,
        requests=metered.metrics.snapshot().total_requests,
        seconds=environment.clock.monotonic() - begun,
    )


def _collected(
    environment: Environment, plan: CollectPlan, marks: Marks, progress: Progress, batch_packs: int
) -> CollectReport:
    report = CollectReport(spared=plan.spared)
    batches = list(_batches(plan.families, batch_packs))
    homes = Homes([one.prefix for one in families] for families in batches)
    for number, families in enumerate(batches):
        batch = _Batch(environment, homes, number, marks, progress)
        try:
            report = _sum(report, batch.collected(families))
        except StoppedError as stopped:
            return replace(_sum(report, batch.stopped()), stopped=str(stopped))
    return report


def _without_superseded(
    environment: Environment, plan: CollectPlan, report: CollectReport, progress: Progress
) -> CollectReport:
    """Delete the segments of usage logs that nobody names; return the report with them."""
    report = replace(report, logs_spared=plan.logs.spared)
    logs: Sequence[SupersededLog] = plan.logs.superseded
    for start in range(0, len(logs), LOGS_SETTLED_AT_ONCE):
        settled = settle_logs(environment, logs[start : start + LOGS_SETTLED_AT_ONCE])
        _delete(environment, [row.key for row in settled.garbage], "segments of usage logs deleted", progress)
        report = replace(
            report,
            number=settled.number,
            segments=report.segments + len(settled.garbage),
            segments_bytes=report.segments_bytes + sum(row.size_bytes for row in settled.garbage),
            logs_spared=(*report.logs_spared, *settled.spared),
        )
    return report


def _batches(families: Iterable[FamilyGarbage], packs_max: int) -> Iterator[Sequence[FamilyGarbage]]:
    """Cut families into runs of at most so many packs, as the plan counted them."""
    batch: list[FamilyGarbage] = []
    packs = 0
    for one in families:
        if batch and packs + one.listed > packs_max:
            yield batch
            batch, packs = [], 0
        batch.append(one)
        packs += one.listed
    if batch:
        yield batch


def _sum(done: CollectReport, batch: CollectReport) -> CollectReport:
    return replace(
        done,
        number=batch.number,
        batches=done.batches + 1,
        raised=done.raised + batch.raised,
        kept=done.kept + batch.kept,
        kept_bytes=done.kept_bytes + batch.kept_bytes,
        deleted=done.deleted + batch.deleted,
        deleted_bytes=done.deleted_bytes + batch.deleted_bytes,
        spared=(*done.spared, *batch.spared),
    )


class _Batch:
    """One batch: its packs are forgotten with it."""

    def __init__(self, environment: Environment, homes: Homes, number: int, marks: Marks, progress: Progress) -> None:
        self._environment = environment
        self._homes = homes
        self._number = number
        self._marks = marks
        self._progress = progress
        self._sizes: dict[str, int] = {}
        self._run: Raising | None = None

    def collected(self, families: Sequence[FamilyGarbage]) -> CollectReport:
        """Delete what nobody names. Raises StoppedError before anything of this batch is deleted."""
        environment, layout = self._environment, self._environment.layout
        names = {one.prefix: one.family for one in families}
        for prefix in names:  # Rule 2.
            listing = environment.store.list(prefix)
            self._sizes |= {row.key: row.size_bytes for row in listing if layout.family_of_pack(row.key) == prefix}
        run = self._run = Raising(
            environment,
            take_number(environment),
            frozenset(names),
            self._progress,
            homes=self._homes,
            batch=self._number,
            marks=self._marks,
        )
        run.raise_all()
        garbage = [key for key in self._sizes if key not in run.marked and layout.family_of_pack(key) not in run.spared]
        _delete(environment, garbage, "packs deleted", self._progress)  # Rule 6.
        spared = tuple(Spared(names[prefix], reason) for prefix, reason in sorted(run.spared.items()))
        return self._report(garbage, spared)

    def stopped(self) -> CollectReport:
        """Return the report of a batch that deleted nothing."""
        return self._report((), ())

    def _report(self, garbage: Sequence[str], spared: tuple[Spared, ...]) -> CollectReport:
        assert self._run is not None, "a batch is reported when it has its number"
        deleted_bytes = sum(self._sizes[key] for key in garbage)
        return CollectReport(
            number=self._run.number,
            raised=self._run.raised,
            kept=len(self._sizes) - len(garbage),
            kept_bytes=sum(self._sizes.values()) - deleted_bytes,
            deleted=len(garbage),
            deleted_bytes=deleted_bytes,
            spared=spared,
        )


def _delete(environment: Environment, keys: Sequence[str], what: str, progress: Progress) -> None:
    for start in range(0, len(keys), DELETED_AT_ONCE):
        failures: tuple[DeleteFailure, ...] = environment.store.delete_many(keys[start : start + DELETED_AT_ONCE])
        if failures:
            raise failures[0].error
        progress(what, min(start + DELETED_AT_ONCE, len(keys)), len(keys))


def _discard(environment: Environment, writes: Sequence[UnfinishedWrite], progress: Progress) -> tuple[int, str]:
    """Discard what nobody will finish; return how many, and why the rest was left to the next run."""
    for done, write in enumerate(writes):
        try:
            discard_in(environment.store, write)
        except (PermissionDeniedError, UnsupportedServerError) as error:
            return done, str(error)
        progress("unfinished writes discarded", done + 1, len(writes))
    return len(writes), ""


def _remembered(environment: Environment, marks: Marks, before: MarksRead) -> str:
    """Write the mark cache (rule 8); return what became of it."""
    if before.in_the_way:
        try:
            environment.store.delete(environment.layout.marks)
        except StorageError as error:
            return f"not written: {error}"
    return write_marks(environment, marks, before)
