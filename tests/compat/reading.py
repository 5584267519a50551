"""What is read from a golden store, as plain data: what a later version has to read from it too.

Rules:
1. Short things stand there as they are, so that a difference tells what changed; long ones as their digest.
2. Of values of ours what is left at its default stays out: a field that a later version adds is no difference.
3. Time stands still: a pin or lease that has not expired here never does.

    read(root, at=READ_AT, names=NAMES, tenants=TENANTS)["tenants"]["default"]["sessions"]["talk"]["revision"]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.errors import SnapshotError
from snapshots.head import LIVE, RESERVED
from snapshots.portable import SessionService
from snapshots.reading import head_at
from snapshots.realtime import PrivacyClass, load_realtime, subscribe
from snapshots.records import SessionRecords
from snapshots.roots import named_keys
from snapshots.runtime import RuntimeSessionStore
from snapshots.sessions import RevisionInfo, SessionInfo
from snapshots.state import TokenUsage
from snapshots.turns import TurnRecord
from snapshots.usage import UsageLog, usage_report
from storage.backends.local import LocalStore
from storage.digest import BlobRef, digest
from storage.executor import InlineExecutor
from storage.leases import Lease
from storage.testing.clock import ManualClock

Plain = dict[str, Any]


def opened(root: Path, at: datetime, tenant: str = "default", *, seed: int = 99) -> SnapshotRepository:
    """Return a repository on an extracted store, where time stands still, and everything is done in order."""
    clock = ManualClock(at, seed=seed)
    repo = SnapshotRepository(LocalStore(root, clock=clock), tenant=tenant, create=False, clock=clock)
    repo._environment = replace(repo.environment, executor=InlineExecutor())
    return repo


def read(root: Path, *, at: datetime, names: Mapping[str, Sequence[str]], tenants: Sequence[str]) -> Plain:
    """Return everything that is read from a store.

    Args:
        root: The store.
        at: When it is read.
        names: What lies beside the heads and is not listed, by kind.
        tenants: Whose sessions; what lies beside them is the first one's.
    """
    found: Plain = {"read_at": at.isoformat(), "tenants": {}}
    for tenant in tenants:
        with opened(root, at, tenant) as repo:
            found["tenants"][tenant] = {"sessions": sessions_of(repo)}
            if tenant == tenants[0]:
                found |= beside_of(repo, names)
    return json_of(found)


def sessions_of(repo: SnapshotRepository) -> Plain:
    """Return what is read of the sessions of one tenant."""
    return {info.session_id: _session(repo, info) for info in repo.sessions()}


def beside_of(repo: SnapshotRepository, names: Mapping[str, Sequence[str]]) -> Plain:
    """Return what is read of what lies beside the sessions of one tenant."""
    beside = {kind: {name: READERS[kind](repo, name) for name in sorted(some)} for kind, some in names.items()}
    return {"beside": beside, "records": {one.session_id: _plain(one) for one in SessionRecords(repo).list()}}


def json_of(found: Plain) -> Plain:
    """Return plain data as it comes back from JSON."""
    again: Plain = json.loads(json.dumps(found))
    return again


def names_in(golden: Plain) -> dict[str, list[str]]:
    """Return the names of what lies beside the heads."""
    return {kind: list(some) for kind, some in golden["beside"].items()}


def _plain(value: BaseModel) -> Any:
    return value.model_dump(mode="json", exclude_defaults=True)  # rule 2


def _digest(value: Any) -> str:
    return str(digest(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()))


# Sessions.


def _session(repo: SnapshotRepository, info: SessionInfo) -> Plain:
    origin = info.origin
    found: Plain = {
        "status": info.status,
        "revision": info.revision,
        "family": info.family,
        "created_at": info.created_at.isoformat(),
        "updated_at": info.updated_at.isoformat(),
        "holder": info.holder,
        "fence": info.fence,
        "origin": origin and [origin.session_id, origin.revision, _ref(origin.checkpoint_ref)],
        "relation": [info.relation.kind, _plain(info.relation)],
        "pins": {pin.name: [pin.revision, pin.expires_at and pin.expires_at.isoformat()] for pin in info.pins},
    }
    if info.status == RESERVED:
        found |= _staged(repo, info.session_id)
    if info.status != LIVE:
        return {**found, "load": _refusal(partial(repo.load, info.session_id))}
    history = repo.history(info.session_id)
    retained = [row.revision for row in history if row.retained]
    dropped = [row.revision for row in history if not row.retained]
    return {
        **found,
        "history": [_row(row) for row in history],
        "revisions": {str(number): _revision(repo, info.session_id, number) for number in retained},
        "dropped": {str(number): _refusal(partial(repo.load, info.session_id, number)) for number in dropped},
        "by_pin": {pin.name: _by_name(repo, info.session_id, pin.name) for pin in info.pins},
    }


def _staged(repo: SnapshotRepository, session_id: str) -> Plain:
    """Return what a reservation names, and how much of it is there (rule 2: nothing for nothing)."""
    environment = repo.environment
    head = head_at(environment, environment.layout.head(session_id)).head
    if head.staged is None:
        return {}
    named, there = named_keys(environment, head), environment.store.list(environment.layout.family(head.staged.family))
    return {
        "epoch": head.epoch,
        "staged": [head.staged.family, head.staged.epoch, *head.staged.names],
        "there": len(named.intersection(row.key for row in there)),
    }


def _ref(ref: BlobRef | None) -> list[Any] | None:
    return None if ref is None else [ref.digest, ref.size_bytes]


def _refusal(load: Callable[[], object]) -> str:
    """Return the name of the error that says why it cannot be loaded."""
    try:
        load()
    except SnapshotError as error:
        return type(error).__name__
    raise AssertionError("what is not there was loaded")


def _by_name(repo: SnapshotRepository, session_id: str, name: str) -> int | str | None:
    try:
        return repo.load(session_id, name).head_revision
    except SnapshotError as error:
        return type(error).__name__


def _row(row: RevisionInfo) -> list[Any]:
    when = row.created_at.isoformat()
    return [row.revision, row.parent, row.kind, row.commit_id, when, row.turn, row.node_count, _usage(row.usage)]


def _usage(usage: TokenUsage) -> list[int]:
    return [usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.reasoning_tokens]


def _revision(repo: SnapshotRepository, session_id: str, number: int) -> Plain:
    state = repo.load(session_id, number)
    assert state.head_revision == number
    graph, messages = state.session_graph, state.read_view().messages
    tools, plugins = state.tool_state_snapshot, state.plugin_snapshot
    return {
        "checkpoint_ref": _ref(state.checkpoint_ref),
        "execution_state": state.execution_state_ref and _execution_state(repo, state),
        "nodes": len(graph.nodes),
        "graph": _digest(graph.to_plain()),
        "leaf": graph.leaf_node_id,
        "tombstones": list(graph.tombstoned_node_ids),
        "messages": len(messages),
        "message_ids": " ".join(one.id.replace(" ", "_") for one in messages),
        "ledger": [[one.source, one.model, *_usage(one.usage)] for one in state.token_ledger],
        "policy": _plain(state.policy),
        "turn_index": state.turn_index,
        "mode_turn_options": _plain(state.mode_turn_options),
        "tool_state": tools and _digest(_plain(tools)),
        "plugin_snapshot": plugins and _digest(_plain(plugins)),
    }


def _execution_state(repo: SnapshotRepository, state: PersistedSessionState) -> list[Any]:
    """Return size and digest, of what is read at once and of what is read as a stream."""
    data = repo.read_execution_state(state)
    with repo.open_execution_state(state) as stream:
        assert stream.read() == data
    return [len(data), digest(data)]


# Beside the sessions.


def _turn(repo: SnapshotRepository, name: str) -> Plain:
    key = repo.environment.layout.turns(name)
    record = TurnRecord.decode(repo.environment.store.get(key).data, key=key)
    return {
        "turn_id": record.turn_id,
        "begun_on": record.begun_on,
        "fence": record.fence,
        "checkpoint": record.checkpoint.decode(),
        "effects": {key: [one.content_hash, one.result.decode()] for key, one in record.effects.items()},
    }


def _lease(repo: SnapshotRepository, name: str) -> list[Any]:
    found = repo.read_lease(name)
    return [found.fence, *([found.owner, found.expires_at.isoformat()] if isinstance(found, Lease) else [])]


def _portable(repo: SnapshotRepository, name: str) -> Plain:
    return SessionService(repo).export_session(name)


def _usage_log(repo: SnapshotRepository, name: str) -> Plain:
    rows = list(UsageLog(repo, name).read())
    total = usage_report((row.record for row in rows), by="model").total
    return {"rows": [row.text for row in rows], "tokens": total.tokens, "calls": total.calls}


def _runtime(repo: SnapshotRepository, name: str) -> Plain:
    session: Plain = _plain(RuntimeSessionStore(repo).load_runtime_session(name))
    return session


def _realtime(repo: SnapshotRepository, name: str) -> Plain:
    progress = load_realtime(repo, name)
    records = subscribe(repo, name, privacy=PrivacyClass.SECRET).new()
    return {
        "sequence": progress.sequence,
        "recorded_at": progress.recorded_at,
        "run_id": progress.run_id,
        "agent_id": progress.agent_id,
        "state": _plain(progress.state),
        "queue": [[kept.sequence, _plain(kept.frame)] for kept in progress.queue],
        "in_doubt": [[kept.sequence, _plain(kept.frame)] for kept in progress.in_doubt],
        "open_output": progress.open_output,
        "records": [_plain(record) for record in records],
    }


READERS: Mapping[str, Callable[[SnapshotRepository, str], Any]] = {
    "turns": _turn,
    "leases": _lease,
    "portable": _portable,
    "usage": _usage_log,
    "runtime": _runtime,
    "realtime": _realtime,
}
