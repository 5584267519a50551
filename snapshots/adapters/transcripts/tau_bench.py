"""tau-bench: a list of runs `{task_id, trial, reward, info, traj}`, `traj` a list of chat-completion messages. Pure.

Rules:
1. A turn begins at each user message but the first one's predecessors: what stands before it belongs to the first turn.
2. A run without messages has one empty turn, which records the rest of it.

    tau_bench_sessions([{"task_id": 3, "trial": 0, "traj": []}], source="runs.json", stem="runs")   # "runs-3-0"

Source: https://github.com/sierra-research/tau-bench, `historical_trajectories`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from snapshots.adapters.transcripts.chat import ChatMessage, check_messages, to_message
from snapshots.adapters.transcripts.session import TranscriptSession, TranscriptTurn
from snapshots.adapters.transcripts.tools import ToolTally
from snapshots.adapters.transcripts.usage import usage_of_message
from snapshots.documents import PathStep, bad_shape
from snapshots.state import Message
from snapshots.state.values import json_text


def is_tau_bench(document: Any) -> bool:
    """Whether a JSON value means to be a list of runs."""
    return isinstance(document, list) and any(isinstance(item, dict) and "traj" in item for item in document)


def tau_bench_sessions(document: list[Any], *, source: str, stem: str) -> Sequence[TranscriptSession]:
    """Return one session per run, `<stem>-<task_id>-<trial>`.

    Raises:
        BadDocumentError: A run lacks something; names the position.
    """
    return tuple(_session(item, index, source, stem) for index, item in enumerate(document))


def _session(item: Any, index: int, source: str, stem: str) -> TranscriptSession:
    if not isinstance(item, dict):
        raise bad_shape((index,), "want a run, an object with task_id, trial and traj")
    task_id, trial = (_name(item, name, (index, name)) for name in ("task_id", "trial"))
    if "traj" not in item:
        raise bad_shape((index, "traj"), "missing")
    chat = check_messages(item["traj"], (index, "traj"))
    return TranscriptSession(
        session_id=f"{stem}-{task_id}-{trial}",
        source=source,
        format="tau-bench",
        turns=_turns(chat, task_id, trial),
        rest={name: value for name, value in item.items() if name != "traj"},
    )


def _name(item: dict[str, Any], name: str, path: tuple[PathStep, ...]) -> str | int:
    if name not in item:
        raise bad_shape(path, "missing")
    value = item[name]
    if type(value) is not int and not (isinstance(value, str) and value):
        raise bad_shape(path, "want a number or a text")
    return value


def _turns(chat: list[ChatMessage], task_id: str | int, trial: str | int) -> tuple[TranscriptTurn, ...]:
    tally = ToolTally()
    turns = []
    start = 0
    for index, end in enumerate(_ends(chat)):
        messages = tuple(to_message(chat[place], f"m{place}") for place in range(start, end))
        tally.saw(messages)
        where = {"task_id": task_id, "trial": trial, "turn": index, "last_tool_results": _results(messages)}
        usage = (usage_of_message(message) for message in chat[start:end])
        turns.append(
            TranscriptTurn(
                chat=tuple(chat[start:end]),
                messages=messages,
                steps=(),
                tool_state=tally.state(),
                execution_state=json_text(where).encode(),
                usage=tuple(entry for entry in usage if entry is not None),
            )
        )
        start = end
    return tuple(turns)


def _ends(chat: list[ChatMessage]) -> list[int]:
    users = [index for index, message in enumerate(chat) if message["role"] == "user"]
    return [*users[1:], len(chat)]


def _results(messages: Sequence[Message]) -> list[dict[str, str | None]]:
    return [
        {"tool": part.tool_name, "tool_call_id": part.tool_call_id, "content": part.content}
        for message in messages
        for part in message.parts
        if part.kind == "ToolResult"
    ]
