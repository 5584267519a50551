"""What a resume, a load and a fork cost, at sessions of agent turns.

resume(Settings(turns=200), quiet)["gets_max_200"]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.benchmarks.agent_turns import AgentTurns
from snapshots.benchmarks.meters import Figure, Figures, metering, ms, requests
from snapshots.benchmarks.places import Place, new_place
from snapshots.benchmarks.rounds import Rounds
from snapshots.benchmarks.settings import Settings
from snapshots.benchmarks.turns import SESSION, committed
from snapshots.maintenance.progress import Progress
from snapshots.update import load_to_commit

CONSECUTIVE = 50  # lengths at which a resume is looked at: commits merge packs now and then
FORK_TURNS = 200
LOADS = 5


@dataclass(frozen=True, slots=True)
class _Resumed:
    gets: int
    rounds: int


def resume(settings: Settings, progress: Progress) -> Figures:
    """Resume at each of 50 consecutive lengths up to 50, 200 and 1,000 turns, from nothing.

    Opening the store, the head, then everything else: a round is what waits for the answers of former rounds alone.
    """
    found: dict[int, _Resumed] = {}
    looked_at = {length for end in settings.lengths for length in range(max(1, end - CONSECUTIVE + 1), end + 1)}
    with new_place(settings.store) as place, place.repository() as repo:
        state = PersistedSessionState(session_id=SESSION)
        for turn in AgentTurns(settings.seed).turns(settings.turns):
            turn.apply(state)
            repo.commit(state, execution_state=turn.execution_state)
            if turn.index + 1 in looked_at:
                found[turn.index + 1] = _resumed(place, turn.execution_state)
            progress("turns, with resumes", turn.index + 1, settings.turns)
    figures: Figures = {}
    for end in settings.lengths:
        window = [found[length] for length in range(max(1, end - CONSECUTIVE + 1), end + 1)]
        figures[f"gets_max_{end}"] = requests(max(one.gets for one in window))
        figures[f"rounds_max_{end}"] = Figure(max(one.rounds for one in window), "rounds")
    return figures


def _resumed(place: Place, execution_state: bytes) -> _Resumed:
    """Resume from nothing, and check the execution state that came back."""
    rounds = Rounds()
    with SnapshotRepository(rounds.counting(place.store), create=False, url=place.url) as repo:
        state = load_to_commit(rounds.environment(repo), SESSION, execution_state=True)
        asked = repo.metrics.snapshot()
    assert state.execution_state_snapshot == execution_state, "a resume gives back what was committed"
    assert asked["get"].requests == asked.total_requests, "a resume does nothing but read"
    return _Resumed(asked.total_requests, rounds.count)


def load(settings: Settings, progress: Progress) -> Figures:
    """Load a session of 1,000 turns without its execution state, five times, each time from nothing."""
    with new_place(settings.store) as place:
        committed(place, settings.turns, settings.seed, progress)
        costs = []
        for number in range(LOADS):
            with place.repository() as repo, metering(repo.metrics) as one:
                nodes = len(repo.load(SESSION).session_graph.nodes)
            costs += one
            progress("loads", number + 1, LOADS)
    return {
        "nodes": Figure(nodes, "nodes"),
        "cpu": ms(median(cost.cpu_seconds for cost in costs)),
        "wall": ms(median(cost.wall_seconds for cost in costs)),
        "gets": requests(costs[0].gets),
    }


def fork(settings: Settings, progress: Progress) -> Figures:
    """Fork a session of 200 turns: the present revision, and every older one."""
    count = settings.session_turns(FORK_TURNS)
    with new_place(settings.store) as place:
        committed(place, count, settings.seed, progress)
        present = _forked(place, [count], progress)
        older = _forked(place, range(1, count), progress) or present
    return {
        "requests": requests(present[0]),
        "requests_older_mean": requests(sum(older) / len(older)),
        "requests_older_max": requests(max(older)),
    }


def _forked(place: Place, revisions: Sequence[int], progress: Progress) -> list[int]:
    """Fork at each of the revisions; return the requests of each."""
    with place.repository() as repo:
        taken = []
        for number, revision in enumerate(revisions):
            taken.append(repo.fork(SESSION, f"fork-{revision}", revision).requests)
            progress("forks", number + 1, len(revisions))
    return taken
