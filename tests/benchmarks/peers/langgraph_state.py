"""A LangGraph thread driven through its saver: one checkpoint per turn, the fewest that keep every turn."""

from __future__ import annotations

import itertools
from typing import Any

from langchain_core.messages import (  # type: ignore[import-not-found]  # in the peers' own environment
    AIMessage,
    HumanMessage,
    ToolMessage,
)
from langgraph.checkpoint.base import empty_checkpoint  # type: ignore[import-not-found]  # in the peers' own environment

from tests.benchmarks.peers.protocol import SESSION, Contents, PlainTurn

MESSAGES = 5


class LangGraphThread:
    """A thread with three channels, all changed by every turn.

    Args:
        saver: A checkpoint saver.
    """

    def __init__(self, saver: Any) -> None:
        self._saver = saver
        self._config: dict[str, Any] = {"configurable": {"thread_id": SESSION, "checkpoint_ns": ""}}
        self._messages: list[Any] = []

    def put(self, turn: PlainTurn) -> None:
        """Put the checkpoint after a turn."""
        self._messages.extend(_messages(turn))
        values = {
            "messages": self._messages,
            "tool_state": turn.tool_state,
            "execution_state": turn.execution_state,
        }
        versions = dict.fromkeys(values, f"{turn.index + 1:032}.0")
        checkpoint = empty_checkpoint() | {
            "channel_values": values,
            "channel_versions": versions,
            "updated_channels": sorted(values),
        }
        metadata = {"source": "loop", "step": turn.index, "parents": {}}
        self._config = self._saver.put(self._config, checkpoint, metadata, versions)

    def get(self) -> Any:
        """Return the latest checkpoint."""
        return self._saver.get_tuple(self._config)


def contents(found: Any) -> Contents:
    """Return what a checkpoint holds."""
    values = found.checkpoint["channel_values"]
    return Contents(
        messages=len(values["messages"]),
        answered=values["messages"][-1].content,
        tool_state=values["tool_state"],
        execution_state=values["execution_state"],
    )


def _messages(turn: PlainTurn) -> list[Any]:
    number = (f"m{turn.index}-{position}" for position in itertools.count())
    calls = [{"name": tool.name, "args": {"query": tool.arguments}, "id": tool.call_id} for tool in turn.tools]
    return [
        HumanMessage(turn.asked, id=next(number)),
        AIMessage(turn.called, tool_calls=calls, id=next(number)),
        *(ToolMessage(tool.result, tool_call_id=tool.call_id, id=next(number)) for tool in turn.tools),
        AIMessage(turn.answered, id=next(number)),
    ]
