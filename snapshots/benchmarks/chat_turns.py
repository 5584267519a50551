"""The workload "chat only": turns without tools and without an execution state.

Each turn: a user message (1-2 KB), an answer (1-3 KB), and what it cost. Equal seeds give equal turns.

    for turn in ChatTurns(seed=7).turns(200):
        turn.apply(state)
        repo.commit(state)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from snapshots import Message, Part, PersistedSessionState, TokenLedgerEntry, TokenUsage
from snapshots.benchmarks.agent_turns import POOL_WORDS, WORDS
from snapshots.state import MessageRole, merge_ledger_entry

ASKED_CHARACTERS = (1000, 2000)
ANSWERED_CHARACTERS = (1000, 3000)


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One turn.

    Attributes:
        index: Its number, from 0.
        messages: User, and answer.
        usage: What the turn cost.
    """

    index: int
    messages: tuple[Message, Message]
    usage: TokenUsage

    def apply(self, state: PersistedSessionState) -> None:
        """Bring `state` to after this turn."""
        state.append_active_conversation_messages(list(self.messages))
        state.turn_index += 1
        state.token_usage = self.usage
        ledger = list(state.token_ledger)
        merge_ledger_entry(ledger, TokenLedgerEntry(source="turn", model="bench", usage=self.usage))
        state.token_ledger = ledger


class ChatTurns:
    """The turns of one chat. Equal seeds give equal turns."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)  # noqa: S311  equal seeds, equal work; no secret
        self._pool = " ".join(self._random.choices(WORDS.split(), k=POOL_WORDS))

    def turns(self, count: int) -> Iterator[ChatTurn]:
        """Yield the next `count` turns."""
        for index in range(count):
            asked = self._message(f"u{index}", "User", ASKED_CHARACTERS)
            answered = self._message(f"a{index}", "Assistant", ANSWERED_CHARACTERS)
            usage = TokenUsage(input_tokens=400 + 900 * index, output_tokens=self._random.randrange(200, 1500))
            yield ChatTurn(index, (asked, answered), usage)

    def _message(self, message_id: str, role: MessageRole, characters: tuple[int, int]) -> Message:
        length = self._random.randrange(*characters)
        start = self._random.randrange(0, len(self._pool) - length)
        part = Part(id=f"{message_id}.p0", kind="Text", content=self._pool[start : start + length])
        return Message(id=message_id, role=role, parts=(part,))
