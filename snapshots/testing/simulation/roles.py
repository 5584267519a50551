"""Roles: what the hosts of a seeded run do. A role registers itself; later features add theirs here or elsewhere.

@role("reader", least=1, most=2)
def read(host: Host) -> None:
    host.load(host.a_session())
"""

from __future__ import annotations

from collections.abc import Callable

from snapshots.delete import delete
from snapshots.fork import ForkRequest, fork
from snapshots.history import RESTORE, REWIND
from snapshots.maintenance.collect import BATCH_PACKS
from snapshots.maintenance.collect import execute as execute_collection
from snapshots.maintenance.collect import plan_on as plan_collection_on
from snapshots.maintenance.prune import execute as execute_prune
from snapshots.maintenance.prune import plan_on as plan_prune_on
from snapshots.maintenance.retention import Retention
from snapshots.pinning import pin, unpin
from snapshots.rewind import go_back
from snapshots.stamps import TurnStamp
from snapshots.state import PersistedSessionState
from snapshots.testing import collector as reference
from snapshots.testing.simulation.hosts import Host, Journalled, Role, take_turn
from snapshots.writer import Writer, acquire

OPERATIONS = 4  # of a host, about
LASTS = 200  # instants: until then a host goes on
Act = Callable[[Host], None]


ROLES: dict[str, Role] = {}
COPY_ROLES: dict[str, Role] = {}  # of runs with copies


def role(
    name: str,
    *,
    least: int,
    most: int,
    operations: int = OPERATIONS,
    lasts: int = LASTS,
    among: dict[str, Role] = ROLES,
) -> Callable[[Act], Act]:
    """Register what is decorated as a role."""

    def register(act: Act) -> Act:
        among[name] = Role(act, least, most, operations, lasts)
        return act

    return register


@role("writer", least=2, most=3)
def write(host: Host) -> None:
    """Take a turn on a state, stamped or not; after a crash the same turn again."""
    if host.journal is not None:
        _turn_again(host, host.journal)
        return
    session_id = host.a_session()
    state = host.states.get(session_id) or host.load(session_id)
    if state is None:
        return
    name, operation = host.new_name(), host.begin("commit", session_id)
    stamp = TurnStamp(name, "content") if host.draws.below(2) else None
    if stamp is not None:
        host.journal = Journalled(session_id, name, operation)
    if host.draws.below(12) == 0:
        state.graph_replace_required = True
    host.commit_turn(operation, state, name, stamp)
    _keep(host, session_id, state, operation.told)
    if operation.told:
        host.journal = None


def _turn_again(host: Host, journal: Journalled) -> None:
    state = host.load(journal.session_id)
    if state is not None:
        host.commit_turn(journal.operation, state, journal.name, TurnStamp(journal.name, "content"))
        _keep(host, journal.session_id, state, journal.operation.told)
        if not journal.operation.told:
            return
    host.journal = None


def _keep(host: Host, session_id: str, state: PersistedSessionState, told: str) -> None:
    host.states.pop(session_id, None)
    if told == "done" and host.draws.below(3):
        host.states[session_id] = state


@role("creator", least=1, most=2, operations=3, lasts=0)
def create(host: Host) -> None:
    """Create a session that may exist already, or be somebody else's by now."""
    session_id = host.a_new_session()
    operation = host.begin("commit", session_id)
    host.commit_turn(operation, PersistedSessionState(session_id=session_id), host.new_name(), None)


@role("forker", least=1, most=3)
def fork_one(host: Host) -> None:
    """Fork a session, at its present or an older revision."""
    source, child = host.a_session(), host.a_new_session()
    revision = host.draws.pick((None, None, 1, 2, "p1"))
    operation = host.begin("commit", child)
    result = host.attempt(operation, lambda: fork(host.environment, ForkRequest(source, child, revision)))
    if result is not None:
        operation.revision, operation.commit_id = 1, result.commit_id


@role("rewinder", least=0, most=1)
def rewind(host: Host) -> None:
    """Go back to an earlier revision."""
    session_id, kind = host.a_session(), host.draws.pick((REWIND, RESTORE))
    revision = 1 + host.draws.below(4)
    operation = host.begin("commit", session_id)
    result = host.attempt(operation, lambda: go_back(host.environment, session_id, revision, kind=kind))
    if result is not None:
        host.done(operation, result)


@role("pruner", least=0, most=1)
def prune(host: Host) -> None:
    """Drop all but the last few revisions."""
    session_id, retention = host.a_session(), Retention(last=1 + host.draws.below(3))
    operation = host.begin("other", session_id)
    host.attempt(operation, lambda: execute_prune(plan_prune_on(host.environment, session_id, retention)))


@role("pinner", least=0, most=1)
def pin_one(host: Host) -> None:
    """Name a revision, or take a name away."""
    session_id, name = host.a_session(), host.draws.pick(("p1", "p2"))
    operation = host.begin("other", session_id)
    if host.draws.below(2):
        host.attempt(operation, lambda: unpin(host.environment, session_id, name))
        return
    revision = 1 + host.draws.below(3)
    host.attempt(operation, lambda: pin(host.environment, session_id, revision, name, expires_at=None))


@role("owner", least=0, most=2)
def own(host: Host) -> None:
    """Take a session over, commit turns under the fence, and let it go or not."""
    session_id = host.a_session()
    taking = host.begin("other", session_id)
    writer = host.attempt(taking, lambda: acquire(host.environment, session_id, host.name))
    if writer is None:
        return
    for _ in range(1 + host.draws.below(3)):
        if not _owned_turn(host, writer, session_id):
            break
    if host.draws.below(4):
        host.attempt(host.begin("other", session_id), writer.release)


def _owned_turn(host: Host, writer: Writer, session_id: str) -> bool:
    state = host.attempt(host.begin("other", session_id), lambda: writer.state)
    if state is None:
        return False
    name, operation = host.new_name(), host.begin("commit", session_id)
    operation.fence = writer.fence
    take_turn(state, name)
    host.commit(operation, state, lambda: writer.commit(state, TurnStamp(name)))
    return operation.told == "done"


@role("deleter", least=0, most=2, operations=3, lasts=0)
def delete_one(host: Host) -> None:
    """Delete a session."""
    session_id = host.a_session()
    operation = host.begin("delete", session_id)
    host.attempt(operation, lambda: delete(host.environment, session_id))


@role("reader", least=1, most=1)
def read(host: Host) -> None:
    """Read a session, at its present or an older revision."""
    session_id = host.a_session()
    if host.draws.below(2):
        host.load(session_id)
    else:
        host.load_older(session_id, 1 + host.draws.below(4))


@role("collector", least=1, most=2)
def collect(host: Host) -> None:
    """Collect as the command does."""
    operation = host.begin("other", "")
    batch_packs = host.draws.pick((1, 3, BATCH_PACKS))
    host.attempt(operation, lambda: execute_collection(plan_collection_on(host.environment), batch_packs=batch_packs))


@role("plain_collector", least=0, most=1)
def collect_plainly(host: Host) -> None:
    """Collect as the reference does."""
    operation = host.begin("other", "")
    host.attempt(operation, lambda: reference.collect(host.environment))
