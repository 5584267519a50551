"""Each role does its work in a bucket that lets it do what the template's policies say, and is refused the others'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from random import Random

import pytest

from infra.permissions import BUCKET, PREFIX, Policies, deployed
from infra.policies.evaluator import decide
from infra.policies.requests import aws_requests
from infra.policies.roles import ROLES
from infra.policies.template import arn_of
from snapshots import PersistedSessionState, SnapshotRepository, TurnStamp
from snapshots.children import EmptyStart
from snapshots.errors import SessionMovedError
from snapshots.maintenance.collect import execute as collect
from snapshots.maintenance.copy.compare import Difference, verify_copy
from snapshots.maintenance.copy.fleet import execute as copy
from snapshots.maintenance.copy.fleet import plan_copy
from snapshots.maintenance.copy.moving import move
from snapshots.maintenance.findings import Finding
from snapshots.maintenance.garbage import plan_collect
from snapshots.maintenance.prune import execute as prune
from snapshots.maintenance.prune import plan_prune
from snapshots.maintenance.repair import execute as repair
from snapshots.maintenance.repair import plan_repair
from snapshots.maintenance.retention import Retention
from snapshots.maintenance.verify import verify
from snapshots.realtime import RealtimeCloseReason, RealtimeController, load_realtime
from snapshots.records import SessionRecords, reap
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from snapshots.usage import UsageLog, compact
from storage.backends.memory import MemoryStore
from storage.errors import PermissionDeniedError
from storage.testing.clock import ManualClock
from storage.wrappers.prefixed import PrefixedStore
from tests.infra.enforced import Allows, EnforcedStore
from tests.integration.builders import new_session, take_turn
from tests.snapshots.damage import cut_in_half
from tests.snapshots.realtime.bench import NotingAdapter, out, sidecar
from tests.snapshots.usage.bench import line

SOURCE = {"BucketName": "amzn-s3-demo-source", "Prefix": "old", "Tenant": "team"}
NEW = {f"CopySource{name}": value for name, value in SOURCE.items()}
LARGE = 17 << 20  # more than one request takes


@dataclass
class Account:
    """One bucket for the agents, and one that they came from, each with the policies of its own stack."""

    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.buckets = {BUCKET: MemoryStore(self.clock), SOURCE["BucketName"]: MemoryStore(self.clock)}
        self.here = Policies.of(deployed(**NEW))
        self.there = deployed(**SOURCE).bucket_policy

    def opened(self, role: str, *, create: bool = False) -> SnapshotRepository:
        """Return the store as one of its roles has it; what a commit has goes into packs."""
        return self._repository(BUCKET, PREFIX, "default", partial(self.here.allow_all, role), create=create)

    def source(self) -> SnapshotRepository:
        """Return the other store as the copier of this one has it."""
        bucket, prefix, tenant = SOURCE.values()
        return self._repository(bucket, prefix, tenant, self._copier_may)

    def old(self) -> SnapshotRepository:
        """Return the other store as whoever filled it had it."""
        bucket, prefix, tenant = SOURCE.values()
        return self._repository(bucket, prefix, tenant, lambda _request, _key: True, create=True)

    def _copier_may(self, request: str, key: str) -> bool:
        actions = aws_requests(request, key, bucket=SOURCE["BucketName"], principal=arn_of(ROLES["copier"]))
        identity = self.here.identities["copier"][1]
        return all(decide(one, identity=identity, resource=self.there).allowed for one in actions)

    def _repository(
        self, bucket: str, prefix: str, tenant: str, allows: Allows, *, create: bool = False
    ) -> SnapshotRepository:
        store = EnforcedStore(PrefixedStore(self.buckets[bucket], prefix), prefix, allows)
        return SnapshotRepository(store, tenant=tenant, create=create, clock=self.clock, inline_limit_bytes=0)


@pytest.fixture
def account() -> Account:
    """Give an account in which the maintainer has made the store."""
    account = Account()
    account.opened("maintainer", create=True).close()
    return account


def fill(repo: SnapshotRepository, name: str) -> None:
    """Do with a session what a host does, and write everything that lies beside one."""
    state = new_session(name)
    for turn in range(3):
        repo.commit(take_turn(state, f"t{turn}"), TurnStamp(f"t{turn}"))
    repo.commit(take_turn(state, "large"), execution_state=BytesIO(Random(7).randbytes(LARGE)))  # not compressible
    repo.pin(name, 2, "good")
    repo.fork(name, f"{name}-fork", 1)
    repo.start_child(name, EmptyStart(), child=f"{name}-child")
    repo.rewind(name, 2)
    repo.update(name, again)
    lease = repo.claim_lease(name, "host", 30.0)
    repo.release_lease(name, repo.renew_lease(name, lease, 30.0))
    writer = repo.acquire(name, "host")
    writer.begin_turn("t9").perform("charge", "hash", lambda: b"receipt")
    writer.commit(take_turn(writer.state, "t9"), stamp=TurnStamp("t9"))
    writer.release()
    _beside(repo, name)


def again(state: PersistedSessionState) -> None:
    take_turn(state, "again")


def _beside(repo: SnapshotRepository, name: str) -> None:
    records = SessionRecords(repo)
    records.create(name, provider_id="p", model="m", ttl_secs=0)
    records.activate(name)
    reap(repo)
    runtime = RuntimeSessionStore(repo)
    runtime.save_runtime_session(RuntimeSession(session_id=name, title="Trip"))
    runtime.update_metadata(name, lambda before: before.changed(title="Rome"))
    for number in range(3):
        UsageLog(repo, name).append(line(number))
    compact(repo, name)
    controller = RealtimeController(repo, name, NotingAdapter(), sidecar())
    controller.connect()
    controller.send(out("frame"))
    controller.close(RealtimeCloseReason.HOST_OWNED_DETACH)


def test_a_maintainer_makes_a_store_in_which_a_writer_works_and_a_reader_reads(account: Account) -> None:
    with account.opened("writer") as repo:
        fill(repo, "s1")
    with account.opened("reader") as repo:
        assert repo.load("s1", execution_state=True).head_revision
        assert {info.session_id for info in repo.sessions()} == {"s1", "s1-fork", "s1-child"}
        assert [len(list(repo.history("s1"))), len(repo.forest()), len(repo.pins("s1"))] == [7, 1, 1]
        assert len(list(UsageLog(repo, "s1").read())) == 3
        assert load_realtime(repo, "s1").status
        assert [one for one in verify(repo) if isinstance(one, Finding)] == []


def test_a_maintainer_collects_prunes_and_repairs(account: Account) -> None:
    with account.opened("writer") as repo:
        fill(repo, "gone")
        fill(repo, "kept")
        for name in ("gone", "gone-fork", "gone-child"):
            repo.delete(name)
    with account.opened("maintainer") as repo:
        prune(plan_prune(repo, "kept", Retention(last=1)))
        report = collect(plan_collect(repo))
        assert report.deleted > 0
        assert report.satellites > 0
        smallest = min(account.buckets[BUCKET].list(f"{PREFIX}/default/packs/kept/"), key=lambda row: row.size_bytes)
        cut_in_half(account.buckets[BUCKET], smallest.key)
        repaired = repair(plan_repair(repo, "kept"))
        assert any(one.quarantined for one in repaired.repaired)
        collect(plan_collect(repo))


def test_a_reader_backs_up_to_a_directory(account: Account, tmp_path: Path) -> None:
    with account.opened("writer") as repo:
        fill(repo, "trip")
    with account.opened("reader") as here, SnapshotRepository.open(f"file:{tmp_path / 'backup'}") as backup:
        report = copy(plan_copy(here, backup))
        assert {one.error for one in report.sessions} == {None}
        assert [one for one in verify_copy(here, backup) if isinstance(one, Difference)] == []


def test_a_copier_copies_and_moves_away(account: Account) -> None:
    with account.old() as repo:
        fill(repo, "s1")
    with account.source() as source, account.opened("copier") as here:
        report = copy(plan_copy(source, here))
        assert {one.error for one in report.sessions} == {None}
        assert [one for one in verify_copy(source, here) if isinstance(one, Difference)] == []
        moved = move(source, here, plan_copy(source, here), url="s3://new")
        assert [one.error for one in moved.sessions] == [None] * len(report.sessions)
        with pytest.raises(SessionMovedError):
            source.load("s1")
        assert here.load("s1").head_revision


REFUSED: dict[str, tuple[str, Callable[[SnapshotRepository], object]]] = {
    "reader commits": ("reader", lambda repo: repo.commit(new_session("s2", "t"))),
    "reader deletes": ("reader", lambda repo: repo.delete("s1")),
    "reader takes over": ("reader", lambda repo: repo.acquire("s1", "host")),
    "writer collects": ("writer", plan_collect),
    "maintainer creates a session": ("maintainer", lambda repo: repo.commit(new_session("s2", "t"))),
    "maintainer writes a record": (
        "maintainer",
        lambda repo: SessionRecords(repo).create("s1", provider_id="p", model="m"),
    ),
    "copier takes a lease": ("copier", lambda repo: repo.claim_lease("s1", "host", 1.0)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_role_is_refused_the_work_of_another(account: Account, name: str) -> None:
    with account.opened("writer") as repo:
        repo.commit(new_session("s1", "t"))
    role, work = REFUSED[name]
    with account.opened(role) as repo, pytest.raises(PermissionDeniedError):
        work(repo)


@pytest.mark.parametrize("role", ["reader", "writer", "copier"])
def test_only_a_maintainer_makes_a_store(role: str) -> None:
    with pytest.raises(PermissionDeniedError):
        Account().opened(role, create=True)
