"""A difference as people read it, and as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from snapshots import (
    PersistedSessionState,
    PluginSessionSnapshot,
    SessionPolicy,
    SnapshotRepository,
    TokenUsage,
    ToolState,
)
from snapshots.base import tracking_of
from snapshots.cli.differences import NAMES_SHOWN_MAX, VALUE_CHARACTERS, show_difference, to_plain
from snapshots.cli.output import Output
from snapshots.diff import SessionDiff, diff
from snapshots.restore import Loaded
from snapshots.state import (
    ModeTurnOptions,
    PluginArtifact,
    PluginSnapshot,
    PluginSnapshotMeta,
    ToolEntry,
    ToolManifest,
)
from storage.digest import blob_ref
from tests.integration.builders import SESSION, add_usage, message, take_turn


@pytest.fixture
def repo() -> Iterator[SnapshotRepository]:
    with SnapshotRepository.open("memory:") as opened:
        yield opened


def at(repo: SnapshotRepository, revision: int) -> Loaded:
    state = repo.load(SESSION, revision)
    base = tracking_of(state).base
    assert base is not None
    return Loaded(state, base)


def between(repo: SnapshotRepository, a: int, b: int) -> SessionDiff:
    return diff(at(repo, a), at(repo, b))


def shown(found: SessionDiff, capsys: pytest.CaptureFixture[str]) -> str:
    show_difference(Output(as_json=False, quiet=False), found)
    return capsys.readouterr().out


def row(text: str, name: str) -> list[str]:
    """Return the cells of the line that starts with `name`."""
    (line,) = (line for line in text.splitlines() if line.strip("│┃ ").startswith(name))
    return [cell.strip() for cell in line.strip("│").split("│")]


def fill(repo: SnapshotRepository) -> None:
    """Commit two revisions that differ in every part."""
    state = PersistedSessionState(session_id=SESSION, policy=SessionPolicy(model="m", max_turns=3))
    take_turn(state, "m1")
    state.stamp_runtime_state(tools(1, "old"), plugins(1, b"first"))
    repo.commit(state, execution_state=b"1" * 2048)
    take_turn(state, "m2")
    add_usage(state, "large", TokenUsage(output_tokens=1234))
    state.token_usage = TokenUsage(input_tokens=1000)
    state.policy = SessionPolicy(model="m")
    state.mode_turn_options = ModeTurnOptions(payload={"depth": None})
    state.stamp_runtime_state(tools(2, "new"), plugins(2, b"second"))
    repo.commit(state, execution_state=b"2" * 1024)


def tools(generation: int, description: str) -> ToolState:
    manifest = ToolManifest(id="t1", name="search", description=description)
    return ToolState(generation=generation, tools={"search": ToolEntry(manifest=manifest, source_id="core")})


def plugins(count: int, data: bytes) -> PluginSessionSnapshot:
    meta = PluginSnapshotMeta(plugin_id="memory", plugin_version="1", state={"count": count})
    artifacts = (PluginArtifact(name="index", data=data),)
    return PluginSessionSnapshot(plugins={"memory": PluginSnapshot(meta=meta, artifacts=artifacts)})


def test_every_part_is_shown(repo: SnapshotRepository, capsys: pytest.CaptureFixture[str]) -> None:
    fill(repo)
    text = shown(between(repo, 1, 2), capsys)
    assert text.splitlines()[0] == "s1@1 → s1@2"
    assert row(text, "nodes") == ["nodes", "1 added: m2"]
    assert row(text, "messages added") == ["messages added", "1 User"]
    assert row(text, "leaf") == ["leaf", "m1 → m2"]
    assert row(text, "tools") == ["tools", "1 changed: search"]
    assert row(text, "tool generation") == ["tool generation", "1 → 2"]
    assert row(text, "plugins") == ["plugins", "1 changed: memory"]
    assert row(text, "execution state") == ["execution state", "2.0 KiB → 1.0 KiB, 1.0 KiB new, 0 B shared"]
    assert row(text, "context window") == ["context window", "input 0 → 1,000"]
    changes = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    assert ["tool state", "tools.search.manifest.description", '"old"', '"new"'] in changes
    assert ["plugin snapshot", "plugins.memory.meta.state.count", "1", "2"] in changes
    assert ["policy", "max_turns", "3", ""] in changes
    assert ["turn", "mode_turn_options.payload.depth", "", "null"] in changes
    first, second = (f"{blob_ref(data).digest[:15]}…  {size}" for data, size in ((b"first", "5 B"), (b"second", "6 B")))
    assert ["memory", "index", first, second] in changes
    assert ["turn", "large", "0", "1,234", "0", "0"] in changes
    assert "second" not in text


def test_a_rewound_ledger_is_shown_negative(repo: SnapshotRepository, capsys: pytest.CaptureFixture[str]) -> None:
    fill(repo)
    text = shown(between(repo, 2, 1), capsys)
    assert "-1,234" in text
    assert row(text, "nodes") == ["nodes", "1 removed: m2"]


def test_equal_revisions_are_one_line(repo: SnapshotRepository, capsys: pytest.CaptureFixture[str]) -> None:
    fill(repo)
    assert shown(between(repo, 2, 2), capsys) == "s1@2 → s1@2: identical\n"


def test_what_did_not_change_is_left_out(repo: SnapshotRepository, capsys: pytest.CaptureFixture[str]) -> None:
    state = PersistedSessionState(session_id=SESSION)
    repo.commit(state)
    state.policy = SessionPolicy(model="m")
    repo.commit(state)
    text = shown(between(repo, 1, 2), capsys)
    assert [line.split()[0] for line in text.splitlines() if line[0].isalpha()] == ["s1@1"]
    assert "nodes" not in text
    assert "source" not in text


def test_a_part_that_is_new_and_empty_is_shown(repo: SnapshotRepository, capsys: pytest.CaptureFixture[str]) -> None:
    state = PersistedSessionState(session_id=SESSION)
    repo.commit(state)
    state.stamp_runtime_state(None, PluginSessionSnapshot())
    repo.commit(state)
    name, value = row(shown(between(repo, 1, 2), capsys), "plugin snapshot")
    assert (name, value.split(" → ")[0]) == ("plugin snapshot", "–")


def test_long_lists_and_values_are_shortened(repo: SnapshotRepository, capsys: pytest.CaptureFixture[str]) -> None:
    state = PersistedSessionState(session_id=SESSION)
    repo.commit(state)
    count = NAMES_SHOWN_MAX + 3
    state.append_active_conversation_messages([message(f"m{number}") for number in range(count)])
    state.mode_turn_options = ModeTurnOptions(payload={"text": "x" * 1000})
    repo.commit(state)
    found = between(repo, 1, 2)
    text = shown(found, capsys)
    assert row(text, "nodes")[1].endswith("m7, … 3 more")
    assert f'"{"x" * (VALUE_CHARACTERS - 2)}…' in text
    plain = to_plain(found)
    assert plain["nodes"]["added"] == [f"m{number}" for number in range(count)]
    assert plain["turn"][0]["after"] == "x" * 1000


def test_names_cannot_steer_the_terminal(repo: SnapshotRepository, capsys: pytest.CaptureFixture[str]) -> None:
    state = PersistedSessionState(session_id=SESSION)
    repo.commit(state)
    state.append_active_conversation_messages([message("m\x1b[2J[red]")])
    state.mode_turn_options = ModeTurnOptions(payload={"k\x1b[2J[red]": "v\x1b[2J"})
    repo.commit(state)
    text = shown(between(repo, 1, 2), capsys)
    assert "\x1b" not in text
    assert text.count("[red]") >= 2, "no markup is read"


def test_json_is_one_object_with_everything(repo: SnapshotRepository, capsys: pytest.CaptureFixture[str]) -> None:
    fill(repo)
    found = between(repo, 1, 2)
    show_difference(Output(as_json=True, quiet=False), found)
    (line,) = capsys.readouterr().out.splitlines()
    plain: dict[str, Any] = json.loads(line)
    assert plain == to_plain(found)
    assert not plain["identical"]
    assert plain["a"] == {
        "session_id": SESSION,
        "revision": 1,
        "checkpoint_ref": {"digest": found.a.checkpoint_ref.digest, "size_bytes": found.a.checkpoint_ref.size_bytes},
    }
    assert plain["nodes"]["leaf"] == {"before": "m1", "after": "m2"}
    assert plain["nodes"]["messages_added"] == {"User": 1}
    assert plain["tool_state"]["changed"] == ["search"]
    assert {"path": ["tools", "search", "manifest", "description"], "before": "old", "after": "new"} in (
        plain["tool_state"]["changes"]
    )
    first, second = ({"digest": blob_ref(data).digest, "size_bytes": len(data)} for data in (b"first", b"second"))
    assert plain["plugin_snapshot"]["artifacts"] == [
        {"plugin_id": "memory", "name": "index", "before": [first], "after": [second]}
    ]
    assert plain["execution_state"]["new_bytes"] == 1024
    assert {row["model"]: row["usage"]["output_tokens"] for row in plain["usage"]["ledger"]} == {"large": 1234, "m": 0}
    assert plain["usage"]["token_usage"]["after"]["input_tokens"] == 1000


def test_in_json_missing_and_null_are_different(repo: SnapshotRepository) -> None:
    fill(repo)
    plain = to_plain(between(repo, 1, 2))
    assert plain["policy"] == [{"path": ["max_turns"], "before": 3}]
    assert {"path": ["mode_turn_options", "payload", "depth"], "after": None} in plain["turn"]
