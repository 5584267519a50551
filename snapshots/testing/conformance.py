"""`SessionConformance`: what a session may rely on, as tests; every backend passes the same ones.

Rules:
1. A sub-class gives a fixture `open_repository`, which opens a repository with a given clock: always at one place,
   which is empty at the start of each test. Two of them are two hosts.
2. No test knows a backend, or looks behind the repository. What one host does is read back by the other.
3. Time passes when a test says so. Threads are real.
4. The tests carry the names by which the conformance of such stores is known elsewhere.

    class TestInMemory(SessionConformance):
        @pytest.fixture
        def open_repository(self):
            store = MemoryStore()
            return lambda clock: SnapshotRepository(store, clock=clock)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import ParamSpec, TypeVar

import pytest

from snapshots import (
    CommitResult,
    Message,
    Part,
    PersistedSessionState,
    PluginSessionSnapshot,
    SessionInfo,
    SessionPolicy,
    SnapshotRepository,
    TokenLedgerEntry,
    TokenUsage,
    ToolState,
    TurnStamp,
)
from snapshots.children import CurrentStart, EmptyStart, ExistingStart, SnapshotStart
from snapshots.errors import (
    EffectConflictError,
    FencedError,
    IllegalTransitionError,
    InvalidStateError,
    LeaseHeldError,
    RevisionConflictError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionExistsError,
    SessionNotFoundError,
    TurnConflictError,
)
from snapshots.state import (
    ROOT,
    ChildRelation,
    HandoffRelation,
    ModeTurnOptions,
    PluginArtifact,
    PluginSnapshot,
    PluginSnapshotMeta,
    PromptUsage,
    SessionRelation,
    ToolEntry,
    ToolManifest,
    diff_token_ledger,
)
from snapshots.testing.collector import collect
from snapshots.writer import Writer
from storage.clock import Clock
from storage.testing.clock import ManualClock
from storage.testing.conformance_load import together

SESSION = "s1"
TTL_SECONDS = 30.0
LATER_TURNS = 12  # so many that the present revision no longer needs every pack that an older one does
ROUNDS = 3  # of races, each in a session of its own
EXECUTION_STATE = bytes(range(256)) * 200
SPENT = TokenUsage(input_tokens=10, output_tokens=2, cached_input_tokens=3, reasoning_tokens=1)
CACHED_ONLY = TokenUsage(cached_input_tokens=7)
# What a commit changes in a state, and what belongs to its process.
STORED_AS = frozenset({"tool_state_ref", "plugin_snapshot_ref", "execution_state_ref", "checkpoint_ref"})
PROCESS_OWN = frozenset({"head_revision", "graph_replace_required"})

OpenRepository = Callable[[Clock], SnapshotRepository]
E = TypeVar("E", bound=Exception)
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Hosts:
    """Two hosts at one place, and the clock by which both go."""

    a: SnapshotRepository
    b: SnapshotRepository
    clock: ManualClock


def message(message_id: str) -> Message:
    """Return a user's message with a text of its own; appended, its node has its id."""
    part = Part(id=f"{message_id}.p0", kind="Text", content=f"text of {message_id}")
    return Message(id=message_id, role="User", parts=(part,))


def take_turn(state: PersistedSessionState, name: str) -> PersistedSessionState:
    """Add a message called `name`, a turn and its cost to `state`; return it."""
    state.append_active_read_delta([message(name)], [])
    state.turn_index += 1
    state.token_usage = state.token_usage.add(SPENT)
    state.book_usage([TokenLedgerEntry(source="turn", model="m1", usage=SPENT)], source="turn")
    return state


def new_session(session_id: str = SESSION, *turns: str) -> PersistedSessionState:
    """Return a session that was never committed, with these turns."""
    state = PersistedSessionState(session_id=session_id)
    for name in turns:
        take_turn(state, name)
    return state


def full_session(session_id: str = SESSION, *turns: str) -> PersistedSessionState:
    """Return a session that was never committed, with something in every field."""
    state = new_session(session_id, *turns)
    state.policy = SessionPolicy(model="m1", session_id=session_id, max_turns=40)
    state.last_prompt_usage = PromptUsage(
        prompt_context_tokens=13, input_tokens=10, cached_input_tokens=3, context_budget_tokens=15
    )
    state.mode_turn_options = ModeTurnOptions(mode_id="standard", payload={"depth": 2})
    state.book_usage([TokenLedgerEntry(source="observer", model="m2", usage=CACHED_ONLY)], source="observer")
    tool = ToolEntry(manifest=ToolManifest(id="t1", name="read", description="reads"), source_id="core")
    meta = PluginSnapshotMeta(plugin_id="p", plugin_version="1", revision=3, state={"seen": [1, 2]})
    plugin = PluginSnapshot(meta=meta, artifacts=(PluginArtifact(name="index", data=b"\x00\xff" * 50),))
    state.stamp_runtime_state(
        ToolState(generation=4, tools={"read": tool}), PluginSessionSnapshot(plugins={"p": plugin})
    )
    state.plugin_snapshot_revision = 3
    state.execution_state_snapshot = EXECUTION_STATE
    return state


def branched_session(session_id: str = SESSION) -> PersistedSessionState:
    """Return a session of four nodes: root ─ left, and root ─ right ─ tip, which is the leaf."""
    state = PersistedSessionState(session_id=session_id)
    state.append_session_nodes([message("root"), message("left")])
    state.session_graph.branch_to("root")
    state.append_session_nodes([message("right"), message("tip")])
    return state


def message_ids(state: PersistedSessionState, *, leaf_node_id: str | None = None) -> list[str]:
    """Return the ids of the messages that a reader sees, oldest first."""
    return [one.id for one in state.read_view(leaf_node_id=leaf_node_id).messages]


def info_of(repo: SnapshotRepository, session_id: str = SESSION) -> SessionInfo:
    """Return what the listing says of a session."""
    (found,) = [one for one in repo.sessions() if one.session_id == session_id]
    return found


def check_same_content(found: PersistedSessionState, expected: PersistedSessionState) -> None:
    """Check that a state loaded whole shows what another showed before it was committed."""
    for name in PersistedSessionState.model_fields.keys() - STORED_AS - PROCESS_OWN:
        assert getattr(found, name) == getattr(expected, name), name


def check_every_revision(repo: SnapshotRepository, session_id: str = SESSION) -> None:
    """Check that revisions rise by one, no commit is there twice, and every revision loads as it was."""
    rows = repo.history(session_id)
    assert [row.revision for row in rows] == list(range(1, len(rows) + 1))
    assert len({row.commit_id for row in rows}) == len(rows)
    for row in rows:
        state = repo.load(session_id, row.revision, execution_state=True)
        assert (state.head_revision, len(state.session_graph.nodes)) == (row.revision, row.node_count)


def refusal(kind: type[E], act: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> E:
    """Return the error with which `act` must fail."""
    with pytest.raises(kind) as caught:
        act(*args, **kwargs)
    return caught.value


class _OnTwoHosts:
    """The fixtures that all tests use."""

    @pytest.fixture
    def hosts(self, open_repository: OpenRepository) -> Iterator[Hosts]:
        """Give two hosts at an empty place."""
        clock = ManualClock(seed=1)
        with open_repository(clock) as a, open_repository(clock) as b:
            yield Hosts(a, b, clock)


class CommitConformance(_OnTwoHosts):
    """What is committed is read, whole, by everybody, and nothing else. Part of `SessionConformance`."""

    def test_commit_increments_head(self, hosts: Hosts) -> None:
        """By one each time; a state without a revision creates, it never overwrites."""
        state = new_session()
        for revision in (1, 2, 3):
            result = hosts.a.commit(take_turn(state, f"a{revision}"))
            found = hosts.b.load(SESSION)
            assert result.head_revision == state.head_revision == found.head_revision == revision
            assert result.checkpoint_ref == state.checkpoint_ref == found.checkpoint_ref
        assert [(row.revision, row.parent) for row in hosts.b.history(SESSION)] == [(1, 0), (2, 1), (3, 2)]
        reread = PersistedSessionState.model_validate_json(state.model_dump_json())
        for blind in (new_session(SESSION, "other"), reread):
            conflict = refusal(RevisionConflictError, hosts.b.commit, blind)
            assert (conflict.expected, conflict.actual) == (None, 3)
        assert message_ids(hosts.b.load(SESSION)) == ["a1", "a2", "a3"]

    def test_concurrent_head_revision_cas_applies_exactly_once(self, hosts: Hosts) -> None:
        """Of two writers at one moment one commits and one is told; also when both create the session."""
        for number in range(ROUNDS):
            session_id = f"s{number}"
            created = _race(hosts, [new_session(session_id, "a1"), new_session(session_id, "b1")])
            assert message_ids(hosts.a.load(session_id)) == [_winner(created, expected=None)]
            loaded = [take_turn(hosts.a.load(session_id), "a1+"), take_turn(hosts.b.load(session_id), "b1+")]
            winner = _winner(_race(hosts, loaded), expected=1)
            assert message_ids(hosts.b.load(session_id))[1:] == [f"{winner}+"]
            assert len(hosts.a.load(session_id, 1).session_graph.nodes) == 1
            check_every_revision(hosts.a, session_id)

    def test_commit_rejects_a_different_session_id(self, hosts: Hosts) -> None:
        """By the Writer of a session, and for a state that was renamed; neither session changes."""
        hosts.a.commit(new_session(SESSION, "a1"))
        hosts.a.commit(new_session("s2", "other"))
        writer = hosts.a.acquire(SESSION, "host-a")
        refusal(InvalidStateError, writer.commit, take_turn(hosts.a.load("s2"), "x"))
        refusal(InvalidStateError, writer.commit, new_session("s3", "x"))
        renamed = take_turn(hosts.a.load(SESSION), "x")
        renamed.session_id = "s2"
        refusal(InvalidStateError, hosts.a.commit, renamed)
        renamed.session_id = "s3"
        refusal(RevisionConflictError, hosts.a.commit, renamed)
        refusal(SessionNotFoundError, hosts.b.load, "s3")
        assert message_ids(hosts.b.load(SESSION)) == ["a1"]
        assert message_ids(hosts.b.load("s2")) == ["other"]

    def test_load_hydrates_checkpoint_and_usage(self, hosts: Hosts) -> None:
        """Every field, in full; the execution state when it is asked for; cached-only cost as well."""
        state = full_session(SESSION, "a1", "a2")
        before = state.copy()
        result = hosts.a.commit(state)
        whole = hosts.b.load(SESSION, execution_state=True)
        check_same_content(whole, before)
        for name in STORED_AS:
            assert getattr(whole, name) == getattr(state, name) is not None, name
        assert result.manifest.turn_state == before.turn_state()
        assert whole.usage_report() == before.usage_report()
        assert whole.usage_report().by_source["observer"].cached_input_tokens == CACHED_ONLY.cached_input_tokens
        without = hosts.b.load(SESSION)
        assert without.execution_state_snapshot is None
        assert hosts.b.read_execution_state(without) == EXECUTION_STATE

    def test_active_path_read_scope_selects_only_requested_ancestry(self, hosts: Hosts) -> None:
        """Of four nodes those from the root to the one asked for; the leaf of the session stays where it is."""
        hosts.a.commit(branched_session())
        state = hosts.b.load(SESSION)
        assert [node.node_id for node in state.session_graph.nodes] == ["root", "left", "right", "tip"]
        assert message_ids(state) == ["root", "right", "tip"]
        for leaf, expected in (("left", ["root", "left"]), ("right", ["root", "right"]), ("root", ["root"])):
            assert message_ids(state, leaf_node_id=leaf) == expected
            path = state.session_graph.active_path_to(leaf)
            assert [node.node_id for node in path.nodes] == expected
            assert path.leaf_node_id == leaf
        refusal(InvalidStateError, state.read_view, leaf_node_id="nowhere")
        assert state.session_graph.leaf_node_id == "tip"
        assert state.session_graph.orphaned_node_ids() == ("left",)

    @pytest.mark.parametrize(
        "relation",
        [
            ROOT,
            ChildRelation(parent_session_id=SESSION, originating_tool_call_id="call-9"),
            HandoffRelation(parent_session_id="elsewhere", reason="shift ends", metadata={"by": ["me", 1]}),
        ],
        ids=["root", "child", "handoff"],
    )
    def test_session_relation_round_trips(self, hosts: Hosts, relation: SessionRelation) -> None:
        """Of a fork and of a session that shares nothing; later commits leave it as it is."""
        hosts.a.commit(new_session(SESSION, "a1"))
        hosts.a.fork(SESSION, "forked", relation=relation)
        hosts.a.start_child(SESSION, EmptyStart(), "empty", relation=relation)
        for session_id in ("forked", "empty"):
            assert info_of(hosts.b, session_id).relation == relation
            hosts.b.commit(take_turn(hosts.b.load(session_id), "b1"))
            assert info_of(hosts.a, session_id).relation == relation
        assert info_of(hosts.b).relation == ROOT

    def test_final_commit_stamp_is_idempotent_and_conflicts_on_changed_hash(self, hosts: Hosts) -> None:
        """The turn is applied once, whoever repeats it and however late; with another content it is refused."""
        hosts.a.commit(new_session(SESSION, "a1"))
        mine, theirs, late = hosts.a.load(SESSION), hosts.b.load(SESSION), hosts.b.load(SESSION)
        stamp = TurnStamp("turn-2", "hash-2")
        first = hosts.a.commit(take_turn(mine, "a2"), stamp)
        again = hosts.b.commit(take_turn(theirs, "redone"), stamp)
        assert (again.head_revision, again.commit_id, again.checkpoint_ref) == (
            2,
            first.commit_id,
            first.checkpoint_ref,
        )
        assert again.manifest == first.manifest
        assert message_ids(theirs) == ["a1", "a2"]  # what was stored, not what was redone
        assert theirs.token_ledger == hosts.b.load(SESSION).token_ledger == mine.token_ledger
        hosts.b.commit(take_turn(theirs, "b3"), TurnStamp("turn-3"))
        changed = take_turn(late.copy(), "x")
        conflict = refusal(TurnConflictError, hosts.b.commit, changed, TurnStamp("turn-2", "hash-x"))
        assert (conflict.session_id, conflict.turn_id, conflict.revision) == (SESSION, "turn-2", 2)
        assert hosts.b.commit(take_turn(late, "redone"), stamp).commit_id == first.commit_id
        assert message_ids(hosts.a.load(SESSION)) == ["a1", "a2", "b3"]
        assert len(hosts.a.history(SESSION)) == 3

    def test_runtime_persistence_survives_reopen(self, open_repository: OpenRepository) -> None:
        """Everything that one process wrote is there for the next one, which goes on with it."""
        clock = ManualClock(seed=1)
        state = full_session(SESSION, "a1")
        before = state.copy()
        with open_repository(clock) as repo:
            repo.commit(state)
            repo.commit(take_turn(state, "a2"))
            repo.fork(SESSION, "c1", 1)
            repo.pin(SESSION, 1, "first")
            repo.acquire(SESSION, "host-a").begin_turn("turn-3").save_checkpoint(b"halfway")
            history = repo.history(SESSION)
            listed = list(repo.sessions())
        with open_repository(clock) as repo:
            assert repo.history(SESSION) == history
            assert list(repo.sessions()) == listed
            check_same_content(repo.load(SESSION, "first", execution_state=True), before)
            writer = repo.acquire(SESSION, "host-a")
            assert (writer.turn.turn_id, writer.turn.checkpoint) == ("turn-3", b"halfway")
            assert writer.commit(take_turn(writer.state, "a3"), TurnStamp("turn-3")).head_revision == 3
            assert message_ids(repo.load(SESSION)) == ["a1", "a2", "a3"]
            assert message_ids(repo.load("c1")) == ["a1"]

    def test_completed_turns_are_persisted(self, hosts: Hosts) -> None:
        """Each with its commit, seen by the other host at once, and each revision for itself later."""
        state = full_session()
        committed = []
        for turn in (1, 2, 3):
            take_turn(state, f"a{turn}").execution_state_snapshot = EXECUTION_STATE + bytes([turn])
            committed.append(state.copy())
            hosts.a.commit(state, TurnStamp(f"turn-{turn}"))
            found = hosts.b.load(SESSION)
            assert (found.turn_index, found.turn_state()) == (turn, state.turn_state())
            assert found.token_ledger == state.token_ledger
        for revision, expected in enumerate(committed, start=1):
            found = hosts.b.load(SESSION, revision, execution_state=True)
            assert message_ids(found) == [f"a{turn}" for turn in range(1, revision + 1)]
            assert found.turn_state() == expected.turn_state()
            assert found.token_ledger == expected.token_ledger
            assert found.execution_state_snapshot == expected.execution_state_snapshot
        assert all(row.turn and row.retained for row in hosts.b.history(SESSION))


Raced = list[CommitResult | RevisionConflictError]


def _race(hosts: Hosts, states: list[PersistedSessionState]) -> Raced:
    """Let both hosts commit at one moment; return what each was told."""
    repositories = (hosts.a, hosts.b)

    def act(number: int) -> CommitResult | RevisionConflictError:
        try:
            return repositories[number].commit(states[number])
        except RevisionConflictError as error:
            return error

    return together(2, act)


def _winner(raced: Raced, *, expected: int | None) -> str:
    """Check that one host committed on `expected` and the other was told; return the name of its turn."""
    (conflict,) = [told for told in raced if isinstance(told, RevisionConflictError)]
    (result,) = [told for told in raced if isinstance(told, CommitResult)]
    revision = (expected or 0) + 1
    assert (conflict.expected, conflict.actual, result.head_revision) == (expected, revision, revision)
    return ("a1", "b1")[raced.index(result)]


class TurnConformance(_OnTwoHosts):
    """A turn in flight outlives its owner, and has one owner at a time. Part of `SessionConformance`."""

    @pytest.fixture
    def session(self, hosts: Hosts) -> str:
        """Commit a session with one turn; give its id."""
        hosts.a.commit(new_session(SESSION, "a1"))
        return SESSION

    def test_runtime_effect_journal_replays_by_idempotency_key_and_clears_on_final_commit(
        self, hosts: Hosts, session: str
    ) -> None:
        """An effect is not repeated by the next owner; the same key for another call is refused."""
        calls: list[str] = []

        def send() -> bytes:
            calls.append("mail")
            return b"sent"

        first = hosts.a.acquire(session, "host-a").begin_turn("turn-2")
        assert first.perform("mail", "hash", send) == first.perform("mail", "hash", send) == b"sent"
        first.save_checkpoint(b"halfway")
        writer = hosts.b.acquire(session, "host-b")
        turn = writer.begin_turn("turn-2")
        assert turn.checkpoint == b"halfway"
        assert turn.perform("mail", "hash", send) == b"sent"
        conflict = refusal(EffectConflictError, turn.perform, "mail", "another", send)
        assert (conflict.turn_id, conflict.key) == ("turn-2", "mail")
        assert calls == ["mail"]
        writer.commit(take_turn(writer.state, "b2"), TurnStamp("turn-2"))
        cleared = hosts.a.acquire(session, "host-a")
        assert (cleared.turn.turn_id, cleared.turn.checkpoint, dict(cleared.turn.effects)) == ("", b"", {})
        assert cleared.begin_turn("turn-3").perform("mail", "another", lambda: b"new") == b"new"

    def test_stale_completed_turn_commit_rejects_and_preserves_resume_state(self, hosts: Hosts, session: str) -> None:
        """The older owner neither commits its turn nor adds to it; the newer one finds all of it."""
        stale = hosts.a.acquire(session, "host-a")
        stale.begin_turn("turn-2").record("mail", "hash", b"sent")
        stale.turn.save_checkpoint(b"halfway")
        hosts.b.acquire(session, "host-b")
        _check_fenced(hosts, stale, by="host-b")
        _check_in_flight(hosts, session)

    def test_expired_completed_turn_commit_rejects_and_preserves_resume_state(self, hosts: Hosts, session: str) -> None:
        """Nor does an owner whose lease ran out, once another one claimed it and took over."""
        hosts.a.claim_lease(session, "host-a", TTL_SECONDS)
        expired = hosts.a.acquire(session, "host-a")
        expired.begin_turn("turn-2").record("mail", "hash", b"sent")
        expired.turn.save_checkpoint(b"halfway")
        refusal(LeaseHeldError, hosts.b.claim_lease, session, "host-b", TTL_SECONDS)
        hosts.clock.advance(TTL_SECONDS)
        hosts.b.claim_lease(session, "host-b", TTL_SECONDS)
        hosts.b.acquire(session, "host-b")
        _check_fenced(hosts, expired, by="host-b")
        _check_in_flight(hosts, session)

    def test_abandon_runtime_turn_lease_releases_owner_and_preserves_resume_data(
        self, hosts: Hosts, session: str
    ) -> None:
        """The next owner need not wait, and finds the turn as it was left."""
        lease = hosts.a.claim_lease(session, "host-a", TTL_SECONDS)
        writer = hosts.a.acquire(session, "host-a")
        writer.begin_turn("turn-2").record("mail", "hash", b"sent")
        writer.turn.save_checkpoint(b"halfway")
        writer.release()
        hosts.a.release_lease(session, lease)
        hosts.a.release_lease(session, lease)  # again: nothing to do
        assert info_of(hosts.b).holder == ""
        assert hosts.b.claim_lease(session, "host-b", TTL_SECONDS).fence == lease.fence + 1
        _check_in_flight(hosts, session)

    def test_superseded_runtime_turn_lease_cannot_write_or_clear_newer_owner(self, hosts: Hosts, session: str) -> None:
        """Not even under the same owner's name: lease, turn and holder of the newer claim stay."""
        old_lease = hosts.a.claim_lease(session, "host-a", TTL_SECONDS)
        old = hosts.a.acquire(session, "host-a")
        old.begin_turn("turn-2").record("mail", "hash", b"sent")
        lease = hosts.b.claim_lease(session, "host-a", TTL_SECONDS)
        new = hosts.b.acquire(session, "host-a")
        new.begin_turn("turn-2").save_checkpoint(b"halfway")
        assert (lease.fence, new.fence) == (old_lease.fence + 1, old.fence + 1)
        refusal(FencedError, hosts.a.renew_lease, session, old_lease, TTL_SECONDS)
        refusal(FencedError, hosts.a.release_lease, session, old_lease)
        refusal(FencedError, old.turn.save_checkpoint, b"stale")
        refusal(FencedError, old.turn.record, "other", "hash", b"stale")
        for end in (old.turn.finish, old.turn.abandon, old.release, old.park):
            refusal(FencedError, end)
        refusal(FencedError, old.commit, take_turn(old.state, "lost"), TurnStamp("turn-2"))
        refusal(FencedError, hosts.a.release, session, "host-x")
        assert hosts.b.renew_lease(session, lease, TTL_SECONDS).token == lease.token
        assert info_of(hosts.a).holder == "host-a"
        _check_in_flight(hosts, session)

    def test_renewed_runtime_turn_lease_survives_original_expiry(self, hosts: Hosts, session: str) -> None:
        """It lasts from the renewal on, and its owner commits."""
        lease = hosts.a.claim_lease(session, "host-a", TTL_SECONDS)
        writer = hosts.a.acquire(session, "host-a")
        hosts.clock.advance(TTL_SECONDS - 1)
        renewed = hosts.a.renew_lease(session, lease, TTL_SECONDS)
        assert (renewed.token, renewed.fence) == (lease.token, lease.fence)
        assert renewed.expires_at == hosts.clock.now() + timedelta(seconds=TTL_SECONDS)
        hosts.clock.advance(TTL_SECONDS - 1)
        assert hosts.clock.now() > lease.expires_at
        held = refusal(LeaseHeldError, hosts.b.claim_lease, session, "host-b", TTL_SECONDS)
        assert (held.holder, held.expires_at) == ("host-a", renewed.expires_at)
        assert writer.commit(take_turn(writer.state, "a2"), TurnStamp("turn-2")).head_revision == 2
        hosts.clock.advance(1)
        assert hosts.b.claim_lease(session, "host-b", TTL_SECONDS).fence == lease.fence + 1

    def test_active_runtime_turn_lease_fences_competing_claims(self, hosts: Hosts, session: str) -> None:
        """On every host, until it is given up; other sessions are not concerned."""
        lease = hosts.a.claim_lease(session, "host-a", TTL_SECONDS)
        for repo in (hosts.a, hosts.b):
            held = refusal(LeaseHeldError, repo.claim_lease, session, "host-b", TTL_SECONDS)
            assert (held.session_id, held.holder, held.expires_at) == (session, "host-a", lease.expires_at)
        assert hosts.b.claim_lease("another", "host-b", TTL_SECONDS).fence == 1
        lease = hosts.a.renew_lease(session, lease, TTL_SECONDS)  # the refused claims left it alone
        hosts.a.release_lease(session, lease)
        assert hosts.b.claim_lease(session, "host-b", TTL_SECONDS).fence == 2

    def test_session_execution_lease_contract(self, hosts: Hosts, session: str) -> None:
        """The fence rises with each claim and with nothing else; token and fence outlast a renewal."""
        first = hosts.a.claim_lease(session, "host-a", TTL_SECONDS)
        assert (first.owner, first.fence) == ("host-a", 1)
        assert first.expires_at == hosts.clock.now() + timedelta(seconds=TTL_SECONDS)
        renewed = hosts.b.renew_lease(session, first, 2 * TTL_SECONDS)
        assert (renewed.owner, renewed.token, renewed.fence) == (first.owner, first.token, first.fence)
        again = hosts.b.claim_lease(session, "host-a", TTL_SECONDS)
        assert again.fence == 2
        assert again.token != first.token
        assert refusal(FencedError, hosts.a.renew_lease, session, renewed, TTL_SECONDS).fence == 2
        hosts.a.release_lease(session, again)
        refusal(IllegalTransitionError, hosts.a.renew_lease, session, again, TTL_SECONDS)
        assert hosts.a.claim_lease(session, "host-b", TTL_SECONDS).fence == 3
        for ttl_seconds in (0, -1, float("nan"), 31 * 24 * 3600):
            refusal(InvalidStateError, hosts.a.claim_lease, session, "host-b", ttl_seconds)

    def test_session_execution_lease_reclaim_contract(self, hosts: Hosts, session: str) -> None:
        """A lease that ran out is anybody's; who lost it learns whether another one has it."""
        first = hosts.a.claim_lease(session, "host-a", TTL_SECONDS)
        hosts.clock.advance(TTL_SECONDS)
        refusal(IllegalTransitionError, hosts.a.renew_lease, session, first, TTL_SECONDS)
        second = hosts.b.claim_lease(session, "host-b", TTL_SECONDS)
        assert second.fence == first.fence + 1
        fenced = refusal(FencedError, hosts.a.renew_lease, session, first, TTL_SECONDS)
        assert (fenced.fence, fenced.holder) == (second.fence, "host-b")
        refusal(FencedError, hosts.a.release_lease, session, first)
        refusal(LeaseHeldError, hosts.a.claim_lease, session, "host-a", TTL_SECONDS)
        assert hosts.b.renew_lease(session, second, TTL_SECONDS).fence == second.fence
        hosts.clock.advance(TTL_SECONDS)
        assert hosts.a.claim_lease(session, "host-a", TTL_SECONDS).fence == second.fence + 1

    def test_durable_turn_resume_uses_leased_finisher_and_clears_resume_state(self, hosts: Hosts, session: str) -> None:
        """Whoever has the lease next takes the turn up where it stood, finishes it once, and leaves nothing behind."""
        hosts.a.claim_lease(session, "host-a", TTL_SECONDS)
        gone = hosts.a.acquire(session, "host-a").begin_turn("turn-2")
        gone.record("mail", "hash", b"sent")
        gone.save_checkpoint(b"halfway")
        hosts.clock.advance(TTL_SECONDS)
        lease = hosts.b.claim_lease(session, "host-b", TTL_SECONDS)
        finisher = hosts.b.acquire(session, "host-b")
        turn = finisher.begin_turn(finisher.turn.turn_id)
        assert (turn.turn_id, turn.checkpoint, list(turn.effects)) == ("turn-2", b"halfway", ["mail"])
        turn.perform("second", "hash", lambda: b"done")
        result = finisher.commit(take_turn(finisher.state, "b2"), TurnStamp("turn-2"))
        refusal(IllegalTransitionError, finisher.begin_turn, "turn-2")
        finisher.release()
        hosts.b.release_lease(session, lease)
        after = hosts.a.acquire(session, "host-a")
        assert (after.turn.turn_id, after.turn.checkpoint, dict(after.turn.effects)) == ("", b"", {})
        assert after.state.head_revision == result.head_revision == 2
        assert message_ids(after.state) == ["a1", "b2"]

    def test_park_returns_error_when_final_commit_fails(self, hosts: Hosts, session: str) -> None:
        """Nothing of it is stored, and the new owner stays; without a failure it is stored and free."""
        parking = hosts.a.acquire(session, "host-a")
        take_turn(parking.state, "a2")
        other = hosts.b.acquire(session, "host-b")
        assert refusal(FencedError, parking.park).holder == "host-b"
        assert info_of(hosts.a).holder == "host-b"
        assert message_ids(hosts.a.load(session)) == ["a1"]
        take_turn(other.state, "b2")
        parked = other.park()
        found = hosts.a.load(session)
        assert (parked.session_id, parked.head_revision, parked.checkpoint_ref) == (session, 2, found.checkpoint_ref)
        assert message_ids(found) == ["a1", "b2"]
        assert info_of(hosts.a).holder == ""


def _check_fenced(hosts: Hosts, writer: Writer, *, by: str) -> None:
    """Check that an older owner can finish nothing, and that trying left no trace."""
    before = info_of(hosts.b)
    turn_id = writer.turn.turn_id
    fenced = refusal(FencedError, writer.commit, take_turn(writer.state, "lost"), TurnStamp(turn_id))
    assert (fenced.fence, fenced.holder) == (writer.fence + 1, by)
    refusal(FencedError, writer.turn.record, "late", "hash", b"late")
    refusal(FencedError, writer.turn.save_checkpoint, b"late")
    refusal(FencedError, writer.begin_turn, turn_id)
    assert info_of(hosts.b) == before


def _check_in_flight(hosts: Hosts, session: str) -> None:
    """Check that the next owner finds turn-2 as it was left, and can finish it."""
    writer = hosts.b.acquire(session, "next")
    assert message_ids(writer.state) == ["a1"]
    assert (writer.turn.turn_id, writer.turn.checkpoint) == ("turn-2", b"halfway")
    assert [(key, effect.result) for key, effect in writer.turn.effects.items()] == [("mail", b"sent")]
    writer.commit(take_turn(writer.state, "b2"), TurnStamp("turn-2"))
    assert message_ids(hosts.a.load(session)) == ["a1", "b2"]


class ChildConformance(_OnTwoHosts):
    """A child has what its parent had, and a life and a ledger of its own. Part of `SessionConformance`."""

    def test_inherited_child_session_carries_parent_tool_state(self, hosts: Hosts) -> None:
        """With its generation, from the parent's own revision and from a state changed since; not from nothing."""
        parent = full_session(SESSION, "a1")
        tools = parent.tool_state_snapshot
        hosts.a.commit(parent)
        changed = take_turn(hosts.b.load(SESSION), "draft")
        for name, start in (("current", CurrentStart()), ("changed", SnapshotStart(changed))):
            hosts.b.start_child(SESSION, start, name)
            child = hosts.a.load(name)
            assert (child.tool_state_snapshot, child.tool_state_generation) == (tools, 4)
            assert child.tool_state_ref == parent.tool_state_ref
        hosts.b.start_child(SESSION, EmptyStart(), "empty")
        assert hosts.a.load("empty").tool_state_ref is None

    def test_session_manager_persists_child_sessions_in_separate_store(self, hosts: Hosts) -> None:
        """In a session of its own: graph and turns of the parent, a ledger and revisions that are its own."""
        parent = full_session(SESSION, "a1", "a2")
        hosts.a.commit(parent)
        result = hosts.a.start_child(SESSION, child="c1")
        child = hosts.b.load("c1", execution_state=True)
        assert child.session_graph == parent.session_graph
        assert (child.turn_index, child.token_ledger, child.head_revision) == (2, [], 1)
        assert child.execution_state_snapshot == EXECUTION_STATE
        assert child.checkpoint_ref == result.checkpoint_ref
        assert child.policy == parent.policy.model_copy(update={"session_id": "c1"})
        assert info_of(hosts.b, "c1").relation == ChildRelation(parent_session_id=SESSION)
        hosts.b.commit(take_turn(child, "c1"))
        hosts.a.commit(take_turn(parent, "a3"))
        assert message_ids(hosts.a.load("c1")) == ["a1", "a2", "c1"]
        assert message_ids(hosts.b.load(SESSION)) == ["a1", "a2", "a3"]
        hosts.a.delete(SESSION)
        collect(hosts.a.environment)
        check_every_revision(hosts.b, "c1")
        assert hosts.b.load("c1", execution_state=True).execution_state_snapshot == EXECUTION_STATE

    def test_session_manager_rejects_duplicate_child_session_ids(self, hosts: Hosts) -> None:
        """The parent's, those of other sessions, and spent ones; whatever the child starts from."""
        hosts.a.commit(new_session(SESSION, "a1"))
        hosts.a.commit(new_session("c1", "own"))
        hosts.a.commit(new_session("spent", "x"))
        hosts.a.delete("spent")
        starts = (EmptyStart(), CurrentStart(), ExistingStart("c1"), SnapshotStart(new_session("x", "x1")))
        for start in starts:
            for taken in (SESSION, "c1"):
                assert refusal(SessionExistsError, hosts.b.start_child, SESSION, start, taken).session_id == taken
            refusal(SessionDeletedError, hosts.b.start_child, SESSION, start, "spent")
        assert message_ids(hosts.b.load(SESSION)) == ["a1"]
        assert message_ids(hosts.b.load("c1")) == ["own"]
        assert len({hosts.b.start_child(SESSION, start).session_id for start in starts}) == len(starts)

    def test_child_relation_does_not_replace_active_session(self, hosts: Hosts) -> None:
        """The owner of the parent stays its owner, and nothing of the parent moves."""
        hosts.a.commit(full_session(SESSION, "a1"))
        writer = hosts.a.acquire(SESSION, "host-a")
        before, loaded = info_of(hosts.a), hosts.a.load(SESSION)
        for name, start in (("current", CurrentStart()), ("empty", EmptyStart())):
            hosts.b.start_child(SESSION, start, name)
            assert info_of(hosts.a, name).holder == ""
        assert info_of(hosts.a) == before
        assert hosts.b.load(SESSION) == loaded
        assert writer.commit(take_turn(writer.state, "a2")).head_revision == 2
        assert message_ids(hosts.b.load("current")) == ["a1"]

    def test_runtime_can_activate_managed_child_session(self, hosts: Hosts) -> None:
        """It is acquired like any session, beside its parent; who overtakes one of them leaves the other alone."""
        hosts.a.commit(new_session(SESSION, "a1"))
        hosts.a.start_child(SESSION, child="c1", initial_nodes=[message("task")])
        parent, child = hosts.a.acquire(SESSION, "host-a"), hosts.a.acquire("c1", "host-a")
        assert message_ids(child.state) == ["a1", "task"]
        assert child.state.token_ledger == []
        child.begin_turn("turn-1")
        child.commit(take_turn(child.state, "c1"), TurnStamp("turn-1"))
        hosts.b.acquire(SESSION, "host-b")
        refusal(FencedError, parent.commit, take_turn(parent.state, "lost"))
        assert child.commit(take_turn(child.state, "c2")).head_revision == 3
        assert message_ids(hosts.b.load("c1")) == ["a1", "task", "c1", "c2"]
        assert message_ids(hosts.b.load(SESSION)) == ["a1"]

    def test_parent_turn_receives_child_token_usage(self, hosts: Hosts) -> None:
        """Under the label given, row by row as it accrues, once; the child keeps an account of its own."""
        hosts.a.commit(new_session(SESSION, "a1"))
        hosts.a.start_child(SESSION, child="c1")
        child, booked = hosts.b.load("c1"), list[TokenLedgerEntry]()
        for turn in (1, 2):
            hosts.b.commit(take_turn(child, f"c{turn}"))
            accrued = diff_token_ledger(booked, hosts.a.load("c1").token_ledger)
            booked = list(child.token_ledger)
            parent = hosts.a.load(SESSION)
            parent.book_usage(accrued, source="subagent")
            hosts.a.commit(parent)
        parent = hosts.b.load(SESSION)
        twice = SPENT.add(SPENT)
        assert parent.token_ledger == [
            TokenLedgerEntry(source="turn", model="m1", usage=SPENT),
            TokenLedgerEntry(source="subagent", model="m1", usage=twice),
        ]
        assert hosts.a.load("c1").token_ledger == [TokenLedgerEntry(source="turn", model="m1", usage=twice)]
        assert parent.usage_report().usage.total_tokens == 3 * SPENT.total()

    def test_parent_turn_keeps_cached_only_child_usage(self, hosts: Hosts) -> None:
        """A row that counts nothing but cached tokens is stored, loaded and added to like any other."""
        hosts.a.commit(new_session(SESSION, "a1"))
        hosts.a.start_child(SESSION, EmptyStart(), "c1")
        row = TokenLedgerEntry(source="turn", model="m2", usage=CACHED_ONLY)
        hosts.b.update("c1", lambda state: state.book_usage([row], source="turn"))
        spent = hosts.a.load("c1").token_ledger
        assert spent == [row]
        for times in (1, 2):
            hosts.a.update(SESSION, lambda state: state.book_usage(spent))
            entry = hosts.b.load(SESSION).token_ledger[-1]
            cached = times * CACHED_ONLY.cached_input_tokens
            assert (entry.source, entry.model, entry.usage) == ("child", "m2", TokenUsage(cached_input_tokens=cached))
        assert hosts.b.load(SESSION, 1).usage_report().by_source.keys() == {"turn"}


class HistoryConformance(_OnTwoHosts):
    """Every revision stays what it was, wherever one goes from it. Part of `SessionConformance`."""

    @pytest.fixture
    def revisions(self, hosts: Hosts) -> tuple[PersistedSessionState, ...]:
        """Commit a session of three revisions; give each as the first host loads it."""
        state = full_session()
        for turn in (1, 2, 3):
            take_turn(state, f"a{turn}").execution_state_snapshot = EXECUTION_STATE + bytes([turn])
            hosts.a.commit(state, TurnStamp(f"turn-{turn}"))
        return tuple(hosts.a.load(SESSION, revision, execution_state=True) for revision in (1, 2, 3))

    def test_rewind_and_restore(self, hosts: Hosts, revisions: tuple[PersistedSessionState, ...]) -> None:
        """Both make a new revision with the very content of an old one; what was left behind stays in the history."""
        assert hosts.b.rewind(SESSION, 1).head_revision == 4
        rewound = hosts.a.load(SESSION, execution_state=True)
        check_same_content(rewound, revisions[0])
        for name in STORED_AS - {"checkpoint_ref"}:
            assert getattr(rewound, name) == getattr(revisions[0], name), name
        refusal(InvalidStateError, hosts.a.rewind, SESSION, 2)  # no ancestor any more
        assert hosts.a.restore(SESSION, 3).head_revision == 5
        check_same_content(hosts.b.load(SESSION, execution_state=True), revisions[2])
        hosts.b.rewind(SESSION, 1)
        again = hosts.b.commit(take_turn(hosts.b.load(SESSION), "b2"), TurnStamp("turn-2"))  # it was left behind
        assert again.head_revision == 7
        assert message_ids(hosts.a.load(SESSION)) == ["a1", "b2"]
        rows = hosts.a.history(SESSION)
        assert [row.kind for row in rows[3:]] == ["rewind", "restore", "rewind", "commit"]
        assert [row.parent for row in rows] == [0, 1, 2, 1, 3, 1, 6]
        for number, expected in enumerate(revisions, start=1):
            assert hosts.b.load(SESSION, number, execution_state=True) == expected
        check_every_revision(hosts.b)

    def test_a_held_session_is_rewound_by_its_writer_alone(
        self, hosts: Hosts, revisions: tuple[PersistedSessionState, ...]
    ) -> None:
        """And a state of an older revision is read, not committed."""
        writer = hosts.a.acquire(SESSION, "host-a")
        for go_back in (hosts.b.rewind, hosts.b.restore):
            assert refusal(FencedError, go_back, SESSION, 1).holder == "host-a"
        assert writer.rewind(1).head_revision == 4
        assert message_ids(writer.state) == message_ids(revisions[0])
        writer.release()
        older = hosts.b.load(SESSION, 2)
        assert refusal(RevisionConflictError, hosts.b.commit, take_turn(older, "x")).actual == 4
        refusal(RevisionNotFoundError, hosts.b.rewind, SESSION, 9)
        assert len(hosts.b.history(SESSION)) == 4

    def test_fork_from_an_older_revision(self, hosts: Hosts, revisions: tuple[PersistedSessionState, ...]) -> None:
        """Has its content and shares its bytes; neither session sees what the other does afterwards."""
        packs = hosts.a.stats().packs
        result = hosts.b.fork(SESSION, "c1", 2)
        assert hosts.a.stats().packs == packs  # nothing of it was stored again
        child = hosts.a.load("c1", execution_state=True)
        own = {"session_id", "policy", "token_ledger"}
        for name in PersistedSessionState.model_fields.keys() - own - PROCESS_OWN - {"checkpoint_ref"}:
            assert getattr(child, name) == getattr(revisions[1], name), name
        assert (child.session_id, child.head_revision, child.token_ledger) == ("c1", 1, [])
        assert child.policy == revisions[1].policy.model_copy(update={"session_id": "c1"})
        assert child.checkpoint_ref == result.checkpoint_ref
        origin = info_of(hosts.a, "c1").origin
        assert origin is not None
        assert (origin.session_id, origin.revision, origin.checkpoint_ref) == (SESSION, 2, revisions[1].checkpoint_ref)
        hosts.a.commit(take_turn(child, "c3"), TurnStamp("turn-3"))  # the parent's turn ids are free here
        hosts.b.commit(take_turn(hosts.b.load(SESSION), "a4"))
        assert message_ids(hosts.b.load("c1")) == ["a1", "a2", "c3"]
        assert message_ids(hosts.a.load(SESSION)) == ["a1", "a2", "a3", "a4"]
        refusal(RevisionNotFoundError, hosts.b.fork, SESSION, "c2", 9)
        refusal(SessionNotFoundError, hosts.a.load, "c2")

    def test_fork_of_a_fork(self, hosts: Hosts, revisions: tuple[PersistedSessionState, ...]) -> None:
        """Needs none of its ancestors: deleted and collected, they take nothing away from it."""
        for source, child in ((SESSION, "f1"), ("f1", "f2"), ("f2", "f3")):
            hosts.a.fork(source, child)
            hosts.b.commit(take_turn(hosts.b.load(child), child))
        for ancestor in (SESSION, "f1", "f2"):
            hosts.a.delete(ancestor)
        assert collect(hosts.b.environment).stopped == ""
        found = hosts.b.load("f3", execution_state=True)
        assert message_ids(found) == ["a1", "a2", "a3", "f1", "f2", "f3"]
        assert found.execution_state_snapshot == revisions[2].execution_state_snapshot
        assert found.token_ledger == [TokenLedgerEntry(source="turn", model="m1", usage=SPENT)]
        check_every_revision(hosts.a, "f3")
        refusal(SessionDeletedError, hosts.a.load, "f2")

    def test_pins(self, hosts: Hosts, revisions: tuple[PersistedSessionState, ...]) -> None:
        """A name stands for one revision, on every host, until it is taken away or expires."""
        hosts.a.pin(SESSION, 1, "first")
        hosts.a.pin(SESSION, "first", "start")
        assert hosts.a.pin(SESSION, 1, "first") == hosts.b.pins(SESSION)[0]  # again: the same
        hosts.b.pin(SESSION, 2, "soon-gone", hosts.clock.now() + timedelta(seconds=60))
        assert [(pin.name, pin.revision) for pin in hosts.a.pins(SESSION)] == [
            ("first", 1),
            ("soon-gone", 2),
            ("start", 1),
        ]
        assert hosts.b.history(SESSION)[0].pins == ("first", "start")
        assert hosts.b.load(SESSION, "first", execution_state=True) == revisions[0]
        hosts.b.fork(SESSION, "c1", "soon-gone")
        assert message_ids(hosts.a.load("c1")) == ["a1", "a2"]
        refusal(InvalidStateError, hosts.b.pin, SESSION, 3, "first")
        refusal(RevisionNotFoundError, hosts.b.pin, SESSION, 9, "nowhere")
        hosts.clock.advance(60)
        refusal(RevisionNotFoundError, hosts.a.load, SESSION, "soon-gone")
        assert hosts.a.load(SESSION, 2).head_revision == 2
        hosts.a.rewind(SESSION, "start")
        assert message_ids(hosts.b.load(SESSION)) == ["a1"]
        hosts.b.unpin(SESSION, "first")
        refusal(RevisionNotFoundError, hosts.a.load, SESSION, "first")
        refusal(RevisionNotFoundError, hosts.a.unpin, SESSION, "first")
        hosts.a.pin(SESSION, 3, "first")
        assert hosts.b.load(SESSION, "first").head_revision == 3

    def test_gc_unreachable_keeps_rooted_checkpoint_blobs(
        self, hosts: Hosts, revisions: tuple[PersistedSessionState, ...]
    ) -> None:
        """Those of every revision, also of one that a rewind left behind, and of what a fork shares."""
        hosts.a.fork(SESSION, "c1", 2)
        hosts.a.rewind(SESSION, 1)
        later = hosts.a.load(SESSION)
        for turn in range(LATER_TURNS):
            hosts.a.commit(take_turn(later, f"b{turn}"), execution_state=EXECUTION_STATE + bytes([turn, turn]))
        for _ in range(2):
            report = collect(hosts.b.environment)
            assert (report.deleted, report.stopped) == ((), "")
            assert report.kept == hosts.a.stats().packs >= len(revisions) + LATER_TURNS
        for number, expected in enumerate(revisions, start=1):
            assert hosts.a.load(SESSION, number, execution_state=True) == expected
        assert hosts.a.load("c1", execution_state=True).execution_state_ref == revisions[1].execution_state_ref
        check_every_revision(hosts.b)

    def test_gc_reclaims_unreachable_checkpoint_blobs_and_preserves_live(
        self, hosts: Hosts, revisions: tuple[PersistedSessionState, ...]
    ) -> None:
        """What a deleted session alone had goes, the rest loads; a second collection finds nothing more."""
        hosts.a.commit(full_session("doomed", "x1"), TurnStamp("turn-1"))
        hosts.a.commit(take_turn(hosts.a.load("doomed"), "x2"))
        loaded = hosts.a.load("doomed")
        before = hosts.a.stats().packs
        assert collect(hosts.a.environment).deleted == ()
        hosts.b.delete("doomed")
        report = collect(hosts.a.environment)
        assert len(report.deleted) >= 2
        assert (report.kept, report.stopped) == (before - len(report.deleted), "")
        assert hosts.b.stats().packs == report.kept >= len(revisions)
        for number, expected in enumerate(revisions, start=1):
            assert hosts.b.load(SESSION, number, execution_state=True) == expected
        again = collect(hosts.b.environment)
        assert (again.deleted, again.kept, again.stopped) == ((), report.kept, "")
        refusal(SessionDeletedError, hosts.a.commit, take_turn(loaded, "x3"))
        refusal(SessionDeletedError, hosts.a.commit, new_session("doomed", "again"))
        assert hosts.b.commit(take_turn(hosts.b.load(SESSION), "a4")).head_revision == 4

    def test_tombstone_vacuum_and_gc_are_minimally_consistent(self, hosts: Hosts) -> None:
        """Hidden nodes are seen by nobody, removed ones are gone; older revisions still show both."""
        hosts.a.commit(branched_session())
        state = hosts.b.load(SESSION)
        assert state.session_graph.tombstone_nodes(state.session_graph.orphaned_node_ids()) == 1
        hosts.b.commit(state)
        hidden = hosts.a.load(SESSION)
        assert hidden.session_graph.find_node("left") is None
        assert hidden.session_graph.tombstoned_node_ids == ("left",)
        assert message_ids(hidden) == ["root", "right", "tip"]
        refusal(InvalidStateError, hidden.read_view, leaf_node_id="left")
        assert hidden.copy().append_session_nodes([message("left")]).node_ids != ("left",)  # its id is still taken
        assert hidden.session_graph.vacuum() == 1
        hosts.a.commit(hidden)
        gone = hosts.b.load(SESSION)
        assert [node.node_id for node in gone.session_graph.nodes] == ["root", "right", "tip"]
        assert gone.session_graph.tombstoned_node_ids == ()
        assert gone.append_session_nodes([message("left")]).node_ids == ("left",)
        for _ in range(2):
            report = collect(hosts.a.environment)
            assert (report.deleted, report.stopped) == ((), "")
        assert message_ids(hosts.b.load(SESSION, 1), leaf_node_id="left") == ["root", "left"]
        assert [len(hosts.b.load(SESSION, revision).session_graph.nodes) for revision in (1, 2, 3)] == [4, 4, 3]


class SessionConformance(CommitConformance, TurnConformance, ChildConformance, HistoryConformance):
    """Sub-class once per backend."""
