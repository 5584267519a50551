"""What a completed turn leaves beside the graph. Pure.

PersistedTurnState(turn_index=3).model_dump()
"""

from __future__ import annotations

from pydantic import Field

from snapshots.state.modes import ModeTurnOptions
from snapshots.state.usage import ZERO_USAGE, PromptUsage, TokenUsage
from snapshots.state.values import U64, Value, omit_none


class PersistedTurnState(Value):
    """Counter, context-window usage, last prompt and options of the turns so far."""

    turn_index: U64 = 0
    token_usage: TokenUsage = ZERO_USAGE
    last_prompt_usage: PromptUsage | None = omit_none()
    mode_turn_options: ModeTurnOptions = Field(default_factory=ModeTurnOptions)
