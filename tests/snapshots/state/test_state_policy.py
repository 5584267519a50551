"""Policy, stored configuration and modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from snapshots.state import (
    ModeEvent,
    ModeTurnOptions,
    ObservationalMemory,
    PersistedSessionConfig,
    PersistedSessionState,
    PromptLayer,
    RollingHistory,
    SessionPolicy,
)

SECRET = "sk-do-not-store"


def test_a_provider_object_is_reduced_to_its_kind() -> None:
    given: Any = {"kind": "openai", "api_key": SECRET, "headers": {"Authorization": SECRET}}
    policy = SessionPolicy(provider=given)
    state = PersistedSessionState(policy=policy)
    config = PersistedSessionConfig(provider_id=given)
    assert policy.provider == config.provider_id == "openai"
    for document in (policy, state, config):
        assert SECRET not in document.model_dump_json()
        assert SECRET not in repr(document)


@pytest.mark.parametrize(
    "provider",
    [
        {"api_key": SECRET},
        {"kind": 7},
        {"kind": {"api_key": SECRET}},
        "https://user:" + SECRET + "@host",
        "Bearer " + SECRET,
        "key=" + SECRET,
        "",
        "x" * 129,
    ],
)
def test_what_is_not_a_provider_id_is_refused(provider: Any) -> None:
    with pytest.raises(ValidationError):
        SessionPolicy(provider=provider)


def test_the_default_provider_is_unconfigured() -> None:
    assert SessionPolicy().provider == "unconfigured"


def test_the_context_approach_exists_only_in_the_standard_mode() -> None:
    standard = SessionPolicy(standard_context_approach=RollingHistory())
    other = SessionPolicy(execution_mode="repl", standard_context_approach=RollingHistory(), model="m")
    assert standard.normalize_for_execution_mode() == standard
    assert other.normalize_for_execution_mode() == SessionPolicy(execution_mode="repl", model="m")


def test_the_context_approach_is_told_by_its_kind() -> None:
    wire = {"standard_context_approach": {"kind": "observational_memory", "previous_observer_tokens": 7}}
    approach = SessionPolicy.model_validate(wire).standard_context_approach
    assert approach == ObservationalMemory(previous_observer_tokens=7)
    assert len(approach.model_dump()) == 1 + 8
    with pytest.raises(ValidationError):
        SessionPolicy.model_validate({"standard_context_approach": {"kind": "other"}})


def test_an_empty_prompt_layer_is_left_out() -> None:
    assert "prompt" not in SessionPolicy().model_dump()
    assert SessionPolicy(prompt=PromptLayer(slots={"intro": []})).model_dump()["prompt"] == {"slots": {"intro": []}}


LIVE = SessionPolicy(
    model="live",
    provider="openai",
    max_context_tokens=100,
    model_variant="v1",
    session_id="s",
    max_turns=4,
    standard_context_approach=RollingHistory(),
)


def test_an_empty_configuration_keeps_model_and_window_and_clears_the_rest() -> None:
    expected = LIVE.model_copy(update={"model_variant": None, "standard_context_approach": None})
    assert PersistedSessionConfig(provider_id="other").apply_to_policy(LIVE) == expected


def test_a_configuration_overrides_what_it_knows() -> None:
    config = PersistedSessionConfig(
        provider_id="other",
        configured_model="stored",
        context_window=7,
        execution_mode="repl",
        standard_context_approach=ObservationalMemory(),
        model_variant="v2",
    )
    assert config.apply_to_policy(LIVE) == LIVE.model_copy(
        update={
            "model": "stored",
            "max_context_tokens": 7,
            "execution_mode": "repl",
            "standard_context_approach": ObservationalMemory(),
            "model_variant": "v2",
        }
    )


def test_a_configuration_taken_from_a_policy_changes_nothing_of_it() -> None:
    assert PersistedSessionConfig.from_policy(LIVE).apply_to_policy(LIVE) == LIVE


class Options(BaseModel):
    depth: int


@dataclass
class Hint:
    data: bytes


def test_options_of_another_mode_decode_to_none() -> None:
    options = ModeTurnOptions.typed("repl", Options(depth=2))
    assert options == ModeTurnOptions(mode_id="repl", payload={"depth": 2})
    assert options.decode("repl", Options) == Options(depth=2)
    assert options.decode("repl") == {"depth": 2}
    assert options.decode("standard", Options) is None
    assert options.decode("standard") is None


def test_a_typed_payload_comes_back_as_it_was() -> None:
    assert ModeEvent.typed("repl", Hint(data=b"abc")).decode("repl", Hint) == Hint(data=b"abc")
    assert ModeEvent.typed("repl", [1, None]).decode("repl", list) == [1, None]


def test_a_payload_of_another_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match="depth"):
        ModeTurnOptions(mode_id="repl", payload={}).decode("repl", Options)


def test_empty_options_are_an_empty_object_of_the_standard_mode() -> None:
    assert ModeTurnOptions.empty() == ModeTurnOptions() == ModeTurnOptions(mode_id="standard", payload={})


@pytest.mark.parametrize("plain", [{}, {"mode_id": "repl"}, {"payload": 1}])
def test_untagged_mode_events_are_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="mode events must be tagged with mode_id and payload"):
        ModeEvent.model_validate(plain)
