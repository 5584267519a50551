"""Leases of sessions: bound to session and tenant, refused by who holds them, stale ones answered by remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    FencedError,
    IllegalTransitionError,
    InvalidStateError,
    LeaseHeldError,
)
from snapshots.layout import Layout
from snapshots.leases import claim_lease, read_lease, release_lease, renew_lease
from storage.backends.memory import MemoryStore
from storage.errors import InvalidKeyError, UnavailableError
from storage.leases import TTL_SECONDS_MAX, Free
from storage.store import Create, Overwrite
from storage.testing.clock import START, ManualClock
from storage.testing.faults import Delay, FailBefore, Fault, FaultyStore, LoseAnswer, OwnRetry

SESSION = "s1"
TTL = 30


@dataclass
class Bench:
    """An environment on a faulty store, and what stands behind it."""

    behind: MemoryStore
    faulty: FaultyStore
    clock: ManualClock
    here: Environment

    def key(self) -> str:
        return self.here.layout.lease(SESSION)

    def stored(self) -> bytes:
        return self.behind.get(self.key()).data


@pytest.fixture
def bench() -> Iterator[Bench]:
    behind, clock = MemoryStore(), ManualClock()
    faulty = FaultyStore(behind)
    with ThreadPoolExecutor(1) as executor:
        yield Bench(behind, faulty, clock, Environment(faulty, Layout("default"), clock, executor))


def test_a_lease_lies_under_its_own_key_and_needs_no_session(bench: Bench) -> None:
    lease = claim_lease(bench.here, SESSION, "a", TTL)
    assert [row.key for row in bench.behind.list("")] == [bench.key()]
    assert read_lease(bench.here, SESSION) == lease
    assert read_lease(bench.here, "s2") == Free(0)


def test_active_runtime_turn_lease_fences_competing_claims(bench: Bench) -> None:
    lease = claim_lease(bench.here, SESSION, "a", TTL)
    before = bench.stored()
    with pytest.raises(LeaseHeldError) as caught:
        claim_lease(bench.here, SESSION, "b", TTL)
    assert (caught.value.session_id, caught.value.holder) == (SESSION, "a")
    assert caught.value.expires_at == lease.expires_at == START + timedelta(seconds=TTL)
    assert bench.stored() == before
    bench.clock.advance(TTL)
    assert claim_lease(bench.here, SESSION, "b", TTL).fence == 2


def test_renewed_runtime_turn_lease_survives_original_expiry(bench: Bench) -> None:
    lease = claim_lease(bench.here, SESSION, "a", TTL)
    bench.clock.advance(TTL - 1)
    longer = renew_lease(bench.here, SESSION, lease, TTL)
    assert (longer.token, longer.fence) == (lease.token, lease.fence)
    bench.clock.advance(2)
    with pytest.raises(LeaseHeldError):
        claim_lease(bench.here, SESSION, "b", TTL)


def test_superseded_runtime_turn_lease_cannot_write_or_clear_newer_owner(bench: Bench) -> None:
    old = claim_lease(bench.here, SESSION, "a", TTL)
    bench.clock.advance(TTL)
    new = claim_lease(bench.here, SESSION, "b", TTL)
    before = bench.stored()
    for act in (lambda: renew_lease(bench.here, SESSION, old, TTL), lambda: release_lease(bench.here, SESSION, old)):
        with pytest.raises(FencedError) as caught:
            act()
        assert (caught.value.fence, caught.value.holder) == (2, "b")
    assert bench.stored() == before
    assert read_lease(bench.here, SESSION) == new


def test_abandon_runtime_turn_lease_releases_owner_and_keeps_the_fence(bench: Bench) -> None:
    lease = claim_lease(bench.here, SESSION, "a", TTL)
    release_lease(bench.here, SESSION, lease)
    release_lease(bench.here, SESSION, lease)
    assert read_lease(bench.here, SESSION) == Free(1)
    assert claim_lease(bench.here, SESSION, "b", TTL).fence == 2


def test_the_older_lease_of_the_same_owner_is_fenced(bench: Bench) -> None:
    old = claim_lease(bench.here, SESSION, "a", TTL)
    claim_lease(bench.here, SESSION, "a", TTL)
    with pytest.raises(FencedError):
        renew_lease(bench.here, SESSION, old, TTL)


def test_a_lease_that_ended_without_a_successor_is_claimed_again(bench: Bench) -> None:
    lease = claim_lease(bench.here, SESSION, "a", TTL)
    bench.clock.advance(TTL)
    with pytest.raises(IllegalTransitionError) as caught:
        renew_lease(bench.here, SESSION, lease, TTL)
    assert (caught.value.from_status, caught.value.to_status) == ("expired", "renewed")
    release_lease(bench.here, SESSION, lease)
    with pytest.raises(IllegalTransitionError) as caught:
        renew_lease(bench.here, SESSION, lease, TTL)
    assert caught.value.from_status == "released"


@pytest.mark.parametrize("ttl_seconds", [0, -1, math.nan, math.inf, TTL_SECONDS_MAX + 1])
def test_no_time_to_live_writes_nothing(bench: Bench, ttl_seconds: float) -> None:
    with pytest.raises(InvalidStateError):
        claim_lease(bench.here, SESSION, "a", ttl_seconds)
    assert bench.faulty.log == []
    lease = claim_lease(bench.here, SESSION, "a", TTL_SECONDS_MAX)
    before = bench.stored()
    with pytest.raises(InvalidStateError):
        renew_lease(bench.here, SESSION, lease, ttl_seconds)
    assert bench.stored() == before


@pytest.mark.parametrize("owner", ["", "x" * 513, "a\x00"])
def test_no_owner_writes_nothing(bench: Bench, owner: str) -> None:
    with pytest.raises(InvalidKeyError, match="owner"):
        claim_lease(bench.here, SESSION, owner, TTL)
    assert bench.faulty.log == []


def test_a_moved_record_is_corruption(bench: Bench) -> None:
    lease = claim_lease(bench.here, SESSION, "a", TTL)
    elsewhere = replace(bench.here, layout=Layout("other"))
    bench.behind.put(bench.here.layout.lease("s2"), bench.stored(), Create())
    bench.behind.put(elsewhere.layout.lease(SESSION), bench.stored(), Create())
    for environment, session_id in ((bench.here, "s2"), (elsewhere, SESSION)):
        for act in (
            lambda env, sid: read_lease(env, sid),
            lambda env, sid: claim_lease(env, sid, "a", TTL),
            lambda env, sid: renew_lease(env, sid, lease, TTL),
            lambda env, sid: release_lease(env, sid, lease),
        ):
            with pytest.raises(CorruptSnapshotError, match="moved here") as caught:
                act(environment, session_id)
            assert caught.value.key == environment.layout.lease(session_id)


def test_a_damaged_record_is_corruption(bench: Bench) -> None:
    claim_lease(bench.here, SESSION, "a", TTL)
    bench.behind.put(bench.key(), bench.stored()[:-1], Overwrite())
    with pytest.raises(CorruptSnapshotError):
        read_lease(bench.here, SESSION)


@pytest.mark.parametrize("fault", [FailBefore(), LoseAnswer(), Delay(), Delay(after_requests=1), OwnRetry()], ids=str)
def test_a_fault_never_hides_a_claim_a_renewal_or_a_release(bench: Bench, fault: Fault) -> None:
    bench.faulty.plan.on("put", fault=fault)
    lease = claim_lease(bench.here, SESSION, "a", TTL)
    bench.faulty.plan.on("put", fault=fault)
    longer = renew_lease(bench.here, SESSION, lease, 2 * TTL)
    assert read_lease(bench.here, SESSION) == longer
    bench.faulty.plan.on("put", fault=fault)
    release_lease(bench.here, SESSION, longer)
    bench.faulty.release()
    assert read_lease(bench.here, SESSION) == Free(1)


def test_no_answer_passes_through(bench: Bench) -> None:
    bench.faulty.plan.on("*", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        claim_lease(bench.here, SESSION, "a", TTL)
