"""Every measure at a small size, and what must not be exceeded. Counts and bytes are gated, never seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from snapshots.benchmarks.alone import AloneError, alone
from snapshots.benchmarks.measures import MEASURES, measured
from snapshots.benchmarks.meters import peak_bytes
from snapshots.benchmarks.places import new_place
from snapshots.benchmarks.rounds import Rounds
from snapshots.benchmarks.settings import Settings
from snapshots.errors import RevisionNotFoundError
from snapshots.maintenance.progress import Progress, quiet
from storage.backends import open_store
from storage.backends.memory import MemoryStore
from storage.store import Create

STORED_KIB_MAX = 40
UPLOADED_KIB_MAX = 40
CHAT_REQUESTS_MAX = 1.5
RESUME_GETS_MAX, RESUME_ROUNDS_MAX = 24, 3
FORK_REQUESTS = 3
RESTORE_GETS_MAX = 40
LARGE_STORED_SHARE_MAX = 0.016  # of the state, per revision: 1.0 MB of 64 MiB


def figures(name: str, settings: Settings) -> dict[str, float]:
    """Run a measure in this process; return its figures without their units."""
    return {key: figure.value for key, figure in MEASURES[name].load()(settings, quiet).items()}


def test_agent_turns() -> None:
    found = figures("agent-turns", Settings(turns=200))
    assert found["stored_per_turn_200"] <= STORED_KIB_MAX
    assert found["uploaded_per_turn_200"] <= UPLOADED_KIB_MAX
    assert found["requests_per_commit_max_200"] <= 2
    assert found["requests_per_commit_200"] <= 2
    assert {"cpu_per_commit_200", "stored_per_turn_50", "cpu_200_over_50"} <= found.keys()


def test_chat_only() -> None:
    found = figures("chat-only", Settings())
    assert found["requests_per_commit"] <= CHAT_REQUESTS_MAX
    assert found["requests_before_acknowledged_max"] <= 2
    assert found["requests_before_acknowledged"] <= 1.05


def test_resume() -> None:
    found = figures("resume", Settings(turns=200))
    for length in (50, 200):
        assert found[f"gets_max_{length}"] <= RESUME_GETS_MAX
        assert found[f"rounds_max_{length}"] <= RESUME_ROUNDS_MAX


def test_load_and_fork() -> None:
    assert figures("load", Settings(turns=20))["nodes"] == 100
    found = figures("fork", Settings(turns=30))
    assert found["requests"] == FORK_REQUESTS
    assert found["requests_older_max"] <= FORK_REQUESTS + 2


def test_large_state() -> None:
    settings = Settings(revisions=24, state_bytes=8 << 20)
    found = figures("large-state", settings)
    first = 0.6 * settings.state_bytes / 1e6  # what the first revision compresses to, at most
    assert found["restored_and_compared"] == settings.revisions
    assert found["gets_per_restore_max"] <= RESTORE_GETS_MAX
    assert found["requests_per_commit_max"] == 2
    assert found["stored_per_revision"] <= (
        first / settings.revisions + LARGE_STORED_SHARE_MAX * settings.state_bytes / 1e6
    )


def test_collection() -> None:
    sessions = 300
    found = figures("collection", Settings(sessions=sessions))
    assert found["packs_deleted"] == 3
    assert found["nothing_to_do_requests"] <= 1.2 * sessions
    assert found["requests"] <= 2.4 * sessions


def test_contention() -> None:
    found = figures("contention", Settings(writers=4, seconds=0.6))
    assert found["in_history_once"] == found["acknowledged"] >= 4


def test_start_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapshots.benchmarks.startup.STARTS", 1)
    found = figures("start-up", Settings())
    assert found["import_snapshots_modules"] == 1
    assert found["import_repository_modules"] > found["cli_version_modules"] / 2 > 1


def test_lengths_are_those_asked_for() -> None:
    assert Settings().lengths == (50, 200, 1000)
    assert Settings(turns=200).lengths == (50, 200)
    assert Settings(turns=7).lengths == (7,)


# Rounds.


def _put_all(store: MemoryStore, keys: str) -> None:
    for key in keys:
        store.put(key, b"value", Create())


def _rounds_of(work: Callable[[Callable[[str], bytes], Callable[..., list[object]]], object]) -> int:
    rounds, raw = Rounds(), MemoryStore()
    _put_all(raw, "abcdef")
    store = rounds.counting(raw)
    with new_place("memory:") as place, place.repository() as repo:
        executor = rounds.environment(repo).executor
        work(lambda key: store.get(key).data, lambda *given: list(executor.map(*given)))
    return rounds.count


def test_what_is_asked_together_is_one_round() -> None:
    assert _rounds_of(lambda get, each: each(get, "abcd")) == 1


def test_what_waits_is_another_round() -> None:
    def work(get: Callable[[str], bytes], each: Callable[..., object]) -> None:
        get("a")
        each(get, "bcd")
        each(lambda key: [get(key), get(key)] if key == "e" else get(key), "ef")

    assert _rounds_of(work) == 4


def test_what_a_call_hands_on_runs_within_it() -> None:
    assert _rounds_of(lambda get, each: each(lambda key: each(get, "ab") and get(key), "cd")) == 3


# Processes of their own.

BALLAST_BYTES = 256 << 20


def _fail(*, progress: Progress) -> None:
    progress("failing", 1, 2)
    raise RevisionNotFoundError("s1", 7)


def _vanish(*, progress: Progress) -> None:  # noqa: ARG001  what a process of its own is called with
    import os

    os._exit(9)


def _peak(*, progress: Progress) -> int:  # noqa: ARG001  what a process of its own is called with
    return peak_bytes()


def test_an_error_comes_back_with_its_facts() -> None:
    told: list[tuple[str, int, int]] = []
    with pytest.raises(RevisionNotFoundError) as caught:
        alone(_fail, progress=lambda *one: told.append(one))
    assert (caught.value.session_id, caught.value.revision) == ("s1", 7)
    assert str(caught.value) == str(RevisionNotFoundError("s1", 7))
    assert told == [("failing", 1, 2)]


def test_a_process_that_vanishes_is_an_error() -> None:
    with pytest.raises(AloneError, match="without an answer"):
        alone(_vanish, progress=quiet)


def test_the_peak_of_memory_is_the_processes_own() -> None:
    ballast = b"x" * BALLAST_BYTES
    assert peak_bytes() > len(ballast)
    assert alone(_peak, progress=quiet) < BALLAST_BYTES


def test_a_measure_tells_what_it_took() -> None:
    found = measured("fork", Settings(turns=5))
    assert found["memory_peak_mib"] >= found["memory_before_mib"] > 1
    assert found["figures"]["requests"]["value"] == FORK_REQUESTS


# Places.


def test_a_place_goes_and_what_is_beside_it_stays(tmp_path: Path) -> None:
    url = f"file:{tmp_path / 'store'}"
    open_store(url).put("bench", b"theirs", Create())
    with new_place(url) as place:
        place.store.put("a/b", b"ours", Create())
        assert place.stored_bytes() == 4
    assert [row.key for row in open_store(url).list("")] == ["bench"]
    assert not list((tmp_path / "store").glob("bench-*"))


def test_a_place_goes_when_the_measure_fails(tmp_path: Path) -> None:
    url = f"file:{tmp_path / 'store'}"

    def fail() -> None:
        with new_place(url) as place:
            place.store.put("a/b", b"ours", Create())
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert not list(open_store(url).list(""))
