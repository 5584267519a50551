"""The part of a session that its readers see: an envelope to hand over, and an immutable view to read from.

Rules:
1. An envelope holds seven fields and nothing of storage: no refs, no revision, no ledger.
2. A view is a snapshot: later changes of the graph do not show in it. Its tree and projection are worked out when
   first asked for.
3. Reading and changing an envelope's graph never touches `graph_replace_required`; only a commit does.

    envelope = state.export_state()
    envelope.append_active_read_delta(messages, tool_calls)
    state.apply_exported_state(envelope)
    [message.search_text() for message in state.read_view().messages]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import Field

from snapshots.state.graph import SessionGraph
from snapshots.state.message_tree import MessageTree
from snapshots.state.messages import Message
from snapshots.state.modes import ModeTurnOptions
from snapshots.state.nodes import SessionEvent
from snapshots.state.policy import SessionPolicy
from snapshots.state.tool_calls import ToolCallRecord
from snapshots.state.usage import ZERO_USAGE, PromptUsage, TokenUsage
from snapshots.state.values import U64, Value, omit_none

DEFAULT_SESSION_ID = "root"


class SessionStateEnvelope(Value):
    """Seven fields of a session. Frozen, but for its graph, which the methods below change."""

    session_id: str = DEFAULT_SESSION_ID
    policy: SessionPolicy = Field(default_factory=SessionPolicy)
    session_graph: SessionGraph = Field(default_factory=SessionGraph)
    turn_index: U64 = 0
    token_usage: TokenUsage = ZERO_USAGE
    last_prompt_usage: PromptUsage | None = omit_none()
    mode_turn_options: ModeTurnOptions = Field(default_factory=ModeTurnOptions)

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

    def read_view(self) -> SessionReadView:
        """Return a view of the present content.

        Raises:
            InvalidStateError: The active path has a missing parent or a cycle.
        """
        graph = self.session_graph
        graph.active_path_nodes()  # the path is followed here, once, so that the view cannot fail later
        return SessionReadView(
            session_id=self.session_id,
            policy=self.policy,
            turn_index=self.turn_index,
            token_usage=self.token_usage,
            last_prompt_usage=self.last_prompt_usage,
            mode_turn_options=self.mode_turn_options,
            _graph=graph.copy(),
        )


@dataclass(frozen=True, slots=True)
class ChronologicalEntry:
    """One event as a reader meets it, with the node that holds it."""

    node_id: str
    timestamp: str
    event: SessionEvent


@dataclass(frozen=True)
class SessionReadView:
    """What a session looks like at one moment. Equal if they show the same."""

    session_id: str
    policy: SessionPolicy
    turn_index: int
    token_usage: TokenUsage
    last_prompt_usage: PromptUsage | None
    mode_turn_options: ModeTurnOptions
    _graph: SessionGraph = field(repr=False)

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """Messages of the active path: not the transient ones, the first of each id."""
        return self._graph.messages()

    @cached_property
    def tool_calls(self) -> tuple[ToolCallRecord, ...]:
        """Tool calls of the active path."""
        return self._graph.tool_calls()

    @cached_property
    def active_events(self) -> tuple[SessionEvent, ...]:
        """All events of the active path."""
        return self._graph.active_events()

    @cached_property
    def message_tree(self) -> MessageTree:
        """Messages of all branches."""
        return self._graph.message_tree()

    @cached_property
    def chronological_projection(self) -> tuple[ChronologicalEntry, ...]:
        """Messages, tool calls and mode events in the order of the path, without messages that are not shown."""
        shown: set[str] = set()
        entries = []
        for node in self._graph.active_path_nodes():
            if (event := node.event) is None:
                continue
            if isinstance(event, Message):
                if event.is_transient() or event.id in shown:
                    continue
                shown.add(event.id)
            entries.append(ChronologicalEntry(node.node_id, node.timestamp, event))
        return tuple(entries)

    @property
    def session_graph(self) -> SessionGraph:
        """A graph of its own with all branches; changing it does not change the view."""
        return self._graph.copy()

    def to_owned_state(self) -> SessionStateEnvelope:
        """Return an envelope of its own with this content."""
        return SessionStateEnvelope(
            session_id=self.session_id,
            policy=self.policy,
            session_graph=self._graph.copy(),
            turn_index=self.turn_index,
            token_usage=self.token_usage,
            last_prompt_usage=self.last_prompt_usage,
            mode_turn_options=self.mode_turn_options,
        )
