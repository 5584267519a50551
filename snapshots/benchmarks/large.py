"""What a large execution state costs of which little changes: commits, and a restore of every revision.

large_state(Settings(revisions=20), quiet)["stored_per_revision"]
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from statistics import mean, median

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.benchmarks.large_state import LargeState
from snapshots.benchmarks.meters import MB, Cost, Figure, Figures, cpu_mean, metering, requests
from snapshots.benchmarks.places import Place, new_place
from snapshots.benchmarks.settings import Settings
from snapshots.benchmarks.turns import SESSION
from snapshots.maintenance.collect import execute, plan_collect
from snapshots.maintenance.progress import Progress


@dataclass(frozen=True, slots=True)
class _Restored:
    gets: int
    size_bytes: int
    cpu_seconds: float


def large_state(settings: Settings, progress: Progress) -> Figures:
    """Commit the revisions, collect, and restore every one of them from nothing: each has the digest it had."""
    with new_place(settings.store) as place:
        digests, costs = _committed(place, settings, progress)
        with place.repository() as repo:
            execute(plan_collect(repo))
        stored = place.stored_bytes()
        restored = [_restored(place, number, digest, progress, len(digests)) for number, digest in digests.items()]
    steady = costs[1:] or costs
    size_bytes, seconds = sum(one.size_bytes for one in restored), sum(one.cpu_seconds for one in restored)
    return {
        "revisions": Figure(len(costs), "revisions"),
        "stored_per_revision": _mb(stored / len(costs)),
        "uploaded_per_revision": _mb(mean(cost.uploaded_bytes for cost in costs)),
        "requests_per_commit_max": requests(max(cost.requests for cost in steady)),
        "cpu_first_commit": _seconds(costs[0].cpu_seconds),
        "cpu_per_commit": _seconds(cpu_mean(steady)),
        "cpu_per_commit_max": _seconds(max(cost.cpu_seconds for cost in steady)),
        "restored_and_compared": Figure(len(restored), "revisions"),
        "gets_per_restore_median": requests(median(one.gets for one in restored)),
        "gets_per_restore_max": requests(max(one.gets for one in restored)),
        "restore_per_cpu_second": Figure(round(size_bytes / seconds / MB), "MB/s"),
        "restore_per_cpu_second_min": Figure(
            round(min(one.size_bytes / one.cpu_seconds for one in restored) / MB), "MB/s"
        ),
    }


def _committed(place: Place, settings: Settings, progress: Progress) -> tuple[dict[int, bytes], list[Cost]]:
    """Commit the revisions; return their digests, taken before, and what each cost."""
    state = PersistedSessionState(session_id=SESSION)
    digests: dict[int, bytes] = {}
    costs: list[Cost] = []
    with place.repository() as repo:
        for revision in LargeState(settings.seed, settings.state_bytes).revisions(settings.revisions):
            digest = hashlib.sha256(revision.execution_state).digest()
            revision.apply(state)
            with metering(repo.metrics) as one:
                result = repo.commit(state, execution_state=revision.execution_state)
            costs += one
            digests[result.head_revision] = digest
            progress("revisions of a large state", revision.index + 1, settings.revisions)
    return digests, costs


def _restored(place: Place, revision: int, digest: bytes, progress: Progress, total: int) -> _Restored:
    """Open the store and read one revision whole; compare it with what was committed."""
    with SnapshotRepository(place.store, create=False, url=place.url) as repo:
        with metering(repo.metrics) as costs:
            data = repo.load(SESSION, revision, execution_state=True).execution_state_snapshot
        asked = repo.metrics.snapshot()
    assert data is not None, "every revision has an execution state"
    assert hashlib.sha256(data).digest() == digest, f"revision {revision} is what was committed"
    progress("revisions restored", revision, total)
    return _Restored(asked["get"].requests, len(data), costs[0].cpu_seconds)


def _mb(size_bytes: float) -> Figure:
    return Figure(round(size_bytes / MB, 3), "MB")


def _seconds(seconds: float) -> Figure:
    return Figure(round(seconds, 4), "s")
