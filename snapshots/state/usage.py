"""Token counts of one call or one accumulated row, and what a call leaves in the context window. Pure.

Rules:
1. Cached input tokens are not part of `total()`: providers bill them apart.
2. Counts of a `TokenUsage` may be negative (a correction); those of a `PromptUsage` never are.

    TokenUsage(input_tokens=10, output_tokens=2).add(TokenUsage(output_tokens=1)).total() == 13
"""

from __future__ import annotations

from snapshots.state.values import I64, U64, Value


class TokenUsage(Value):
    """The four counts."""

    input_tokens: I64 = 0
    output_tokens: I64 = 0
    cached_input_tokens: I64 = 0
    reasoning_tokens: I64 = 0

    def total(self) -> int:
        """Return input + output + reasoning, without the cached tokens."""
        return self.input_tokens + self.output_tokens + self.reasoning_tokens

    def add(self, other: TokenUsage) -> TokenUsage:
        """Return the sum, field by field. Raises ValueError when a sum leaves 64 bits."""
        return TokenUsage(**{name: getattr(self, name) + getattr(other, name) for name in TokenUsage.model_fields})

    def subtract(self, other: TokenUsage) -> TokenUsage:
        """Return the difference, field by field. Raises ValueError when one leaves 64 bits."""
        return TokenUsage(**{name: getattr(self, name) - getattr(other, name) for name in TokenUsage.model_fields})

    def is_zero(self) -> bool:
        """Whether all four counts are 0, the cached tokens included."""
        return self == ZERO_USAGE

    def has_negative(self) -> bool:
        """Whether any count is below 0."""
        return min(self.input_tokens, self.output_tokens, self.cached_input_tokens, self.reasoning_tokens) < 0


ZERO_USAGE = TokenUsage()


class PromptUsage(Value):
    """What the last completed call occupied of the context window.

    Attributes:
        prompt_context_tokens: Everything the model read, cached or not.
        input_tokens: The part of it that was not cached.
        cached_input_tokens: The part that was.
        context_budget_tokens: What the next call starts from: input, cached and output together.
    """

    prompt_context_tokens: U64
    input_tokens: U64
    cached_input_tokens: U64
    context_budget_tokens: U64 = 0


def normalize_prompt_usage(usage: TokenUsage, *, input_excludes_cached: bool) -> PromptUsage | None:
    """Bring a provider's counts into one form.

    Args:
        usage: The counts as reported; negative ones are taken as 0.
        input_excludes_cached: Whether this provider's input count leaves out the cached tokens.

    Returns:
        The prompt's usage, or None when input, cached and output are all 0: nothing was reported.
    """
    given = max(0, usage.input_tokens)
    cached = max(0, usage.cached_input_tokens)
    output = max(0, usage.output_tokens)
    if not (given or cached or output):
        return None
    context = given + cached if input_excludes_cached else given
    adjusted = given if input_excludes_cached else max(0, given - cached)
    return PromptUsage(
        prompt_context_tokens=context,
        input_tokens=adjusted,
        cached_input_tokens=cached,
        context_budget_tokens=adjusted + output + cached,
    )
