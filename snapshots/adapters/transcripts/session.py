"""A transcript as a session: its turns, what each adds to a state, and the document given back. Pure.

Rules:
1. A turn holds finished values: applying one cannot fail for what the transcript says.
2. The first turn also records the rest of the document, as a plugin node `transcript.document`; a step is a plugin node
   `transcript.step`, verbatim.
3. `rebuild` reads the active path only: after some turns it gives the document as far as it goes.
4. Messages are `m0`, `m1`, … by their place in the transcript.

    apply_turn(state, session, state.turn_index)
    rebuild(state) == session.document_until(state.turn_index)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from snapshots.adapters.transcripts.chat import ChatMessage, to_chat
from snapshots.errors import InvalidInputError, InvalidStateError
from snapshots.state import (
    Message,
    PersistedSessionState,
    PluginPayload,
    TokenLedgerEntry,
    ToolState,
    merge_ledger_entry,
    normalize_prompt_usage,
)
from snapshots.state.values import json_text

TranscriptFormat = Literal["tau-bench", "swe-agent"]

DOCUMENT_TYPE = "transcript.document"
STEP_TYPE = "transcript.step"


@dataclass(frozen=True, slots=True)
class TranscriptTurn:
    """One turn.

    Attributes:
        chat: The messages as the transcript has them.
        messages: The same as messages of a session.
        steps: The `trajectory` entries that belong to it, verbatim; none in formats without steps.
        tool_state: The tools seen up to its end.
        execution_state: JSON text of where the run stands after it.
        usage: Token counts that the transcript gives for it.
    """

    chat: tuple[ChatMessage, ...]
    messages: tuple[Message, ...]
    steps: tuple[Any, ...]
    tool_state: ToolState
    execution_state: bytes
    usage: tuple[TokenLedgerEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class TranscriptSession:
    """One run of an agent.

    Attributes:
        session_id: Id that it gets in a store.
        source: The file it was read from.
        format: Which kind of transcript it is.
        turns: At least one, oldest first.
        rest: The document without its messages and steps.
    """

    session_id: str
    source: str
    format: TranscriptFormat
    turns: Sequence[TranscriptTurn]
    rest: dict[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """The whole document, as it stands in the file."""
        return self.document_until(len(self.turns))

    def document_until(self, turn_count: int) -> dict[str, Any]:
        """Return the document as it was after the first `turn_count` turns: what `rebuild` gives then."""
        turns = self.turns[:turn_count]
        chat = [message for turn in turns for message in turn.chat]
        return _document(self.format, self.rest, chat, [step for turn in turns for step in turn.steps])


def apply_turn(state: PersistedSessionState, session: TranscriptSession, index: int) -> None:
    """Add turn `index` to the state: nodes, tools, execution state, usage, and one completed turn.

    Raises:
        InvalidStateError: The state stands at another turn; nothing changed. Apply turns in order.
    """
    if state.turn_index != index:
        raise InvalidStateError(f"turn {index} does not follow: the state has {state.turn_index} completed turns")
    turn = session.turns[index]
    first = [PluginPayload(plugin_type=DOCUMENT_TYPE, body={"format": session.format, "rest": session.rest})]
    steps = [PluginPayload(plugin_type=STEP_TYPE, body=step) for step in turn.steps]
    state.append_session_nodes([*(first if index == 0 else ()), *turn.messages, *steps])
    if state.tool_state_generation != turn.tool_state.generation:
        state.stamp_runtime_state(turn.tool_state, state.plugin_snapshot)
    state.set_execution_state_snapshot(turn.execution_state)
    for entry in turn.usage:
        merge_ledger_entry(state.token_ledger, entry)
        state.token_usage = entry.usage
        state.last_prompt_usage = normalize_prompt_usage(entry.usage, input_excludes_cached=True)
    state.turn_index += 1


def rebuild(state: PersistedSessionState) -> dict[str, Any]:
    """Return the document whose turns were applied to this state, as far as they go.

    Raises:
        InvalidStateError: The state was not made from a transcript, or its active path is damaged.
    """
    head: dict[str, Any] | None = None
    chat: list[ChatMessage] = []
    steps: list[Any] = []
    for node in state.session_graph.active_path_nodes():
        plugin, message = node.plugin, node.message
        if message is not None:
            chat.append(to_chat(message))
        elif plugin is not None and plugin.plugin_type == DOCUMENT_TYPE:
            head = plugin.body
        elif plugin is not None and plugin.plugin_type == STEP_TYPE:
            steps.append(plugin.body)
    if head is None:
        raise InvalidStateError(f"session {state.session_id!r} was not replayed from a transcript")
    return _document(head["format"], head["rest"], chat, steps)


def check_continues(state: PersistedSessionState, session: TranscriptSession) -> None:
    """Check that the state is what the first turns of `session` make.

    Raises:
        InvalidInputError: It is another transcript, or none. Give the file another name, or use another store.
    """
    try:
        known = rebuild(state)
    except InvalidStateError:
        known = {}
    if json_text(known) != json_text(session.document_until(state.turn_index)):
        reason = f"the store has another session of the id {session.session_id!r}; give the file another name"
        raise InvalidInputError(session.source, "", reason)


def _document(
    kind: TranscriptFormat, rest: dict[str, Any], chat: list[ChatMessage], steps: list[Any]
) -> dict[str, Any]:
    return {**rest, "traj": chat} if kind == "tau-bench" else {**rest, "trajectory": steps, "history": chat}
