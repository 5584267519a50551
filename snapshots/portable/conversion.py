"""A `Session` as a `PersistedSessionState` of the same id, and back, exactly. Pure.

Rules:
1. Application, user and times stand in `mode_turn_options`, tagged "session": a listing finds them beside the head.
2. The active path begins with a plugin node `session.created` (initial state, unknown fields); a node `session.event`
   holds an event, body verbatim. An append adds one node, whatever the session's size.
3. What the nodes give when they are folded is the session; where that differs, a node `session.changed` sets it right.
4. Nothing is removed: what a session has no longer lies off the active path.
5. Nodes of other kinds on the path are somebody else's, and a session shows nothing of them. They stay on it, but for
   those that follow the last node that is kept: a rewind, or an import over a session, leaves them off the path too.
6. Equal sessions make equal states: times of nodes are those of what they hold.

    state = to_state(session)
    append(state, event, at=now)
    from_state(state) == session
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, count
from typing import Any

from snapshots.errors import InvalidStateError, LimitExceededError
from snapshots.portable.session import Event, Session, SessionFacts, instant_of, later
from snapshots.state import (
    ModeTurnOptions,
    PersistedSessionState,
    PluginPayload,
    SessionGraph,
    SessionNodeRecord,
)
from snapshots.state.values import json_text, rfc3339

MODE = "session"
CREATED, EVENT, CHANGED = "session.created", "session.event", "session.changed"
KINDS = frozenset({CREATED, EVENT, CHANGED})
FACTS_BYTES_MAX = 8 << 10  # half of what a head has room for beside itself: a listing reads nothing else

_INSTANT_LENGTH = len("2026-01-01T00:00:00.000000Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = 253_402_300_799  # of the year 9999, where the calendar of our texts ends


def to_state(session: Session) -> PersistedSessionState:
    """Return a state without a past that holds the session: committing it creates one.

    Raises:
        InvalidStateError: Something in the session could not be stored and read back.
        LimitExceededError: Application, user and times take more than FACTS_BYTES_MAX.
    """
    state = PersistedSessionState(session_id=session.id)
    write(session, state)
    return state


def write(session: Session, state: PersistedSessionState) -> None:
    """Make the active path show exactly `session`; everything else of the state stays.

    The state holds a session that `from_state` reads, or none. The longest start of the path that the session has too
    is kept; a session that stands there already adds nothing. Raises as `to_state`; then the state is as before.
    """
    facts, fold = session.facts, _fold_of(session)
    options = _options(facts)
    graph = state.session_graph
    _write_nodes(graph, [(CREATED, fold.created()), *((EVENT, body) for body in fold.events)], facts)
    present = _folded(graph)
    if json_text(present.changed()) != json_text(fold.changed()):  # `==` takes 1, 1.0 and true for one
        _add(graph, CHANGED, fold.changed(), _instant(facts.updated_at))
    state.mode_turn_options = options


def append(state: PersistedSessionState, event: Event, *, at: datetime) -> None:
    """Append an event: one node. Whether there is one of its id already is not asked.

    Raises:
        InvalidStateError: The state holds no session, or the event could not be read back; nothing changed.
        LimitExceededError: As `to_state`; nothing changed.
    """
    facts = facts_of(state)
    options = _options(facts.model_copy(update={"updated_at": later(facts.updated_at, at)}))
    body = event.to_plain()
    _add(state.session_graph, EVENT, body, _instant_of_event(body))
    state.mode_turn_options = options


def from_state(state: PersistedSessionState) -> Session:
    """Return the session that a state holds, events included.

    Raises:
        InvalidStateError: It holds none; the reason says what to do.
    """
    facts = facts_of(state)
    try:
        fold = _folded(state.session_graph)
        fields = {**fold.unknown, "id": state.session_id, **facts.model_dump()}
        fields |= {"state": fold.state, "events": fold.events}
        return Session.from_fields(fields, fold.initial_state)
    except (InvalidStateError, ValueError, TypeError, KeyError) as error:
        found = error.reason if isinstance(error, InvalidStateError) else repr(error)
        reason = f"session {state.session_id!r} is damaged: {found:.200}; restore an earlier revision"
        raise InvalidStateError(reason) from error


def facts_of(state: PersistedSessionState) -> SessionFacts:
    """Return what a listing shows of the session that a state holds. Raises InvalidStateError for a state of none."""
    return facts_of_options(state.session_id, state.mode_turn_options)


def facts_of_options(session_id: str, options: ModeTurnOptions) -> SessionFacts:
    """Return what the options of a session's state say of it. Raises InvalidStateError for those of anything else."""
    found = facts_in(options)
    if found is None:
        raise InvalidStateError(
            f"session {session_id!r} is no portable session, something else made it; "
            "read it with SnapshotRepository.load (snapshots show, snapshots cat)"
        )
    return found


def facts_in(options: ModeTurnOptions) -> SessionFacts | None:
    """Return what the options of a session's state say of it, None for options of anything else."""
    payload = options.decode(MODE)
    if type(payload) is not dict or payload.keys() != SessionFacts.model_fields.keys():
        return None
    return SessionFacts(**payload) if all(type(value) is str for value in payload.values()) else None


def event_bodies(state: PersistedSessionState) -> Iterator[dict[str, Any]]:
    """Yield the events of a state as plain data, oldest first."""
    return (_body(node) for node in state.session_graph.active_path_nodes() if _kind(node) == EVENT)


def other_nodes(state: PersistedSessionState) -> int:
    """Return the number of nodes on the active path that a session shows nothing of (rule 5)."""
    return sum(_kind(node) == "" for node in state.session_graph.active_path_nodes())


# Nodes.


@dataclass(slots=True)
class _Fold:
    """A session's content; or what the nodes of a path give, oldest first (rule 3)."""

    initial_state: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    unknown: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    def created(self) -> dict[str, Any]:
        return {"initial_state": self.initial_state, "unknown": self.unknown}

    def changed(self) -> dict[str, Any]:
        return {"state": self.state, "unknown": self.unknown}

    def take(self, kind: str, body: Mapping[str, Any]) -> None:
        if kind == EVENT:
            self.events.append(dict(body))
            self.state.update(_object(_object(body, "actions"), "state_delta"))
            return
        self.unknown = _object(body, "unknown")
        if kind == CREATED:
            self.initial_state = _object(body, "initial_state")
        self.state = dict(self.initial_state if kind == CREATED else _object(body, "state"))


def _object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = body[name]
    if type(found) is not dict:
        raise TypeError(f"{name} is no object")
    return found


def _fold_of(session: Session) -> _Fold:
    plain = session.to_plain()
    unknown = {name: value for name, value in plain.items() if name not in Session.model_fields}
    return _Fold(session.initial_state, plain["state"], unknown, plain["events"])


def _folded(graph: SessionGraph) -> _Fold:
    fold, ours = _Fold(), _nodes_of_ours(graph)
    if [index for index, (kind, _) in enumerate(ours) if kind == CREATED] != [0]:
        raise ValueError(f"it does not begin with its only node {CREATED}")
    for kind, node in ours:
        fold.take(kind, _body(node))
    return fold


def _nodes_of_ours(graph: SessionGraph) -> list[tuple[str, SessionNodeRecord]]:
    return [(kind, node) for node in graph.active_path_nodes() if (kind := _kind(node))]


def _kind(node: SessionNodeRecord) -> str:
    """Return which node of a session this is, "" for a node of somebody else."""
    plugin = node.plugin
    return plugin.plugin_type if plugin is not None and plugin.plugin_type in KINDS else ""


def _body(node: SessionNodeRecord) -> dict[str, Any]:
    assert node.plugin is not None, "nodes of a session are plugin nodes"
    if type(node.plugin.body) is not dict:
        raise TypeError(f"node {node.node_id!r} holds no object")
    return node.plugin.body


def _write_nodes(graph: SessionGraph, wanted: Sequence[tuple[str, dict[str, Any]]], facts: SessionFacts) -> None:
    """Make the path show these events after this creation."""
    present = [(kind, node) for kind, node in _nodes_of_ours(graph) if kind != CHANGED]
    kept = 0
    for (kind, node), (wanted_kind, body) in zip(present, wanted, strict=False):
        if kind != wanted_kind or not _same(kind, _body(node), body):
            break
        kept += 1
    if kept < len(present):
        graph.branch_to(present[kept - 1][1].node_id if kept else None)
    for kind, body in wanted[kept:]:
        _add(graph, kind, body, _instant_of_event(body) if kind == EVENT else _instant(facts.created_at))


def _same(kind: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if kind == CREATED:  # unknown fields may change later
        return json_text(one["initial_state"]) == json_text(other["initial_state"])
    return json_text(one) == json_text(other)


def _add(graph: SessionGraph, kind: str, body: dict[str, Any], at: datetime) -> None:
    node = SessionNodeRecord(
        node_id=_node_id(graph, f"event:{body['id']}" if kind == EVENT else kind),
        parent_node_id=graph.leaf_node_id,
        timestamp=rfc3339(at),
        payload=PluginPayload(plugin_type=kind, body=body),
    )
    graph.extend_active_path([node])


def _node_id(graph: SessionGraph, wanted: str) -> str:
    """Return `wanted`, or where that is taken, with a number: that of the node, so that nobody has to search."""
    candidates = chain([wanted], (f"{wanted}:{number}" for number in count(len(graph))))
    return next(one for one in candidates if not graph.is_taken(one))


def _options(facts: SessionFacts) -> ModeTurnOptions:
    padded = facts.updated_at.ljust(_INSTANT_LENGTH)  # what could be stored can be appended to
    size = len(json_text(facts.model_copy(update={"updated_at": padded}).model_dump()).encode())
    if size > FACTS_BYTES_MAX:
        raise LimitExceededError(f"application, user and times of {FACTS_BYTES_MAX} bytes", size)
    return ModeTurnOptions.typed(MODE, facts)


def _instant_of_event(body: Mapping[str, Any]) -> datetime:
    return _EPOCH + timedelta(seconds=min(body["timestamp"], _LAST_SECOND))


def _instant(text: str) -> datetime:
    """Return the instant that a text names; the epoch for a text, or an instant, that no node can have."""
    return max(instant_of(text) or _EPOCH, _EPOCH)
