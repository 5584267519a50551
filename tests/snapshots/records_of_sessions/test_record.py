"""The life cycle by itself: every step from every status, time, counts, and what a value may be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from snapshots.errors import IllegalTransitionError, InvalidStateError, LimitExceededError, SnapshotError
from snapshots.fields import U64_MAX
from snapshots.records import SessionRecord, SessionStatus, StoredRecord
from snapshots.records.record import STEPS
from storage.testing.clock import START
from tests.snapshots.records_of_sessions.benches import MODEL, TTL, after

CREATED, ACTIVE, CLOSED, EXPIRED = SessionStatus


def created(ttl_secs: int = TTL, **fields: Any) -> StoredRecord:
    return StoredRecord.create("s1", "tenant", **MODEL, created_at=START, ttl_secs=ttl_secs, **fields)


def record_at(status: SessionStatus) -> StoredRecord:
    """Return a record of this status; it was activated after 10 seconds and ended after 20."""
    match status:
        case SessionStatus.CREATED:
            return created()
        case SessionStatus.ACTIVE:
            return created().activate(after(10))
        case SessionStatus.CLOSED:
            return created().activate(after(10)).close(after(20))
        case SessionStatus.EXPIRED:
            return created(ttl_secs=10).activate(after(9)).expire(after(20))


Act = Callable[[StoredRecord, datetime], StoredRecord]
ACTS: dict[str, Act] = {
    "activate": StoredRecord.activate,
    "record_delta": lambda stored, at: stored.record_delta(5, at=at),
    "close": StoredRecord.close,
    "expire": StoredRecord.expire,
}
# What each step makes of each status while its time is not up, and once it is; None where it is refused.
IN_TIME: dict[str, dict[SessionStatus, SessionStatus | None]] = {
    "activate": {CREATED: ACTIVE, ACTIVE: None, CLOSED: None, EXPIRED: None},
    "record_delta": {CREATED: None, ACTIVE: ACTIVE, CLOSED: None, EXPIRED: None},
    "close": {CREATED: None, ACTIVE: CLOSED, CLOSED: None, EXPIRED: None},
    "expire": {CREATED: None, ACTIVE: None, CLOSED: None, EXPIRED: None},
}
WHEN_DUE: dict[str, dict[SessionStatus, SessionStatus | None]] = {
    **{step: dict.fromkeys(SessionStatus) for step in ACTS},
    "expire": {CREATED: EXPIRED, ACTIVE: EXPIRED, CLOSED: None, EXPIRED: None},
}
EVERY_CASE = [
    pytest.param(table[step][status], step, status, at, id=f"{step} of {status} {when}")
    for when, table, at in (("in time", IN_TIME, after(30)), ("when due", WHEN_DUE, after(10 + TTL)))
    for step in ACTS
    for status in SessionStatus
]


def test_the_table_has_every_step() -> None:
    assert ACTS.keys() == STEPS.keys()


@pytest.mark.parametrize(("to", "step", "status", "at"), EVERY_CASE)
def test_every_step_from_every_status(to: SessionStatus | None, step: str, status: SessionStatus, at: datetime) -> None:
    stored = record_at(status)
    before = stored.model_dump_json()
    if to is None:
        with pytest.raises(IllegalTransitionError) as caught:
            ACTS[step](stored, at)
        effective = stored.status if step == "expire" else stored.status_at(at)
        assert (caught.value.from_status, caught.value.to_status) == (effective, STEPS[step][1])
        assert f"is {effective} and cannot become {STEPS[step][1]}; " in str(caught.value)
        assert "'s1'" in str(caught.value)
    else:
        assert ACTS[step](stored, at).status is to
    assert stored.model_dump_json() == before


def test_a_step_sets_its_instant_and_nothing_else() -> None:
    first = created(initial_token_count=7, metadata={"a": [1]})
    active = first.activate(after(5))
    assert active.record == first.record.model_copy(update={"activated_at": after(5)})
    counted = active.record_delta(120, at=after(6)).record_delta(30, rounds=2, at=after(7))
    assert counted.record == active.record.model_copy(update={"delta_token_count": 150, "round_count": 3})
    assert counted.close(after(8)).record == counted.record.model_copy(update={"closed_at": after(8)})
    late = after(5 + TTL + 1)
    assert counted.expire(late).record == counted.record.model_copy(update={"closed_at": late})


STEP_LISTS = st.lists(st.tuples(st.sampled_from(sorted(ACTS)), st.integers(0, 30)), max_size=12)
FIXED = ("session_id", "tenant_id", "provider_id", "model", "created_at", "ttl_secs", "initial_token_count", "metadata")


@given(STEP_LISTS, st.integers(0, 60))
def test_provider_model_and_tenant_never_change(steps: list[tuple[str, int]], ttl_secs: int) -> None:
    first = stored = created(ttl_secs=ttl_secs)
    elapsed = 0
    for step, seconds in steps:
        elapsed += seconds
        before = stored
        try:
            stored = ACTS[step](stored, after(elapsed))
        except IllegalTransitionError:
            continue
        assert stored.record.round_count >= before.record.round_count
        assert not before.record.closed_at, "what is closed or expired is final"
    for name in FIXED:
        assert getattr(stored.record, name) == getattr(first.record, name)
    assert StoredRecord.model_validate(stored.model_dump()) == stored


# The remedy in a refusal.


@pytest.mark.parametrize(
    ("step", "stored", "at", "remedy"),
    [
        ("close", record_at(CREATED), after(1), "activate it first"),
        ("record_delta", record_at(CREATED), after(1), "activate it first"),
        ("activate", record_at(ACTIVE), after(11), "it is active already"),
        ("close", record_at(CLOSED), after(30), "create a record for another session"),
        ("expire", record_at(EXPIRED), after(30), "create a record for another session"),
        ("close", record_at(ACTIVE), after(TTL + 10), "its time was up at 2026-01-01T01:00:10.000000Z; that is final"),
        ("expire", record_at(ACTIVE), after(30), "its time is up at 2026-01-01T01:00:10.000000Z; close it instead"),
        ("expire", created(ttl_secs=0).activate(START), after(30), "it never expires; close it instead"),
    ],
)
def test_a_refusal_says_what_leads_on(step: str, stored: StoredRecord, at: datetime, remedy: str) -> None:
    with pytest.raises(IllegalTransitionError) as caught:
        ACTS[step](stored, at)
    assert remedy in caught.value.remedy


# Names of a status.


@pytest.mark.parametrize("status", SessionStatus)
def test_a_status_is_parsed_in_any_case(status: SessionStatus) -> None:
    assert str(status) == status.value == status.name.lower()
    for text in (status.value, status.value.upper(), status.value.title()):
        assert SessionStatus.parse(text) is status


@pytest.mark.parametrize("text", ["", "open", "active ", "aktiv", "x" * 5000])
def test_another_status_is_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(InvalidStateError, match="created, active, closed, expired") as caught:
        SessionStatus.parse(text)
    assert len(str(caught.value)) < 200


# Time.


def test_time_is_counted_from_activation_or_from_creation_before_it() -> None:
    assert created().record.expires_at == after(TTL)
    assert created().activate(after(100)).record.expires_at == after(100 + TTL)


def test_expired_means_now_is_not_before_expires_at() -> None:
    for stored in (created(), created().activate(START)):
        for seconds, due in ((-1, False), (TTL - 1e-6, False), (TTL, True), (TTL + 1, True)):
            assert stored.is_due(after(seconds)) is due
            assert stored.status_at(after(seconds)) is (EXPIRED if due else stored.status)


def test_a_ttl_of_zero_never_expires() -> None:
    stored = created(ttl_secs=0).activate(START)
    assert stored.record.expires_at is None
    assert not stored.is_due(datetime.max.replace(tzinfo=UTC))


@pytest.mark.parametrize("ttl_secs", [U64_MAX, U64_MAX // 2, 10**12, 86_400 * 366 * 8000])
def test_a_time_that_no_calendar_reaches_is_never_up(ttl_secs: int) -> None:
    stored = created(ttl_secs=ttl_secs).activate(START)
    assert stored.record.ttl_secs == ttl_secs
    assert stored.record.expires_at is None
    assert not stored.is_due(datetime.max.replace(tzinfo=UTC))
    assert stored.record_delta(1, at=after(10)).close(after(20)).status is CLOSED


def test_the_last_instant_of_the_calendar_can_be_reached() -> None:
    last = datetime.max.replace(tzinfo=UTC, microsecond=0)
    ttl_secs = (last - START) // timedelta(seconds=1)
    assert created(ttl_secs=ttl_secs).record.expires_at == last
    assert created(ttl_secs=ttl_secs + 1).record.expires_at is None


def test_what_ended_is_not_due() -> None:
    for status in (CLOSED, EXPIRED):
        assert not record_at(status).is_due(after(10 * TTL))
        assert record_at(status).status_at(after(10 * TTL)) is status


@pytest.mark.parametrize("step", ["activate", "close"])
def test_a_clock_that_runs_backwards_is_refused(step: str) -> None:
    stored = record_at(CREATED if step == "activate" else ACTIVE)
    began = stored.record.began_at
    with pytest.raises(InvalidStateError, match="the clock runs behind") as caught:
        ACTS[step](stored, began - timedelta(microseconds=1))
    assert not isinstance(caught.value, IllegalTransitionError)
    assert ACTS[step](stored, began)


@pytest.mark.parametrize("ttl_secs", [0, TTL])
@pytest.mark.parametrize("status", SessionStatus)
def test_a_naive_instant_is_refused(status: SessionStatus, ttl_secs: int) -> None:
    naive: Any = START.replace(tzinfo=None)
    stored = created(ttl_secs) if status is SessionStatus.CREATED else record_at(status)
    acts: list[Callable[[], object]] = [
        lambda: stored.activate(naive),
        lambda: stored.close(naive),
        lambda: stored.expire(naive),
        lambda: stored.record_delta(1, at=naive),
        lambda: stored.is_due(naive),
        lambda: stored.status_at(naive),
    ]
    for act in acts:
        with pytest.raises(InvalidStateError, match="aware"):
            act()


@pytest.mark.parametrize("wrong", [None, 5, b"active"])
def test_what_is_no_text_is_no_status(wrong: Any) -> None:
    with pytest.raises(InvalidStateError, match="there are created"):
        SessionStatus.parse(wrong)


def test_a_count_is_not_lost_to_a_clock_that_is_behind() -> None:
    assert record_at(ACTIVE).record_delta(7, at=after(-60)).record.delta_token_count == 7


# Counts.


@pytest.mark.parametrize(
    ("initial", "rounds", "delta", "saved"),
    [(100, 0, 0, 0), (100, 3, 50, 250), (100, 3, 300, 0), (100, 3, 301, 0), (0, 3, 1, 0), (U64_MAX, 2, 0, 2 * U64_MAX)],
)
def test_tokens_saved_stop_at_zero(initial: int, rounds: int, delta: int, saved: int) -> None:
    stored = created(initial_token_count=initial).activate(START).record_delta(delta, rounds=rounds, at=START)
    assert stored.record.tokens_saved == saved


@pytest.mark.parametrize("counts", [(U64_MAX, 0), (0, U64_MAX), (U64_MAX - 3, 3)])
def test_a_count_that_would_leave_64_bits_is_refused(counts: tuple[int, int]) -> None:
    tokens, rounds = counts
    stored = created().activate(START).record_delta(tokens, rounds=rounds, at=START)
    more = {"tokens": U64_MAX - tokens, "rounds": U64_MAX - rounds}
    full = stored.record_delta(more["tokens"], rounds=more["rounds"], at=START)
    assert (full.record.delta_token_count, full.record.round_count) == (U64_MAX, U64_MAX)
    for one in ((1, 0), (0, 1)):
        with pytest.raises(LimitExceededError, match=r"token_count of|round_count of") as caught:
            full.record_delta(one[0], rounds=one[1], at=START)
        assert caught.value.value == U64_MAX + 1


@pytest.mark.parametrize("number", [-1, -U64_MAX, U64_MAX + 1, pytest.param(10**5000, id="huge"), 1.0, "1", None, True])
def test_what_is_no_count_is_refused(number: Any) -> None:
    stored = record_at(ACTIVE)
    with pytest.raises(InvalidStateError, match="delta_token_count grows by a whole number"):
        stored.record_delta(number, at=after(11))
    with pytest.raises(InvalidStateError, match="round_count grows by a whole number"):
        stored.record_delta(1, rounds=number, at=after(11))


# What a record may be.


@pytest.mark.parametrize(
    "wrong",
    [
        {"provider_id": ""},
        {"model": ""},
        {"model": "x" * 513},
        {"model": "a\nb"},
        {"model": b"gpt-5"},
        {"model": 5},
        {"session_id": ""},
        {"tenant_id": "a\x00b"},
        {"ttl_secs": -1},
        {"ttl_secs": U64_MAX + 1},
        {"ttl_secs": 1.0},
        {"ttl_secs": True},
        {"initial_token_count": -1},
        {"initial_token_count": U64_MAX + 1},
        {"created_at": datetime(2026, 1, 1)},
        {"created_at": "2026-01-01"},
        {"created_at": "2026-01-01T00:00:60Z"},
        {"created_at": "2026-01-01T00:00:00"},
        {"created_at": 0},
        {"created_at": None},
        {"created_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))},
        {"metadata": float("nan")},
        {"metadata": {1: 2}},
        {"metadata": U64_MAX + 1},
        {"metadata": (1,)},
        {"metadata": b"x"},
    ],
    ids=str,
)
def test_what_breaks_a_rule_of_a_record_is_refused(wrong: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"session_id": "s1", "tenant_id": "t", **MODEL, "created_at": START, **wrong}
    (name,) = wrong
    with pytest.raises(InvalidStateError, match=f"not a session record: {name}") as caught:
        StoredRecord.create(fields.pop("session_id"), fields.pop("tenant_id"), **fields)
    assert "\n" not in str(caught.value)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError):
        SessionRecord.model_validate({**created().record.model_dump(), "etag": "x"})


@pytest.mark.parametrize(
    ("status", "activated", "closed"),
    [
        (CREATED, 1, None),
        (CREATED, None, 2),
        (ACTIVE, None, None),
        (ACTIVE, 1, 2),
        (CLOSED, 1, None),
        (CLOSED, None, 2),
        (EXPIRED, 1, None),
        (ACTIVE, -1, None),
        (CLOSED, 3, 2),
        (EXPIRED, None, -1),
    ],
)
def test_instants_go_with_the_status_and_are_in_order(
    status: SessionStatus, activated: int | None, closed: int | None
) -> None:
    times = {"activated_at": activated, "closed_at": closed}
    at = {name: None if seconds is None else after(seconds) for name, seconds in times.items()}
    with pytest.raises(ValidationError):
        StoredRecord.model_validate({"record": {**dict(created().record), **at}, "status": status})


def test_a_record_that_was_never_active_may_be_expired() -> None:
    stored = created().expire(after(TTL))
    assert (stored.record.activated_at, stored.record.closed_at) == (None, after(TTL))


def test_the_twelve_fields_on_the_wire() -> None:
    stored = created(initial_token_count=3, metadata={"a": [None, 1.5]}).activate(after(1))
    plain = stored.record.model_dump()
    assert plain == {
        "session_id": "s1",
        "tenant_id": "tenant",
        "provider_id": "openai",
        "model": "gpt-5",
        "created_at": "2026-01-01T00:00:00.000000Z",
        "activated_at": "2026-01-01T00:00:01.000000Z",
        "closed_at": None,
        "ttl_secs": TTL,
        "round_count": 0,
        "initial_token_count": 3,
        "delta_token_count": 0,
        "metadata": {"a": [None, 1.5]},
    }
    assert stored.model_dump(mode="json")["status"] == "active"


INSTANTS = st.datetimes(timezones=st.just(UTC))


@given(INSTANTS, st.integers(0, U64_MAX), st.integers(0, U64_MAX))
def test_what_is_written_is_read(at: datetime, ttl_secs: int, tokens: int) -> None:
    stored = StoredRecord.create("s", "t", **MODEL, created_at=at, ttl_secs=ttl_secs, initial_token_count=tokens)
    assert StoredRecord.model_validate_json(stored.model_dump_json()) == stored
    assert StoredRecord.model_validate(stored.model_dump()) == stored


def test_an_instant_of_another_zone_is_the_same_instant() -> None:
    zone = timezone(timedelta(hours=-5))
    stored = StoredRecord.create("s", "t", **MODEL, created_at=START.astimezone(zone))
    assert stored == StoredRecord.create("s", "t", **MODEL, created_at=START)
    assert stored.record.created_at.tzinfo is UTC


def test_records_are_frozen() -> None:
    stored = created()
    with pytest.raises(ValidationError):
        stored.record.model = "another"  # type: ignore[misc]  # that it cannot be set is what is tested
    with pytest.raises(ValidationError):
        stored.status = CLOSED  # type: ignore[misc]  # that it cannot be set is what is tested


def test_metadata_is_a_copy() -> None:
    given_ = {"a": [1]}
    stored = created(metadata=given_)
    given_["a"].append(2)
    assert stored.record.metadata == {"a": [1]}


def test_refusals_are_session_errors() -> None:
    assert issubclass(IllegalTransitionError, SnapshotError)
    assert issubclass(IllegalTransitionError, ValueError)
