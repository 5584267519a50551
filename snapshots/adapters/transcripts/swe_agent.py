"""SWE-agent `.traj`: `{environment, trajectory: [steps], history: [messages], info, …}`. Pure.

Rules:
1. A turn is one step. It takes the messages up to and including the assistant's message that led to it; the last turn
   takes the rest.
2. With more assistant messages than steps the first ones are demonstrations: they belong to the first turn. With fewer,
   the last steps have no messages of their own. No message and no step is left out either way.
3. A tool is the first word of a step's action; its result is the step's observation.

    swe_agent_session({"trajectory": [], "history": []}, source="a.traj", session_id="a")

Source: https://github.com/SWE-agent/SWE-agent, `trajectories/demonstrations`.
"""

from __future__ import annotations

from typing import Any

from snapshots.adapters.transcripts.chat import ChatMessage, check_messages, to_message
from snapshots.adapters.transcripts.session import TranscriptSession, TranscriptTurn
from snapshots.adapters.transcripts.tools import ToolTally
from snapshots.adapters.transcripts.usage import usage_of_message, usage_of_run
from snapshots.documents import bad_shape
from snapshots.state import TokenLedgerEntry
from snapshots.state.values import json_text


def is_swe_agent(document: Any) -> bool:
    """Whether a JSON value means to be a `.traj` document."""
    return isinstance(document, dict) and ("trajectory" in document or "history" in document)


def swe_agent_session(document: dict[str, Any], *, source: str, session_id: str) -> TranscriptSession:
    """Return the run as a session.

    Raises:
        BadDocumentError: `trajectory` or `history` is missing or wrong; names the position.
    """
    for name in ("trajectory", "history"):
        if name not in document:
            raise bad_shape((name,), "missing")
    rest = {name: value for name, value in document.items() if name not in ("trajectory", "history")}
    steps = _check_steps(document["trajectory"])
    chat = check_messages(document["history"], ("history",))
    return TranscriptSession(
        session_id=session_id, source=source, format="swe-agent", turns=_turns(steps, chat, rest), rest=rest
    )


def _check_steps(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise bad_shape(("trajectory",), "want a list of steps")
    for index, step in enumerate(value):
        if not isinstance(step, dict):
            raise bad_shape(("trajectory", index), "want a step, an object")
    return value


def _turns(steps: list[dict[str, Any]], chat: list[ChatMessage], rest: dict[str, Any]) -> tuple[TranscriptTurn, ...]:
    tally = ToolTally()
    turns = []
    start = 0
    usage = _usage(chat, rest)
    for index, end in enumerate(_ends(len(steps), chat)):
        own = tuple(steps[index : index + 1])
        for step in own:
            _count(tally, step)
        where = {"environment": rest.get("environment"), "turn": index, "state": own[0].get("state") if own else None}
        turns.append(
            TranscriptTurn(
                chat=tuple(chat[start:end]),
                messages=tuple(to_message(chat[place], f"m{place}") for place in range(start, end)),
                steps=own,
                tool_state=tally.state(),
                execution_state=json_text(where).encode(),
                usage=tuple(entry for place, entry in usage if start <= place < end),
            )
        )
        start = end
    return tuple(turns)


def _ends(step_count: int, chat: list[ChatMessage]) -> list[int]:
    """Return for each turn, one at least, where its messages end."""
    answers = [index + 1 for index, message in enumerate(chat) if message["role"] == "assistant"]
    inner = answers[max(0, len(answers) - step_count) :][: max(0, step_count - 1)]
    missing = max(0, step_count - 1 - len(inner))
    return [*inner, *([inner[-1] if inner else 0] * missing), len(chat)]


def _usage(chat: list[ChatMessage], rest: dict[str, Any]) -> list[tuple[int, TokenLedgerEntry]]:
    """Return counts with the place of the message they belong to; those of the whole run go to the last one."""
    found = [(place, entry) for place, message in enumerate(chat) if (entry := usage_of_message(message)) is not None]
    if found:
        return found
    whole = usage_of_run(rest.get("info"))
    return [] if whole is None else [(len(chat) - 1, whole)]


def _count(tally: ToolTally, step: dict[str, Any]) -> None:
    action, observation = step.get("action"), step.get("observation")
    words = action.split(maxsplit=1) if isinstance(action, str) else []
    if words:
        tally.called(words[0])
        if isinstance(observation, str):
            tally.answered(words[0], observation)
