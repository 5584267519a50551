"""Both clocks keep the protocol; the manual one is deterministic."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from storage.clock import Clock, SystemClock, backoff_seconds
from storage.testing.clock import ManualClock


@pytest.fixture(params=[SystemClock, ManualClock])
def clock(request: pytest.FixtureRequest) -> Clock:
    made: Clock = request.param()
    return made


def test_instants_are_aware_utc(clock: Clock) -> None:
    assert clock.now().tzinfo is UTC


def test_time_does_not_go_back(clock: Clock) -> None:
    before = clock.monotonic()
    clock.sleep(0.001)
    assert clock.monotonic() >= before + 0.001


def test_ids_are_128_bits_of_hex_and_differ(clock: Clock) -> None:
    ids = {clock.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", text) for text in ids)


def test_random_numbers_lie_in_the_unit_interval(clock: Clock) -> None:
    drawn = [clock.random() for _ in range(1000)]
    assert all(0 <= number < 1 for number in drawn)
    assert 400 < sum(number < 0.5 for number in drawn) < 600


def test_backoff_is_jittered_and_capped() -> None:
    clock = ManualClock(seed=3)
    waits = [backoff_seconds(attempt, clock, base_seconds=1.0, cap_seconds=4.0) for attempt in range(1, 200)]
    assert all(0 <= wait < 4.0 for wait in waits)
    assert max(waits) > 3.5


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(start=datetime(2030, 5, 1, tzinfo=UTC))
    clock.sleep(1.5)
    clock.advance(60)
    assert clock.now() - datetime(2030, 5, 1, tzinfo=UTC) == timedelta(seconds=61.5)
    assert clock.sleeps == [1.5]
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


def test_equal_seeds_draw_equal_ids() -> None:
    one, same, other = ManualClock(seed=1), ManualClock(seed=1), ManualClock(seed=2)
    assert [one.new_id(), one.new_id()] == [same.new_id(), same.new_id()]
    assert one.new_id() != other.new_id()


def test_a_start_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        ManualClock(start=datetime(2030, 1, 1))
