"""The workloads in plain data, made before the clock runs."""

from __future__ import annotations

from collections.abc import Iterator

from snapshots import Message
from snapshots.benchmarks.agent_turns import AgentTurns, Turn
from snapshots.benchmarks.large_state import LargeState
from tests.benchmarks.peers.protocol import PlainRevision, PlainTurn, ToolUse


def turns(count: int) -> Iterator[PlainTurn]:
    """Yield agent turns."""
    for turn in AgentTurns().turns(count):
        asked, called, answered = turn.messages
        yield PlainTurn(
            index=turn.index,
            asked=_text(asked),
            called=_text(called),
            tools=_tools(turn),
            answered=_text(answered),
            tool_state=turn.tool_state.model_dump(mode="json"),
            execution_state=turn.execution_state,
            native=turn,
        )


def revisions(count: int) -> Iterator[PlainRevision]:
    """Yield revisions of the large state."""
    lines: tuple[str, ...] = ()
    for revision in LargeState().revisions(count):
        lines += tuple(revision.transcript_lines())
        answered = _text(revision.messages[-1])
        yield PlainRevision(revision.index, lines, answered, revision.execution_state, revision)


def _tools(turn: Turn) -> tuple[ToolUse, ...]:
    arguments = {part.tool_call_id: part.content for part in turn.messages[1].parts if part.kind == "ToolCall"}
    return tuple(
        ToolUse(call_id, record.tool, arguments[call_id], record.output.model_dump(mode="json")["outcome"]["payload"])
        for record in turn.tool_calls
        if (call_id := record.call_id) is not None
    )


def _text(message: Message) -> str:
    return message.parts[0].content
