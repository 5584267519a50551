"""Upgrading: a store of an earlier schema version becomes one of the newest. It may run beside everything else.

Rules:
1. The store object comes first: from then on software that knows only earlier versions does not open the store. What
   of it is still at work refuses every head that was upgraded, and writes nothing to it.
2. Then every head of an earlier version, by compare-and-swap of what was just read. It gets a write id; nothing else of
   it changes but the format: revision, state id, epoch, fence, pins, times.
3. Heads that are in the newest version already are left alone: so a run that ended anywhere is finished by the next.
4. The store object is one for all tenants, the heads are those of one. A head of an earlier version can be read and
   worked on as before; only what its version does not have is refused.

    plan = plan_upgrade(repo)
    print(plan)
    report = execute(plan)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from snapshots import codec
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError
from snapshots.fields import NEWEST_VERSION, id_bytes
from snapshots.head import Head
from snapshots.layout import STORE_KEY
from snapshots.maintenance.progress import Progress, quiet
from snapshots.operations import operation
from snapshots.reading import HeadRead, head_at
from snapshots.repository import SnapshotRepository
from snapshots.sessions import for_each_head
from snapshots.store_object import facts_in
from snapshots.upgrades import upgraded
from storage.clock import backoff_seconds
from storage.errors import CorruptObjectError, PreconditionFailedError, UnavailableError
from storage.registers import Register
from storage.store import StoredObject

__all__ = ["UpgradePlan", "UpgradeReport", "execute", "plan_on", "plan_upgrade"]

ATTEMPTS_MAX = 8  # to upgrade one record that others write


@dataclass(frozen=True, slots=True)
class UpgradePlan:
    """What is of which schema version. A hint: what is written is decided when it is executed.

    Attributes:
        environment: Whose store.
        store_version: That of the store object.
        heads: How many heads of the tenant there are of each version.
        to: The version that all get.
    """

    environment: Environment = field(repr=False, compare=False)
    store_version: int
    heads: Mapping[int, int]
    to: int = NEWEST_VERSION

    @property
    def older(self) -> int:
        """Return how many heads are of an earlier version."""
        return sum(count for version, count in self.heads.items() if version < self.to)

    @property
    def is_empty(self) -> bool:
        """Say whether all is of the newest version."""
        return self.store_version == self.to and not self.older

    def __str__(self) -> str:
        heads = sum(self.heads.values())
        return f"store of schema version {self.store_version}, {self.older} of {heads} heads older than {self.to}"


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What an upgrade did.

    Attributes:
        from_version: Schema version of the store object before.
        to_version: And now.
        heads: Heads of the tenant that there are.
        upgraded: Those of them that were of an earlier version.
    """

    from_version: int
    to_version: int
    heads: int
    upgraded: int


@operation("upgrade.plan", "repo.environment")
def plan_upgrade(repo: SnapshotRepository, *, progress: Progress = quiet) -> UpgradePlan:
    """Find out what is of which schema version, without writing anything. Reads every head of the tenant.

    Raises:
        CorruptSnapshotError: The store object or a head cannot be read; verify, then repair.
        UnsupportedSchemaError: One is of a version later than this software knows.
        UnavailableError: The store did not answer.
    """
    return plan_on(repo.environment, progress=progress)


def plan_on(environment: Environment, *, progress: Progress = quiet) -> UpgradePlan:
    """Return the plan for what a repository works with; see `plan_upgrade`."""
    heads: Counter[int] = Counter()
    for version in for_each_head(environment, lambda row: head_at(environment, row.key).head.schema_version):
        heads[version] += 1
        progress("heads read", heads.total(), 0)
    return UpgradePlan(environment, facts_in(_read_store(environment).data).schema_version, dict(heads))


@operation("upgrade", "plan.environment")
def execute(plan: UpgradePlan, *, progress: Progress = quiet) -> UpgradeReport:
    """Upgrade the store object, then the tenant's heads, as they are by now.

    Interrupted at any request it leaves a correct store, and the next run finishes. A repository that was opened before
    goes on making heads of the former version, until it is opened again: run it again then.

    Args:
        plan: What to upgrade.
        progress: Told of every head.

    Raises:
        CorruptSnapshotError: A head cannot be read; others may be upgraded already. Verify, repair, run it again.
        UnavailableError: The store did not answer, or a record never stood still; run it again.
    """
    environment = plan.environment
    from_version = _upgrade_store(environment)
    heads = done = 0
    for was_older in for_each_head(environment, lambda row: _upgrade_head(environment, row.key)):
        heads += 1
        done += was_older
        progress("heads upgraded", done, plan.older)
    return UpgradeReport(from_version, plan.to, heads, done)


def _read_store(environment: Environment) -> StoredObject:
    try:
        return Register(environment.store, STORE_KEY, environment.clock).read()
    except CorruptObjectError as error:
        raise CorruptSnapshotError(STORE_KEY, error.reason) from error


def _upgrade_store(environment: Environment) -> int:
    """Upgrade the store object (rule 1); return the version that it had."""
    register = Register(environment.store, STORE_KEY, environment.clock)
    for _ in range(ATTEMPTS_MAX):
        found = _read_store(environment)
        version = facts_in(found.data).schema_version
        if version == NEWEST_VERSION:
            return version
        plain = upgraded("store", codec.decode(found.data, key=STORE_KEY))
        try:
            register.compare_and_swap(found.version, codec.encode(plain))
        except PreconditionFailedError:
            continue
        return version
    raise UnavailableError(STORE_KEY, "the store object never stood still; run it again", applied="no")


def _upgrade_head(environment: Environment, key: str) -> bool:
    """Upgrade a head (rule 2); return whether it was of an earlier version."""
    read = head_at(environment, key)
    if read.head.schema_version == NEWEST_VERSION:
        return False
    register = environment.register(read.head.session_id)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            register.swap_once(read.version, _in_newest_version(environment, read, key))
            return True
        except (PreconditionFailedError, UnavailableError):
            environment.clock.sleep(backoff_seconds(attempt, environment.clock))
        read = head_at(environment, key)  # whatever it means: the head, read again, tells
        if read.head.schema_version == NEWEST_VERSION:
            return True
    raise UnavailableError(key, "the head could not be upgraded; run it again", applied="unknown")


def _in_newest_version(environment: Environment, read: HeadRead, key: str) -> bytes:
    """Return a head in the newest version, with a fresh write id."""
    plain = codec.decode(codec.unguarded(read.head.encode(), key=key), key=key)
    write_id = environment.clock.new_id()
    data = codec.guarded(codec.encode({**upgraded("head", plain), "write_id": id_bytes(write_id)}))
    expected = replace(read.head, schema_version=NEWEST_VERSION, write_id=write_id)
    assert Head.decode(data, key=key) == expected, "nothing but the format changes"
    return data
