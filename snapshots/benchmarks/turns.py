"""What commits cost: turns of an agent with tools and an execution state, and turns of a chat.

agent_turns(Settings(turns=200), quiet)["stored_per_turn_200"]
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from statistics import mean

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.benchmarks.agent_turns import AgentTurns
from snapshots.benchmarks.chat_turns import ChatTurns
from snapshots.benchmarks.meters import Cost, Figure, Figures, cpu_mean, kib, metering, ms, ratio, requests
from snapshots.benchmarks.places import Place, new_place
from snapshots.benchmarks.settings import Settings
from snapshots.maintenance.collect import execute, plan_collect
from snapshots.maintenance.progress import Progress

SESSION = "session-1"
CHAT_TURNS = 200
LAST = 50  # commits whose CPU is compared between sessions of different length


def agent_turns(settings: Settings, progress: Progress) -> Figures:
    """Commit sessions of 50, 200 and 1,000 turns, each into a place of its own; nothing is left out of what is stored.

    Stored is what remains after a collection. The first commit creates the session: it is in the bytes, and not in
    requests and CPU. The last 50 commits of all sessions take turns, so that their CPU can be compared.
    """
    with ExitStack() as stack:
        sessions = [
            _Session(stack.enter_context(new_place(settings.store)), length, settings.seed, progress)
            for length in settings.lengths
        ]
        for session in sessions:
            stack.callback(session.close)
            session.advance(session.length - LAST)
        gc.collect()  # of what all sessions left so far; else it falls to the commits of one of them
        for number in range(min(LAST, settings.turns)):
            for session in sessions if number % 2 else sessions[::-1]:
                session.advance(1)
        figures: Figures = {}
        for session in sessions:
            figures |= _of_length(session.costs, session.place)
    shortest, longest = sessions[0], sessions[-1]
    over = f"cpu_{longest.length}_over_{shortest.length}"
    return figures | {over: ratio(_last_cpu(longest.costs), _last_cpu(shortest.costs))}


class _Session:
    """A session that is committed bit by bit.

    Args:
        place: Where to.
        length: How many turns it will have.
        seed: Of the turns.
        progress: Told of every turn.
    """

    def __init__(self, place: Place, length: int, seed: int, progress: Progress) -> None:
        self.place = place
        self.length = length
        self.costs: list[Cost] = []
        self._progress = progress
        self._repo = place.repository()
        self._state = PersistedSessionState(session_id=SESSION)
        self._turns = AgentTurns(seed).turns(length)

    def advance(self, count: int) -> None:
        """Commit so many further turns, or as many as there are."""
        for turn in islice(self._turns, max(0, count)):
            turn.apply(self._state)
            with metering(self._repo.metrics) as one:
                self._repo.commit(self._state, execution_state=turn.execution_state)
            self.costs += one
            self._progress(f"turns of a session of {self.length:,}", len(self.costs), self.length)

    def close(self) -> None:
        """Let the threads go."""
        self._repo.close()


def committed(place: Place, count: int, seed: int, progress: Progress) -> None:
    """Commit so many turns of one session."""
    session = _Session(place, count, seed, progress)
    session.advance(count)
    session.close()


def _of_length(costs: Sequence[Cost], place: Place) -> Figures:
    length, steady = len(costs), costs[1:] or costs
    stored_before = place.stored_bytes()
    with place.repository() as repo:
        execute(plan_collect(repo))
    return {
        f"stored_per_turn_{length}": kib(place.stored_bytes() / length),
        f"stored_before_collection_{length}": kib(stored_before / length),
        f"uploaded_per_turn_{length}": kib(mean(cost.uploaded_bytes for cost in costs)),
        f"requests_per_commit_{length}": requests(mean(cost.requests for cost in steady)),
        f"requests_per_commit_max_{length}": requests(max(cost.requests for cost in steady)),
        f"cpu_per_commit_{length}": ms(cpu_mean(steady)),
        f"cpu_per_commit_last_{LAST}_of_{length}": ms(_last_cpu(costs)),
    }


def _last_cpu(costs: Sequence[Cost]) -> float:
    return cpu_mean((costs[1:] or costs)[-LAST:])


def chat_only(settings: Settings, progress: Progress) -> Figures:
    """Commit a chat of 200 turns."""
    count = settings.session_turns(CHAT_TURNS)
    with new_place(settings.store) as place, place.repository() as repo:
        costs, before_acknowledged = _chatted(repo, count, settings.seed, progress)
        execute(plan_collect(repo))
        stored = place.stored_bytes()
    steady, waited = costs[1:] or costs, before_acknowledged[1:] or before_acknowledged
    return {
        "requests_per_commit": requests(mean(cost.requests for cost in steady)),
        "requests_before_acknowledged": requests(mean(waited)),
        "requests_before_acknowledged_max": requests(max(waited)),
        "commits_of_one_request": Figure(round(100 * mean(count == 1 for count in waited), 1), "%"),
        "cpu_per_commit": ms(cpu_mean(steady)),
        "uploaded_per_turn": kib(mean(cost.uploaded_bytes for cost in costs)),
        "stored_per_turn": kib(stored / count),
    }


def _chatted(repo: SnapshotRepository, count: int, seed: int, progress: Progress) -> tuple[list[Cost], list[int]]:
    """Return the cost of each turn, uploads in the background among it, and its requests before the acknowledgement."""
    state, costs, before_acknowledged = PersistedSessionState(session_id=SESSION), [], []
    for turn in ChatTurns(seed).turns(count):
        turn.apply(state)
        with metering(repo.metrics) as one:
            before_acknowledged.append(repo.commit(state).requests)
        costs += one
        progress("turns of a chat", turn.index + 1, count)
    return costs, before_acknowledged
