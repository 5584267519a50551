"""Replaying when commits fail, are lost or lose against others."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

import snapshots
from snapshots import CommitResult, PersistedSessionState, SnapshotRepository, TurnStamp
from snapshots.adapters.transcripts import TranscriptSession, read_transcripts, rebuild
from snapshots.cli import replay
from snapshots.cli.replay import ATTEMPTS_MAX, ReplayReport, read_files, replay_session
from snapshots.cli.written import WrittenStore
from snapshots.errors import CommitUnknownError, RevisionConflictError, SessionDeletedError
from storage.backends.memory import MemoryStore
from storage.store import PutMode, Version
from storage.testing.clock import ManualClock

SAMPLES = Path(snapshots.__file__).parent / "samples"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_clock", ManualClock())


@pytest.fixture
def session() -> TranscriptSession:
    return read_transcripts(SAMPLES / "airline.json")[2]


class Unsure(SnapshotRepository):
    """A repository whose commits end in doubt: some were applied, some were not.

    Attributes:
        failures: What the next commits do: "after" commits and loses the answer, "before" does nothing.
    """

    failures: list[str]

    def commit(
        self,
        state: PersistedSessionState,
        stamp: TurnStamp | None = None,
        execution_state: bytes | BinaryIO | None = None,
    ) -> CommitResult:
        failure = self.failures.pop(0) if self.failures else ""
        error = CommitUnknownError(state.session_id, commit_id="c", stamp="t")
        if failure == "before":
            raise error
        if failure == "after":
            super().commit(state.copy(), stamp, execution_state)
            raise error
        return super().commit(state, stamp, execution_state)


def replayed(repo: SnapshotRepository, written: WrittenStore, session: TranscriptSession) -> ReplayReport:
    return replay_session(repo, written, session, on_turn=lambda: None)


@pytest.mark.parametrize("failures", [["before"], ["after"], ["before", "after", "after"], ["", "after", "", "before"]])
def test_a_commit_in_doubt_is_repeated_and_counts_once(session: TranscriptSession, failures: list[str]) -> None:
    written = WrittenStore(MemoryStore())
    with Unsure(written) as repo:
        repo.failures = failures
        assert replayed(repo, written, session).revision == len(session.turns)
        assert rebuild(repo.load(session.session_id)) == session.document


def test_doubt_has_an_end_and_the_next_run_goes_on(session: TranscriptSession) -> None:
    written = WrittenStore(MemoryStore())
    with Unsure(written) as repo:
        repo.failures = ["", *["before"] * ATTEMPTS_MAX]
        with pytest.raises(CommitUnknownError):
            replayed(repo, written, session)
        assert replayed(repo, written, session).turns == len(session.turns) - 1
        assert rebuild(repo.load(session.session_id)) == session.document


def test_a_replay_that_loses_goes_on_after_the_winner(session: TranscriptSession) -> None:
    store = MemoryStore()
    mine, theirs = WrittenStore(store), WrittenStore(store)
    with SnapshotRepository(mine) as one, SnapshotRepository(theirs) as other:
        rival = [True]

        def overtaken() -> None:
            if rival.pop() if rival else False:
                replayed(other, theirs, session)

        report = replay_session(one, mine, session, on_turn=overtaken)
        assert report.revision == len(session.turns)
        assert [info.turn for info in one.history(session.session_id)] == [True] * len(session.turns)
        assert rebuild(one.load(session.session_id)) == session.document


def test_conflicts_have_an_end(session: TranscriptSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def always(*_: object, **__: object) -> CommitResult:
        raise RevisionConflictError(session.session_id, expected=1, actual=2)

    written = WrittenStore(MemoryStore())
    with SnapshotRepository(written) as repo:
        monkeypatch.setattr(repo, "commit", always)
        with pytest.raises(RevisionConflictError):
            replayed(repo, written, session)


class SlowPacks(MemoryStore):
    """A store whose packs take their time."""

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        if "/packs/" in key:
            time.sleep(0.1)
        return super().put(key, data, mode)


def test_every_turn_is_reported_also_those_that_were_there(session: TranscriptSession) -> None:
    written = WrittenStore(SlowPacks())
    reports = []
    with SnapshotRepository(written) as repo:
        for expected in (len(session.turns), 0):
            steps: list[None] = []
            reports.append(replay_session(repo, written, session, on_turn=partial(steps.append, None)))
            assert (reports[-1].turns, len(steps)) == (expected, len(session.turns))
    kept = sum(one.size_bytes for one in written.list("") if one.key.startswith(("default/packs/", "default/heads/")))
    assert [report.stored_bytes for report in reports] == [kept, 0]


def test_a_deleted_session_is_not_brought_back(session: TranscriptSession) -> None:
    written = WrittenStore(MemoryStore())
    with SnapshotRepository(written) as repo:
        replayed(repo, written, session)
        repo.delete(session.session_id)
        with pytest.raises(SessionDeletedError):
            replayed(repo, written, session)


def test_a_limit_takes_the_first_sessions() -> None:
    assert len(read_files([SAMPLES / "airline.json"], 2)) == 2
    assert [found.session_id for found in read_files([SAMPLES / "airline.json"], None)] == [
        "airline-48-1",
        "airline-42-0",
        "airline-18-1",
    ]
