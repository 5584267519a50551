"""Child sessions: where they start from.

Rules:
1. What is stored here already is referenced: a child that starts from a revision is a fork.
2. What comes from elsewhere, or was changed since, is uploaded as a session of its own family.
3. A child begins with an empty ledger; book its usage in the parent's with `PersistedSessionState.book_usage`.

    result = start_child(environment, "s1", ChildRequest(start=EmptyStart()))
"""

from __future__ import annotations

from dataclasses import dataclass

from snapshots.base import base_for
from snapshots.commit import commit, has_changes
from snapshots.environment import Environment
from snapshots.errors import FencedError, InvalidStateError, RevisionConflictError, SessionExistsError
from snapshots.fork import ForkRequest, ForkResult, InitialNodes, check_child, fork
from snapshots.overrides import FRESH, INHERIT
from snapshots.restore import load
from snapshots.state import (
    ChildRelation,
    PersistedSessionState,
    SessionPolicy,
    SessionRelation,
    relation_parent,
)


@dataclass(frozen=True, slots=True)
class EmptyStart:
    """Nothing but a policy: the request's, or the parent's."""


@dataclass(frozen=True, slots=True)
class CurrentStart:
    """A revision of the parent, the present one for None."""

    revision: int | str | None = None


@dataclass(frozen=True, slots=True)
class ExistingStart:
    """A revision of another session, the present one for None."""

    session_id: str
    revision: int | str | None = None


@dataclass(frozen=True, slots=True)
class SnapshotStart:
    """A given state; referenced while it is a revision stored here, uploaded otherwise (rules 1 and 2)."""

    state: PersistedSessionState


Start = EmptyStart | CurrentStart | ExistingStart | SnapshotStart


@dataclass(frozen=True, slots=True)
class ChildRequest:
    """What child session to start.

    Attributes:
        start: Where from.
        child: Its id, None for a new one.
        relation: None for a child of the parent.
        plugins: "inherit", or "fresh": without the plugin snapshot.
        policy: None for that of the starting point; of the parent for an empty one.
        initial_nodes: Appended to its graph.
    """

    start: Start = CurrentStart()
    child: str | None = None
    relation: SessionRelation | None = None
    plugins: str = INHERIT
    policy: SessionPolicy | None = None
    initial_nodes: InitialNodes = ()


def start_child(environment: Environment, parent: str, request: ChildRequest) -> ForkResult:
    """Start a child session; see `SnapshotRepository.start_child`."""
    child = environment.clock.new_id() if request.child is None else request.child
    if child == parent:
        raise SessionExistsError(child)
    start, relation = request.start, request.relation or ChildRelation(parent_session_id=parent)
    check_child(child, relation, request.plugins, request.initial_nodes)
    if not isinstance(start, EmptyStart | CurrentStart | ExistingStart | SnapshotStart):
        raise InvalidStateError(f"start={start!r:.80} is no starting point; see snapshots.children")
    if isinstance(start, SnapshotStart) and not has_changes(environment, start.state):  # Rule 1.
        start = ExistingStart(start.state.session_id, start.state.head_revision)
    if isinstance(start, EmptyStart):
        return _created(environment, child, _empty(environment, parent), relation, request)
    if isinstance(start, SnapshotStart):
        return _created(environment, child, _detached(environment, start.state), relation, request)
    source = parent if isinstance(start, CurrentStart) else start.session_id
    return fork(
        environment,
        ForkRequest(source, child, start.revision, relation, request.plugins, request.policy, request.initial_nodes),
    )


def _empty(environment: Environment, parent: str) -> PersistedSessionState:
    policy = load(environment, parent, revision=None, execution_state=False).state.policy
    return PersistedSessionState(policy=policy)


def _detached(environment: Environment, state: PersistedSessionState) -> PersistedSessionState:
    """Return a state with the content of `state`, all of it inline, and without a past (rule 2)."""
    state = _filled(environment, state)
    fresh = PersistedSessionState.from_state(state.export_state())
    fresh.stamp_runtime_state(state.tool_state_snapshot, state.plugin_snapshot)
    fresh.plugin_snapshot_revision = state.plugin_snapshot_revision
    fresh.execution_state_snapshot = state.execution_state_snapshot
    return fresh


def _filled(environment: Environment, state: PersistedSessionState) -> PersistedSessionState:
    """Return a copy whose parts are inline, read from here where they are only named."""
    filled = state.copy()
    pairs = (
        ("tool_state_snapshot", "tool_state_ref"),
        ("plugin_snapshot", "plugin_snapshot_ref"),
        ("execution_state_snapshot", "execution_state_ref"),
    )
    wanted = [(part, ref) for part, ref in pairs if getattr(state, part) is None and getattr(state, ref) is not None]
    if not wanted:
        return filled
    base = base_for(state, environment.home)
    if base is None:
        raise InvalidStateError(
            f"{wanted[0][1]} names a blob of another store; load the state there with execution_state=True, "
            "so that all parts are inline"
        )
    stored = load(environment, state.session_id, revision=base.revision, execution_state=True).state
    for part, _ in wanted:
        setattr(filled, part, getattr(stored, part))
    return filled


def _created(
    environment: Environment,
    child: str,
    state: PersistedSessionState,
    relation: SessionRelation,
    request: ChildRequest,
) -> ForkResult:
    state.session_id = child
    policy = request.policy or state.policy
    if relation_parent(relation) is not None:
        policy = policy.model_copy(update={"session_id": child})
    state.policy = policy
    if request.plugins == FRESH:
        state.plugin_snapshot = state.plugin_snapshot_revision = None
    state.append_session_nodes(request.initial_nodes)
    try:
        result = commit(environment, state, None, execution_state=None, relation=relation)
    except (RevisionConflictError, FencedError) as error:
        raise SessionExistsError(child) from error
    return ForkResult(
        session_id=child,
        head_revision=result.head_revision,
        checkpoint_ref=result.checkpoint_ref,
        commit_id=result.commit_id,
        origin=None,
        uploaded_bytes=result.uploaded_bytes,
        requests=result.requests,
    )
