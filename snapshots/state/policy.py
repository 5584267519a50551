"""How a session is to be run: model, provider, limits, context approach, prompt. Pure.

Rules:
1. No credentials: of a provider only its id is kept. A provider given as `{kind, …}` is reduced to its kind.
2. A context approach exists only in the standard mode; `normalize_for_execution_mode` drops it elsewhere.
3. A stored configuration overrides a live policy by fixed rules (`PersistedSessionConfig.apply_to_policy`).

    SessionPolicy(model="m", provider={"kind": "openai", "api_key": "…"}).provider == "openai"
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from snapshots.state.modes import STANDARD_MODE, ExecutionMode
from snapshots.state.values import U64, Json, Value, omit_empty, omit_none

UNCONFIGURED_PROVIDER = "unconfigured"


def _provider_id(value: Any) -> Any:
    if isinstance(value, dict):
        if not isinstance(value.get("kind"), str):
            raise ValueError("a provider given as an object needs a kind")
        return value["kind"]
    return value


# One short word: nothing that could be a URL with a password or a key=value pair fits.
ProviderId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}$"),
    BeforeValidator(_provider_id),
]


class RollingHistory(Value):
    """Keep the newest messages."""

    kind: Literal["rolling_history"] = "rolling_history"


class ObservationalMemory(Value):
    """Replace old messages by observations. All settings count tokens, except the activation in basis points."""

    kind: Literal["observational_memory"] = "observational_memory"
    observation_message_tokens: U64 = 30_000
    observation_buffer_tokens: U64 = 6_000
    observation_block_after_tokens: U64 = 36_000
    observation_max_tokens_per_batch: U64 = 10_000
    previous_observer_tokens: U64 = 2_000
    reflection_observation_tokens: U64 = 40_000
    reflection_buffer_activation_bps: U64 = 5_000
    reflection_block_after_tokens: U64 = 48_000


StandardContextApproach = Annotated[RollingHistory | ObservationalMemory, Field(discriminator="kind")]


class PromptLayer(Value):
    """A session's own part of the system prompt: a template and slot contents, both opaque to the store."""

    template: Json = omit_none()
    slots: dict[str, Json] = omit_empty(dict)

    def is_empty(self) -> bool:
        """Whether it adds nothing."""
        return self.template is None and not self.slots


def _is_empty_layer(layer: PromptLayer) -> bool:
    return layer.is_empty()


class SessionPolicy(Value):
    """The resolved policy of a session.

    Attributes:
        model: Model name, "" when not chosen yet.
        provider: Provider id; credentials live in the runtime.
        max_context_tokens: Size of the context window, None when unknown.
        session_id: Id of the session the policy was resolved for.
        max_turns: Limit of turns, None without one.
    """

    model: str = ""
    provider: ProviderId = UNCONFIGURED_PROVIDER
    max_context_tokens: U64 | None = omit_none()
    model_variant: str | None = omit_none()
    session_id: str | None = omit_none()
    autonomous: bool = False
    max_turns: U64 | None = omit_none()
    execution_mode: ExecutionMode = STANDARD_MODE
    standard_context_approach: StandardContextApproach | None = omit_none()
    prompt: PromptLayer = Field(default_factory=PromptLayer, exclude_if=_is_empty_layer)

    def normalize_for_execution_mode(self) -> SessionPolicy:
        """Return the policy without a context approach, unless its mode is the standard one."""
        if self.execution_mode == STANDARD_MODE or self.standard_context_approach is None:
            return self
        return self.model_copy(update={"standard_context_approach": None})


class PersistedSessionConfig(Value):
    """What of a policy belongs to the session rather than to the host that runs it.

    Attributes:
        context_window: Size of the context window in tokens, 0 when unknown.
    """

    provider_id: ProviderId = UNCONFIGURED_PROVIDER
    configured_model: str = ""
    context_window: U64 = 0
    execution_mode: ExecutionMode = STANDARD_MODE
    standard_context_approach: StandardContextApproach | None = omit_none()
    model_variant: str | None = omit_none()

    @classmethod
    def from_policy(cls, policy: SessionPolicy) -> PersistedSessionConfig:
        """Return the configuration of `policy`."""
        return cls(
            provider_id=policy.provider,
            configured_model=policy.model,
            context_window=policy.max_context_tokens or 0,
            execution_mode=policy.execution_mode,
            standard_context_approach=policy.standard_context_approach,
            model_variant=policy.model_variant,
        )

    def apply_to_policy(self, policy: SessionPolicy) -> SessionPolicy:
        """Return `policy` overridden by this configuration.

        The model only if one is configured, the context window only if it is known; mode, context approach and
        model variant always. The provider stays the live one: only the runtime can connect it.
        """
        update: dict[str, Any] = {
            "execution_mode": self.execution_mode,
            "standard_context_approach": self.standard_context_approach,
            "model_variant": self.model_variant,
        }
        if self.configured_model:
            update["model"] = self.configured_model
        if self.context_window > 0:
            update["max_context_tokens"] = self.context_window
        return policy.model_copy(update=update)
