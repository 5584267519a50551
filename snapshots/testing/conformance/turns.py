"""A turn in flight outlives its owner, and has one owner at a time.

class TestTurns(TurnConformance): ...
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from snapshots import (
    TurnStamp,
)
from snapshots.errors import (
    EffectConflictError,
    FencedError,
    IllegalTransitionError,
    InvalidStateError,
    LeaseHeldError,
)
from snapshots.testing.conformance.hosts import (
    SESSION,
    TTL_SECONDS,
    Hosts,
    OnTwoHosts,
    info_of,
    message_ids,
    new_session,
    refusal,
    take_turn,
)
from snapshots.writer import Writer


class TurnConformance(OnTwoHosts):
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
