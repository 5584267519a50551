"""What may follow what in a realtime session: every status against every status, and every other field as well."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from snapshots.errors import IllegalTransitionError, InvalidStateError, LimitExceededError
from snapshots.realtime import (
    PolicyRef,
    RealtimeBackpressureState,
    RealtimeCloseReason,
    RealtimeConnectionId,
    RealtimeRecordKind,
    RealtimeSessionId,
    RealtimeSessionState,
    RealtimeSessionStatus,
    StreamCursor,
)
from snapshots.realtime.transitions import (
    ACTIVE,
    RESTARTS_MAX,
    TABLE,
    check_record,
    check_transition,
    moved,
    restarting,
    status_after,
    steps_to_restart,
)
from snapshots.state.values import U64_MAX
from tests.snapshots.realtime.test_values import state

S, K = RealtimeSessionStatus, RealtimeRecordKind
# The table once more, as it was decided: one line for each row.
ACTIVE_NAMES = "connected input_sent output_received interrupted restart_completed backpressure_applied"
DECIDED = {
    "connecting": "connected failed closed",
    **dict.fromkeys(ACTIVE_NAMES.split(), f"{ACTIVE_NAMES} restart_requested detached failed closed"),
    "restart_requested": "restart_started restart_failed closed",
    "restart_started": "restart_completed restart_failed closed",
    "restart_failed": "restart_requested closed",
    "failed": "restart_requested closed",
    "detached": "restart_requested closed",
    "closed": "",
}
EVERY = pytest.mark.parametrize("before", S)


@EVERY
@pytest.mark.parametrize("after", S)
def test_every_status_against_every_status(before: RealtimeSessionStatus, after: RealtimeSessionStatus) -> None:
    if after.value in DECIDED[before.value].split():
        check_transition("s1", before, after)
        return
    with pytest.raises(IllegalTransitionError) as refused:
        check_transition("s1", before, after)
    assert (refused.value.from_status, refused.value.to_status) == (before.value, after.value)


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(S)
    assert {status.value for status in ACTIVE} == set(ACTIVE_NAMES.split())


@EVERY
def test_every_open_status_leads_to_a_restart(before: RealtimeSessionStatus) -> None:
    if before is S.CLOSED:
        with pytest.raises(IllegalTransitionError):
            steps_to_restart("s1", before)
        return
    path = [before, *steps_to_restart("s1", before), S.RESTART_REQUESTED]
    for one, other in pairwise(path):
        check_transition("s1", one, other)
    assert len(path) <= 3


NEEDS: dict[RealtimeRecordKind, set[RealtimeSessionStatus]] = {
    K.CONNECTED: {S.CONNECTING},
    K.INPUT_SEND_REQUESTED: set(ACTIVE),
    K.INPUT_SENT: set(ACTIVE),
    K.OUTPUT_RECEIVE_REQUESTED: set(ACTIVE),
    K.OUTPUT_RECEIVED: set(ACTIVE),
    K.INTERRUPT_REQUESTED: set(ACTIVE),
    K.INTERRUPTED: set(ACTIVE),
    K.RESTART_REQUESTED: {*ACTIVE, S.RESTART_FAILED, S.FAILED, S.DETACHED},
    K.RESTART_STARTED: {S.RESTART_REQUESTED},
    K.RESTART_COMPLETED: {S.RESTART_STARTED},
    K.RESTART_FAILED: {S.RESTART_REQUESTED, S.RESTART_STARTED},
    K.BACKPRESSURE_APPLIED: {S.RESTART_REQUESTED, S.RESTART_STARTED},
    K.CLOSE_REQUESTED: set(S) - {S.CLOSED},
    K.CLOSED: set(S) - {S.CLOSED},
    K.CONNECT_REQUESTED: set(),
}


def step(kind: RealtimeRecordKind, before: RealtimeSessionState) -> RealtimeSessionState:
    if kind is K.RESTART_REQUESTED:
        return restarting(before, RealtimeConnectionId("c2"))
    return moved(kind, before, RealtimeCloseReason.NORMAL)


@EVERY
@pytest.mark.parametrize("kind", K)
def test_every_kind_of_record_from_every_status(kind: RealtimeRecordKind, before: RealtimeSessionStatus) -> None:
    was = state(lifecycle_status=before)
    after, reason = step(kind, was), RealtimeCloseReason.NORMAL
    if before in NEEDS[kind]:
        check_record("s1", kind, was, after, reason)
        return
    with pytest.raises((IllegalTransitionError, InvalidStateError)):
        check_record("s1", kind, was, after, reason)


@EVERY
def test_a_gated_send_leaves_the_status_as_it_is(before: RealtimeSessionStatus) -> None:
    assert status_after(K.BACKPRESSURE_APPLIED, before, None) is before


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("normal", S.CLOSED),
        ("cancel", S.CLOSED),
        ("policy_denial", S.CLOSED),
        ("provider_failure", S.FAILED),
        ("host_owned_detach", S.DETACHED),
    ],
)
def test_a_connection_ends_as_its_reason_says(reason: str, status: RealtimeSessionStatus) -> None:
    assert status_after(K.CLOSED, S.CONNECTED, RealtimeCloseReason(reason)) is status


OTHER_QUEUE = RealtimeBackpressureState.bounded(7, PolicyRef.new("p")).gate()
EMPTY_QUEUE = RealtimeBackpressureState.bounded(32, PolicyRef.new("p"))


@pytest.mark.parametrize(
    "changed",
    [
        {"session_id": RealtimeSessionId("other")},
        {"provider_route_ref": "other"},
        {"policy_refs": (PolicyRef.new("other"),)},
        {"connection_id": RealtimeConnectionId("other")},
        {"restart_count": 2},
        {"restart_count": 0},
        {"send_cursor": StreamCursor.chunk(0)},
        {"receive_cursor": StreamCursor.chunk(0)},
        {"receive_cursor": StreamCursor.chunk(2)},
        {"backpressure_state": OTHER_QUEUE},
        {"backpressure_state": EMPTY_QUEUE},
        {"lifecycle_status": S.CONNECTED},
    ],
    ids=str,
)
def test_what_a_step_does_not_change_stays(changed: dict[str, Any]) -> None:
    before = state()
    after = moved(K.INPUT_SENT, before).model_copy(update=changed)
    with pytest.raises(InvalidStateError):
        check_record("s1", K.INPUT_SENT, before, after)


def test_cursors_move_forward_only() -> None:
    before = state(send_cursor=StreamCursor.chunk(5))
    for back in (StreamCursor.chunk(4), StreamCursor.byte(4, 99), StreamCursor.chunk(5)):
        after = moved(K.INPUT_SENT, before).model_copy(update={"send_cursor": back})
        with pytest.raises(InvalidStateError):
            check_record("s1", K.INPUT_SENT, before, after)


def test_a_restart_takes_a_connection_id_of_its_own_and_counts_one() -> None:
    before = state(lifecycle_status="connected")
    good = restarting(before, RealtimeConnectionId("c2"))
    assert (good.restart_count, good.connection_id.value) == (2, "c2")
    wrong = [
        restarting(before, before.connection_id),
        good.model_copy(update={"restart_count": 3}),
        good.model_copy(update={"restart_count": 1}),
    ]
    for after in wrong:
        with pytest.raises(InvalidStateError):
            check_record("s1", K.RESTART_REQUESTED, before, after)


def test_counters_do_not_wrap_round() -> None:
    with pytest.raises(LimitExceededError):
        restarting(state(restart_count=RESTARTS_MAX), RealtimeConnectionId("c2"))
    with pytest.raises(LimitExceededError):
        moved(K.INPUT_SENT, state(send_cursor=StreamCursor.chunk(U64_MAX)))
    with pytest.raises(LimitExceededError):
        moved(K.OUTPUT_RECEIVED, state(receive_cursor=StreamCursor.chunk(U64_MAX)))
