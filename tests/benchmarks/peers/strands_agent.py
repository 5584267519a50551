"""An agent of Strands without a model: its events are fired as its own loop fires them around a turn."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from strands import Agent  # type: ignore[import-not-found]  # in the peers' own environment
from strands.agent.conversation_manager import (  # type: ignore[import-not-found]  # in the peers' own environment
    NullConversationManager,
)
from strands.hooks import (  # type: ignore[import-not-found]  # in the peers' own environment
    AfterInvocationEvent,
    MessageAddedEvent,
)
from strands.models import Model  # type: ignore[import-not-found]  # in the peers' own environment

from tests.benchmarks.peers.protocol import Contents, PlainTurn

MESSAGES = 4  # both results of a turn are one message


class NoModel(Model):  # type: ignore[misc]  # its base is only in the peers' own environment
    """A model that is never asked."""

    def update_config(self, **config: object) -> None:
        """Ignore it."""

    def get_config(self) -> dict[str, object]:
        return {}

    def structured_output(self, *_: object, **__: object) -> NoReturn:
        raise AssertionError("no model is asked here")

    def stream(self, *_: object, **__: object) -> AsyncIterator[Any]:
        raise AssertionError("no model is asked here")


class StrandsAgent:
    """An agent whose session manager hears of every turn.

    Args:
        session_manager: What persists it.
    """

    def __init__(self, session_manager: object) -> None:
        self._runner = asyncio.Runner()
        self._agent = Agent(
            model=NoModel(),
            agent_id="agent-1",
            session_manager=session_manager,
            conversation_manager=NullConversationManager(),  # its default forgets all but 40 messages
            callback_handler=None,
        )

    def turn(self, turn: PlainTurn) -> None:
        """Do a turn: messages one by one, the state when the tools have run, the end of the invocation."""
        self._runner.run(self._turn(turn))

    def contents(self) -> Contents:
        """Return what the agent holds."""
        state, messages = self._agent.state, self._agent.messages
        return Contents(
            messages=len(messages),
            answered=messages[-1]["content"][0]["text"],
            tool_state=state.get("tool_state"),
            execution_state=base64.b64decode(state.get("execution_state")),
        )

    async def _turn(self, turn: PlainTurn) -> None:
        asked, called, results, answered = _messages(turn)
        await self._add(asked)
        await self._add(called)
        self._agent.state.set("tool_state", turn.tool_state)
        self._agent.state.set("execution_state", base64.b64encode(turn.execution_state).decode())  # it takes JSON only
        await self._add(results)
        await self._add(answered)
        await self._agent.hooks.invoke_callbacks_async(AfterInvocationEvent(agent=self._agent))

    async def _add(self, message: dict[str, Any]) -> None:
        self._agent.messages.append(message)
        await self._agent.hooks.invoke_callbacks_async(MessageAddedEvent(agent=self._agent, message=message))


def _messages(turn: PlainTurn) -> tuple[dict[str, Any], ...]:
    uses = [
        {"toolUse": {"toolUseId": tool.call_id, "name": tool.name, "input": {"query": tool.arguments}}}
        for tool in turn.tools
    ]
    results = [
        {"toolResult": {"toolUseId": tool.call_id, "status": "success", "content": [{"text": tool.result}]}}
        for tool in turn.tools
    ]
    return (
        {"role": "user", "content": [{"text": turn.asked}]},
        {"role": "assistant", "content": [{"text": turn.called}, *uses]},
        {"role": "user", "content": results},
        {"role": "assistant", "content": [{"text": turn.answered}]},
    )
