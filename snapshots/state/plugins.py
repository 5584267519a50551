"""What plugins keep of a session: a description, their own state, and named artifacts. Pure.

Rules:
1. Entries are sorted by plugin id. `revision` is the plugin's own counter: carried, never interpreted by the store.
2. A plugin may write several artifacts of one name; a reader gets the first.

    writer = PluginSnapshotWriter()
    writer.write("index", b"…")
    PluginSnapshotReader(writer.artifacts()).read("index") == b"…"
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from snapshots.state.values import U64, Bytes, Items, Json, Value, omit_none


class PluginSnapshotMeta(Value):
    """Which plugin, at which version and revision of its own; `state` is its small state."""

    plugin_id: str
    plugin_version: str
    revision: U64 = 0
    state: Json = omit_none()


class PluginArtifact(Value):
    """A named run of bytes of a plugin."""

    name: str
    data: Bytes


class PluginSnapshot(Value):
    """What one plugin keeps."""

    meta: PluginSnapshotMeta
    artifacts: Items[PluginArtifact] = ()


def _sorted_by_id(plugins: dict[str, PluginSnapshot]) -> dict[str, PluginSnapshot]:
    for plugin_id, entry in plugins.items():
        if entry.meta.plugin_id != plugin_id:
            raise ValueError(f"the entry of plugin {plugin_id!r} belongs to {entry.meta.plugin_id!r}")
    return dict(sorted(plugins.items()))


class PluginSessionSnapshot(Value):
    """What all plugins of a session keep, sorted by plugin id."""

    plugins: Annotated[dict[str, PluginSnapshot], AfterValidator(_sorted_by_id)] = Field(default_factory=dict)


class PluginSnapshotWriter:
    """Takes the artifacts of one plugin."""

    def __init__(self) -> None:
        self._artifacts: list[PluginArtifact] = []

    def write(self, name: str, data: bytes) -> None:
        """Add an artifact; a name may be used again."""
        self._artifacts.append(PluginArtifact(name=name, data=data))

    def artifacts(self) -> tuple[PluginArtifact, ...]:
        """Return what was written, in order."""
        return tuple(self._artifacts)


class PluginSnapshotReader:
    """Gives a plugin its artifacts back."""

    def __init__(self, artifacts: tuple[PluginArtifact, ...] = ()) -> None:
        self._artifacts = artifacts

    def names(self) -> tuple[str, ...]:
        """Return the names in order of writing, repeated ones included."""
        return tuple(artifact.name for artifact in self._artifacts)

    def read(self, name: str) -> bytes | None:
        """Return the first artifact of this name, or None."""
        return next((artifact.data for artifact in self._artifacts if artifact.name == name), None)
