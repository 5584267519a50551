"""Any sequence of operations, requests lost and delayed among them: the store says what a model in dictionaries says.

Rules:
1. What succeeded is in the model, what was refused is not; what nobody could know is repeated until it is settled, and
   then it is one of the two.
2. After every rule the store is read without faults, and agrees with the model in everything that it tells.
3. What a fault may do is to make an operation fail with a typed error that the operation is known to raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from snapshots import CommitResult, PersistedSessionState, SnapshotRepository, TurnStamp
from snapshots.compaction import Limits
from snapshots.errors import (
    CommitUnknownError,
    FencedError,
    InvalidStateError,
    RevisionConflictError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionExistsError,
    SessionNotFoundError,
    TurnConflictError,
)
from snapshots.testing.collector import collect
from snapshots.writer import Writer
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import Delay, FailBefore, Fault, FaultyStore, LoseAnswer, OwnRetry, Repeat
from tests.integration.builders import message_ids, new_session, take_turn, usage_of
from tests.snapshots.records import NO_TAIL, TAIL, with_limits

T = TypeVar("T")
PINS = ("first", "keep")
OWNERS = ("ann", "bob")
FAULTS: dict[str, Fault] = {
    "fails": FailBefore("no"),
    "fails, unknown": FailBefore("unknown"),
    "answer lost": LoseAnswer(),
    "delayed": Delay(3),
    "delivered twice": Repeat(3),
    "412 from its own retry": OwnRetry(),
}
LIMITS = (
    TAIL,
    NO_TAIL,
    Limits(packs=3, merged=2, tail_pack_bytes=0),
    Limits(packs=3, large_packs=2, large_bytes=10_000, merged=1, tail_pack_bytes=4000, tail_bytes=6000),
)
SETTLE_MAX = 5  # repetitions after the faults are over: the first must settle it


@dataclass(frozen=True)
class Revision:
    """One revision as it must be.

    Attributes:
        messages: Ids, oldest first.
        usage: Input tokens by model.
        parent: Revision whose content it builds on, 0 for none.
        turn: Turn id of its stamp, "" without one.
        replay: Hash of its stamp.
        memory: Its execution state, None without one.
    """

    messages: tuple[str, ...]
    usage: dict[str, int]
    parent: int
    turn: str = ""
    replay: str = ""
    memory: bytes | None = None


@dataclass
class Session:
    """One session as it must be."""

    revisions: list[Revision] = field(default_factory=list)
    pins: dict[str, int] = field(default_factory=dict)
    holder: str = ""
    fence: int = 0
    deleted: bool = False

    @property
    def present(self) -> Revision:
        return self.revisions[-1]

    def lineage(self) -> list[int]:
        """Return the revisions whose content leads to the present one, newest first."""
        path, number = [], len(self.revisions)
        while number:
            path.append(number)
            number = self.revisions[number - 1].parent
        return path

    def turn(self, turn_id: str) -> int | None:
        """Return the revision of the present lineage that carries a turn."""
        return next((number for number in self.lineage() if self.revisions[number - 1].turn == turn_id), None)


@dataclass(frozen=True)
class Held:
    """A state object in the hands of a process; the revision that it stands on, and the fence then."""

    session_id: str
    state: PersistedSessionState
    revision: int
    fence: int


@dataclass(frozen=True)
class Owned:
    """A Writer, and the fence that its take-over must have."""

    session_id: str
    writer: Writer
    fence: int


class Repositories(RuleBasedStateMachine):
    """One repository behind faults, one without, and the model."""

    session_ids = Bundle("session_ids")
    states = Bundle("states")
    writers = Bundle("writers")

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(ManualClock())
        self.faulty = FaultyStore(self.store)
        self.repo = SnapshotRepository(self.faulty, clock=ManualClock(seed=1))
        self.plain = SnapshotRepository(self.store, clock=ManualClock(seed=2))
        self.model: dict[str, Session] = {}
        self.made = 0
        self.repeated = False  # whether the last operation was in doubt, or failed, and was done again
        self.released: set[tuple[str, int]] = set()  # fences of Writers that released their session

    def teardown(self) -> None:
        self.faulty.plan.clear()
        self.faulty.release()
        self.repo.close()
        self.plain.close()

    # Faults.

    @rule(
        name=st.sampled_from(sorted(FAULTS)),
        key=st.sampled_from(["/heads/", "/packs/", ""]),
        nth=st.integers(1, 3),
        times=st.sampled_from([1, 1, 2, 20]),
    )
    def next_put_fails(self, name: str, key: str, nth: int, times: int) -> None:
        self.faulty.plan.on("put", key, fault=FAULTS[name], nth=nth, times=times)

    @rule(key=st.sampled_from(["/heads/", "/packs/"]), nth=st.integers(1, 3), times=st.sampled_from([1, 20]))
    def next_get_fails(self, key: str, nth: int, times: int) -> None:
        self.faulty.plan.on("get", key, fault=FailBefore("no"), nth=nth, times=times)

    def settled(self, act: Callable[[], T]) -> T:
        """Return what `act` comes to, repeated without faults while it cannot be known."""
        self.repeated = False
        for _ in range(SETTLE_MAX):
            try:
                return act()
            except (CommitUnknownError, UnavailableError) as error:
                event(f"repeated after {type(error).__name__}")
                self.repeated = True
                self.calm()
        raise AssertionError("a store without faults leaves nobody in doubt")

    def calm(self) -> None:
        """End the faults: what was held back is applied, and further requests pass."""
        self.faulty.plan.clear()
        self.faulty.release()

    def new_name(self, kind: str) -> str:
        self.made += 1
        return f"{kind}{self.made}"

    # Commits.

    @initialize(target=session_ids, limits=st.sampled_from(LIMITS))
    def create_first(self, limits: Limits) -> str:
        with_limits(self.repo, limits)
        return self.create()

    @rule(target=session_ids)
    def create_another(self) -> str:
        return self.create()

    def create(self) -> str:
        session_id = self.new_name("s")
        state = new_session(session_id, "start0")
        assert self.settled(lambda: self.repo.commit(state)).head_revision == 1
        self.model[session_id] = Session([revision_of(state, parent=0)])
        return session_id

    @rule(target=states, session_id=session_ids)
    def load(self, session_id: str) -> object:
        """Two processes load a session: the second to commit comes too late."""
        session = self.model[session_id]
        if session.deleted:
            with pytest.raises(SessionDeletedError):
                self.settled(lambda: self.repo.load(session_id))
            return multiple()
        return multiple(self.held(session_id), self.held(session_id))

    def held(self, session_id: str) -> Held:
        session = self.model[session_id]
        whole = self.made % 2 == 0  # its next commit knows what the execution state was, or it does not
        state = self.settled(lambda: self.repo.load(session_id, execution_state=whole))
        return Held(session_id, state, len(session.revisions), session.fence)

    @rule(target=states, held=consumes(states), stamped=st.booleans())
    def commit(self, held: Held, stamped: bool) -> Held:
        name = self.new_name("t")
        return self.committed(held, name, name if stamped else "", self.repo.commit, owner=0)

    @rule(data=st.data(), same=st.booleans())
    @precondition(lambda self: bool(self.sessions_with_turns()))
    def repeat_a_turn(self, data: st.DataObject, same: bool) -> None:
        """Another process does a turn again that may have been done: with the same content hash, or with another."""
        session_id = data.draw(st.sampled_from(self.sessions_with_turns()))
        turn = data.draw(st.sampled_from(sorted({one.turn for one in self.model[session_id].revisions if one.turn})))
        replay = "" if same else "other"
        name = self.new_name("t")
        self.committed(self.held(session_id), name, turn, self.repo.commit, owner=0, replay=replay)

    def sessions_with_turns(self) -> list[str]:
        every = self.model.items()
        return [name for name, one in every if not one.deleted and any(row.turn for row in one.revisions)]

    @rule(target=writers, session_id=session_ids, owner=st.sampled_from(OWNERS))
    def acquire(self, session_id: str, owner: str) -> object:
        session = self.model[session_id]
        if session.deleted:
            with pytest.raises(SessionDeletedError):
                self.settled(lambda: self.repo.acquire(session_id, owner))
            return multiple()
        writer = self.settled(lambda: self.repo.acquire(session_id, owner))
        assert writer.fence > session.fence
        session.holder, session.fence = owner, writer.fence
        return Owned(session_id, writer, writer.fence)

    @rule(owned=writers, stamped=st.booleans())
    def commit_by_a_writer(self, owned: Owned, stamped: bool) -> None:
        if (owned.session_id, owned.fence) in self.released:
            with pytest.raises(InvalidStateError):
                owned.writer.commit(PersistedSessionState(session_id=owned.session_id))
            return
        state = self.settled(lambda: owned.writer.state)
        held = Held(owned.session_id, state, state.head_revision or 0, owned.fence)
        name = self.new_name("t")
        self.committed(held, name, name if stamped else "", owned.writer.commit, owner=owned.fence)

    @rule(owned=writers)
    def release_by_a_writer(self, owned: Owned) -> None:
        session = self.model[owned.session_id]
        released = (owned.session_id, owned.fence) in self.released
        mine = session.fence == owned.fence
        try:
            self.settled(owned.writer.release)
        except FencedError:
            assert not mine
        except SessionDeletedError:
            assert session.deleted
        else:
            assert released or (mine and not session.deleted)
            if not released:
                session.holder = ""
            self.released.add((owned.session_id, owned.fence))

    @rule(session_id=session_ids, owner=st.sampled_from(OWNERS))
    def release_by_name(self, session_id: str, owner: str) -> None:
        session = self.model[session_id]
        try:
            self.settled(lambda: self.repo.release(session_id, owner))
        except FencedError:
            assert session.holder not in ("", owner)
        except SessionDeletedError:
            assert session.deleted
        else:
            assert session.holder in ("", owner)
            assert not session.deleted
            session.holder = ""

    def committed(
        self,
        held: Held,
        name: str,
        turn: str,
        commit: Callable[[PersistedSessionState, TurnStamp | None, bytes | None], CommitResult],
        *,
        owner: int,
        replay: str = "",
    ) -> Held:
        """Commit a turn and compare what comes of it with the model; return what the process holds then.

        Args:
            held: The state.
            name: Of the message that the turn adds.
            turn: Turn id of its stamp, "" without one.
            commit: Of the repository, or of a Writer.
            owner: Fence of the Writer that commits, 0 without one.
            replay: What makes the content hash another one than that of the turn's first time.
        """
        session = self.model[held.session_id]
        state = take_turn(held.state, name)
        before = session.revisions[held.revision - 1].memory
        memory = edited(before or b"", self.made)
        wanted = replace(revision_of(state, parent=held.revision), turn=turn, replay=replay, memory=memory or before)
        stamp = TurnStamp(turn, content_hash=turn + replay) if turn else None
        held_by_others = session.holder != "" and owner != session.fence
        fenced = held_by_others or session.fence > held.fence
        known = session.turn(turn) if turn else None
        event(f"a commit{' of a known turn' if known else ''}{' by a writer' if owner else ''}")
        try:
            result = self.settled(lambda: commit(state, stamp, memory))
        except SessionDeletedError:
            assert session.deleted
        except FencedError:
            assert fenced
            event("a commit that was fenced")
        except TurnConflictError:
            assert known is not None
            assert session.revisions[known - 1].replay != replay
            event("a turn with other content")
        except RevisionConflictError:
            assert held.revision < len(session.revisions)
            event("a commit from a stale state")
        else:
            return self.taken(held, state, result, wanted, known, fenced=fenced)
        return held

    def taken(
        self,
        held: Held,
        state: PersistedSessionState,
        result: CommitResult,
        wanted: Revision,
        known: int | None,
        *,
        fenced: bool,
    ) -> Held:
        """Take a commit that succeeded into the model."""
        session = self.model[held.session_id]
        if known is not None:
            assert result.head_revision == known
            assert session.revisions[known - 1].replay == wanted.replay
            event("a turn that was stored before")
            return Held(held.session_id, state, known, session.fence)
        assert not session.deleted
        assert not fenced
        assert held.revision == len(session.revisions) == result.head_revision - 1
        session.revisions.append(wanted)
        return Held(held.session_id, state, result.head_revision, session.fence)

    # Going back.

    @rule(session_id=session_ids, data=st.data(), restore=st.booleans())
    def go_back(self, session_id: str, data: st.DataObject, restore: bool) -> None:
        session = self.model[session_id]
        target = data.draw(st.integers(1, len(session.revisions) + 1))
        try:
            self.gone_back(session_id, target, self.repo.restore if restore else self.repo.rewind)
        except SessionDeletedError:
            assert session.deleted
        except RevisionNotFoundError:
            assert target > len(session.revisions)
        except InvalidStateError:
            assert not restore
            assert target not in session.lineage()
        except FencedError:
            assert session.holder
        else:
            assert not session.deleted
            assert not session.holder
            old = session.revisions[target - 1]
            session.revisions.append(replace(old, parent=target, turn="", replay=""))

    def gone_back(self, session_id: str, target: int, act: Callable[[str, int], CommitResult]) -> None:
        """Go back; in doubt, look for the commit id, and go back again only if it is not there."""
        try:
            act(session_id, target)
        except UnavailableError:
            self.calm()
            act(session_id, target)
        except CommitUnknownError as error:
            self.calm()
            landed = any(row.commit_id == error.commit_id for row in self.repo.history(session_id))
            event(f"a way back in doubt {'landed' if landed else 'did not land'}")
            if not landed:
                act(session_id, target)

    @rule(target=session_ids, session_id=session_ids, data=st.data())
    def fork(self, session_id: str, data: st.DataObject) -> object:
        session = self.model[session_id]
        target = data.draw(st.integers(1, len(session.revisions)))
        child = self.new_name("s")
        try:
            self.forked(session_id, child, target)
        except SessionDeletedError:
            assert session.deleted
            return multiple()
        assert not session.deleted
        self.model[child] = Session([replace(session.revisions[target - 1], usage={}, parent=0, turn="", replay="")])
        return child

    def forked(self, source: str, child: str, revision: int) -> None:
        """Fork; in doubt, look for the child, and fork again only if it is not there."""
        try:
            self.repo.fork(source, child, revision)
        except (CommitUnknownError, UnavailableError):
            self.calm()
            try:
                self.repo.load(child)
            except SessionNotFoundError:
                self.repo.fork(source, child, revision)
        with pytest.raises(SessionExistsError):
            self.settled(lambda: self.repo.fork(source, child, revision))

    # Pins, deletion, collection.

    @rule(session_id=session_ids, name=st.sampled_from(PINS), data=st.data())
    def pin(self, session_id: str, name: str, data: st.DataObject) -> None:
        session = self.model[session_id]
        target = data.draw(st.integers(1, len(session.revisions)))
        try:
            self.settled(lambda: self.repo.pin(session_id, target, name))
        except SessionDeletedError:
            assert session.deleted
        except InvalidStateError:
            assert session.pins.get(name, target) != target
        else:
            assert not session.deleted
            assert session.pins.setdefault(name, target) == target

    @rule(session_id=session_ids, name=st.sampled_from(PINS))
    def unpin(self, session_id: str, name: str) -> None:
        session = self.model[session_id]
        try:
            self.settled(lambda: self.repo.unpin(session_id, name))
        except SessionDeletedError:
            assert session.deleted
        except RevisionNotFoundError:
            assert name not in session.pins or self.repeated
            session.pins.pop(name, None)
        else:
            del session.pins[name]

    @rule(session_id=session_ids)
    @precondition(lambda self: len(self.model) > 2)
    def delete(self, session_id: str) -> None:
        session = self.model[session_id]
        try:
            self.settled(lambda: self.repo.delete(session_id))
        except SessionDeletedError:
            assert session.deleted or self.repeated
        session.deleted, session.holder, session.pins = True, "", {}

    @rule()
    def collect_garbage(self) -> None:
        self.settled(lambda: collect(self.repo.environment))

    # The comparison.

    @invariant()
    def store_and_model_agree(self) -> None:
        found = {one.session_id: one for one in self.plain.sessions() if one.status != "reserved"}
        assert found.keys() == self.model.keys()
        for session_id, session in self.model.items():
            info = found[session_id]
            assert (info.status == "tombstone") == session.deleted
            assert info.revision == len(session.revisions)
            assert info.holder == session.holder
            assert {pin.name: pin.revision for pin in info.pins} == session.pins
            if not session.deleted:
                self.check_history(session_id, session)

    def check_history(self, session_id: str, session: Session) -> None:
        rows = self.plain.history(session_id)
        assert [row.parent for row in rows] == [one.parent for one in session.revisions]
        assert [row.turn for row in rows] == [one.turn != "" for one in session.revisions]
        check_state(self.plain.load(session_id, execution_state=True), session.present)

    @rule(session_id=session_ids)
    def load_every_revision(self, session_id: str) -> None:
        session = self.model[session_id]
        if session.deleted:
            return
        for number, expected in enumerate(session.revisions, start=1):
            check_state(self.settled(partial(self.repo.load, session_id, number, execution_state=True)), expected)
        for name, number in session.pins.items():
            assert self.settled(partial(self.repo.load, session_id, name)).head_revision == number


def revision_of(state: PersistedSessionState, *, parent: int) -> Revision:
    return Revision(tuple(message_ids(state)), usage_of(state), parent)


def check_state(state: PersistedSessionState, expected: Revision) -> None:
    assert tuple(message_ids(state)) == expected.messages
    assert usage_of(state) == expected.usage
    assert state.execution_state_snapshot == expected.memory


def edited(memory: bytes, number: int) -> bytes | None:
    """Return the execution state after a turn: a little other, quite another one, or None for the same."""
    draw = Random(number)
    start = draw.randrange(len(memory) + 1)
    if number % 3 == 0:
        return None
    if number % 7 == 0:
        return draw.randbytes(20_000)
    return memory[:start] + draw.randbytes(draw.choice([1, 500, 3000])) + memory[start + draw.randrange(2000) :]


@pytest.mark.aside
def test_the_store_says_what_the_model_says() -> None:
    bounds = settings(
        max_examples=150,
        stateful_step_count=50,
        deadline=None,
        derandomize=False,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(Repositories, settings=bounds)
