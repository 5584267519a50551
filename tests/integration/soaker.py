"""One of many processes on one store: a writer, a forker, a neighbour or a collector, at work until it is told to end.

What it does follows from its seed, when it does it from the others. Everything is written down in its journal; an error
that is not foreseen ends the process, with its traceback. It is told by the end of its input.

    python -m tests.integration.soaker file:store writer 0 "seed" journal.jsonl
"""

from __future__ import annotations

import hashlib
import select
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from snapshots import PersistedSessionState, SnapshotRepository, TokenUsage, ToolState
from snapshots.base import tracking_of
from snapshots.errors import (
    CommitUnknownError,
    InvalidStateError,
    RevisionConflictError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionExistsError,
    SessionNotFoundError,
)
from snapshots.fork import ForkResult
from snapshots.head import LIVE
from snapshots.maintenance import collect, prune
from snapshots.maintenance.retention import Retention
from snapshots.state import CommitResult
from storage.clock import SystemClock
from storage.errors import UnavailableError
from storage.testing.draws import Draws
from tests.integration.builders import add_usage, message
from tests.integration.journals import Journal, Said

WRITERS = 4
DOUBTS_MAX = 3  # how often a commit in doubt is repeated
EXECUTION_BYTES = (0, 2_000, 2_000, 20_000, 300_000)
EDIT_BYTES_MAX = 2_000
BACK_MAX = 12  # revisions
CHILD = "child-"
LIVE_MAX = 24  # sessions; a forker that sees more deletes
FORKS_BETWEEN_LOOKS = 12
LEISURE_SECONDS_MAX = 0.1  # between two acts of a neighbour
PAUSE_SECONDS_MAX = 0.2  # between collections: those that follow each other at once stop each other
REFUSALS = (
    RevisionConflictError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionExistsError,
    SessionNotFoundError,
)
MAY_BE_REFUSED = (*REFUSALS, InvalidStateError)  # rests on a revision or plan that others may have changed

Told = dict[str, Any]


def stored(result: CommitResult | ForkResult) -> Told:
    return {
        "revision": result.head_revision,
        "commit_id": result.commit_id,
        "checkpoint_ref": str(result.checkpoint_ref),
    }


class Actor(Protocol):
    """Whoever is at work on the store."""

    def step(self) -> None:
        """Do one thing."""


class Hands:
    """What writers and forkers do to sessions; each operation is written down before and after."""

    def __init__(self, repo: SnapshotRepository, journal: Journal, draws: Draws, name: str) -> None:
        self.repo = repo
        self.draws = draws
        self._journal = journal
        self._name = name
        self._states: dict[str, PersistedSessionState] = {}
        self._executions: dict[str, bytes] = {}
        self._revisions: dict[str, int] = {}

    def commit(self, session_id: str) -> Said:
        """Take a turn and commit it; the state is kept for the next one unless it was refused."""
        try:
            state = self._state(session_id)
        except SessionDeletedError:
            return "refused"
        execution = self._turn(state, self._executions.get(session_id, b""))
        said: Said = "doubt"
        for _ in range(DOUBTS_MAX):
            said = self._do("commit", session_id, lambda: stored(self.repo.commit(state, None, execution)), state=state)
            if said != "doubt":
                break
        if said == "done":
            self._states[session_id] = state
            self._executions[session_id] = execution or self._executions.get(session_id, b"")
        else:
            self.forget(session_id)
        return said

    def saw(self, session_id: str, revision: int) -> None:
        """Remember how far a session is."""
        self._revisions[session_id] = revision

    def forget(self, session_id: str) -> None:
        """Load the session anew before the next commit."""
        self._states.pop(session_id, None)

    def go_back(self, session_id: str) -> Said:
        """Rewind, or restore, to one of the revisions before."""
        verb = self.draws.pick((self.repo.rewind, self.repo.rewind, self.repo.restore))
        revision = self._revision(session_id)
        self.forget(session_id)
        return self._do(verb.__name__, session_id, lambda: stored(verb(session_id, revision)), refusals=MAY_BE_REFUSED)

    def prune(self, session_id: str) -> Said:
        """Drop all but the last few revisions."""
        try:
            plan = prune.plan_prune(self.repo, session_id, Retention(last=1 + self.draws.below(BACK_MAX)))
        except REFUSALS:
            return "refused"

        def pruned() -> None:
            prune.execute(plan)

        return self._do("prune", session_id, pruned, refusals=MAY_BE_REFUSED, dropped=plan.dropped)

    def pin(self, session_id: str) -> Said:
        """Name a revision, or take the name away."""
        name, revision = f"pin-{self.draws.below(3)}", self._revision(session_id)
        if self.draws.below(2):
            return self._do("unpin", session_id, partial(self.repo.unpin, session_id, name))

        def pinned() -> None:
            self.repo.pin(session_id, revision, name)

        return self._do("pin", session_id, pinned, refusals=MAY_BE_REFUSED, pinned=revision)

    def delete(self, session_id: str) -> Said:
        self.forget(session_id)
        return self._do("delete", session_id, partial(self.repo.delete, session_id))

    def fork(self, source: str, child: str) -> Said:
        """Fork the present revision of a session, or one before; sometimes with nodes of the child's own."""
        revision = self._revision(source) if self.draws.below(3) == 0 else None
        nodes = [message(self.draws.hex_id(), "the child's own")] if self.draws.below(4) == 0 else []
        plugins = self.draws.pick(("inherit", "fresh"))

        def forked() -> Told:
            return stored(self.repo.fork(source, child, revision, plugins=plugins, initial_nodes=nodes))

        return self._do("fork", child, forked, source=source, revision=revision)

    def _do(
        self,
        what: str,
        session_id: str,
        act: Callable[[], Told | None],
        *,
        refusals: tuple[type[Exception], ...] = REFUSALS,
        state: PersistedSessionState | None = None,
        **asked: object,
    ) -> Said:
        self._journal.begin(what, session_id, **asked)
        try:
            told = act()
        except CommitUnknownError as error:
            return self._journal.end("doubt", why=error.reason, commit_id=error.commit_id)
        except UnavailableError as error:
            said: Said = "refused" if error.applied == "no" else "doubt"
            return self._journal.end(said, why=error.reason, commit_id=_pending(state))
        except refusals as error:
            return self._journal.end("refused", why=type(error).__name__, commit_id=_pending(state))
        if told is None:
            return self._journal.end("done")
        self.saw(session_id, told["revision"])
        return self._journal.end("done", **told)

    def _state(self, session_id: str) -> PersistedSessionState:
        """Return the state to go on from: of the last commit, as loaded, or a new one."""
        if session_id not in self._states:
            try:
                state = self.repo.load(session_id, execution_state=True)
            except SessionNotFoundError:
                state = PersistedSessionState(session_id=session_id)
            self._executions[session_id] = state.execution_state_snapshot or b""
            self.saw(session_id, state.head_revision or 0)
            return state
        return self._states[session_id]

    def _turn(self, state: PersistedSessionState, before: bytes) -> bytes | None:
        """Take a turn; return its execution state, None when it leaves that as it was."""
        draws = self.draws
        text = self._bytes(draws.below(1_000)).hex()
        state.append_active_conversation_messages([message(draws.hex_id(), text)])
        state.turn_index += 1
        add_usage(state, self._name, TokenUsage(input_tokens=draws.below(100)))
        if draws.below(3) == 0:
            state.stamp_runtime_state(ToolState(generation=state.turn_index), None)
        if draws.below(3) == 0:
            return None
        return self._edited(before) if before else self._bytes(draws.pick(EXECUTION_BYTES)) or None

    def _edited(self, before: bytes) -> bytes:
        """Return the bytes with one place replaced by others, not always as many."""
        draws = self.draws
        start = draws.below(len(before))
        return before[:start] + self._bytes(1 + draws.below(EDIT_BYTES_MAX)) + before[start + draws.below(2_000) :]

    def _bytes(self, size: int) -> bytes:
        return hashlib.shake_128(self.draws.hex_id().encode()).digest(size)

    def _revision(self, session_id: str) -> int:
        """Return one of the last revisions, as far as they are known here."""
        return max(1, self._revisions.get(session_id, 1) - self.draws.below(BACK_MAX))


def _pending(state: PersistedSessionState | None) -> str:
    """Return the id of the commit that was begun with this state last, "" for none."""
    pending = None if state is None else tracking_of(state).pending
    return "" if pending is None else pending.commit_id


class Writer:
    """Commits to a session of its own and to some that it shares; a deleted one is followed by another."""

    ACTS = ("commit",) * 32 + ("go_back",) * 2 + ("prune", "prune", "pin", "pin", "delete")

    def __init__(self, hands: Hands, number: int) -> None:
        self._hands = hands
        left, right = (number - 1) % WRITERS, (number + 1) % WRITERS
        self._slots = {f"own-{number}": 0, f"pair-{left}-{number}": 0, f"pair-{number}-{right}": 0, "all": 0}
        self._names = tuple(self._slots)

    def step(self) -> None:
        slot = self._hands.draws.pick(self._names)
        session_id = f"{slot}.{self._slots[slot]}"
        act = getattr(self._hands, self._hands.draws.pick(self.ACTS))
        if act(session_id) == "refused" and self._is_deleted(session_id):
            self._slots[slot] += 1
            self._hands.forget(session_id)

    def _is_deleted(self, session_id: str) -> bool:
        try:
            self._hands.repo.pins(session_id)
        except SessionDeletedError:
            return True
        except SessionNotFoundError:
            return False
        return False


class Forker:
    """Forks any session, and forks; both forkers name children alike, so that they meet in reservations."""

    ACTS = ("commit",) * 5 + ("fork",) * 4 + ("go_back", "prune")

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._live: list[str] = []
        self._children: list[str] = []
        self._next = 0
        self._looked = FORKS_BETWEEN_LOOKS

    def step(self) -> None:
        self._look()
        if not self._live:
            return
        draws, hands = self._hands.draws, self._hands
        if len(self._live) > LIVE_MAX or draws.below(25) == 0:
            children = [one for one in self._live if one.startswith(CHILD)]
            self._delete(draws.pick(self._live if draws.below(6) == 0 else children or self._live))
            return
        act = draws.pick(self.ACTS)
        if act == "fork":
            self._fork(draws.pick(self._live))
        elif self._children:
            getattr(hands, act)(draws.pick(self._children))

    def _look(self) -> None:
        """List the sessions, now and then."""
        self._looked += 1
        if self._live and self._looked <= FORKS_BETWEEN_LOOKS:
            return
        found = list(self._hands.repo.sessions())
        for one in found:
            self._hands.saw(one.session_id, one.revision)
        self._live = [one.session_id for one in found if one.status == LIVE]
        self._next, self._looked = max(self._next, len(found)), 0
        self._children = [child for child in self._children if child in self._live]

    def _fork(self, source: str) -> None:
        child = f"{CHILD}{self._next}"
        self._next += 1
        if self._hands.fork(source, child) != "done":
            return
        self._live.append(child)
        self._children.append(child)
        if self._hands.draws.below(3) == 0:
            self._delete(source)  # a hand-over: the child is all that is left

    def _delete(self, session_id: str) -> None:
        self._hands.delete(session_id)
        self._live.remove(session_id)
        self._children = [child for child in self._children if child != session_id]


class Neighbour:
    """Takes turns of any session there is, and forks it, at leisure; seldom deletes one."""

    ACTS = ("commit",) * 20 + ("fork",) * 4 + ("go_back", "prune", "pin", "delete")

    def __init__(self, hands: Hands, number: int) -> None:
        self._hands = hands
        self._number = number
        self._forks = 0

    def step(self) -> None:
        draws, hands = self._hands.draws, self._hands
        found = {one.session_id: one for one in hands.repo.sessions() if one.status == LIVE}
        name, act = draws.pick(sorted(found)), draws.pick(self.ACTS)
        hands.saw(name, found[name].revision)
        if act == "fork":
            hands.fork(name, f"{name}/{self._number}.{self._forks}")
            self._forks += 1
        else:
            getattr(hands, act)(name)
        SystemClock().sleep(draws.random() * LEISURE_SECONDS_MAX)


class Collector:
    """Collects, again and again."""

    def __init__(self, repo: SnapshotRepository, journal: Journal, draws: Draws) -> None:
        self._repo = repo
        self._journal = journal
        self._draws = draws

    def step(self) -> None:
        self._journal.begin("collect")
        try:
            self._journal.end("done", **self._collected())
        except UnavailableError as error:
            self._journal.end("doubt", why=error.reason)
        SystemClock().sleep(self._draws.random() * PAUSE_SECONDS_MAX)

    def _collected(self) -> dict[str, Any]:
        report = collect.execute(collect.plan_collect(self._repo))
        spared = [one.reason for one in report.spared]
        return {"number": report.number, "deleted": report.deleted, "stopped": report.stopped, "spared": spared}


def actor(repo: SnapshotRepository, role: str, number: int, draws: Draws, journal: Journal) -> Actor:
    if role == "collector":
        return Collector(repo, journal, draws)
    hands = Hands(repo, journal, draws, role)
    if role == "neighbour":
        return Neighbour(hands, number)
    return Writer(hands, number) if role == "writer" else Forker(hands)


def is_over() -> bool:
    """Say whether the input has ended: nothing is ever written to it."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def main(url: str, role: str, number: str, seed: str, path: str) -> None:
    with SnapshotRepository.open(url, create=False) as repo:
        journal = Journal(Path(path), lambda: repo.metrics.snapshot().total_requests)
        one = actor(repo, role, int(number), Draws(seed), journal)
        print("ready", flush=True)
        while not is_over():
            one.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
