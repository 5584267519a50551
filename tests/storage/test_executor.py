"""The executor without threads: in order, in the caller's thread, errors in the future."""

from __future__ import annotations

import threading

import pytest

from storage.executor import InlineExecutor
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
