"""What a collection costs among many small sessions.

collection(Settings(sessions=1000), quiet)["seconds_per_1000_sessions"]
"""

from __future__ import annotations

from snapshots import Message, Part, PersistedSessionState, SnapshotRepository
from snapshots.benchmarks.alone import alone
from snapshots.benchmarks.meters import Cost, Figure, Figures, metering, mib, peak_bytes, requests
from snapshots.benchmarks.places import Place, new_shared_place, place_at
from snapshots.benchmarks.settings import Settings
from snapshots.maintenance.collect import execute, plan_collect
from snapshots.maintenance.progress import Progress

DELETED_EVERY = 100  # one session in so many is deleted, and leaves a pack behind
TOLD_EVERY = 100
SESSION_BYTES = 16 << 10  # two files and their directories, in blocks of 4 KiB


def collection(settings: Settings, progress: Progress) -> Figures:
    """Collect after one session in a hundred was deleted; then again, when there is nothing to do.

    Each session has a pack of its own. The memory is that of planning and executing: they were made in another process.
    """
    with new_shared_place(settings.store, size_bytes=SESSION_BYTES * settings.sessions) as place:
        alone(_fill, place.url, place.prefix, settings.sessions, progress=progress)
        before = peak_bytes()
        first, second = (_collected(place, progress) for _ in range(2))
        most = peak_bytes()
    deleted = -(-settings.sessions // DELETED_EVERY)
    assert (first[0], second[0]) == (deleted, 0), "a collection deletes what nobody names, once"
    return {
        "sessions": Figure(settings.sessions, "sessions"),
        "packs_deleted": Figure(first[0], "packs"),
        "requests": requests(first[1].requests),
        "requests_per_1000_sessions": requests(1000 * first[1].requests / settings.sessions),
        "seconds_per_1000_sessions": _per_thousand(first[1].wall_seconds, settings),
        "cpu_per_1000_sessions": _per_thousand(first[1].cpu_seconds, settings),
        "memory_beyond_start": mib(most - before),
        "memory_per_session": Figure(round((most - before) / settings.sessions), "B"),
        "nothing_to_do_requests": requests(second[1].requests),
        "nothing_to_do_seconds_per_1000_sessions": _per_thousand(second[1].wall_seconds, settings),
    }


def _fill(url: str, prefix: str, sessions: int, *, progress: Progress) -> None:
    with place_at(url, prefix).repository(inline_limit_bytes=0) as repo:
        for number in range(sessions):
            _small_session(repo, f"session-{number}")
            if number % DELETED_EVERY == 0:
                repo.delete(f"session-{number}")
            if number % TOLD_EVERY == 0:
                progress("sessions made", number, sessions)


def _small_session(repo: SnapshotRepository, session_id: str) -> None:
    state = PersistedSessionState(session_id=session_id)
    part = Part(id="m0.p0", kind="Text", content=f"What is {session_id}?")
    state.append_active_conversation_messages([Message(id="m0", role="User", parts=(part,))])
    repo.commit(state)


def _collected(place: Place, progress: Progress) -> tuple[int, Cost]:
    """Plan a collection and execute it; return how many packs it deleted, and what it cost."""
    with place.repository() as repo:
        with metering(repo.metrics) as costs:
            report = execute(plan_collect(repo, progress=progress), progress=progress)
        return report.deleted, costs[0]


def _per_thousand(seconds: float, settings: Settings) -> Figure:
    return Figure(round(1000 * seconds / settings.sessions, 4), "s")
