"""What may follow what in the life of a realtime session: a table, and the steps that it allows. Pure.

Rules:
1. `TABLE` says which status leads where. Every other step is `IllegalTransitionError`, naming both. What is closed
   stays closed.
2. Both cursors only move forward.
3. `restart_count` only grows: by one with each restart that is requested, which takes a connection id of its own.
   Nothing else changes either.
4. A step that counts past what its number can say is refused, not wrapped round.

    check_transition("s1", RealtimeSessionStatus.CONNECTED, RealtimeSessionStatus.INPUT_SENT)
    after = restarting(state, RealtimeConnectionId("c2"))
"""

from __future__ import annotations

from collections.abc import Mapping

from snapshots.errors import IllegalTransitionError, InvalidStateError, LimitExceededError
from snapshots.realtime.values import (
    RECEIVE_LABEL,
    SEND_LABEL,
    RealtimeCloseReason,
    RealtimeConnectionId,
    RealtimeRecordKind,
    RealtimeSessionState,
    RealtimeSessionStatus,
)

_S, _K, _R = RealtimeSessionStatus, RealtimeRecordKind, RealtimeCloseReason
RESTARTS_MAX = (1 << 32) - 1

ACTIVE = frozenset(
    {
        _S.CONNECTED,
        _S.INPUT_SENT,
        _S.OUTPUT_RECEIVED,
        _S.INTERRUPTED,
        _S.RESTART_COMPLETED,
        _S.BACKPRESSURE_APPLIED,
    }
)
"""There is a connection, and frames go both ways."""
RESTARTING = frozenset({_S.RESTART_REQUESTED, _S.RESTART_STARTED})
"""A restart is under way: what is sent is held back."""

ENDED = frozenset({_S.FAILED, _S.DETACHED, _S.CLOSED})
"""There is no connection, and none under way."""

_FROM_ACTIVE = ACTIVE | {_S.RESTART_REQUESTED, _S.DETACHED, _S.FAILED, _S.CLOSED}
_FROM_NO_CONNECTION = frozenset({_S.RESTART_REQUESTED, _S.CLOSED})

TABLE: Mapping[RealtimeSessionStatus, frozenset[RealtimeSessionStatus]] = {
    _S.CONNECTING: frozenset({_S.CONNECTED, _S.FAILED, _S.CLOSED}),
    **dict.fromkeys(ACTIVE, _FROM_ACTIVE),
    _S.RESTART_REQUESTED: frozenset({_S.RESTART_STARTED, _S.RESTART_FAILED, _S.CLOSED}),
    _S.RESTART_STARTED: frozenset({_S.RESTART_COMPLETED, _S.RESTART_FAILED, _S.CLOSED}),
    _S.RESTART_FAILED: _FROM_NO_CONNECTION,
    _S.FAILED: _FROM_NO_CONNECTION,
    _S.DETACHED: _FROM_NO_CONNECTION,
    _S.CLOSED: frozenset(),
}
"""Status → those that may follow it."""

_LEADS_TO: Mapping[RealtimeRecordKind, RealtimeSessionStatus] = {
    _K.CONNECTED: _S.CONNECTED,
    _K.INPUT_SENT: _S.INPUT_SENT,
    _K.OUTPUT_RECEIVED: _S.OUTPUT_RECEIVED,
    _K.INTERRUPTED: _S.INTERRUPTED,
    _K.RESTART_REQUESTED: _S.RESTART_REQUESTED,
    _K.RESTART_STARTED: _S.RESTART_STARTED,
    _K.RESTART_COMPLETED: _S.RESTART_COMPLETED,
    _K.RESTART_FAILED: _S.RESTART_FAILED,
}
_ENDS_AS: Mapping[RealtimeCloseReason, RealtimeSessionStatus] = {
    _R.NORMAL: _S.CLOSED,
    _R.CANCEL: _S.CLOSED,
    _R.POLICY_DENIAL: _S.CLOSED,
    _R.PROVIDER_FAILURE: _S.FAILED,
    _R.HOST_OWNED_DETACH: _S.DETACHED,
}
# A request changes no status. It prepares a step, which must be possible from where it is made.
_PREPARES: Mapping[RealtimeRecordKind, RealtimeSessionStatus] = {
    _K.INPUT_SEND_REQUESTED: _S.INPUT_SENT,
    _K.OUTPUT_RECEIVE_REQUESTED: _S.OUTPUT_RECEIVED,
    _K.INTERRUPT_REQUESTED: _S.INTERRUPTED,
}
# Steps that the table has from more than one place, and their kind of record from one.
_ONLY_FROM: Mapping[RealtimeRecordKind, RealtimeSessionStatus] = {
    _K.CONNECTED: _S.CONNECTING,
    _K.RESTART_COMPLETED: _S.RESTART_STARTED,
}
_REMEDIES: Mapping[RealtimeSessionStatus, str] = {
    _S.CONNECTING: "connect it first",
    _S.RESTART_REQUESTED: "start the restart first",
    _S.RESTART_STARTED: "complete the restart first",
    _S.RESTART_FAILED: "begin another restart",
    _S.FAILED: "begin a restart",
    _S.DETACHED: "begin a restart",
    _S.CLOSED: "that is final: take another session",
}


def check_transition(session_id: str, before: RealtimeSessionStatus, after: RealtimeSessionStatus) -> None:
    """Refuse a step that the table does not have. Raises IllegalTransitionError."""
    if after not in TABLE[before]:
        raise IllegalTransitionError(
            f"realtime session {session_id!r}",
            from_status=before.value,
            to_status=after.value,
            remedy=_REMEDIES.get(before, ""),
        )


def status_after(
    kind: RealtimeRecordKind, before: RealtimeSessionStatus, reason: RealtimeCloseReason | None
) -> RealtimeSessionStatus:
    """Return the status that a record of this kind leads to; that before it for one that only asks or holds back."""
    if kind is _K.CLOSED:
        assert reason is not None, "a connection has a reason to end"
        return _ENDS_AS[reason]
    return _LEADS_TO.get(kind, before)


def check_record(
    session_id: str,
    kind: RealtimeRecordKind,
    before: RealtimeSessionState,
    after: RealtimeSessionState,
    reason: RealtimeCloseReason | None = None,
) -> None:
    """Refuse a record that may not follow on `before`.

    Raises:
        IllegalTransitionError: The status does not allow it.
        InvalidStateError: It changes something that this kind of record does not change, or moves a cursor back.
    """
    was, status = before.lifecycle_status, status_after(kind, before.lifecycle_status, reason)
    if kind is _K.CLOSE_REQUESTED:
        assert reason is not None, "a connection has a reason to end"
        check_transition(session_id, was, _ENDS_AS[reason])
    elif kind is _K.BACKPRESSURE_APPLIED:
        if was not in RESTARTING:
            check_transition(session_id, was, _S.INPUT_SENT)
            raise InvalidStateError(f"nothing is held back in realtime session {session_id!r} while it is {was.value}")
    elif kind is _K.CONNECT_REQUESTED:
        raise InvalidStateError(f"realtime session {session_id!r} connects once; restart it instead")
    else:
        check_transition(session_id, was, _PREPARES.get(kind, status))
        if _ONLY_FROM.get(kind, was) is not was:
            raise InvalidStateError(f"{kind.value} comes after {_ONLY_FROM[kind].value}, not after {was.value}")
    if after.lifecycle_status is not status:
        raise InvalidStateError(f"{kind.value} leads from {was.value} to {status.value}, nowhere else")
    _check_rest(kind, before, after)


def _check_rest(kind: RealtimeRecordKind, before: RealtimeSessionState, after: RealtimeSessionState) -> None:
    _check_cursors(kind, before, after)
    restarts = after.restart_count - before.restart_count
    is_new = after.connection_id != before.connection_id
    if kind is _K.RESTART_REQUESTED:
        if restarts != 1 or not is_new:
            raise InvalidStateError("a restart counts one more and takes a connection id of its own")
    elif restarts or is_new:
        raise InvalidStateError("only a restart counts, and takes another connection id")
    same = {"session_id", "provider_route_ref", "policy_refs"}
    if any(getattr(after, name) != getattr(before, name) for name in same):
        raise InvalidStateError("a realtime session keeps its id, its route and its policies")
    queue, queue_before = after.backpressure_state, before.backpressure_state
    if (queue.capacity, queue.policy_ref) != (queue_before.capacity, queue_before.policy_ref):
        raise InvalidStateError("a realtime session keeps the capacity and the policy of its queue")
    if queue.gated_frames < queue_before.gated_frames or queue.dropped_frames < queue_before.dropped_frames:
        raise InvalidStateError("what was held back or dropped stays counted")


def _check_cursors(kind: RealtimeRecordKind, before: RealtimeSessionState, after: RealtimeSessionState) -> None:
    moves = {_K.INPUT_SENT: "send_cursor", _K.OUTPUT_RECEIVED: "receive_cursor"}.get(kind)
    for name in ("send_cursor", "receive_cursor"):
        old, new = getattr(before, name), getattr(after, name)
        if new < old:
            raise InvalidStateError(f"the {name} moves forward only, not from {_place(old)} back to {_place(new)}")
        if (new != old) != (name == moves):
            raise InvalidStateError(f"{kind.value} moves {moves or 'no cursor'}, and nothing else")


def _place(cursor: object) -> str:
    return f"{getattr(cursor, 'chunk_sequence', '')}:{getattr(cursor, 'byte_offset', '')}"


def steps_to_restart(session_id: str, status: RealtimeSessionStatus) -> tuple[RealtimeSessionStatus, ...]:
    """Return what a host must record before it may request a restart of what another host left behind.

    Raises:
        IllegalTransitionError: It is closed.
    """
    if _S.RESTART_REQUESTED in TABLE[status]:
        return ()
    for given_up in (_S.FAILED, _S.RESTART_FAILED):
        if given_up in TABLE[status]:
            return (given_up,)
    check_transition(session_id, status, _S.RESTART_REQUESTED)
    raise AssertionError("the table does not have this step")


# The states after a step.


def moved(
    kind: RealtimeRecordKind, state: RealtimeSessionState, reason: RealtimeCloseReason | None = None
) -> RealtimeSessionState:
    """Return the state after a record of this kind, its cursor moved if it moves one.

    Raises:
        LimitExceededError: There is no further number for a cursor.
    """
    changed: dict[str, object] = {"lifecycle_status": status_after(kind, state.lifecycle_status, reason)}
    if kind is _K.INPUT_SENT:
        changed["send_cursor"] = state.send_cursor.advanced(SEND_LABEL)
    if kind is _K.OUTPUT_RECEIVED:
        changed["receive_cursor"] = state.receive_cursor.advanced(RECEIVE_LABEL)
    return state.model_copy(update=changed)


def restarting(state: RealtimeSessionState, connection_id: RealtimeConnectionId) -> RealtimeSessionState:
    """Return the state after a restart was requested. Raises LimitExceededError after the last that can be counted."""
    if state.restart_count >= RESTARTS_MAX:
        raise LimitExceededError(f"restart count of {RESTARTS_MAX}", state.restart_count + 1)
    return state.model_copy(
        update={
            "lifecycle_status": _S.RESTART_REQUESTED,
            "connection_id": connection_id,
            "restart_count": state.restart_count + 1,
        }
    )
