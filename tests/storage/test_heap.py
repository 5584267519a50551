"""The collector pauses while many objects are made, and runs again whatever happened."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

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


def test_it_runs_again_when_threads_overlap() -> None:
    """The first to begin is the first to end, so that the second one ends last, having found it paused."""
    inside, go_on = threading.Event(), threading.Event()

    def second() -> None:
        with collector_paused():
            inside.set()
            go_on.wait(timeout=30)

    thread = threading.Thread(target=second)
    with collector_paused():
        thread.start()
        inside.wait(timeout=30)
    assert gc.isenabled()
    go_on.set()
    thread.join()
    assert gc.isenabled()


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
