"""What commands show of sessions: the rows of tables and the objects of `--json`, made from values. Pure.

session_row(info), revision_row(info), state_view(state, lease, now)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from snapshots.base import tracking_of
from snapshots.cli.output import Columns, Row, human_bytes, human_time
from snapshots.head import Origin
from snapshots.history import COMMIT, RESTORE, REWIND
from snapshots.pins import Pin
from snapshots.sessions import RevisionInfo, SessionInfo, StoreStats
from snapshots.state import BlobRef, PersistedSessionState
from storage.leases import Free, Lease

FACT_COLUMNS: Columns = {"": "name", " ": "value"}
COUNT_HEADINGS = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cached_input_tokens": "cached",
    "reasoning_tokens": "reasoning",
}
LEDGER_COLUMNS: Columns = {
    "source": "source",
    "model": "model",
    **{heading: name for name, heading in COUNT_HEADINGS.items()},
}
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
        "family": info.family,
        "relation": info.relation.model_dump(mode="json"),
        "origin": origin_view(info.origin),
        "holder": info.holder or None,
        "fence": info.fence,
        "pins": [pin.name for pin in info.pins],
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
        "pins": list(info.pins),
    }


def kind_text(row: Row) -> str:
    """Return what a revision is in a word: a stamped commit is a turn.

    With the parent if it is not the revision before, or if one went back to it on purpose.
    """
    words = ["turn" if row["kind"] == COMMIT and row["turn"] else row["kind"]]
    if row["kind"] in (REWIND, RESTORE) or row["parent"] != row["revision"] - 1:
        words.append(f"← {row['parent']}")
    return " ".join(words)


def origin_view(origin: Origin | None) -> dict[str, Any] | None:
    """Return where a fork came from."""
    if origin is None:
        return None
    return {
        "session_id": origin.session_id,
        "revision": origin.revision,
        "checkpoint_ref": ref_view(origin.checkpoint_ref),
    }


def origin_text(origin: dict[str, Any] | None) -> str:
    """Return where a fork came from as `S@REV`, "" for others."""
    return "" if origin is None else f"{origin['session_id']}@{origin['revision']}"


def relation_text(relation: dict[str, Any]) -> str:
    """Return a relation in a line: `handoff of s1: context is full`."""
    if "parent_session_id" not in relation:
        return str(relation["kind"])
    text = f"{relation['kind']} of {relation['parent_session_id']}"
    if relation.get("originating_tool_call_id") is not None:
        text += f", by tool call {relation['originating_tool_call_id']}"
    return f"{text}: {relation['reason']}" if "reason" in relation else text


def pin_row(pin: Pin, now: datetime) -> dict[str, Any]:
    """Return a pin as `pins` shows it."""
    return {
        "name": pin.name,
        "revision": pin.revision,
        "expires_at": pin.expires_at,
        "expired": pin.expired(now),
    }


def pins_text(pins: Iterable[dict[str, Any]]) -> str:
    """Return pins in a line: `good@3, old@2 (expired)`."""
    return ", ".join(f"{pin['name']}@{pin['revision']}{' (expired)' if pin['expired'] else ''}" for pin in pins)


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
    return facts_listed(facts)


def state_view(state: PersistedSessionState, lease: Lease | Free, now: datetime) -> dict[str, Any]:
    """Return the object of `show`, of a state that was just loaded; `now` says which pins have expired."""
    base = tracking_of(state).base
    assert base is not None, "what was loaded stands on a revision"
    head, graph = base.head, state.session_graph
    messages = graph.messages()
    return {
        "session_id": state.session_id,
        "revision": state.head_revision,
        "checkpoint_ref": ref_view(state.checkpoint_ref),
        "turn_index": state.turn_index,
        "parts": {
            "tool_state": ref_view(state.tool_state_ref),
            "plugin_snapshot": ref_view(state.plugin_snapshot_ref),
            "execution_state": ref_view(state.execution_state_ref),
        },
        "nodes": len(graph),
        "messages": len(messages),
        "leaf_node_id": graph.leaf_node_id,
        "usage": [row.model_dump() for row in state.token_ledger],
        "tools": _tools(state),
        "last_messages": [message.model_dump(mode="json") for message in messages[-LAST_MESSAGES:]],
        "relation": head.relation.model_dump(mode="json"),
        "origin": origin_view(head.origin),
        "holder": head.held_by or None,
        "fence": head.fence,
        "lease": lease_view(lease),
        "pins": [pin_row(pin, now) for pin in head.pins],
    }


def lease_view(lease: Lease | Free) -> dict[str, Any] | None:
    """Return the lease of a session, null while nobody holds it."""
    if isinstance(lease, Free):
        return None
    return {"owner": lease.owner, "fence": lease.fence, "expires_at": lease.expires_at}


def lease_text(lease: dict[str, Any] | None) -> str:
    """Return a lease in a line: `host-a until 2026-11-21 06:17:46Z`, "" for none."""
    return "" if lease is None else f"{lease['owner']} until {human_time(lease['expires_at'])}"


def ref_view(ref: BlobRef | None) -> dict[str, Any] | None:
    """Return a ref as `--json` shows it."""
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
        "checkpoint": sized(view["checkpoint_ref"]),
        "turns": str(view["turn_index"]),
        "nodes": f"{view['nodes']}, {view['messages']} messages on the active path",
        "leaf": view["leaf_node_id"] or "–",
        **{name.replace("_", " "): sized(ref) for name, ref in view["parts"].items()},
    }
    return [*facts_listed(facts), *facts_said(_session_facts(view))]


def _session_facts(view: dict[str, Any]) -> dict[str, str]:
    """Return what is said of the session at large; empty for what it does not have."""
    return {
        "relation": relation_text(view["relation"]),
        "origin": origin_text(view["origin"]),
        "holder": view["holder"] or "",
        "fence": f"{view['fence'] or ''}",
        "lease": lease_text(view["lease"]),
        "pins": pins_text(view["pins"]),
    }


def facts_listed(facts: Mapping[str, str]) -> list[dict[str, str]]:
    """Return facts as rows of name and value."""
    return [{"name": name, "value": value} for name, value in facts.items()]


def facts_said(facts: Mapping[str, str]) -> list[dict[str, str]]:
    """Return facts as rows of name and value, without those of which there is nothing to say."""
    return facts_listed({name: value for name, value in facts.items() if value})


def sized(ref: dict[str, Any] | None) -> str:
    """Return a ref and its size for people."""
    return "–" if ref is None else f"{ref['digest']}  {human_bytes(ref['size_bytes'])}"


def ledger_rows(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of a ledger as flat rows."""
    return [{"source": entry["source"], "model": entry["model"], **entry["usage"]} for entry in entries]


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
