"""The agent-turn workload: deterministic turns of a tool-using agent, as a runtime would hand them over.

Each turn: a user message (1-2 KB), an assistant message (1-3 KB) with two tool calls (0.3 KB of arguments each), two
tool results (1-8 KB each), a final answer (1-3 KB); a tool state of about 20 KB in which 2 of 140 entries change; an
execution state, half text-like and half random, in which five 4 KiB pages are overwritten.

    for turn in AgentTurns(seed=7).turns(200):
        turn.apply(state)
        repo.commit(state, turn.stamp, turn.execution_state)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from snapshots import Message, PersistedSessionState, TokenLedgerEntry, TokenUsage, ToolState, TurnStamp
from snapshots.state import merge_ledger_entry

WORDS = (  # noqa: SIM905  46 quoted words would not be easier to read
    "the agent reads file src main config value error trace request response tool result commit branch test "
    "passed failed assertion module import function class return session state snapshot bucket object key "
    "token usage model prompt context policy ledger plugin revision head pointer write read list delete"
).split()
PAGE_BYTES = 4096
PAGES_PER_TURN = 5
TOOLS = 140
TOOLS_CHANGED_PER_TURN = 2
MODEL = "scripted"


@dataclass(frozen=True, slots=True)
class AgentTurn:
    """One turn: what is new in it."""

    index: int
    messages: tuple[Message, ...]
    tool_state: ToolState
    execution_state: bytes
    usage: TokenUsage

    @property
    def stamp(self) -> TurnStamp:
        return TurnStamp(f"turn-{self.index}")

    def apply(self, state: PersistedSessionState) -> None:
        """Do to `state` what a runtime does in this turn."""
        state.append_active_read_delta(self.messages, [])
        state.stamp_runtime_state(self.tool_state, None)
        merge_ledger_entry(state.token_ledger, TokenLedgerEntry(source="turn", model=MODEL, usage=self.usage))
        state.turn_index += 1


class AgentTurns:
    """The workload; equal seeds give equal turns."""

    def __init__(self, seed: int = 7, execution_state_bytes: int = 1 << 20) -> None:
        self._random = random.Random(seed)
        self._pool = " ".join(self._random.choices(WORDS, k=60_000))
        half = execution_state_bytes // 2
        text = (self._pool * (half // len(self._pool) + 1)).encode()[:half]
        self._memory = bytearray(text + self._random.randbytes(execution_state_bytes - half))
        self._tools = {f"k{number:04d}": self._tool(number) for number in range(TOOLS)}

    def turns(self, count: int) -> Iterator[AgentTurn]:
        """Yield the first `count` turns."""
        for index in range(count):
            yield self._turn(index)

    def _text(self, length: int) -> str:
        start = self._random.randrange(len(self._pool) - length - 1)
        return self._pool[start : start + length]

    def _tool(self, count: int) -> dict[str, object]:
        return {"path": self._text(60), "count": count, "hash": self._random.randbytes(16).hex()}

    def _turn(self, index: int) -> AgentTurn:
        self._overwrite_pages()
        for name in self._random.sample(sorted(self._tools), TOOLS_CHANGED_PER_TURN):
            self._tools[name] = self._tool(index)
        usage = TokenUsage(
            input_tokens=4000 + 900 * index,
            output_tokens=self._random.randrange(200, 1500),
            cached_input_tokens=900 * index,
        )
        return AgentTurn(index, self._messages(index), self._tool_state(index), bytes(self._memory), usage)

    def _overwrite_pages(self) -> None:
        size = len(self._memory)
        for _ in range(PAGES_PER_TURN):
            page = self._random.randrange(size // PAGE_BYTES) * PAGE_BYTES
            is_text = page < size // 2
            new = self._text(PAGE_BYTES).encode() if is_text else self._random.randbytes(PAGE_BYTES)
            self._memory[page : page + PAGE_BYTES] = new

    def _messages(self, index: int) -> tuple[Message, ...]:
        calls = [f"call_{index}_{number}" for number in range(2)]
        asked = [self._part("ToolCall", self._text(300), call) for call in calls]
        answered = [self._part("ToolResult", self._between(1000, 8000), call) for call in calls]
        contents = [
            ("User", [self._part("Text", self._between(1000, 2000))]),
            ("Assistant", [self._part("Text", self._between(1000, 3000)), *asked]),
            *(("User", [part]) for part in answered),
            ("Assistant", [self._part("Text", self._between(1000, 3000))]),
        ]
        return tuple(
            Message.model_validate(
                {
                    "id": f"m{index}.{number}",
                    "role": role,
                    "parts": [{**part, "id": f"m{index}.{number}.p{place}"} for place, part in enumerate(parts)],
                }
            )
            for number, (role, parts) in enumerate(contents)
        )

    def _between(self, low: int, high: int) -> str:
        return self._text(self._random.randrange(low, high))

    @staticmethod
    def _part(kind: str, content: str, call_id: str | None = None) -> dict[str, object]:
        call = {} if call_id is None else {"tool_call_id": call_id, "tool_name": "lookup"}
        return {"kind": kind, "content": content, **call}

    def _tool_state(self, generation: int) -> ToolState:
        tools = {
            name: {
                "manifest": {"id": name, "name": name, "description": "", "compact_contract": facts},
                "source_id": "x",
            }
            for name, facts in self._tools.items()
        }
        return ToolState.model_validate({"generation": generation, "tools": tools})
