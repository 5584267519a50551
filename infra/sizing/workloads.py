"""What one session costs: commits, resumes and forks of the workloads of `snapshots.benchmarks`, counted by verb.

Rules:
1. Equal settings give equal requests. Bytes differ a little from run to run: ids are random and do not compress.
2. What a commit uploads in the background belongs to it. The first commit, which creates the session, is counted too.

    session = measured("agent", turns=20)
    session.commits.put / session.turns
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infra.sizing.counts import Counts
from infra.sizing.fleet_work import counting
from snapshots import PersistedSessionState
from snapshots.benchmarks.agent_turns import AgentTurns
from snapshots.benchmarks.chat_turns import ChatTurns
from snapshots.benchmarks.large_state import EXECUTION_STATE_BYTES, LargeState
from snapshots.benchmarks.places import MEMORY, Place, new_place
from snapshots.maintenance.collect import execute, plan_collect

SESSION, SEED = "session-1", 7
Turns = Callable[[PersistedSessionState, int, int], Iterator[bytes | None]]


@dataclass(frozen=True, slots=True)
class Session:
    """What one session cost.

    Attributes:
        turns: How many it has; each is a revision that can be loaded.
        state_bytes: Size of its execution state, 0 for none.
        commits: All of them together.
        stored_bytes: After a collection.
        uncollected_bytes: Before it.
        head_bytes: Its head in the end.
        packs: After a collection.
        resume: From nothing, with the execution state.
        load: Without it.
        fork: Of the present revision.
        fork_older: Of the one in the middle.
        plan: A plan of a collection that has never seen it: the mark cache, its head, what that names.
    """

    turns: int
    state_bytes: int
    commits: Counts
    stored_bytes: int
    uncollected_bytes: int
    head_bytes: int
    packs: int
    resume: Counts
    load: Counts
    fork: Counts
    fork_older: Counts
    plan: Counts

    def as_json(self) -> dict[str, Any]:
        """Return it as it is stored."""
        return {
            name: found.as_json() if isinstance(found := getattr(self, name), Counts) else found
            for name in self.__dataclass_fields__
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Session:
        """Return what `as_json` gave."""
        fields: dict[str, Any] = {
            name: Counts.from_json(one) if isinstance(one, dict) else one for name, one in plain.items()
        }
        return cls(**fields)


def _agent(state: PersistedSessionState, turns: int, state_bytes: int) -> Iterator[bytes | None]:
    for turn in AgentTurns(SEED, state_bytes).turns(turns):
        turn.apply(state)
        yield turn.execution_state


def _chat(state: PersistedSessionState, turns: int, _state_bytes: int) -> Iterator[bytes | None]:
    for turn in ChatTurns(SEED).turns(turns):
        turn.apply(state)
        yield None


def _large(state: PersistedSessionState, turns: int, state_bytes: int) -> Iterator[bytes | None]:
    for revision in LargeState(SEED, state_bytes).revisions(turns):
        revision.apply(state)
        yield revision.execution_state


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of session.

    Attributes:
        words: What it is called in a table.
        turns: Makes them, one by one.
        state_bytes: Size of the execution state at its usual size.
        usual: Turns at its usual size.
        small: Turns and bytes of execution state at which it is measured again.
    """

    words: str
    turns: Turns
    state_bytes: int
    usual: int
    small: tuple[int, int]


WORKLOADS: Mapping[str, Workload] = {
    "agent": Workload("agent turns", _agent, 1 << 20, 200, (20, 256 << 10)),
    "chat": Workload("chat turns", _chat, 0, 200, (30, 0)),
    "large": Workload("large state, 64 MiB, 1 % edited", _large, EXECUTION_STATE_BYTES, 200, (5, 1 << 20)),
}


def measured(name: str, turns: int, state_bytes: int) -> Session:
    """Commit a session of a workload in memory, turn by turn; return what it cost.

    Args:
        name: Of the workload.
        turns: How many.
        state_bytes: Size of the execution state.
    """
    with new_place(MEMORY) as place:
        commits = _committed(place, WORKLOADS[name].turns, turns, state_bytes)
        resume = _asked(place, lambda repo: repo.load(SESSION, execution_state=bool(state_bytes)))
        load = _asked(place, lambda repo: repo.load(SESSION))
        plan = _asked(place, plan_collect)
        uncollected = place.stored_bytes()
        with place.repository() as repo:
            execute(plan_collect(repo))
        stored = place.stored_bytes()
        packs = sum(1 for _ in place.store.list(repo.environment.layout.packs))
        fork = _asked(place, lambda repo: repo.fork(SESSION, "fork"))
        older = _asked(place, lambda repo: repo.fork(SESSION, "fork-older", max(1, turns // 2)))
        head = place.store.stat(repo.environment.layout.head(SESSION)).size_bytes
    return Session(turns, state_bytes, commits, stored, uncollected, head, packs, resume, load, fork, older, plan)


def _committed(place: Place, turns: Turns, count: int, state_bytes: int) -> Counts:
    state = PersistedSessionState(session_id=SESSION)
    with place.repository() as repo, counting(repo) as counts:
        for execution_state in turns(state, count, state_bytes):
            repo.commit(state, execution_state=execution_state)
            repo.drain()  # a turn takes longer than an upload: each finds the former one done
    return counts[0]


def _asked(place: Place, ask: Callable[..., object]) -> Counts:
    with place.repository() as repo, counting(repo) as counts:
        ask(repo)
    return counts[0]
