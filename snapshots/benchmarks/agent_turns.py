"""The workload "agent turns": what an agent that reads files and calls tools leaves behind, turn by turn.

Each turn: a user message (1-2 KB), an assistant message (1-3 KB) with two tool calls (0.3 KB of arguments, 1-8 KB of
result each), a final answer (1-3 KB); a tool state with 20 KB of content (30 KB as JSON) in which 2 of 140 tools
change; an execution state, half text and half noise, in which five pages of 4 KiB are overwritten. Equal seeds give
equal turns.

    for turn in AgentTurns(seed=7).turns(200):
        turn.apply(state)
        repo.commit(state, execution_state=turn.execution_state)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from snapshots import Message, Part, PersistedSessionState, TokenLedgerEntry, TokenUsage, ToolState
from snapshots.state import MessageRole, ToolCallOutput, ToolCallRecord, ToolEntry, ToolManifest, merge_ledger_entry

WORDS = (
    "the agent reads file src main config value error trace request response tool result commit branch test "
    "passed failed assertion module import function class return session state snapshot bucket object key "
    "token usage model prompt context policy ledger plugin revision head pointer write read list delete"
)
POOL_WORDS = 60_000  # texts are cut from these, so that they resemble each other as those of one agent do
TOOLS = 140
TOOLS_CHANGED = 2
PAGE_BYTES = 4096
PAGES_CHANGED = 5
CALLS = 2
ARGUMENT_CHARACTERS = 300
EXECUTION_STATE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn.

    Attributes:
        index: Its number, from 0.
        messages: User, assistant with tool calls, final answer.
        tool_calls: The calls with their results.
        tool_state: All tools after the turn.
        execution_state: Opaque bytes after the turn.
        usage: What the turn cost.
    """

    index: int
    messages: tuple[Message, Message, Message]
    tool_calls: tuple[ToolCallRecord, ...]
    tool_state: ToolState
    execution_state: bytes
    usage: TokenUsage

    def apply(self, state: PersistedSessionState) -> None:
        """Bring `state` to after this turn; the execution state is for the commit."""
        asked, called, answered = self.messages
        state.append_active_conversation_messages([asked, called])
        for record in self.tool_calls:
            state.session_graph.append_tool_call(record)
        state.append_active_conversation_messages([answered])
        state.stamp_runtime_state(self.tool_state, None)
        state.turn_index += 1
        state.token_usage = self.usage
        ledger = list(state.token_ledger)
        merge_ledger_entry(ledger, TokenLedgerEntry(source="turn", model="bench", usage=self.usage))
        state.token_ledger = ledger


class AgentTurns:
    """The turns of one agent.

    Args:
        seed: Equal seeds give equal turns.
        execution_state_bytes: Size of the execution state, a multiple of PAGE_BYTES.
    """

    def __init__(self, seed: int = 7, execution_state_bytes: int = EXECUTION_STATE_BYTES) -> None:
        self._random = random.Random(seed)  # noqa: S311  equal seeds, equal work; no secret
        self._pool = " ".join(self._random.choices(WORDS.split(), k=POOL_WORDS))
        self._text_bytes = execution_state_bytes // 2
        text = (self._pool * (self._text_bytes // len(self._pool) + 1)).encode()[: self._text_bytes]
        self._memory = bytearray(text + self._random.randbytes(execution_state_bytes - self._text_bytes))
        self._tools = {f"k{number:04d}": self._tool(f"k{number:04d}", number) for number in range(TOOLS)}

    def turns(self, count: int) -> Iterator[Turn]:
        """Yield the next `count` turns."""
        for index in range(count):
            self._touch_memory()
            for name in self._random.sample(sorted(self._tools), TOOLS_CHANGED):
                self._tools[name] = self._tool(name, index)
            yield self._turn(index)

    def _text(self, shortest: int, longest: int | None = None) -> str:
        """Return a text of `shortest` characters, or of some number below `longest`."""
        length = shortest if longest is None else self._random.randrange(shortest, longest)
        start = self._random.randrange(0, len(self._pool) - length - 1)
        return self._pool[start : start + length]

    def _tool(self, name: str, count: int) -> ToolEntry:
        contract = {"count": count, "hash": self._random.randbytes(16).hex()}
        manifest = ToolManifest(id=name, name=name, description=self._text(60), compact_contract=contract)
        return ToolEntry(manifest=manifest, source_id="bench")

    def _touch_memory(self) -> None:
        for _ in range(PAGES_CHANGED):
            start = self._random.randrange(0, len(self._memory) // PAGE_BYTES) * PAGE_BYTES
            is_text = start < self._text_bytes
            page = self._text(PAGE_BYTES).encode() if is_text else self._random.randbytes(PAGE_BYTES)
            self._memory[start : start + PAGE_BYTES] = page

    def _turn(self, index: int) -> Turn:
        call_ids = [f"call_{index}_{number}" for number in range(CALLS)]
        return Turn(
            index=index,
            messages=(
                self._message(f"u{index}", "User", self._text(1000, 2000)),
                self._message(f"a{index}", "Assistant", self._text(1000, 3000), call_ids),
                self._message(f"f{index}", "Assistant", self._text(1000, 3000)),
            ),
            tool_calls=tuple(self._call(call_id) for call_id in call_ids),
            tool_state=ToolState(generation=index + 1, tools=dict(self._tools)),
            execution_state=bytes(self._memory),
            usage=TokenUsage(
                input_tokens=4000 + 900 * index,
                output_tokens=self._random.randrange(200, 1500),
                cached_input_tokens=900 * index,
            ),
        )

    def _message(self, message_id: str, role: MessageRole, text: str, call_ids: list[str] | None = None) -> Message:
        parts = [Part(id=f"{message_id}.p0", kind="Text", content=text)]
        for call_id in call_ids or ():
            part_id, content = f"{message_id}.{call_id}", self._text(ARGUMENT_CHARACTERS)
            parts.append(Part(id=part_id, kind="ToolCall", content=content, tool_call_id=call_id, tool_name="lookup"))
        return Message(id=message_id, role=role, parts=tuple(parts))

    def _call(self, call_id: str) -> ToolCallRecord:
        output = ToolCallOutput.success(self._text(1000, 8000))
        return ToolCallRecord(call_id=call_id, tool="lookup", args={}, output=output, duration_ms=1)
