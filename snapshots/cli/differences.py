"""What `diff` shows: a difference of two revisions as one JSON object, or as tables for people.

Rules:
1. In JSON a change without `before` or `after` has no such value there; null is a value. Its `path` is a list.
2. People see long values and long lists of ids shortened, JSON is whole.
3. Bytes of artifacts and execution states are never shown, only their digests and sizes.

    show_difference(run.output, repo.diff(("s1", 3), "s1"))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from snapshots.changes import MISSING, Change
from snapshots.cli import views
from snapshots.cli.output import Columns, Output, human_bytes
from snapshots.cli.views import ref_view
from snapshots.diff import NodesDiff, PluginsDiff, RevisionId, SessionDiff, ToolsDiff
from snapshots.state import BlobRef, TokenUsage
from snapshots.state.values import json_text

NAMES_SHOWN_MAX = 8  # of a list on one screen
VALUE_CHARACTERS = 60  # of a value in a table
DIGEST_CHARACTERS = 15  # `b3:` and twelve digits

CHANGE_COLUMNS: Columns = {"part": "part", "path": "path", "before": "before", "after": "after"}
ARTIFACT_COLUMNS: Columns = {"plugin": "plugin", "artifact": "artifact", "before": "before", "after": "after"}


def show_difference(output: Output, diff: SessionDiff) -> None:
    """Print a difference: one object with `--json`, else a line and a table of each kind of difference."""
    if output.as_json:
        output.record(to_plain(diff))
        return
    title = f"{_at(diff.a)} → {_at(diff.b)}"
    output.line(f"{title}: identical" if diff.identical else title)
    for rows, columns in (
        (fact_rows(diff), views.FACT_COLUMNS),
        (change_rows(diff), CHANGE_COLUMNS),
        (artifact_rows(diff), ARTIFACT_COLUMNS),
        (views.ledger_rows(entry.model_dump() for entry in diff.usage.ledger), views.LEDGER_COLUMNS),
    ):
        if rows:
            output.table(rows, columns)


def _at(revision: RevisionId) -> str:
    return f"{revision.session_id}@{revision.revision}"


# JSON.


def to_plain(diff: SessionDiff) -> dict[str, Any]:
    """Return a difference as one JSON object."""
    return {
        "a": _revision(diff.a),
        "b": _revision(diff.b),
        "identical": diff.identical,
        "nodes": _nodes(diff.nodes),
        "tool_state": {
            **_named(diff.tools),
            "generation": _pair(diff.tools.generation_before, diff.tools.generation_after),
        },
        "plugin_snapshot": {
            **_named(diff.plugins),
            "revision": _pair(diff.plugins.revision_before, diff.plugins.revision_after),
            "artifacts": [
                {"plugin_id": one.plugin_id, "name": one.name, **_pair(_refs(one.before), _refs(one.after))}
                for one in diff.plugins.artifacts
            ],
        },
        "execution_state": {
            "ref": _pair(ref_view(diff.execution.before), ref_view(diff.execution.after)),
            "shared_bytes": diff.execution.shared_bytes,
            "new_bytes": diff.execution.new_bytes,
        },
        "usage": {
            "ledger": [entry.model_dump() for entry in diff.usage.ledger],
            "token_usage": _pair(diff.usage.token_usage_before.model_dump(), diff.usage.token_usage_after.model_dump()),
        },
        "policy": _changes(diff.policy),
        "turn": _changes(diff.turn),
    }


def _revision(found: RevisionId) -> dict[str, Any]:
    return {
        "session_id": found.session_id,
        "revision": found.revision,
        "checkpoint_ref": ref_view(found.checkpoint_ref),
    }


def _nodes(nodes: NodesDiff) -> dict[str, Any]:
    return {
        "added": list(nodes.added),
        "removed": list(nodes.removed),
        "changed": list(nodes.changed),
        "reordered": nodes.reordered,
        "leaf": _pair(nodes.leaf_before, nodes.leaf_after),
        "messages_added": dict(nodes.messages_added),
        "tombstones_added": list(nodes.tombstones_added),
        "tombstones_removed": list(nodes.tombstones_removed),
    }


def _named(part: ToolsDiff | PluginsDiff) -> dict[str, Any]:
    return {
        "ref": _pair(ref_view(part.before), ref_view(part.after)),
        "added": list(part.added),
        "removed": list(part.removed),
        "changed": list(part.changed),
        "changes": _changes(part.changes),
    }


def _changes(found: Sequence[Change]) -> list[dict[str, Any]]:
    return [
        {
            "path": list(change.path),
            **{name: value for name, value in _pair(change.before, change.after).items() if value is not MISSING},
        }
        for change in found
    ]


def _pair(before: Any, after: Any) -> dict[str, Any]:
    return {"before": before, "after": after}


def _refs(refs: Sequence[BlobRef]) -> list[dict[str, Any] | None]:
    return [ref_view(ref) for ref in refs]


# Tables.


def fact_rows(diff: SessionDiff) -> list[dict[str, str]]:
    """Return what differs in a few words, as rows of name and value; parts that are identical are left out."""
    nodes, tools, plugins, usage = diff.nodes, diff.tools, diff.plugins, diff.usage
    facts = {
        "nodes": _counted(nodes.added, nodes.removed, nodes.changed),
        "order of nodes": "changed" if nodes.reordered else "",
        "messages added": ", ".join(f"{count} {role}" for role, count in nodes.messages_added.items()),
        "leaf": _moved(nodes.leaf_before, nodes.leaf_after),
        "tombstones": _counted(nodes.tombstones_added, nodes.tombstones_removed, ()),
        "tool state": _presence(tools.before, tools.after),
        "tools": _counted(tools.added, tools.removed, tools.changed),
        "tool generation": _moved(tools.generation_before, tools.generation_after),
        "plugin snapshot": _presence(plugins.before, plugins.after),
        "plugins": _counted(plugins.added, plugins.removed, plugins.changed),
        "plugin revision": _moved(plugins.revision_before, plugins.revision_after),
        "execution state": _execution(diff),
        "context window": _counts(usage.token_usage_before, usage.token_usage_after),
    }
    return views.facts_said(facts)


def _counted(added: Sequence[str], removed: Sequence[str], changed: Sequence[str]) -> str:
    kinds = (("added", added), ("removed", removed), ("changed", changed))
    return "\n".join(f"{len(names):,} {kind}: {_listed(names)}" for kind, names in kinds if names)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN_MAX])
    more = len(names) - NAMES_SHOWN_MAX
    return f"{shown}, … {more:,} more" if more > 0 else shown


def _moved(before: str | int | None, after: str | int | None) -> str:
    return "" if before == after else f"{_shown(before)} → {_shown(after)}"


def _shown(value: str | int | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else value


def _counts(before: TokenUsage, after: TokenUsage) -> str:
    pairs = {views.COUNT_HEADINGS[name]: (count, getattr(after, name)) for name, count in before.model_dump().items()}
    return ", ".join(f"{heading} {_moved(old, new)}" for heading, (old, new) in pairs.items() if old != new)


def _presence(before: BlobRef | None, after: BlobRef | None) -> str:
    """Return sizes where only one side has the part at all; an empty part and none are different things."""
    return "" if (before is None) == (after is None) else f"{_size(before)} → {_size(after)}"


def _execution(diff: SessionDiff) -> str:
    found = diff.execution
    if found.identical:
        return ""
    sizes = f"{_size(found.before)} → {_size(found.after)}"
    if found.after is None:
        return sizes
    return f"{sizes}, {human_bytes(found.new_bytes)} new, {human_bytes(found.shared_bytes)} shared"


def _size(ref: BlobRef | None) -> str:
    return "–" if ref is None else human_bytes(ref.size_bytes)


def change_rows(diff: SessionDiff) -> list[dict[str, str]]:
    """Return all changes of tools, plugins, policy and turn, key by key; an empty cell is no value, null is one."""
    parts = {
        "tool state": diff.tools.changes,
        "plugin snapshot": diff.plugins.changes,
        "policy": diff.policy,
        "turn": diff.turn,
    }
    return [
        {"part": part, "path": change.name, "before": _value(change.before), "after": _value(change.after)}
        for part, found in parts.items()
        for change in found
    ]


def _value(value: Any) -> str:
    if value is MISSING:
        return ""
    text = json_text(value)
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"


def artifact_rows(diff: SessionDiff) -> list[dict[str, str]]:
    """Return the artifacts that changed, each with digests and sizes before and after."""
    return [
        {
            "plugin": change.plugin_id,
            "artifact": change.name,
            "before": "\n".join(map(_sized, change.before)),
            "after": "\n".join(map(_sized, change.after)),
        }
        for change in diff.plugins.artifacts
    ]


def _sized(ref: BlobRef) -> str:
    return f"{ref.digest[:DIGEST_CHARACTERS]}…  {human_bytes(ref.size_bytes)}"
