"""Every revision stays what it was, wherever one goes from it.

class TestHistory(HistoryConformance): ...
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from snapshots import (
    PersistedSessionState,
    TokenLedgerEntry,
    TurnStamp,
)
from snapshots.errors import (
    FencedError,
    InvalidStateError,
    RevisionConflictError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionNotFoundError,
)
from snapshots.testing.collector import collect
from snapshots.testing.conformance.hosts import (
    LATER_TURNS,
    PROCESS_OWN,
    SESSION,
    SPENT,
    STORED_AS,
    Hosts,
    OnTwoHosts,
    branched_session,
    check_every_revision,
    check_same_content,
    full_session,
    info_of,
    message,
    message_ids,
    new_session,
    refusal,
    take_turn,
    unlike_any,
)


class HistoryConformance(OnTwoHosts):
    """Every revision stays what it was, wherever one goes from it. Part of `SessionConformance`."""

    @pytest.fixture
    def revisions(self, hosts: Hosts) -> tuple[PersistedSessionState, ...]:
        """Commit a session of three revisions; give each as the first host loads it."""
        state = full_session()
        for turn in (1, 2, 3):
            take_turn(state, f"a{turn}").execution_state_snapshot = unlike_any(turn)
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
            hosts.a.commit(take_turn(later, f"b{turn}"), execution_state=unlike_any(100 + turn))
        first, again = (collect(hosts.b.environment) for _ in range(2))
        assert (first.stopped, again.stopped, again.deleted) == ("", "", ())
        assert first.kept == again.kept == hosts.a.stats().packs >= len(revisions)
        for number, expected in enumerate(revisions, start=1):
            assert hosts.a.load(SESSION, number, execution_state=True) == expected
        assert hosts.a.load("c1", execution_state=True).execution_state_ref == revisions[1].execution_state_ref
        for turn in range(LATER_TURNS):
            number = len(revisions) + 2 + turn
            assert hosts.b.load(SESSION, number, execution_state=True).execution_state_snapshot == unlike_any(
                100 + turn
            )
        check_every_revision(hosts.b)

    def test_gc_reclaims_unreachable_checkpoint_blobs_and_preserves_live(
        self, hosts: Hosts, revisions: tuple[PersistedSessionState, ...]
    ) -> None:
        """What a deleted session alone had goes, the rest loads; a second collection finds nothing more."""
        hosts.a.commit(full_session("doomed", "x1"), TurnStamp("turn-1"), execution_state=unlike_any(1))
        hosts.a.commit(take_turn(hosts.a.load("doomed"), "x2"), execution_state=unlike_any(2))
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
