"""Callers of one session go one after the other, and what is kept of sessions is bounded."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from snapshots.queues import SessionQueues


def test_callers_of_one_session_are_never_inside_together() -> None:
    queues, inside, most = SessionQueues(), 0, 0

    def call(_: int) -> None:
        nonlocal inside, most
        with queues.one_at_a_time("s1"):
            inside += 1
            most = max(most, inside)
            threading.Event().wait(0.001)
            inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(40)))
    assert most == 1


def test_callers_of_other_sessions_do_not_wait() -> None:
    queues = SessionQueues()
    with ThreadPoolExecutor(1) as pool, queues.one_at_a_time("s1"):

        def other() -> int:
            with queues.one_at_a_time("s2"):
                return len(queues)

        assert pool.submit(other).result(timeout=10) == 2
    assert len(queues) == 0


def test_lock_map_drains_to_zero() -> None:
    queues = SessionQueues()

    def call(number: int) -> None:
        with queues.one_at_a_time(f"s{number % 5}"):
            assert 1 <= len(queues) <= 5

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(500)))
    assert len(queues) == 0


def test_a_caller_that_fails_leaves_the_queue() -> None:
    queues = SessionQueues()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), queues.one_at_a_time("s1"):
            raise ZeroDivisionError
    assert len(queues) == 0


def test_callers_go_in_the_order_they_came() -> None:
    queues, order = SessionQueues(), list[int]()

    def call(number: int) -> None:
        with queues.one_at_a_time("s1"):
            order.append(number)

    with ThreadPoolExecutor(6) as pool, queues.one_at_a_time("s1"):
        for number in range(6):
            pool.submit(call, number)
            while len(queues._queues["s1"]) < number + 2:  # until it stands in line
                threading.Event().wait(0.001)
    assert order == list(range(6))


def test_a_block_within_a_block_does_not_wait() -> None:
    queues = SessionQueues()
    with queues.one_at_a_time("s1"), queues.one_at_a_time("s1"), queues.one_at_a_time("s2"):
        assert len(queues) == 1
    assert len(queues) == 0
    with queues.one_at_a_time("s1"):
        assert len(queues) == 1


def test_nobody_waits_for_ever() -> None:
    queues = SessionQueues(wait_seconds_max=0.05)

    def call() -> None:
        with queues.one_at_a_time("s1"):
            pass

    with ThreadPoolExecutor(1) as pool, queues.one_at_a_time("s1"):
        pool.submit(call).result(timeout=30)  # somebody in a block who waits for another one
    assert len(queues) == 0
