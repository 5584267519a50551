"""Worlds in which little is left lying apart: small commits in the head's tail, and packs that are merged.

What they begin with, and actors that other worlds have no use for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import shake_128

from snapshots import PersistedSessionState
from snapshots.commit import commit
from snapshots.compaction import Limits
from snapshots.environment import Environment
from snapshots.fork import ForkRequest, fork
from snapshots.layout import Layout
from snapshots.maintenance.prune import execute, plan_on
from snapshots.maintenance.retention import Retention
from snapshots.pinning import pin
from snapshots.restore import load
from storage.clock import Clock
from storage.store import ObjectStore
from storage.testing.simulation import Actor
from tests.integration.builders import message, new_session, take_turn
from tests.simulation.protocol import (
    APART,
    LAYOUT,
    MERGED,
    Commit,
    Protocol,
    Role,
    Start,
    environment_of,
    loaded_state,
    noted_commit,
)

IN_HEAD = Limits(tail_pack_bytes=2048, tail_bytes=2048)  # two small commits lie in the head, the third is a pack
MERGED_LESS = replace(MERGED, packs=3, large_packs=3)
FEW = replace(MERGED, tail_pack_bytes=IN_HEAD.tail_pack_bytes, tail_bytes=IN_HEAD.tail_bytes)
LARGE_BYTES = 3000  # of a turn that is not

# Starts.


def in_head() -> Start:
    """Return a start with a session of two revisions, the second in its head."""
    return Start.left_by(lambda environment: {"s": _small(environment)})


def fork_in_head() -> Start:
    """Return a start with a session of one revision, in its head, and a fork of it."""

    def begin(environment: Environment) -> Mapping[str, PersistedSessionState]:
        small = replace(environment, limits=IN_HEAD)
        commit(small, take_turn(new_session("s"), "s1"), None, execution_state=None)
        fork(small, ForkRequest("s", "c"))
        return {session_id: loaded_state(small, session_id) for session_id in ("s", "c")}

    return Start.left_by(begin)


def several_packs(*, pinned: int = 0) -> Start:
    """Return a start with a session of a large pack and two small ones, still at hand, and a pin or none."""

    def begin(environment: Environment) -> Mapping[str, PersistedSessionState]:
        state = _large_turn(new_session("s"), "s1")
        commit(environment, state, None, execution_state=None)
        commit(environment, take_turn(state, "s2"), None, execution_state=None)
        if pinned:
            pin(environment, "s", pinned, "pinned", expires_at=None)
        commit(environment, take_turn(state, "s3"), None, execution_state=None)
        return {"s": state}

    return Start.left_by(begin)


def _small(environment: Environment) -> PersistedSessionState:
    state = new_session("s")
    for name, limits in (("s1", APART), ("s2", IN_HEAD)):
        commit(replace(environment, limits=limits), take_turn(state, name), None, execution_state=None)
    return state


def _large_turn(state: PersistedSessionState, name: str) -> PersistedSessionState:
    text = shake_128(name.encode()).hexdigest(LARGE_BYTES // 2)
    state.append_active_read_delta([*state.read_view().messages, message(name, text)], [])
    return state


def two_large_packs() -> Start:
    """Return a start with a session of two large packs, still at hand."""

    def begin(environment: Environment) -> Mapping[str, PersistedSessionState]:
        state = new_session("s")
        for name in ("s1", "s2"):
            commit(environment, _large_turn(state, name), None, execution_state=None)
        return {"s": state}

    return Start.left_by(begin)


# Actors.


def reader(session_id: str, revision: int) -> Role:
    """Return a role that loads a revision of the start."""

    def role(world: Protocol) -> Actor:
        expected = world.start.refs[session_id, revision]

        def act(store: ObjectStore, clock: Clock) -> None:
            state = load(environment_of(store, clock), session_id, revision=revision, execution_state=True).state
            assert state.checkpoint_ref == expected, f"revisions stay: {revision} of {session_id} was read as another"

        return act

    return role


def pruner(session_id: str, layout: Layout = LAYOUT) -> Role:
    """Return a role that keeps the present revision and those with a pin."""

    def role(world: Protocol) -> Actor:  # noqa: ARG001  a role
        def act(store: ObjectStore, clock: Clock) -> None:
            execute(plan_on(environment_of(store, clock, layout=layout), session_id, Retention(last=1)))

        return act

    return role


def merger(name: str, session_id: str) -> Role:
    """Return a role that carries two large packs, and then all of that in another one, with a large one between."""

    def role(world: Protocol) -> Actor:
        notes = world.commits[name] = Commit(session_id)

        def act(store: ObjectStore, clock: Clock) -> None:
            state = world.start.states[session_id].copy()
            for number, turn in enumerate((take_turn, _large_turn, take_turn)):
                noted_commit(environment_of(store, clock, MERGED), turn(state, f"{name}{number}"), notes)

        return act

    return role


def replacer(name: str, session_id: str) -> Role:
    """Return a role that commits the graph afresh into the head's tail, and then a turn that carries it."""

    def role(world: Protocol) -> Actor:
        notes = world.commits[name] = Commit(session_id)

        def act(store: ObjectStore, clock: Clock) -> None:
            state = world.start.states[session_id].copy()
            for number, limits in enumerate((IN_HEAD, APART)):
                take_turn(state, f"{name}{number}")
                state.graph_replace_required = number == 0
                noted_commit(environment_of(store, clock, limits), state, notes)

        return act

    return role
