"""Plugin snapshots: what is kept, what is reported, what counts as current."""

from __future__ import annotations

import hashlib

import pytest
from pydantic import ValidationError

from snapshots.errors import InvalidStateError
from snapshots.state import (
    PluginFailure,
    PluginSession,
    PluginSessionSnapshot,
    PluginSnapshot,
    PluginSnapshotMeta,
    PluginSnapshotReader,
    PluginSnapshotWriter,
    ResumeFinding,
)


class Notes:
    """A plugin that keeps one text as an artifact."""

    def __init__(self, plugin_id: str, text: str = "", *, version: str = "1", fails: bool = False) -> None:
        self.plugin_id = plugin_id
        self.plugin_version = version
        self.text = text
        self.revision = 0
        self.fails = fails
        self.restored: list[PluginSnapshotMeta] = []

    def snapshot_revision(self) -> int:
        return self.revision

    def snapshot(self, writer: PluginSnapshotWriter) -> PluginSnapshotMeta:
        if self.fails:
            raise OSError("disk full")
        writer.write("text", self.text.encode())
        return PluginSnapshotMeta(plugin_id=self.plugin_id, plugin_version=self.plugin_version, revision=self.revision)

    def restore(self, meta: PluginSnapshotMeta, reader: PluginSnapshotReader) -> None:
        if self.fails:
            raise KeyError("text")
        self.restored.append(meta)
        self.revision = meta.revision
        self.text = (reader.read("text") or b"").decode()


def test_a_reader_returns_the_first_artifact_of_a_name() -> None:
    writer = PluginSnapshotWriter()
    writer.write("a", b"first")
    writer.write("b", b"")
    writer.write("a", b"second")
    reader = PluginSnapshotReader(writer.artifacts())
    assert reader.names() == ("a", "b", "a")
    assert reader.read("a") == b"first"
    assert reader.read("b") == b""
    assert reader.read("c") is None


def test_plugins_get_back_what_they_wrote() -> None:
    snapshot = PluginSession([Notes("b", "two"), Notes("a", "one")]).snapshot()
    assert list(snapshot.plugins) == ["a", "b"]
    plugins = (Notes("a"), Notes("b"))
    report = PluginSession(plugins).restore(PluginSessionSnapshot.model_validate(snapshot.model_dump()))
    assert not report
    assert [plugin.text for plugin in plugins] == ["one", "two"]


def test_a_plugin_without_an_entry_is_restored_to_nothing() -> None:
    plugin = Notes("a", "old", version="7")
    assert not PluginSession([plugin]).restore(PluginSessionSnapshot())
    assert plugin.restored == [PluginSnapshotMeta(plugin_id="a", plugin_version="7")]
    assert plugin.text == ""


def test_entries_of_plugins_that_are_not_installed_are_reported_and_kept() -> None:
    snapshot = PluginSession([Notes("a", "one"), Notes("gone", "precious")]).snapshot()
    host = PluginSession([Notes("a")])
    report = host.restore(snapshot)
    assert report.missing == (ResumeFinding(kind="plugin", name="gone", reason="not installed here; its data is kept"),)
    assert report.refused == ()
    assert host.snapshot().plugins["gone"] == snapshot.plugins["gone"]
    assert host.try_snapshot()[0] == host.snapshot()
    assert host.snapshot_is_current(snapshot)


def test_a_plugin_that_refuses_is_reported_and_the_others_are_restored() -> None:
    snapshot = PluginSession([Notes("a", "one"), Notes("b", "two")]).snapshot()
    broken, fine = Notes("a", fails=True), Notes("b")
    report = PluginSession([broken, fine]).restore(snapshot)
    assert report.refused == (ResumeFinding(kind="plugin", name="a", reason="KeyError: 'text'"),)
    assert fine.text == "two"


def test_the_first_error_aborts_a_snapshot() -> None:
    session = PluginSession([Notes("a"), Notes("b", fails=True)])
    with pytest.raises(OSError, match="disk full"):
        session.snapshot()


def test_try_snapshot_names_every_failure_and_gives_no_partial_snapshot() -> None:
    session = PluginSession([Notes("a", fails=True), Notes("b"), Notes("c", fails=True)])
    assert session.try_snapshot() == (
        None,
        (
            PluginFailure(plugin_id="a", reason="OSError: disk full"),
            PluginFailure(plugin_id="c", reason="OSError: disk full"),
        ),
    )


def test_currency_is_version_and_revision_of_the_same_plugins() -> None:
    plugin = Notes("a")
    session = PluginSession([plugin])
    snapshot = session.snapshot()
    assert session.snapshot_is_current(snapshot)
    plugin.text = "another text without another revision"
    assert session.snapshot_is_current(snapshot)
    plugin.revision = 1
    assert not session.snapshot_is_current(snapshot)
    assert not PluginSession([Notes("a", version="2")]).snapshot_is_current(snapshot)
    assert not PluginSession([Notes("a"), Notes("b")]).snapshot_is_current(snapshot)
    assert not PluginSession([]).snapshot_is_current(snapshot)
    assert not PluginSession([Notes("b")]).snapshot_is_current(snapshot)


def test_the_fingerprint_is_the_first_eight_bytes_of_sha_256() -> None:
    one, two = Notes("one", version="1.0"), Notes("two", version="2")
    two.revision = 0x0102
    text = b"one\x001.0\x00" + bytes(8) + b"\xff" + b"two\x002\x00" + b"\x02\x01" + bytes(6) + b"\xff"
    expected = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
    assert PluginSession([one, two]).snapshot_revision_fingerprint() == expected
    assert PluginSession([two, one]).snapshot_revision_fingerprint() != expected
    two.revision += 1
    assert PluginSession([one, two]).snapshot_revision_fingerprint() != expected


def test_plugin_ids_are_unique_in_a_session() -> None:
    with pytest.raises(InvalidStateError):
        PluginSession([Notes("a"), Notes("a")])


def test_an_entry_under_another_plugins_id_is_refused() -> None:
    entry = PluginSnapshot(meta=PluginSnapshotMeta(plugin_id="a", plugin_version="1"))
    with pytest.raises(ValidationError, match="belongs to"):
        PluginSessionSnapshot(plugins={"b": entry})


def test_a_plugin_cannot_pass_as_another() -> None:
    class Impostor(Notes):
        def snapshot(self, writer: PluginSnapshotWriter) -> PluginSnapshotMeta:
            return super().snapshot(writer).model_copy(update={"plugin_id": "other"})

    with pytest.raises(InvalidStateError, match="gave a snapshot of 'other'"):
        PluginSession([Impostor("a")]).snapshot()
