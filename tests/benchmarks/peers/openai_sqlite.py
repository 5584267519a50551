"""OpenAI Agents, `SQLiteSession`: a row per item of the conversation; no place for tool state or execution state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, ClassVar, Self

from agents import SQLiteSession  # type: ignore[import-not-found]  # in the peers' own environment

from tests.benchmarks.peers.places import directory_bytes
from tests.benchmarks.peers.protocol import SESSION, Contents, Place, PlainTurn


class OpenAISqlite:
    """A session in a database file."""

    PACKAGES: ClassVar = ("openai-agents",)
    MESSAGES_PER_TURN: ClassVar = 7

    def __init__(self, place: Place) -> None:
        self._place = place
        self._runner = asyncio.Runner()
        self._connect()

    @classmethod
    def open(cls, place: Place) -> Self:
        return cls(place)

    def commit(self, turn: PlainTurn) -> None:
        self._runner.run(self._session.add_items(_items(turn)))

    def resume(self) -> Callable[[], Contents]:
        items = self._runner.run(self._session.get_items())
        return lambda: Contents(len(items), items[-1]["content"][0]["text"], None, None)

    def stored_bytes(self) -> int:
        self._session.close()
        stored = directory_bytes(self._place.directory)
        self._connect()
        return stored

    def _connect(self) -> None:
        self._session = SQLiteSession(SESSION, self._place.directory / "sessions.sqlite")


def _items(turn: PlainTurn) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": turn.asked},
        _message(f"msg_{turn.index}_0", turn.called),
        *(
            {
                "type": "function_call",
                "call_id": tool.call_id,
                "name": tool.name,
                "arguments": json.dumps({"query": tool.arguments}),
            }
            for tool in turn.tools
        ),
        *({"type": "function_call_output", "call_id": tool.call_id, "output": tool.result} for tool in turn.tools),
        _message(f"msg_{turn.index}_1", turn.answered),
    ]


def _message(message_id: str, text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": message_id, "type": "message", "role": "assistant", "status": "completed", "content": content}
