"""Leases: one owner at a time, a fence that only rises, and stale tokens that change nothing, under every fault."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from storage.backends.memory import MemoryStore
from storage.clock import SystemClock
from storage.errors import CorruptObjectError, InvalidKeyError, PermissionDeniedError, UnavailableError
from storage.leases import ATTEMPTS_MAX, TTL_SECONDS_MAX, Busy, Free, Lease, LeaseRegister, Lost
from storage.store import Overwrite
from storage.testing.clock import START, ManualClock
from storage.testing.faults import (
    Deny,
    FailBefore,
    Fault,
    FaultyStore,
    FlipBit,
    LoseAnswer,
    Meanwhile,
    Truncate,
)
from tests.faults import WRITE_FAULTS

KEY, LABEL = "lease", "what it is for"
TTL = 30


@dataclass
class Bench:
    """A lease on a faulty store, and the same lease as others see it."""

    behind: MemoryStore
    faulty: FaultyStore
    clock: ManualClock

    @classmethod
    def new(cls) -> Bench:
        behind = MemoryStore()
        return cls(behind, FaultyStore(behind), ManualClock())

    @property
    def mine(self) -> LeaseRegister:
        return LeaseRegister(self.faulty, KEY, self.clock, label=LABEL)

    @property
    def theirs(self) -> LeaseRegister:
        return LeaseRegister(self.behind, KEY, self.clock, label=LABEL)

    def stored(self) -> bytes:
        return self.behind.get(KEY).data

    def plain(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.stored())
        return found

    def store(self, data: bytes) -> None:
        self.behind.put(KEY, data, Overwrite())


@pytest.fixture
def bench() -> Bench:
    return Bench.new()


def claimed(register: LeaseRegister, owner: str = "a", ttl_seconds: float = TTL) -> Lease:
    answer = register.claim(owner, ttl_seconds)
    assert isinstance(answer, Lease)
    return answer


def renewed(register: LeaseRegister, lease: Lease, ttl_seconds: float = TTL) -> Lease:
    answer = register.renew(lease, ttl_seconds)
    assert isinstance(answer, Lease)
    return answer


EVERY = pytest.mark.parametrize("fault", WRITE_FAULTS, ids=str)


def test_a_first_claim_has_fence_one(bench: Bench) -> None:
    assert bench.mine.read() == Free(0)
    lease = claimed(bench.mine)
    assert (lease.owner, lease.fence, lease.expires_at) == ("a", 1, START + timedelta(seconds=TTL))
    assert bench.theirs.read() == lease


def test_an_active_lease_fences_competing_claims(bench: Bench) -> None:
    lease = claimed(bench.mine)
    before = bench.stored()
    assert bench.theirs.claim("b", TTL) == Busy("a", lease.expires_at)
    assert bench.stored() == before


def test_a_lease_is_free_at_the_instant_it_expires_and_not_before(bench: Bench) -> None:
    lease = claimed(bench.mine)
    bench.clock.advance(TTL - 0.000001)
    assert isinstance(bench.theirs.claim("b", TTL), Busy)
    assert bench.theirs.read() == lease
    bench.clock.advance(0.000001)
    assert bench.theirs.read() == Free(1)
    assert claimed(bench.theirs, "b").fence == 2


def test_the_same_owner_claims_again_and_its_older_token_is_stale(bench: Bench) -> None:
    first, second = claimed(bench.mine), claimed(bench.mine)
    assert (first.fence, second.fence) == (1, 2)
    assert first.token != second.token
    assert bench.mine.renew(first, TTL) == Lost(2, "a", "superseded")
    assert bench.mine.release(first) == Lost(2, "a", "superseded")
    assert bench.theirs.read() == second


def test_a_renewed_lease_survives_its_original_expiry(bench: Bench) -> None:
    lease = claimed(bench.mine)
    bench.clock.advance(TTL - 1)
    longer = renewed(bench.mine, lease)
    assert (longer.token, longer.fence) == (lease.token, lease.fence)
    bench.clock.advance(2)
    assert bench.theirs.claim("b", TTL) == Busy("a", longer.expires_at)
    assert renewed(bench.mine, lease).fence == 1  # the token counts, not the instant that it was first given


def test_an_expired_lease_is_not_renewed(bench: Bench) -> None:
    lease = claimed(bench.mine)
    bench.clock.advance(TTL)
    before = bench.stored()
    assert bench.mine.renew(lease, TTL) == Lost(1, "", "expired")
    assert bench.stored() == before


def test_a_superseded_lease_cannot_write_or_clear_a_newer_owner(bench: Bench) -> None:
    old = claimed(bench.mine)
    bench.clock.advance(TTL)
    new = claimed(bench.theirs, "b")
    before = bench.stored()
    assert bench.mine.renew(old, TTL) == Lost(2, "b", "superseded")
    assert bench.mine.release(old) == Lost(2, "b", "superseded")
    assert bench.stored() == before
    bench.clock.advance(TTL)
    assert bench.mine.release(old) == Lost(2, "", "superseded")
    assert bench.theirs.release(new) == Free(2)


def test_the_fence_survives_release(bench: Bench) -> None:
    lease = claimed(bench.mine)
    assert bench.mine.release(lease) == Free(1)
    assert bench.theirs.read() == Free(1)
    assert bench.mine.renew(lease, TTL) == Lost(1, "", "released")
    assert claimed(bench.theirs, "b").fence == 2


def test_releasing_again_or_after_expiry_is_no_failure(bench: Bench) -> None:
    lease = claimed(bench.mine)
    bench.clock.advance(TTL)
    assert bench.mine.release(lease) == Free(1)
    before = bench.stored()
    assert bench.mine.release(lease) == Free(1)
    assert bench.stored() == before


def test_a_lease_whose_record_is_gone_is_free(bench: Bench) -> None:
    lease = claimed(bench.mine)
    bench.behind.delete(KEY)
    assert bench.mine.renew(lease, TTL) == Lost(0, "", "released")
    assert bench.mine.release(lease) == Free(0)
    assert list(bench.behind.list("")) == []


@pytest.mark.parametrize("ttl_seconds", [0, -1, math.inf, -math.inf, math.nan, TTL_SECONDS_MAX + 1, 1e-9, 1e300])
def test_a_time_to_live_is_positive_and_bounded(bench: Bench, ttl_seconds: float) -> None:
    with pytest.raises(ValueError, match="lasts more than 0 and at most"):
        bench.mine.claim("a", ttl_seconds)
    assert bench.faulty.log == []
    lease = claimed(bench.mine)
    before = bench.stored()
    with pytest.raises(ValueError, match="lasts more than 0 and at most"):
        bench.mine.renew(lease, ttl_seconds)
    assert bench.stored() == before


@pytest.mark.parametrize("ttl_seconds", [0.000001, TTL_SECONDS_MAX])
def test_the_shortest_and_the_longest_time_to_live(bench: Bench, ttl_seconds: float) -> None:
    lease = claimed(bench.mine, ttl_seconds=ttl_seconds)
    assert lease.expires_at == START + timedelta(seconds=ttl_seconds)
    assert bench.theirs.read() == lease


@pytest.mark.parametrize("owner", ["", "a\n", "x" * 513, "\ud800"])
def test_what_is_no_owner_claims_nothing(bench: Bench, owner: str) -> None:
    with pytest.raises(InvalidKeyError, match="owner"):
        bench.mine.claim(owner, TTL)
    assert bench.faulty.log == []


@pytest.mark.parametrize("owner", ["日" * 170, 'quote " and \\', "é", "x" * 512])
def test_any_text_is_an_owner(bench: Bench, owner: str) -> None:
    lease = claimed(bench.mine, owner)
    assert bench.theirs.read() == lease
    assert lease.owner == owner


# Faults.


@EVERY
@pytest.mark.parametrize("times", [1, 3])
def test_a_fault_never_hides_a_claim(bench: Bench, fault: Fault, times: int) -> None:
    bench.faulty.plan.on("put", fault=fault, times=times)
    lease = claimed(bench.mine)
    assert lease.fence == 1
    assert bench.theirs.read() == lease
    bench.faulty.release()
    assert bench.theirs.read() == lease


@EVERY
def test_a_fault_never_hides_a_renewal_or_a_release(bench: Bench, fault: Fault) -> None:
    lease = claimed(bench.mine)
    bench.clock.advance(TTL - 2)
    bench.faulty.plan.on("put", fault=fault)
    longer = renewed(bench.mine, lease)
    assert bench.theirs.read() == longer
    bench.faulty.plan.on("put", fault=fault)
    assert bench.mine.release(longer) == Free(1)
    bench.faulty.release()
    assert bench.theirs.read() == Free(1)


@EVERY
def test_a_late_claim_never_undoes_a_newer_one(bench: Bench, fault: Fault) -> None:
    bench.faulty.plan.on("put", fault=fault)
    claimed(bench.mine)
    bench.clock.advance(TTL)
    new = claimed(bench.theirs, "b")
    bench.faulty.release()
    assert bench.theirs.read() == new


def test_a_claim_that_landed_and_was_overtaken_is_not_ours(bench: Bench) -> None:
    def meanwhile() -> None:
        bench.clock.advance(TTL)
        claimed(bench.theirs, "b")

    bench.faulty.plan.on("put", fault=LoseAnswer()).on("get", nth=2, fault=Meanwhile(meanwhile))
    assert bench.mine.claim("a", TTL) == Busy("b", START + timedelta(seconds=2 * TTL))
    assert bench.theirs.read() == Lease("b", bench.plain()["token"], 2, START + timedelta(seconds=2 * TTL))


def test_of_two_claims_at_the_same_time_one_is_busy(bench: Bench) -> None:
    bench.faulty.plan.on("put", fault=Meanwhile(lambda: claimed(bench.theirs, "b")))
    answer = bench.mine.claim("a", TTL)
    assert isinstance(answer, Busy)
    assert answer.holder == "b"


def test_contention_is_bounded(bench: Bench) -> None:
    bench.faulty.plan.on("put", fault=Meanwhile(lambda: claimed(bench.theirs, "a")), times=None)
    with pytest.raises(UnavailableError, match="others kept writing") as caught:
        bench.mine.claim("a", TTL)
    assert caught.value.applied == "unknown"
    assert sum(request.verb == "put" for request in bench.faulty.log) == ATTEMPTS_MAX
    assert len(bench.clock.sleeps) == ATTEMPTS_MAX


def test_no_answer_at_all_says_whether_it_was_applied(bench: Bench) -> None:
    bench.faulty.plan.on("get", fault=FailBefore(applied="no"))
    with pytest.raises(UnavailableError) as caught:
        bench.mine.claim("a", TTL)
    assert caught.value.applied == "no"
    bench.faulty.plan.on("put", fault=LoseAnswer()).on("get", nth=2, fault=FailBefore(applied="no"), times=None)
    with pytest.raises(UnavailableError) as caught:
        bench.mine.claim("a", TTL)
    assert caught.value.applied == "unknown"


def test_a_doubt_outlives_a_read_that_failed(bench: Bench) -> None:
    plan = bench.faulty.plan
    plan.on("put", fault=Meanwhile(lambda: claimed(bench.theirs, "a"))).on("get", nth=3, fault=FailBefore(applied="no"))
    with pytest.raises(UnavailableError) as caught:
        bench.mine.claim("a", TTL)
    assert caught.value.applied == "unknown"


def test_a_refusal_of_the_store_passes_through(bench: Bench) -> None:
    bench.faulty.plan.on("put", fault=Deny())
    with pytest.raises(PermissionDeniedError):
        bench.mine.claim("a", TTL)


def test_threads_that_claim_together_get_different_fences() -> None:
    register = LeaseRegister(MemoryStore(), KEY, SystemClock(), label=LABEL)
    with ThreadPoolExecutor(4) as pool:
        leases = list(pool.map(lambda _: claimed(register), range(4)))
    assert sorted(lease.fence for lease in leases) == [1, 2, 3, 4]


# What is stored.


def test_a_record_of_another_label_is_refused(bench: Bench) -> None:
    lease = claimed(LeaseRegister(bench.behind, KEY, bench.clock, label="something else"))
    for act in (
        bench.mine.read,
        lambda: bench.mine.claim("a", TTL),
        lambda: bench.mine.renew(lease, TTL),
        lambda: bench.mine.release(lease),
    ):
        with pytest.raises(CorruptObjectError, match="something else"):
            act()


CHANGES: list[dict[str, Any]] = [
    {"schema_version": 2},
    {"schema_version": None},
    {"owner": ""},
    {"owner": 7},
    {"token": None},
    {"fence": 0},
    {"fence": True},
    {"fence": 1.0},
    {"fence": 1 << 63},
    {"expires_at_micros": "soon"},
    {"expires_at_micros": 1 << 80},
    {"released": 0},
    {"unheard_of": 1},
    {"label": None},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_what_is_no_record_of_ours_is_corrupt(bench: Bench, change: dict[str, Any]) -> None:
    claimed(bench.mine)
    bench.store(json.dumps({**bench.plain(), **change}).encode())
    with pytest.raises(CorruptObjectError) as caught:
        bench.mine.read()
    assert caught.value.key == KEY


@pytest.mark.parametrize("field", ["owner", "token", "fence", "expires_at_micros", "label", "write_id", "released"])
def test_a_missing_field_is_corrupt(bench: Bench, field: str) -> None:
    claimed(bench.mine)
    bench.store(json.dumps({name: value for name, value in bench.plain().items() if name != field}).encode())
    with pytest.raises(CorruptObjectError, match=field):
        bench.mine.read()


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"\xff", b"{", b"[" * 100_000], ids=repr)
def test_what_is_no_json_is_corrupt(bench: Bench, data: bytes) -> None:
    bench.store(data)
    with pytest.raises(CorruptObjectError):
        bench.mine.claim("a", TTL)
    assert bench.stored() == data


@pytest.mark.parametrize("fault", [Truncate(10), FlipBit(3)], ids=str)
def test_damage_is_never_an_empty_lease(bench: Bench, fault: Fault) -> None:
    claimed(bench.mine)
    bench.faulty.plan.on("get", fault=fault)
    with pytest.raises(CorruptObjectError):
        bench.mine.claim("a", TTL)


def test_every_write_is_new(bench: Bench) -> None:
    lease = claimed(bench.mine)
    first = bench.stored()
    renewed(bench.mine, lease)
    assert bench.plain()["expires_at_micros"] == json.loads(first)["expires_at_micros"]
    assert bench.stored() != first
