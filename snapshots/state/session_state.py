"""`PersistedSessionState`: everything of a session that a commit stores and a load gives back.

Rules:
1. Of every pair of ref and snapshot the snapshot, if there is one, wins: it will be written as a new blob. Without one
   the ref is carried over. After a commit only refs remain.
2. `head_revision` (None: the session does not exist yet) and `graph_replace_required` belong to this process: they are
   never in the serialised form, so a state read from it can only create a session, not overwrite one.
3. Only a commit clears `graph_replace_required`.
4. A counter that tells what a ref holds (`tool_state_generation`, `plugin_snapshot_revision`) moves with an inline
   snapshot, and back when that is discarded: it never claims more than is stored or about to be.
5. A graph that replaces this state's graph is compared with it, so that the next commit writes what is missing.

    state = PersistedSessionState(session_id="s1")
    state.append_active_read_delta(messages, tool_calls)
    state.apply_persisted_commit_result(result)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self, overload

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, model_validator

from snapshots.state.appended import AppendedNodes, StaleBranch
from snapshots.state.envelope import DEFAULT_SESSION_ID, SessionReadView, SessionStateEnvelope
from snapshots.state.graph import LeafHealing, SessionGraph, SessionItem
from snapshots.state.ledger import CHILD_SOURCE, TokenLedgerEntry, ledger_with
from snapshots.state.messages import Message
from snapshots.state.modes import ModeTurnOptions
from snapshots.state.plugin_session import PluginFailure, PluginSession
from snapshots.state.plugins import PluginSessionSnapshot
from snapshots.state.policy import SessionPolicy
from snapshots.state.report import SessionUsageReport
from snapshots.state.result import CommitResult
from snapshots.state.tool_calls import ToolCallRecord
from snapshots.state.tools import ToolState
from snapshots.state.turn import PersistedTurnState
from snapshots.state.usage import ZERO_USAGE, PromptUsage, TokenUsage
from snapshots.state.values import U64, Bytes, Ref, omit_empty, omit_none

_ENVELOPE_FIELDS = tuple(SessionStateEnvelope.model_fields)
_CHANGEABLE = ("tool_state_snapshot", "plugin_snapshot", "mode_turn_options")  # frozen, but with dicts of others within
_LOCAL_FIELDS = frozenset({"head_revision", "graph_replace_required"})


class PersistedSessionState(BaseModel):
    """A session as stores, resumes and child sessions exchange it. Mutable; belongs to one thread.

    Attributes:
        session_id: Identity of the session.
        policy: The live, resolved policy.
        session_graph: All nodes of all branches, and the leaf.
        turn_index: Number of completed turns.
        token_usage: Occupation of the context window; not cost.
        last_prompt_usage: Usage of the last completed call.
        mode_turn_options: Options of the next turn, opaque but for their mode.
        tool_state_ref: Blob of the tool state.
        tool_state_generation: Generation of the tool state that the ref or the snapshot holds.
        tool_state_snapshot: A tool state not stored yet.
        plugin_snapshot_ref: Blob of the plugin snapshot.
        plugin_snapshot_revision: Fingerprint of the plugins that the ref or the snapshot holds.
        plugin_snapshot: A plugin snapshot not stored yet.
        execution_state_ref: Blob of the execution state, opaque bytes.
        execution_state_snapshot: An execution state not stored yet.
        token_ledger: Cost, one row per source and model.
        checkpoint_ref: The checkpoint of the revision this state was loaded from or committed as.
        head_revision: The revision last seen, None for a session that does not exist yet.
        graph_replace_required: Whether the next commit must write the whole graph.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    session_id: str = DEFAULT_SESSION_ID
    policy: SessionPolicy = Field(default_factory=SessionPolicy)
    session_graph: SessionGraph = Field(default_factory=SessionGraph)
    turn_index: U64 = 0
    token_usage: TokenUsage = ZERO_USAGE
    last_prompt_usage: PromptUsage | None = omit_none()
    mode_turn_options: ModeTurnOptions = Field(default_factory=ModeTurnOptions)
    tool_state_ref: Ref | None = omit_none()
    tool_state_generation: U64 | None = omit_none()
    tool_state_snapshot: ToolState | None = omit_none()
    plugin_snapshot_ref: Ref | None = omit_none()
    plugin_snapshot_revision: U64 | None = omit_none()
    plugin_snapshot: PluginSessionSnapshot | None = omit_none()
    execution_state_ref: Ref | None = omit_none()
    execution_state_snapshot: Bytes | None = omit_none()
    token_ledger: list[TokenLedgerEntry] = omit_empty(list)
    checkpoint_ref: Ref | None = omit_none()
    head_revision: U64 | None = Field(default=None, exclude=True)
    graph_replace_required: bool = Field(default=False, exclude=True)

    _base: object | None = PrivateAttr(default=None)  # what the last load or commit knows; set by the commit code
    _stored_counters: dict[str, int | None] = PrivateAttr(default_factory=dict)  # rule 4: what to go back to

    @model_validator(mode="before")
    @classmethod
    def _refuse_local_fields(cls, data: Any, info: ValidationInfo) -> Any:
        if info.mode == "json" and isinstance(data, Mapping) and (found := _LOCAL_FIELDS & data.keys()):
            raise ValueError(f"{', '.join(sorted(found))} never comes from a document")
        return data

    @classmethod
    def default(cls) -> PersistedSessionState:
        """Return the state of a new session with the id "root"."""
        return cls()

    @classmethod
    def from_state(cls, state: SessionStateEnvelope) -> PersistedSessionState:
        """Return a state with the content of an envelope and no past: no refs, no ledger, no revision.

        Committing it creates a session; it can never overwrite one.
        """
        fields = {name: getattr(state, name) for name in _ENVELOPE_FIELDS}
        return cls(**{**fields, "session_graph": state.session_graph.uncommitted_copy()})

    def copy(self) -> Self:  # type: ignore[override]  # a whole clone; pydantic's deprecated copy picks fields
        """Return an independent clone: its graph, lists and snapshots are its own, the nodes are shared."""
        clone = super().__copy__()
        clone.__dict__["session_graph"] = self.session_graph.copy()
        clone.__dict__["token_ledger"] = list(self.token_ledger)
        for name in _CHANGEABLE:
            clone.__dict__[name] = deepcopy(getattr(self, name))
        clone._stored_counters = dict(self._stored_counters)
        return clone

    def adopt(self, other: PersistedSessionState) -> None:
        """Become what `other` is, base and bookkeeping included; `other` stays independent."""
        clone = other.copy()
        self.__dict__.update(clone.__dict__)
        self._base = clone._base
        self._stored_counters = clone._stored_counters

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.copy()

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if isinstance(other, PersistedSessionState) else NotImplemented

    if not TYPE_CHECKING:  # a typed __setattr__ would let any attribute pass

        def __setattr__(self, name: str, value: Any) -> None:
            previous = self.__dict__.get("session_graph") if name == "session_graph" else None
            super().__setattr__(name, value)
            if previous is not None:
                self._take_over(previous)

    def _take_over(self, previous: SessionGraph) -> None:
        if self.session_graph is not previous:
            self.session_graph.continue_from(previous)  # Rule 5.

    def export_state(self) -> SessionStateEnvelope:
        """Return the seven fields as an envelope of its own."""
        return self._envelope(self.session_graph.copy())

    def _envelope(self, graph: SessionGraph) -> SessionStateEnvelope:
        fields = {name: getattr(self, name) for name in _ENVELOPE_FIELDS}
        return SessionStateEnvelope(**{**fields, "session_graph": graph})

    def apply_exported_state(self, state: SessionStateEnvelope) -> None:
        """Take the seven fields of an envelope over; refs, ledger, revision and flag stay."""
        for name in _ENVELOPE_FIELDS:
            value = getattr(state, name)
            setattr(self, name, value.copy() if isinstance(value, SessionGraph) else value)

    def replace_active_read_state(self, messages: Sequence[Message], tool_calls: Sequence[ToolCallRecord]) -> None:
        """Make the active path show exactly these; see `SessionGraph.replace_active_read_state`."""
        self.session_graph.replace_active_read_state(messages, tool_calls)

    def replace_active_tool_calls(self, tool_calls: Sequence[ToolCallRecord]) -> None:
        """Make the active path show exactly these tool calls; see `SessionGraph.replace_active_tool_calls`."""
        self.session_graph.replace_active_tool_calls(tool_calls)

    def append_active_read_delta(self, messages: Sequence[Message], tool_calls: Sequence[ToolCallRecord]) -> list[str]:
        """Append what is not shown yet; see `SessionGraph.append_active_read_delta`."""
        return self.session_graph.append_active_read_delta(messages, tool_calls)

    def append_active_conversation_messages(self, messages: Sequence[Message]) -> list[str]:
        """Append all messages; see `SessionGraph.append_active_conversation_messages`."""
        return self.session_graph.append_active_conversation_messages(messages)

    @overload
    def append_session_nodes(
        self, items: Iterable[SessionItem], *, requires_ancestor_node_id: None = None
    ) -> AppendedNodes: ...
    @overload
    def append_session_nodes(
        self, items: Iterable[SessionItem], *, requires_ancestor_node_id: str | None
    ) -> AppendedNodes | StaleBranch: ...
    def append_session_nodes(
        self, items: Iterable[SessionItem], *, requires_ancestor_node_id: str | None = None
    ) -> AppendedNodes | StaleBranch:
        """Heal the leaf if need be, then append the items in order; see `SessionGraph.append_session_nodes`.

        A stale branch changes nothing: the leaf is not healed either.
        """
        graph = self.session_graph
        if requires_ancestor_node_id is not None and not graph.active_path_contains(requires_ancestor_node_id):
            return StaleBranch(graph.leaf_node_id)
        self.normalize()
        return graph.append_session_nodes(items)

    def normalize(self) -> LeafHealing:
        """Heal an orphaned leaf; if there was one, the next commit writes the whole graph.

        Returns:
            What was done; `.report()` makes it a finding of a resume.
        """
        healing = self.session_graph.heal_orphaned_leaf()
        if healing:
            self.graph_replace_required = True
        return healing

    def read_view(self, *, leaf_node_id: str | None = None) -> SessionReadView:
        """Return an immutable view of the present content.

        Args:
            leaf_node_id: Look along the branch that ends at this node, None for the present leaf; the leaf of the state
                stays where it is.

        Raises:
            InvalidStateError: The path is damaged, or there is no such node, or it is tombstoned.
        """
        graph = self.session_graph
        if leaf_node_id is not None:
            graph = graph.copy()
            graph.branch_to(leaf_node_id)
        return self._envelope(graph).read_view()  # the view makes a copy of its own

    def turn_state(self) -> PersistedTurnState:
        """Return the fields that a completed turn leaves beside the graph."""
        return PersistedTurnState(
            turn_index=self.turn_index,
            token_usage=self.token_usage,
            last_prompt_usage=self.last_prompt_usage,
            mode_turn_options=self.mode_turn_options,
        )

    def usage_report(self) -> SessionUsageReport:
        """Return the account of the token ledger."""
        return SessionUsageReport.from_entries(self.token_ledger)

    def book_usage(self, entries: Iterable[TokenLedgerEntry], *, source: str = CHILD_SOURCE) -> None:
        """Add the usage of a child session to the ledger under `source`, each entry with its own model.

        Book what is new since the last booking (`diff_token_ledger`): an entry given twice is counted twice.

        Raises:
            InvalidStateError: The source is empty, a count is negative, or a sum leaves 64 bits; nothing was added.
        """
        self.token_ledger = ledger_with(self.token_ledger, entries, source=source)

    def stamp_runtime_state(self, tool_state: ToolState | None, plugin_snapshot: PluginSessionSnapshot | None) -> None:
        """Put these snapshots inline, None for none; the generation follows the tool state, the revision stays."""
        self.tool_state_snapshot = tool_state
        self._move_counter("tool_state_generation", None if tool_state is None else tool_state.generation)
        self.plugin_snapshot = plugin_snapshot

    def refresh_plugin_snapshots(self, plugins: PluginSession) -> tuple[PluginFailure, ...]:
        """Put tool state and plugin snapshot inline if they changed since the refs were written.

        A plugin that fails leaves plugin snapshot and revision as they were, so the next refresh tries again.

        Returns:
            The plugins that failed, empty if all went well.
        """
        generation = plugins.tools.generation
        if self.tool_state_ref is None or self.tool_state_generation != generation:
            self.tool_state_snapshot = plugins.tools.export_state()
            self._move_counter("tool_state_generation", generation)
        fingerprint = plugins.snapshot_revision_fingerprint()
        if self.plugin_snapshot_ref is not None and self.plugin_snapshot_revision == fingerprint:
            return ()
        snapshot, failures = plugins.try_snapshot()
        if snapshot is not None:
            self.plugin_snapshot = snapshot
            self._move_counter("plugin_snapshot_revision", fingerprint)
        return failures

    def set_execution_state_snapshot(self, execution_state_snapshot: bytes | None) -> None:
        """Put an execution state inline; None deletes it, ref included."""
        self.execution_state_snapshot = execution_state_snapshot
        if execution_state_snapshot is None:
            self.execution_state_ref = None

    def discard_runtime_snapshots(self) -> None:
        """Drop the three inline snapshots; the refs stay, and the counters tell again what they hold."""
        self._drop_snapshots()
        for name, value in self._stored_counters.items():
            setattr(self, name, value)
        self._stored_counters.clear()

    def apply_persisted_commit_result(self, result: CommitResult) -> None:
        """Take note of an applied commit: revision and refs are its, nothing is inline, the graph is committed."""
        manifest = result.manifest
        self.head_revision = result.head_revision
        self.checkpoint_ref = result.checkpoint_ref
        if self.tool_state_snapshot is not None:
            self.tool_state_generation = self.tool_state_snapshot.generation
        elif manifest.tool_state_ref is None:
            self.tool_state_generation = None
        self.tool_state_ref = manifest.tool_state_ref
        self.plugin_snapshot_ref = manifest.plugin_snapshot_ref
        self.plugin_snapshot_revision = manifest.plugin_snapshot_revision
        self.execution_state_ref = manifest.execution_state_ref
        self._drop_snapshots()
        self._stored_counters.clear()
        self.graph_replace_required = False
        self.session_graph.mark_committed()

    def _drop_snapshots(self) -> None:
        self.tool_state_snapshot = None
        self.plugin_snapshot = None
        self.execution_state_snapshot = None

    def _move_counter(self, name: str, value: int | None) -> None:
        self._stored_counters.setdefault(name, getattr(self, name))
        setattr(self, name, value)
