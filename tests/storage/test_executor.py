"""Executors: without threads, in order, errors in the future; with threads that may submit further calls."""

from __future__ import annotations

import threading

import pytest

from storage.executor import InlineExecutor, NestingExecutor
from storage.testing.plan import Crash


def test_everything_runs_in_order_in_the_callers_thread() -> None:
    ran: list[tuple[int, int]] = []
    with InlineExecutor() as executor:
        list(executor.map(lambda number: ran.append((number, threading.get_ident())), [1, 2, 3]))
        assert ran == [(number, threading.get_ident()) for number in (1, 2, 3)]


def test_it_keeps_errors_in_the_future() -> None:
    executor = InlineExecutor()
    assert isinstance(executor.submit(int, "x").exception(), ValueError)
    assert executor.submit(int, "7").result() == 7


def test_it_lets_a_crash_pass() -> None:
    def crash() -> None:
        raise Crash("here")

    with pytest.raises(Crash):
        InlineExecutor().submit(crash)


def test_it_ends() -> None:
    executor = InlineExecutor()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int, "7")


def test_threads_that_submit_and_wait_never_wait_for_each_other() -> None:
    def outer(number: int) -> list[int]:
        return list(executor.map(lambda inner: 10 * number + inner, range(3)))

    with NestingExecutor(2) as executor:
        assert list(executor.map(outer, range(8))) == [[10 * n, 10 * n + 1, 10 * n + 2] for n in range(8)]


def test_threads_run_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=30)
    with NestingExecutor(2) as executor:
        list(executor.map(lambda _: meeting.wait(), range(2)))


def test_what_a_thread_submits_keeps_its_error_in_the_future() -> None:
    with NestingExecutor(1) as executor:
        inner = executor.submit(lambda: executor.submit(int, "x")).result()
        assert isinstance(inner.exception(), ValueError)


def test_draining_waits_for_what_was_submitted_whatever_came_of_it() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        go_on.wait(timeout=30)
        done.append("slow")

    def failing() -> None:
        raise ValueError("kept in the future")

    with NestingExecutor(2) as executor:
        executor.submit(slow)
        failed = executor.submit(failing)
        begun.wait(timeout=30)
        threading.Timer(0.05, go_on.set).start()
        executor.drain()
        assert done == ["slow"]
        assert isinstance(failed.exception(), ValueError)
        executor.drain()
