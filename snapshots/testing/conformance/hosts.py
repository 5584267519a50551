"""Two hosts at one place, and what the conformance of sessions does with them.

check_every_revision(hosts.b)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import pytest

from snapshots import (
    Message,
    Part,
    PersistedSessionState,
    PluginSessionSnapshot,
    SessionInfo,
    SessionPolicy,
    SnapshotRepository,
    TokenLedgerEntry,
    TokenUsage,
    ToolState,
)
from snapshots.state import (
    ModeTurnOptions,
    PluginArtifact,
    PluginSnapshot,
    PluginSnapshotMeta,
    PromptUsage,
    ToolEntry,
    ToolManifest,
)
from storage.clock import Clock
from storage.testing.clock import ManualClock

SESSION = "s1"
TTL_SECONDS = 30.0
LATER_TURNS = 30  # so many that packs are merged, and the present revision needs no longer all that older ones do
ROUNDS = 3  # of races, each in a session of its own
EXECUTION_STATE = bytes(range(256)) * 200
SPENT = TokenUsage(input_tokens=10, output_tokens=2, cached_input_tokens=3, reasoning_tokens=1)
CACHED_ONLY = TokenUsage(cached_input_tokens=7)
# What a commit changes in a state, and what belongs to its process.
STORED_AS = frozenset({"tool_state_ref", "plugin_snapshot_ref", "execution_state_ref", "checkpoint_ref"})
PROCESS_OWN = frozenset({"head_revision", "graph_replace_required"})

OpenRepository = Callable[[Clock], SnapshotRepository]
E = TypeVar("E", bound=Exception)
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Hosts:
    """Two hosts at one place, and the clock by which both go."""

    a: SnapshotRepository
    b: SnapshotRepository
    clock: ManualClock


def message(message_id: str) -> Message:
    """Return a user's message with a text of its own; appended, its node has its id."""
    part = Part(id=f"{message_id}.p0", kind="Text", content=f"text of {message_id}")
    return Message(id=message_id, role="User", parts=(part,))


def take_turn(state: PersistedSessionState, name: str) -> PersistedSessionState:
    """Add a message called `name`, a turn and its cost to `state`; return it."""
    state.append_active_read_delta([message(name)], [])
    state.turn_index += 1
    state.token_usage = state.token_usage.add(SPENT)
    state.book_usage([TokenLedgerEntry(source="turn", model="m1", usage=SPENT)], source="turn")
    return state


def new_session(session_id: str = SESSION, *turns: str) -> PersistedSessionState:
    """Return a session that was never committed, with these turns."""
    state = PersistedSessionState(session_id=session_id)
    for name in turns:
        take_turn(state, name)
    return state


def unlike_any(turn: int) -> bytes:
    """Return an execution state that has nothing in common with another one, too large to lie in a head."""
    return hashlib.shake_256(turn.to_bytes(8, "big")).digest(20_000)


def full_session(session_id: str = SESSION, *turns: str) -> PersistedSessionState:
    """Return a session that was never committed, with something in every field."""
    state = new_session(session_id, *turns)
    state.policy = SessionPolicy(model="m1", session_id=session_id, max_turns=40)
    state.last_prompt_usage = PromptUsage(
        prompt_context_tokens=13, input_tokens=10, cached_input_tokens=3, context_budget_tokens=15
    )
    state.mode_turn_options = ModeTurnOptions(mode_id="standard", payload={"depth": 2})
    state.book_usage([TokenLedgerEntry(source="observer", model="m2", usage=CACHED_ONLY)], source="observer")
    tool = ToolEntry(manifest=ToolManifest(id="t1", name="read", description="reads"), source_id="core")
    meta = PluginSnapshotMeta(plugin_id="p", plugin_version="1", revision=3, state={"seen": [1, 2]})
    plugin = PluginSnapshot(meta=meta, artifacts=(PluginArtifact(name="index", data=b"\x00\xff" * 50),))
    state.stamp_runtime_state(
        ToolState(generation=4, tools={"read": tool}), PluginSessionSnapshot(plugins={"p": plugin})
    )
    state.plugin_snapshot_revision = 3
    state.execution_state_snapshot = EXECUTION_STATE
    return state


def branched_session(session_id: str = SESSION) -> PersistedSessionState:
    """Return a session of four nodes: root ─ left, and root ─ right ─ tip, which is the leaf."""
    state = PersistedSessionState(session_id=session_id)
    state.append_session_nodes([message("root"), message("left")])
    state.session_graph.branch_to("root")
    state.append_session_nodes([message("right"), message("tip")])
    return state


def message_ids(state: PersistedSessionState, *, leaf_node_id: str | None = None) -> list[str]:
    """Return the ids of the messages that a reader sees, oldest first."""
    return [one.id for one in state.read_view(leaf_node_id=leaf_node_id).messages]


def info_of(repo: SnapshotRepository, session_id: str = SESSION) -> SessionInfo:
    """Return what the listing says of a session."""
    (found,) = [one for one in repo.sessions() if one.session_id == session_id]
    return found


def check_same_content(found: PersistedSessionState, expected: PersistedSessionState) -> None:
    """Check that a state loaded whole shows what another showed before it was committed."""
    for name in PersistedSessionState.model_fields.keys() - STORED_AS - PROCESS_OWN:
        assert getattr(found, name) == getattr(expected, name), name


def check_every_revision(repo: SnapshotRepository, session_id: str = SESSION) -> None:
    """Check that revisions rise by one, no commit is there twice, and every revision loads as it was."""
    rows = repo.history(session_id)
    assert [row.revision for row in rows] == list(range(1, len(rows) + 1))
    assert len({row.commit_id for row in rows}) == len(rows)
    for row in rows:
        state = repo.load(session_id, row.revision, execution_state=True)
        assert (state.head_revision, len(state.session_graph.nodes)) == (row.revision, row.node_count)


def refusal(kind: type[E], act: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> E:
    """Return the error with which `act` must fail."""
    with pytest.raises(kind) as caught:
        act(*args, **kwargs)
    return caught.value


class OnTwoHosts:
    """The fixtures that all tests use."""

    @pytest.fixture
    def hosts(self, open_repository: OpenRepository) -> Iterator[Hosts]:
        """Give two hosts at an empty place."""
        clock = ManualClock(seed=1)
        with open_repository(clock) as a, open_repository(clock) as b:
            yield Hosts(a, b, clock)
