"""Token counts that a transcript happens to carry. Pure.

Rules:
1. Only what the transcript says is counted; without counts there is no ledger row.
2. Cached tokens, which providers report inside the prompt's, are counted apart.

    usage_of_message({"role": "assistant", "usage": {"prompt_tokens": 10, "completion_tokens": 2}})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snapshots.state import TokenLedgerEntry, TokenUsage

SOURCE = "turn"
UNKNOWN_MODEL = "unknown"
_COUNT_MAX = 1 << 40  # tokens; a larger number is no count, and sums must stay within 64 bits


def usage_of_message(chat: Mapping[str, Any]) -> TokenLedgerEntry | None:
    """Return the counts of a message's `usage`, None without any."""
    usage = chat.get("usage")
    if not isinstance(usage, Mapping):
        return None
    details = usage.get("prompt_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, Mapping) else 0
    prompt = _count(usage, "prompt_tokens")
    return _entry(chat, max(0, prompt - cached), _count(usage, "completion_tokens"), cached)


def usage_of_run(info: Any) -> TokenLedgerEntry | None:
    """Return the counts of a whole run from its `model_stats`, None without any."""
    stats = info.get("model_stats") if isinstance(info, Mapping) else None
    if not isinstance(stats, Mapping):
        return None
    return _entry(info, _count(stats, "tokens_sent"), _count(stats, "tokens_received"), 0)


def _entry(named: Mapping[str, Any], given: int, output: int, cached: int) -> TokenLedgerEntry | None:
    if not (given or output or cached):
        return None
    model = named.get("model")
    return TokenLedgerEntry(
        source=SOURCE,
        model=model if isinstance(model, str) and model else UNKNOWN_MODEL,
        usage=TokenUsage(input_tokens=given, output_tokens=output, cached_input_tokens=cached),
    )


def _count(counts: Mapping[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if type(value) is int and 0 <= value < _COUNT_MAX else 0
