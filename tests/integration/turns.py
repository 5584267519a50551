"""A run of an agent that can be killed: turn after turn is taken, committed with its stamp, and acknowledged by a line.

Everything follows from the turn's number, so that any revision can be compared with what it must be.

    python -m tests.integration.turns file:store SESSION COUNT
"""

from __future__ import annotations

import sys

from snapshots import (
    PersistedSessionState,
    PluginSessionSnapshot,
    SnapshotRepository,
    TokenUsage,
    ToolState,
    TurnStamp,
)
from snapshots.errors import SessionNotFoundError
from snapshots.state import PluginSnapshot, PluginSnapshotMeta, ToolEntry, ToolManifest
from storage.testing.draws import Draws
from tests.integration.builders import add_usage, message


def content_of(turn: int) -> str:
    return f"content of turn {turn}"


def take(state: PersistedSessionState, turn: int) -> bytes | None:
    """Take a turn; return its execution state, None when it leaves it as it was."""
    text = " ".join(Draws(f"text {turn} {word}").hex_id() for word in range(20))
    state.append_active_conversation_messages([message(f"m{turn}", text)])
    state.turn_index = turn
    add_usage(state, "large", TokenUsage(input_tokens=turn, output_tokens=1))
    if turn % 5 == 0:
        add_usage(state, "cache", TokenUsage(cached_input_tokens=turn))
    if turn % 2:
        manifest = ToolManifest(id=f"t{turn}", name="read", description=content_of(turn))
        tools = {"read": ToolEntry(manifest=manifest, source_id="core")}
        plugins = {"p": PluginSnapshot(meta=PluginSnapshotMeta(plugin_id="p", plugin_version="1", revision=turn))}
        state.stamp_runtime_state(ToolState(generation=turn, tools=tools), PluginSessionSnapshot(plugins=plugins))
    return None if turn % 3 == 0 else b"".join(Draws(turn).hex_id().encode() for _ in range(200))


def stamp(turn: int) -> TurnStamp:
    return TurnStamp(f"turn {turn}", content_hash=content_of(turn))


def main(url: str, session_id: str, count: int) -> None:
    with SnapshotRepository.open(url) as repo:
        try:
            state = repo.load(session_id)
        except SessionNotFoundError:
            state = PersistedSessionState(session_id=session_id)
        state.discard_runtime_snapshots()
        if state.turn_index:  # whether the turn before was acknowledged is not known: say it again
            again = repo.load(session_id, state.turn_index)
            assert repo.commit(again, stamp(state.turn_index)).head_revision == state.turn_index
        print("ready", flush=True)
        while state.turn_index < count:
            turn = state.turn_index + 1
            execution_state = take(state, turn)
            result = repo.commit(state, stamp(turn), execution_state)
            print(result.head_revision, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
