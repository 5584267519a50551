"""The live plugins of a session: taking their snapshot, and giving it back. In memory only.

Rules:
1. A snapshot holds every installed plugin or does not come to be: a partial one would pass for the whole.
2. What a snapshot holds of plugins that are not installed here is reported by `restore` and written again by the next
   `snapshot`: a host without a plugin does not destroy its data.
3. The fingerprint covers the installed plugins' ids, versions and revisions, not their content.

    plugins = PluginSession([memory_plugin], tools=registry)
    report = plugins.restore(snapshot)        # ResumeReport: missing and refused plugins
    snapshot, failures = plugins.try_snapshot()
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from snapshots.errors import InvalidStateError
from snapshots.state.plugins import (
    PluginSessionSnapshot,
    PluginSnapshot,
    PluginSnapshotMeta,
    PluginSnapshotReader,
    PluginSnapshotWriter,
)
from snapshots.state.resume import ResumeFinding, ResumeReport
from snapshots.state.tool_registry import ToolRegistry, ToolStateRefusedError
from snapshots.state.tools import ToolState
from snapshots.state.values import U64_MAX, Value


class Plugin(Protocol):
    """Something that keeps state of its own in a session."""

    @property
    def plugin_id(self) -> str:
        """Id, unique in a session."""
        ...

    @property
    def plugin_version(self) -> str:
        """Version of its code."""
        ...

    def snapshot_revision(self) -> int:
        """Return its own counter: another number whenever a snapshot would differ (0 … 2**64 − 1)."""
        ...

    def snapshot(self, writer: PluginSnapshotWriter) -> PluginSnapshotMeta:
        """Write its artifacts and return its description. May raise; then nothing is kept of this attempt."""
        ...

    def restore(self, meta: PluginSnapshotMeta, reader: PluginSnapshotReader) -> None:
        """Take its state back; `meta` has revision 0 and no state when the session holds nothing of it."""
        ...


class PluginFailure(Value):
    """A plugin that could not take its snapshot, and what it raised."""

    plugin_id: str
    reason: str


class PluginSession:
    """The plugins of one session, in order, and its tool registry. Not thread-safe."""

    def __init__(self, plugins: Sequence[Plugin] = (), *, tools: ToolRegistry | None = None) -> None:
        ids = [plugin.plugin_id for plugin in plugins]
        if len(set(ids)) != len(ids):
            raise InvalidStateError(f"plugin ids are unique in a session, got {ids}")
        self._plugins = tuple(plugins)
        self._tools = ToolRegistry() if tools is None else tools
        self._absent: dict[str, PluginSnapshot] = {}

    @property
    def tools(self) -> ToolRegistry:
        """The tool registry."""
        return self._tools

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """The installed plugins, in order."""
        return self._plugins

    def snapshot(self) -> PluginSessionSnapshot:
        """Return the snapshot of all plugins, with the entries kept for those that are not installed.

        Raises:
            Exception: Whatever the first failing plugin raised; use `try_snapshot` to hear of all of them.
        """
        entries = dict(self._absent)
        for plugin in self._plugins:
            entries[plugin.plugin_id] = _snapshot_of(plugin)
        return PluginSessionSnapshot(plugins=entries)

    def try_snapshot(self) -> tuple[PluginSessionSnapshot | None, tuple[PluginFailure, ...]]:
        """Ask every plugin; return the snapshot and no failures, or None and all failures."""
        entries, failures = dict(self._absent), []
        for plugin in self._plugins:
            try:
                entries[plugin.plugin_id] = _snapshot_of(plugin)
            except Exception as error:  # noqa: BLE001  a plugin may raise anything; it becomes a value, not a log line
                failures.append(PluginFailure(plugin_id=plugin.plugin_id, reason=_reason(error)))
        return (None if failures else PluginSessionSnapshot(plugins=entries)), tuple(failures)

    def snapshot_is_current(self, previous: PluginSessionSnapshot) -> bool:
        """Whether `previous` has the installed plugins, each at its present version and revision, and no others.

        Entries kept for plugins that are not installed count as present.
        """
        if previous.plugins.keys() != {plugin.plugin_id for plugin in self._plugins} | self._absent.keys():
            return False
        return all(
            (meta := previous.plugins[plugin.plugin_id].meta).plugin_version == plugin.plugin_version
            and meta.revision == plugin.snapshot_revision()
            for plugin in self._plugins
        )

    def snapshot_revision_fingerprint(self) -> int:
        """Return 64 bits that change with any installed plugin's id, version or revision, or with their order."""
        hasher = hashlib.sha256()
        for plugin in self._plugins:
            hasher.update(plugin.plugin_id.encode() + b"\0" + plugin.plugin_version.encode() + b"\0")
            hasher.update((plugin.snapshot_revision() & U64_MAX).to_bytes(8, "little") + b"\xff")
        return int.from_bytes(hasher.digest()[:8], "little")

    def restore_tools(self, state: ToolState) -> ResumeReport:
        """Take the tools of `state`, at its generation; refused as a whole if a source or a tool of it is not here."""
        try:
            self._tools = self._tools.fork_with_state(state)
        except ToolStateRefusedError as error:
            return ResumeReport(refused=(ResumeFinding(kind="tool_state", name=error.name, reason=str(error)),))
        return ResumeReport()

    def restore(self, snapshot: PluginSessionSnapshot) -> ResumeReport:
        """Give every installed plugin its entry back, or an empty one.

        Returns:
            `missing`: entries of plugins that are not installed (kept for the next snapshot). `refused`: plugins that
            raised; the others are restored all the same.
        """
        installed = {plugin.plugin_id for plugin in self._plugins}
        self._absent = {name: entry for name, entry in snapshot.plugins.items() if name not in installed}
        refused = []
        for plugin in self._plugins:
            entry = snapshot.plugins.get(plugin.plugin_id) or _empty_entry(plugin)
            try:
                plugin.restore(entry.meta, PluginSnapshotReader(entry.artifacts))
            except Exception as error:  # noqa: BLE001  a plugin may raise anything; it is reported, the others go on
                refused.append(ResumeFinding(kind="plugin", name=plugin.plugin_id, reason=_reason(error)))
        missing = [
            ResumeFinding(kind="plugin", name=name, reason="not installed here; its data is kept")
            for name in self._absent
        ]
        return ResumeReport(missing=tuple(missing), refused=tuple(refused))


def _empty_entry(plugin: Plugin) -> PluginSnapshot:
    return PluginSnapshot(meta=PluginSnapshotMeta(plugin_id=plugin.plugin_id, plugin_version=plugin.plugin_version))


def _snapshot_of(plugin: Plugin) -> PluginSnapshot:
    writer = PluginSnapshotWriter()
    meta = plugin.snapshot(writer)
    if meta.plugin_id != plugin.plugin_id:
        raise InvalidStateError(f"plugin {plugin.plugin_id!r} gave a snapshot of {meta.plugin_id!r}")
    return PluginSnapshot(meta=meta, artifacts=writer.artifacts())


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
