"""A store that takes its time: what is moved, in either direction and by any thread, shares one rate."""

from __future__ import annotations

import io

import pytest

from storage.backends.memory import MemoryStore
from storage.store import ByteRange, Create
from storage.testing.clock import ManualClock
from storage.wrappers.throttled import ThrottledStore


def test_what_is_put_and_got_waits_as_long_as_the_rate_says() -> None:
    clock = ManualClock()
    store = ThrottledStore(MemoryStore(), bytes_per_second=100, clock=clock)
    store.put("a", bytes(50), Create())
    store.put("b", io.BytesIO(bytes(200)), Create())
    store.get("a", ByteRange(0, 10))
    store.stat("a")
    list(store.list(""))
    assert clock.monotonic() == pytest.approx(2.6)


def test_time_that_went_by_is_not_saved_up() -> None:
    clock = ManualClock()
    store = ThrottledStore(MemoryStore(), bytes_per_second=100, clock=clock)
    clock.advance(1_000)
    store.put("a", bytes(300), Create())
    assert clock.sleeps == [pytest.approx(3.0)]


def test_a_rate_that_moves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="moves nothing"):
        ThrottledStore(MemoryStore(), bytes_per_second=0, clock=ManualClock())
