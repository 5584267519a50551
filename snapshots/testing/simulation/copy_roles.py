"""Roles of hosts that copy sessions into a second tenant of the same store, and of others that work there.

Rules:
1. What a copier is told is noted (`CopyTold`); whatever a crash cuts off counts as unknown.
2. Few sessions are committed to, pruned or deleted in the copy: those are noted beforehand, and have conflicts.
3. Copies are made of many packs, so that they are staged; larger packs are read while they are written.

import snapshots.testing.simulation.copy_roles   # registers them
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from snapshots.base import Tracking, track
from snapshots.delete import delete
from snapshots.environment import Environment
from snapshots.errors import CopyConflictError
from snapshots.maintenance.collect import BATCH_PACKS, execute, plan_on
from snapshots.maintenance.copy import session
from snapshots.maintenance.copy.session import SessionCopied, SessionJob, copy_session
from snapshots.maintenance.copy.survey import PRESENT_ONLY, WHOLE
from snapshots.maintenance.prune import execute as execute_prune
from snapshots.maintenance.prune import plan_on as plan_prune_on
from snapshots.maintenance.retention import Retention
from snapshots.reading import read_live_head
from snapshots.restore import load
from snapshots.state import PersistedSessionState
from snapshots.testing.simulation.hosts import CopyTold, Host, environment_in
from snapshots.testing.simulation.roles import COPY_ROLES, role
from snapshots.testing.simulation.watch import COPIES
from storage import pack_copies

ATTEMPTS = 3  # of a copy in doubt
CHANGED = 2  # the sessions copied first
PIECES = (  # one pack or two of a small session go into one; those with much execution state are large
    (session, "PACK_BYTES", 600),
    (session, "WHOLE_BYTES_MAX", 1500),
    (pack_copies, "WHOLE_BYTES_MAX", 1500),
)


@contextmanager
def copied_in_pieces() -> Iterator[None]:
    """Let copies be of many packs, and larger packs be read while they are written (rule 3)."""
    with ExitStack() as kept:
        for module, name, size_bytes in PIECES:
            kept.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, size_bytes)
        yield


def _here(host: Host) -> Environment:
    return environment_in(host.environment, COPIES)


@role("copier", least=1, most=2, operations=6, among=COPY_ROLES)
def copy(host: Host) -> None:
    """Copy a session, whole or its present revision alone, again while that is in doubt."""
    session_id = host.a_session()
    reading = host.begin("read", session_id)
    read = host.attempt(reading, lambda: read_live_head(host.environment, session_id))
    if read is None:
        return
    reading.revision = read.head.revision
    origin = read.head.origin
    relatives = () if origin is None else (origin.session_id, read.head.family)
    history = PRESENT_ONLY if host.draws.below(6) == 0 else WHOLE
    if history == PRESENT_ONLY:
        host.copies.partial.add(session_id)
    for _ in range(1 + host.draws.below(ATTEMPTS)):
        if _copied(host, SessionJob(session_id, history=history, relatives=relatives)):
            return


def _copied(host: Host, job: SessionJob) -> bool:
    """Copy once, and note what was told; say whether that is certain."""
    operation = host.begin("other", "")
    told = CopyTold(operation, job.session_id)
    host.copies.told.append(told)

    def act() -> SessionCopied:
        try:
            return copy_session(host.environment, _here(host), job)
        except CopyConflictError:
            told.is_conflict = True
            raise

    copied = host.attempt(operation, act)
    if copied is not None:
        told.revision = copied.revision
    return bool(operation.told)


@role("copies_collector", least=1, most=1, among=COPY_ROLES)
def collect_copies(host: Host) -> None:
    """Collect among the copies."""
    batch_packs = host.draws.pick((1, BATCH_PACKS))
    host.attempt(host.begin("other", ""), lambda: execute(plan_on(_here(host)), batch_packs=batch_packs))


@role("copies_writer", least=0, most=1, among=COPY_ROLES)
def change_copy(host: Host) -> None:
    """Commit a turn to a copy; prune or delete it now and then (rule 2)."""
    if not host.copies.live:
        copy(host)
        return
    session_id, step, here = host.draws.pick(host.copies.live[:CHANGED]), host.draws.below(12), _here(host)
    if step < 4:
        host.copies.partial.add(session_id)
        operation, retention = host.begin("other", session_id, COPIES), Retention(last=1 + host.draws.below(2))
        host.attempt(operation, lambda: execute_prune(plan_prune_on(here, session_id, retention)))
        return
    host.copies.changed.add(session_id)
    if step == 4:
        host.attempt(host.begin("delete", session_id, COPIES), lambda: delete(here, session_id))
        return
    state = _load_copy(host, here, session_id)
    if state is not None:
        operation = host.begin("commit", session_id, COPIES)
        host.commit_turn(operation, state, host.new_name(), None, here)


def _load_copy(host: Host, here: Environment, session_id: str) -> PersistedSessionState | None:
    operation = host.begin("read", session_id, COPIES)
    loaded = host.attempt(operation, lambda: load(here, session_id, revision=None, execution_state=True))
    if loaded is None:
        return None
    track(loaded.state, Tracking(loaded.base))
    operation.revision = loaded.base.revision
    return loaded.state
