"""The live set of tools of a session. In memory only; its state is exported as a `ToolState`.

Rules:
1. The generation starts at 0 and rises by one with every source added or removed, every tool resolved on demand and
   every state applied. Nothing else changes it.
2. `apply_state` is all or nothing: a refused state leaves the registry as it was, and says why in `refusal`.
3. Source ids, tool names and tool ids are unique in a registry.

    registry = ToolRegistry()
    registry.add_source(source)                       # generation 1
    registry.apply_state(registry.export_state())     # generation 2
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

from snapshots.errors import InvalidStateError
from snapshots.state.tools import ToolEntry, ToolManifest, ToolState

ToolStateRefusal = Literal[
    "generation_mismatch", "unknown_source", "unresolved_tool", "duplicate_name", "duplicate_id", "duplicate_source"
]


class ToolStateRefusedError(InvalidStateError):
    """The registry cannot take this state; it is unchanged. Remedy: see `refusal`.

    Attributes:
        refusal: `generation_mismatch`: export again and redo the change. `unknown_source`, `unresolved_tool`: add the
            source, or drop the tool from the state. `duplicate_…`: rename.
        name: The source or tool concerned.
    """

    def __init__(self, refusal: ToolStateRefusal, name: str, reason: str) -> None:
        self.refusal: ToolStateRefusal = refusal
        self.name = name
        super().__init__(reason)


class ToolSource(Protocol):
    """Where tools come from: a plugin, a server, the host."""

    @property
    def source_id(self) -> str:
        """Id, unique in a registry."""
        ...

    def tools(self) -> Iterable[ToolManifest]:
        """Return the tools it offers from the start."""
        ...

    def resolve(self, name: str) -> ToolManifest | None:
        """Return the tool of this name, listed or not, or None when it has none."""
        ...


class ToolRegistry:
    """Sources and the tools taken from them. Not thread-safe."""

    def __init__(self) -> None:
        self._sources: dict[str, ToolSource] = {}
        self._tools: dict[str, ToolEntry] = {}
        self._generation = 0

    @property
    def generation(self) -> int:
        """How often the set of tools has changed."""
        return self._generation

    @property
    def source_ids(self) -> tuple[str, ...]:
        """Ids of the sources, oldest first."""
        return tuple(self._sources)

    def find(self, name: str) -> ToolManifest | None:
        """Return the manifest of a known tool, or None."""
        entry = self._tools.get(name)
        return None if entry is None else entry.manifest

    def add_source(self, source: ToolSource) -> int:
        """Take a source and all the tools it lists; return the new generation.

        Raises:
            ToolStateRefusedError: Its id, or a name or id of its tools, is taken. Rename it.
        """
        if source.source_id in self._sources:
            raise ToolStateRefusedError(
                "duplicate_source", source.source_id, f"tool source {source.source_id!r} is there already"
            )
        tools = dict(self._tools)
        for manifest in source.tools():
            _add(tools, ToolEntry(manifest=manifest, source_id=source.source_id))
        self._sources[source.source_id] = source
        return self._replace(tools)

    def remove_source(self, source_id: str) -> int:
        """Drop a source and its tools; return the new generation.

        Raises:
            ToolStateRefusedError: There is no such source.
        """
        if source_id not in self._sources:
            raise ToolStateRefusedError("unknown_source", source_id, f"no tool source {source_id!r} to remove")
        del self._sources[source_id]
        return self._replace({name: entry for name, entry in self._tools.items() if entry.source_id != source_id})

    def resolve(self, name: str) -> ToolManifest | None:
        """Return a tool, asking the sources for one that they did not list; None when nobody has it.

        A tool found on demand joins the registry, which raises the generation.
        """
        if (known := self.find(name)) is not None:
            return known
        for source_id, source in self._sources.items():
            manifest = source.resolve(name)
            if manifest is not None:
                tools = dict(self._tools)
                _add(tools, ToolEntry(manifest=manifest, source_id=source_id))
                self._replace(tools)
                return manifest
        return None

    def export_state(self) -> ToolState:
        """Return the present tools and generation."""
        return ToolState(generation=self._generation, tools=self._tools)

    def apply_state(self, state: ToolState) -> int:
        """Replace the tools by those of `state`; return the new generation.

        Raises:
            ToolStateRefusedError: `state` was not exported at the present generation, names a source that is not
                here, a tool its source no longer has, or a name or id twice. Nothing changed.
        """
        if state.generation != self._generation:
            raise ToolStateRefusedError(
                "generation_mismatch",
                str(state.generation),
                f"tool state of generation {state.generation} does not fit generation {self._generation}; "
                "export the state again and redo the change",
            )
        return self._replace(self._checked(state))

    def fork_with_state(self, state: ToolState) -> ToolRegistry:
        """Return a registry with the same sources and the tools of `state`, at its generation (1 at least).

        Raises:
            ToolStateRefusedError: As for `apply_state`, but for the generation.
        """
        fork = ToolRegistry()
        fork._sources = dict(self._sources)
        fork._tools = self._checked(state)
        fork._generation = max(1, state.generation)
        return fork

    def _replace(self, tools: dict[str, ToolEntry]) -> int:
        self._tools = tools
        self._generation += 1
        return self._generation

    def _checked(self, state: ToolState) -> dict[str, ToolEntry]:
        tools: dict[str, ToolEntry] = {}
        for name, entry in state.tools.items():
            _check_source(name, entry, self._sources)
            if name != entry.manifest.name:
                raise ToolStateRefusedError(
                    "duplicate_name", name, f"tool {entry.manifest.name!r} stands under another name, {name!r}"
                )
            _add(tools, entry)
        return tools


def _check_source(name: str, entry: ToolEntry, sources: Mapping[str, ToolSource]) -> None:
    source = sources.get(entry.source_id)
    if source is None:
        raise ToolStateRefusedError(
            "unknown_source", entry.source_id, f"tool {name!r} comes from source {entry.source_id!r}, which is not here"
        )
    if source.resolve(entry.manifest.name) is None:
        raise ToolStateRefusedError(
            "unresolved_tool", name, f"source {entry.source_id!r} no longer has a tool {name!r}"
        )


def _add(tools: dict[str, ToolEntry], entry: ToolEntry) -> None:
    manifest = entry.manifest
    if manifest.name in tools:
        raise ToolStateRefusedError("duplicate_name", manifest.name, f"two tools are named {manifest.name!r}")
    if any(other.manifest.id == manifest.id for other in tools.values()):
        raise ToolStateRefusedError("duplicate_id", manifest.name, f"two tools have the id {manifest.id!r}")
    tools[manifest.name] = entry
