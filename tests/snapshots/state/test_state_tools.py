"""The tool registry: what raises its generation, what it refuses, what a fork takes over."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from snapshots.errors import InvalidStateError
from snapshots.state import (
    ToolAvailabilityConfig,
    ToolEntry,
    ToolManifest,
    ToolRegistry,
    ToolState,
    ToolStateRefusedError,
)


def tool(name: str, tool_id: str = "") -> ToolManifest:
    return ToolManifest(id=tool_id or f"id-{name}", name=name)


class Source:
    """Lists some tools and knows others on demand."""

    def __init__(self, source_id: str, *listed: ToolManifest, hidden: tuple[ToolManifest, ...] = ()) -> None:
        self.source_id = source_id
        self.listed = listed
        self.hidden = hidden

    def tools(self) -> Iterable[ToolManifest]:
        return self.listed

    def resolve(self, name: str) -> ToolManifest | None:
        return next((one for one in (*self.listed, *self.hidden) if one.name == name), None)


def registry(*sources: Source) -> ToolRegistry:
    made = ToolRegistry()
    for source in sources:
        made.add_source(source)
    return made


def test_every_change_of_the_tools_raises_the_generation_by_one() -> None:
    tools = ToolRegistry()
    assert tools.generation == 0
    assert tools.add_source(Source("core", tool("read"), hidden=(tool("write"),))) == 1
    assert tools.resolve("write") == tool("write")
    assert tools.generation == 2
    assert tools.apply_state(tools.export_state()) == 3
    assert tools.remove_source("core") == 4
    assert tools.export_state() == ToolState(generation=4)


def test_asking_changes_nothing() -> None:
    tools = registry(Source("core", tool("read")))
    assert tools.resolve("read") == tools.find("read") == tool("read")
    assert tools.resolve("unknown") is None
    assert tools.find("unknown") is None
    assert tools.generation == 1


def test_states_are_sorted_by_name() -> None:
    tools = registry(Source("core", tool("b"), tool("a")), Source("more", tool("aa")))
    assert list(tools.export_state().tools) == ["a", "aa", "b"]
    assert list(tools.export_state().model_dump()["tools"]) == ["a", "aa", "b"]


def test_an_applied_state_replaces_the_tools() -> None:
    tools = registry(Source("core", tool("read"), tool("write")))
    exported = tools.export_state()
    kept = {"read": exported.tools["read"]}
    tools.apply_state(exported.model_copy(update={"tools": kept}))
    assert tools.find("write") is None
    assert tools.export_state().generation == 2


def entry(manifest: ToolManifest, source_id: str = "core") -> ToolEntry:
    return ToolEntry(manifest=manifest, source_id=source_id)


@pytest.mark.parametrize(
    ("state", "refusal", "name"),
    [
        (ToolState(generation=0), "generation_mismatch", "0"),
        (ToolState(generation=2), "generation_mismatch", "2"),
        (ToolState(generation=1, tools={"read": entry(tool("read"), "gone")}), "unknown_source", "gone"),
        (ToolState(generation=1, tools={"lost": entry(tool("lost"))}), "unresolved_tool", "lost"),
        (ToolState(generation=1, tools={"alias": entry(tool("read"))}), "duplicate_name", "alias"),
        (
            ToolState(generation=1, tools={"read": entry(tool("read", "same")), "write": entry(tool("write", "same"))}),
            "duplicate_id",
            "write",
        ),
    ],
)
def test_a_refused_state_changes_nothing_and_says_why(state: ToolState, refusal: str, name: str) -> None:
    tools = registry(Source("core", tool("read"), tool("write")))
    before = tools.export_state()
    with pytest.raises(ToolStateRefusedError) as caught:
        tools.apply_state(state)
    assert (caught.value.refusal, caught.value.name) == (refusal, name)
    assert isinstance(caught.value, InvalidStateError)
    assert tools.export_state() == before


@pytest.mark.parametrize(
    ("source", "refusal"),
    [
        (Source("core", tool("other")), "duplicate_source"),
        (Source("more", tool("read", "other")), "duplicate_name"),
        (Source("more", tool("other", "id-read")), "duplicate_id"),
    ],
)
def test_a_source_that_clashes_is_refused_whole(source: Source, refusal: str) -> None:
    tools = registry(Source("core", tool("read")))
    before = tools.export_state()
    with pytest.raises(ToolStateRefusedError) as caught:
        tools.add_source(source)
    assert caught.value.refusal == refusal
    assert tools.export_state() == before
    assert tools.source_ids == ("core",)


def test_removing_an_unknown_source_is_refused() -> None:
    with pytest.raises(ToolStateRefusedError, match="no tool source 'x'"):
        ToolRegistry().remove_source("x")


@pytest.mark.parametrize(("stored", "expected"), [(0, 1), (1, 1), (7, 7)])
def test_a_fork_takes_tools_and_generation_of_the_state(stored: int, expected: int) -> None:
    parent = registry(Source("core", tool("read"), tool("write")))
    state = ToolState(generation=stored, tools={"read": entry(tool("read"))})
    fork = parent.fork_with_state(state)
    assert fork.generation == expected
    assert fork.export_state().tools == state.tools
    fork.remove_source("core")
    assert parent.generation == 1
    assert parent.source_ids == ("core",)


def test_a_fork_refuses_tools_without_a_source() -> None:
    with pytest.raises(ToolStateRefusedError):
        ToolRegistry().fork_with_state(ToolState(generation=1, tools={"read": entry(tool("read"))}))


def test_availability_goes_by_mode_unless_overridden() -> None:
    config = ToolAvailabilityConfig(standard="callable", modes={"repl": "off"})
    manifest = ToolManifest(id="t", name="n", availability=config)
    assert manifest.effective_availability("standard") == "callable"
    assert manifest.effective_availability("repl") == "off"
    forced = manifest.model_copy(update={"availability_override": "searchable"})
    assert forced.effective_availability("repl") == "searchable"
