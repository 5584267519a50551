"""The tools that a transcript has used so far, as a tool state. Pure.

Rules:
1. A tool is known from its first call on; its manifest's `compact_contract` holds `calls` and, after the first answer,
   `last_result`.
2. The generation rises by one with every call and every answer: equal generations mean equal states.

    tally = ToolTally()
    tally.called("search"); tally.answered("search", "3 hits")
    tally.state().generation == 2
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from snapshots.state import Message, ToolEntry, ToolManifest, ToolState

SOURCE_ID = "transcript"


class ToolTally:
    """Counts calls and keeps each tool's last result."""

    def __init__(self) -> None:
        self._contracts: dict[str, dict[str, Any]] = {}
        self._names_by_call: dict[str, str] = {}
        self._generation = 0

    def called(self, name: str) -> None:
        """Count a call."""
        contract = self._contracts.get(name, {"calls": 0})
        self._contracts[name] = {**contract, "calls": contract["calls"] + 1}
        self._generation += 1

    def answered(self, name: str, result: str) -> None:
        """Keep an answer; one to a call that the transcript does not show counts as its call."""
        if name not in self._contracts:
            self.called(name)
        self._contracts[name] = {**self._contracts[name], "last_result": result}
        self._generation += 1

    def saw(self, messages: Iterable[Message]) -> None:
        """Take note of the calls and results in messages; those without a name are passed over."""
        for message in messages:
            for part in message.parts:
                if part.kind == "ToolCall" and part.tool_name:
                    self._names_by_call[part.tool_call_id or ""] = part.tool_name
                    self.called(part.tool_name)
                elif part.kind == "ToolResult":
                    name = part.tool_name or self._names_by_call.get(part.tool_call_id or "")
                    if name:
                        self.answered(name, part.content)

    def state(self) -> ToolState:
        """Return the tools as they are now."""
        return ToolState(
            generation=self._generation, tools={name: _entry(name, it) for name, it in self._contracts.items()}
        )


def _entry(name: str, contract: dict[str, Any]) -> ToolEntry:
    return ToolEntry(manifest=ToolManifest(id=name, name=name, compact_contract=contract), source_id=SOURCE_ID)
