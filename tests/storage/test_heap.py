"""The collector pauses while many objects are made, and runs again whatever happened."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

from snapshots import SnapshotRepository
from storage.heap import collector_paused
from tests.integration.builders import new_session


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.enable()


def test_it_pauses_and_goes_on() -> None:
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled(), "the outer one ends it"
    assert gc.isenabled()


def test_it_goes_on_after_an_error() -> None:
    with pytest.raises(ValueError, match="broken"), collector_paused():
        raise ValueError("broken")
    assert gc.isenabled()


def test_who_runs_without_a_collector_gets_none() -> None:
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


def paused_in_a_thread() -> Callable[[], None]:
    """Pause the collector in another thread; return what ends that."""
    inside, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        with collector_paused():
            inside.set()
            go_on.wait(timeout=30)

    def end() -> None:
        go_on.set()
        thread.join()

    thread = threading.Thread(target=pause)
    thread.start()
    assert inside.wait(timeout=30)
    return end


@pytest.mark.parametrize("first", ["ends first", "ends last"])
def test_it_runs_again_when_the_last_of_several_threads_is_done(first: str) -> None:
    with collector_paused():
        end_the_other = paused_in_a_thread()
        if first == "ends last":
            end_the_other()
            assert not gc.isenabled()
    if first == "ends first":
        assert not gc.isenabled()
        end_the_other()
    assert gc.isenabled()


def test_many_threads_leave_it_running() -> None:
    """Without the count one that looked while another paused, and paused after that one's end, left it off for good."""
    end = time.monotonic() + 0.5

    def pause() -> None:
        while time.monotonic() < end:
            with collector_paused():
                pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=pause) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert gc.isenabled()


def test_a_forked_child_collects_though_a_thread_of_its_parent_does_not() -> None:
    end_the_other = paused_in_a_thread()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: this process has threads
        child = os.fork()
    if not child:
        with collector_paused():
            paused = not gc.isenabled()
        os._exit(0 if paused and gc.isenabled() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    end_the_other()
    assert gc.isenabled()


def test_what_was_made_meanwhile_is_not_walked_through_as_new() -> None:
    gc.collect()
    with collector_paused():
        made = [[number] for number in range(50_000)]
    assert len(gc.get_objects(generation=0)) < 5_000
    assert len(gc.get_objects(generation=2)) > len(made)


def test_what_somebody_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        with collector_paused():
            pass
        assert gc.get_freeze_count() >= before - 100, "some may have been freed"
    finally:
        gc.unfreeze()


def test_garbage_that_was_made_meanwhile_is_collected_some_day() -> None:
    gone: list[str] = []

    class Cyclic:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            gone.append("gone")

    with collector_paused():
        Cyclic()
    assert gone == []
    gc.collect()
    assert gone == ["gone"]


def test_a_load_collects_nothing_on_the_way() -> None:
    with SnapshotRepository.open("memory:") as repo:
        state = new_session("s1", *(f"m{number}" for number in range(3000)))
        repo.commit(state)
        gc.collect()
        collected: list[int] = []

        def note(phase: str, info: dict[str, int]) -> None:
            if phase == "start":
                collected.append(info["generation"])

        gc.callbacks.append(note)
        try:
            loaded = repo.load("s1")
        finally:
            gc.callbacks.remove(note)
    assert len(loaded.session_graph.nodes) == 3000
    assert len(collected) < 10
