"""A session, our commit of one turn on a store that fails, and another writer beside it; and what must be true then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from snapshots import CommitResult, PersistedSessionState, SnapshotRepository, TurnStamp
from snapshots.errors import (
    CommitUnknownError,
    CorruptSnapshotError,
    RevisionConflictError,
    SessionDeletedError,
    SessionNotFoundError,
)
from snapshots.head import LIVE, TOMBSTONE
from storage.errors import NotFoundError, PermissionDeniedError, UnavailableError
from storage.store import ObjectStore
from storage.testing.clock import ManualClock
from storage.testing.faults import Crash
from tests.integration.builders import (
    SESSION,
    WatchedStore,
    check_every_revision,
    check_puts,
    message_ids,
    new_session,
    raw_head,
    take_turn,
    usage_of,
)

MINE = 1000  # tokens of the turn in question; everybody else's turns take one
STAMP = TurnStamp("turn-mine", content_hash="mine")
Phase = Literal["create", "steady"]
Outcome = Literal["applied", "refused", "ended", "unknown"]
WAYS = ("same state", "same state and stamp", "other process, same stamp")


class World:
    """Our repository on `ours`, and another writer on `store`: the same place, but without faults.

    In the phase "create" there is no session yet; in "steady" it has one revision.
    """

    def __init__(self, phase: Phase, store: ObjectStore, ours: ObjectStore) -> None:
        self.store = store
        self.watched = WatchedStore(ours)
        self.other = SnapshotRepository(self.store, clock=ManualClock(seed=2))
        self.repo = SnapshotRepository(self.watched, clock=ManualClock(seed=1))
        self._others: list[SnapshotRepository] = [self.other, self.repo]
        self.others_turns = 0
        if phase == "steady":
            self.repo.commit(new_session(SESSION, "start0"))
        self.state = self.opened(self.repo)
        self.watched.start_over()

    def opened(self, repo: SnapshotRepository) -> PersistedSessionState:
        """Return what a process has before it commits the turn: the session as it is, and the turn taken."""
        try:
            state = repo.load(SESSION)
        except SessionNotFoundError:
            state = new_session(SESSION, "start0")
        return take_turn(state, "mine", tokens=MINE)

    def ways(self, way: str) -> tuple[Callable[[], CommitResult], Callable[[], CommitResult]]:
        """Return first and repeated commit: by the same object, stamped or not, or by another process."""
        return {
            "same state": (self.same_state, self.same_state),
            "same state and stamp": (self.same_state_stamped, self.same_state_stamped),
            "other process, same stamp": (self.same_state_stamped, self.fresh_process),
        }[way]

    def same_state(self) -> CommitResult:
        return self.repo.commit(self.state)

    def same_state_stamped(self) -> CommitResult:
        return self.repo.commit(self.state, STAMP)

    def fresh_process(self) -> CommitResult:
        repo = SnapshotRepository(self.watched, clock=ManualClock(seed=100 + len(self._others)))
        self._others.append(repo)
        self.state = self.opened(repo)
        return repo.commit(self.state, STAMP)

    def other_commits(self, count: int = 1) -> None:
        """Let the other writer commit; it creates the session where there is none."""
        try:
            state = self.other.load(SESSION)
        except SessionNotFoundError:
            state = new_session(SESSION)
        except SessionDeletedError:
            return
        for _ in range(count):
            self.other.commit(take_turn(state, f"other{self.others_turns}"))
            self.others_turns += 1

    def other_deletes(self) -> None:
        try:
            self.other.delete(SESSION)
        except SessionNotFoundError:
            self.other_commits()
            self.other.delete(SESSION)
        except SessionDeletedError:
            pass

    def times_applied(self) -> int:
        """Return how often our turn stands in the history, and check that nothing else was lost or doubled."""
        history = self.other.history(SESSION)
        applied = sum(row.usage.input_tokens >= MINE for row in history)
        state = self.other.load(SESSION)
        ids = message_ids(state)
        assert sum(one == "mine" for one in ids) == applied
        assert [one for one in ids if one.startswith("other")] == [f"other{n}" for n in range(self.others_turns)]
        usage = usage_of(state)
        assert usage.get("mine", 0) == applied * MINE, "usage counted twice"
        assert usage.get("other", 0) == self.others_turns
        assert state.turn_index == len(ids)
        return applied

    def staged_ids(self) -> set[str]:
        """Return the ids of the commits whose packs were sent."""
        packs = [key for verb, key in self.watched.requests if verb == "put" and "/packs/" in key]
        return {key.rpartition("/")[2].partition(".")[0] for key in packs}

    def close(self) -> None:
        for repo in self._others:
            repo.close()


def outcome_of(commit: Callable[[], CommitResult], *, may_look_corrupt: bool = False) -> Outcome:
    """Return what a commit said of itself. What it must not say fails here."""
    try:
        commit()
    except (Crash, CommitUnknownError):
        return "unknown"
    except (RevisionConflictError, PermissionDeniedError, NotFoundError):
        return "refused"
    except SessionDeletedError:
        return "ended"
    except UnavailableError as error:
        if error.applied == "no":
            return "refused"
        raise AssertionError("in doubt, it must be a CommitUnknownError") from error
    except CorruptSnapshotError:
        if may_look_corrupt:
            return "unknown"
        raise
    return "applied"


def check(world: World, said: Outcome, *, thoroughly: bool = True) -> None:
    check_puts(world.watched.puts)
    try:
        head = raw_head(world.store)
    except NotFoundError:
        assert said == "refused"
        return
    if head.status == TOMBSTONE:
        assert said != "unknown"
        if said == "refused":
            assert not world.staged_ids() & set(head.commits.commit_ids)
        return
    assert said in ("applied", "refused")
    if head.status != LIVE:
        assert (said, head.revision) == ("refused", 0)
        return
    assert world.times_applied() == (said == "applied")
    if thoroughly:
        check_every_revision(world.other)
    if said == "applied" and world.state.head_revision == head.revision:  # the state goes on from where it stands
        world.repo = SnapshotRepository(world.watched, clock=ManualClock(seed=77))
        result = world.repo.commit(take_turn(world.repo.load(SESSION), "after0"))
        assert result.head_revision == head.revision + 1
        world.repo.close()
