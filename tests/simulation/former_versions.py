"""A store of the first schema version, and who upgrades it while others work there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from snapshots import PersistedSessionState, store_object
from snapshots.commit import commit
from snapshots.environment import Environment
from snapshots.fields import NEWEST_VERSION
from snapshots.fork import ForkRequest, fork
from snapshots.maintenance.upgrade import execute, plan_on
from snapshots.reading import head_at
from storage.clock import Clock
from storage.store import ObjectStore
from storage.testing.simulation import Actor
from tests.integration.builders import new_session, take_turn
from tests.simulation.protocol import LAYOUT, Protocol, Role, Start, environment_of, loaded_state


def of_version_1() -> Start:
    """Return a start with a session of two revisions, and a fork of it."""

    def begin(environment: Environment) -> Mapping[str, PersistedSessionState]:
        former = replace(environment, schema_version=1)
        store_object.make(former)
        state = new_session("s")
        for number in (1, 2):
            commit(former, take_turn(state, f"s{number}"), None, execution_state=None)
        fork(former, ForkRequest("s", "b"))
        return {"s": loaded_state(former, "s")}

    return Start.left_by(begin)


def upgrader() -> Role:
    """Return a role that upgrades the store."""

    def role(world: Protocol) -> Actor:  # noqa: ARG001  a role
        def act(store: ObjectStore, clock: Clock) -> None:
            environment = environment_of(store, clock)
            execute(plan_on(environment))
            for session_id in ("s", "b"):
                version = head_at(environment, LAYOUT.head(session_id)).head.schema_version
                assert version == NEWEST_VERSION, f"upgraded: the head of {session_id} has version {version}"

        return act

    return role
