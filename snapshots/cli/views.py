"""What commands show of sessions: the rows of tables and the objects of `--json`, made from values. Pure.

session_row(info), revision_row(info), state_view(state)
"""

from __future__ import annotations

from typing import Any

from snapshots.cli.output import human_bytes
from snapshots.sessions import RevisionInfo, SessionInfo, StoreStats
from snapshots.state import BlobRef, PersistedSessionState

LAST_MESSAGES = 6
MESSAGE_CHARACTERS = 160  # of a message on one screen


def session_row(info: SessionInfo) -> dict[str, Any]:
    """Return a session as `ls` shows it."""
    return {
        "session_id": info.session_id,
        "status": info.status,
        "revision": info.revision,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
        "head_bytes": info.head_bytes,
    }


def revision_row(info: RevisionInfo) -> dict[str, Any]:
    """Return a revision as `log` shows it."""
    return {
        "revision": info.revision,
        "parent": info.parent,
        "commit_id": info.commit_id,
        "created_at": info.created_at,
        "kind": info.kind,
        "turn": info.turn,
        "nodes": info.node_count,
        "tokens": info.usage.total(),
        "usage": info.usage.model_dump(),
        "retained": info.retained,
    }


def stats_view(stats: StoreStats) -> dict[str, Any]:
    """Return the object of `stats`."""
    return {
        "sessions": dict(stats.sessions),
        "heads_bytes": stats.heads_bytes,
        "packs": stats.packs,
        "packs_bytes": stats.packs_bytes,
    }


def stats_rows(view: dict[str, Any]) -> list[dict[str, str]]:
    """Return `stats` as rows of name and value."""
    facts = {f"{status} sessions": f"{count:,}" for status, count in view["sessions"].items()}
    facts["heads"] = human_bytes(view["heads_bytes"])
    facts["packs"] = f"{view['packs']:,}, {human_bytes(view['packs_bytes'])}"
    return [{"name": name, "value": value} for name, value in facts.items()]


def state_view(state: PersistedSessionState) -> dict[str, Any]:
    """Return the object of `show`."""
    graph = state.session_graph
    messages = graph.messages()
    return {
        "session_id": state.session_id,
        "revision": state.head_revision,
        "checkpoint_ref": _ref(state.checkpoint_ref),
        "turn_index": state.turn_index,
        "parts": {
            "tool_state": _ref(state.tool_state_ref),
            "plugin_snapshot": _ref(state.plugin_snapshot_ref),
            "execution_state": _ref(state.execution_state_ref),
        },
        "nodes": len(graph),
        "messages": len(messages),
        "leaf_node_id": graph.leaf_node_id,
        "usage": [row.model_dump() for row in state.token_ledger],
        "tools": _tools(state),
        "last_messages": [message.model_dump(mode="json") for message in messages[-LAST_MESSAGES:]],
    }


def _ref(ref: BlobRef | None) -> dict[str, Any] | None:
    return None if ref is None else {"digest": str(ref.digest), "size_bytes": ref.size_bytes}


def _tools(state: PersistedSessionState) -> list[dict[str, Any]]:
    tools = {} if state.tool_state_snapshot is None else state.tool_state_snapshot.tools
    rows = []
    for name, entry in tools.items():
        contract = entry.manifest.compact_contract
        calls = contract.get("calls") if isinstance(contract, dict) else None
        rows.append({"name": name, "source": entry.source_id, "calls": calls if isinstance(calls, int) else None})
    return rows


def fact_rows(view: dict[str, Any]) -> list[dict[str, str]]:
    """Return what `show` says of a state beside its tables, as rows of name and value."""
    facts = {
        "checkpoint": _sized(view["checkpoint_ref"]),
        "turns": str(view["turn_index"]),
        "nodes": f"{view['nodes']}, {view['messages']} messages on the active path",
        "leaf": view["leaf_node_id"] or "–",
        **{name.replace("_", " "): _sized(ref) for name, ref in view["parts"].items()},
    }
    return [{"name": name, "value": value} for name, value in facts.items()]


def _sized(ref: dict[str, Any] | None) -> str:
    return "–" if ref is None else f"{ref['digest']}  {human_bytes(ref['size_bytes'])}"


def usage_rows(view: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the ledger as flat rows."""
    return [{"source": row["source"], "model": row["model"], **row["usage"]} for row in view["usage"]]


def message_rows(view: dict[str, Any]) -> list[dict[str, str]]:
    """Return the last messages, each in a line or two."""
    return [
        {"id": message["id"], "role": message["role"], "text": _shortened(message["parts"])}
        for message in view["last_messages"]
    ]


def _shortened(parts: list[dict[str, Any]]) -> str:
    text = " ".join(" ".join(filter(None, map(_label, parts))).split())
    return text if len(text) <= MESSAGE_CHARACTERS else text[: MESSAGE_CHARACTERS - 1] + "…"


def _label(part: dict[str, Any]) -> str:
    content = str(part["content"])
    if part["kind"] == "ToolCall":
        return f"→ {part.get('tool_name', '')} {content}"
    return f"← {content}" if part["kind"] == "ToolResult" else content
