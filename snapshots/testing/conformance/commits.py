"""What is committed is read, whole, by everybody, and nothing else.

class TestCommits(CommitConformance): ...
"""

from __future__ import annotations

import pytest

from snapshots import (
    CommitResult,
    PersistedSessionState,
    TurnStamp,
)
from snapshots.children import EmptyStart
from snapshots.errors import (
    InvalidStateError,
    RevisionConflictError,
    SessionNotFoundError,
    TurnConflictError,
)
from snapshots.state import (
    ROOT,
    ChildRelation,
    HandoffRelation,
    SessionRelation,
)
from snapshots.testing.conformance.hosts import (
    CACHED_ONLY,
    EXECUTION_STATE,
    ROUNDS,
    SESSION,
    STORED_AS,
    Hosts,
    OnTwoHosts,
    OpenRepository,
    branched_session,
    check_every_revision,
    check_same_content,
    full_session,
    info_of,
    message_ids,
    new_session,
    refusal,
    take_turn,
)
from storage.testing.clock import ManualClock
from storage.testing.conformance_load import together


class CommitConformance(OnTwoHosts):
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
