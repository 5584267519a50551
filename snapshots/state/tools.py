"""The tools a session knows: their manifests, where each comes from, and the registry's generation. Pure.

Rules:
1. A manifest says what a prompt or a catalog needs; schemas and code stay in the runtime.
2. On the wire every setting that has its default is left out.
3. `generation` is the registry's own counter: carried, never interpreted by the store.

    ToolState(generation=1, tools={"read": ToolEntry(manifest=ToolManifest(id="t1", name="read"), source_id="core")})
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from snapshots.state.modes import ExecutionMode
from snapshots.state.values import U32, U64, Items, Json, Value, omit_empty, omit_none

ToolAvailability = Literal["off", "searchable", "callable", "showcased"]
ToolActivation = Literal["always", "internal"]
ToolExecutionMode = Literal["parallel", "serial"]


def _omit_default(default: Any) -> Any:
    return Field(default=default, exclude_if=lambda value: value is default or value == default)


class ToolAvailabilityConfig(Value):
    """How visible a tool is, by execution mode; `standard` holds for modes that are not named."""

    standard: ToolAvailability = "showcased"
    modes: dict[str, ToolAvailability] = omit_empty(dict)

    def for_mode(self, mode: ExecutionMode) -> ToolAvailability:
        """Return the availability in `mode`."""
        return self.modes.get(mode, self.standard)


class ToolDiscovery(Value):
    """How a search finds a tool."""

    namespace: str | None = omit_none()
    aliases: Items[str] = omit_empty(tuple)


class MaterializeProjectedValues(Value):
    """Arguments are passed by value."""

    kind: Literal["materialize_projected_values"] = "materialize_projected_values"


class PreserveProjectedRefs(Value):
    """References in one field are passed as they are."""

    kind: Literal["preserve_projected_refs_in_field"] = "preserve_projected_refs_in_field"
    field: str


ToolArgumentProjection = Annotated[MaterializeProjectedValues | PreserveProjectedRefs, Field(discriminator="kind")]


class ToolRetryPolicy(Value):
    """How often a failed call is repeated; delays in milliseconds."""

    max_attempts: U32 = 1
    base_delay_ms: U64 = 0
    max_delay_ms: U64 = 0


class ToolManifest(Value):
    """What a session knows of a tool. `compact_contract` is opaque to the store."""

    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    description: str = _omit_default("")
    compact_contract: Json = omit_none()
    availability: ToolAvailabilityConfig = _omit_default(ToolAvailabilityConfig())
    activation: ToolActivation = _omit_default("always")
    availability_override: ToolAvailability | None = omit_none()
    discovery: ToolDiscovery = _omit_default(ToolDiscovery())
    argument_projection: ToolArgumentProjection = _omit_default(MaterializeProjectedValues())
    execution_mode: ToolExecutionMode = _omit_default("parallel")
    retry_policy: ToolRetryPolicy = _omit_default(ToolRetryPolicy())

    def effective_availability(self, mode: ExecutionMode) -> ToolAvailability:
        """Return the override if there is one, else the availability in `mode`."""
        return self.availability_override or self.availability.for_mode(mode)


class ToolEntry(Value):
    """A tool and the source it comes from."""

    manifest: ToolManifest
    source_id: str


def _sorted_by_name(tools: dict[str, ToolEntry]) -> dict[str, ToolEntry]:
    return dict(sorted(tools.items()))


class ToolState(Value):
    """All tools of a session at one generation, sorted by name."""

    generation: U64 = 0
    tools: Annotated[dict[str, ToolEntry], AfterValidator(_sorted_by_name)] = Field(default_factory=dict)
