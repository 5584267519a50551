"""A child has what its parent had, and a life and a ledger of its own.

class TestChildren(ChildConformance): ...
"""

from __future__ import annotations

from snapshots import (
    TokenLedgerEntry,
    TokenUsage,
    TurnStamp,
)
from snapshots.children import CurrentStart, EmptyStart, ExistingStart, SnapshotStart
from snapshots.errors import (
    FencedError,
    SessionDeletedError,
    SessionExistsError,
)
from snapshots.state import (
    ChildRelation,
    diff_token_ledger,
)
from snapshots.testing.collector import collect
from snapshots.testing.conformance.hosts import (
    CACHED_ONLY,
    EXECUTION_STATE,
    SESSION,
    SPENT,
    Hosts,
    OnTwoHosts,
    check_every_revision,
    full_session,
    info_of,
    message,
    message_ids,
    new_session,
    refusal,
    take_turn,
)


class ChildConformance(OnTwoHosts):
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
