"""The record of requests is complete, and has nothing that is never sent. These tests come last."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.permissions import REQUESTS_TABLE, sent_rows
from snapshots import SnapshotRepository
from snapshots.reading import read_live_head
from storage.backends.memory import MemoryStore
from storage.observed import listen, stop_listening
from tests.integration.builders import SESSION, new_session
from tests.permissions.requests import RECORDER, ROOT, Recorder, door_of, write_table

WRITE = os.environ.get("SNAPSHOTS_REQUESTS") == "write"


def is_whole(config: pytest.Config) -> bool:
    """Say whether all tests were selected."""
    chosen = config.option
    paths = {(Path.cwd() / path).resolve() for path in config.args}
    return paths <= {ROOT, ROOT / "tests"} and not (chosen.keyword or chosen.markexpr or chosen.deselect)


def test_the_table_is_what_was_sent(pytestconfig: pytest.Config) -> None:
    if WRITE:
        write_table(RECORDER.rows if is_whole(pytestconfig) else RECORDER.rows.union(sent_rows()))
    table = set(sent_rows())
    assert sorted(RECORDER.rows - table) == [], (
        "not in the table; if that is right, run this with SNAPSHOTS_REQUESTS=write"
    )
    if is_whole(pytestconfig):
        assert sorted(table - RECORDER.rows) == [], "never sent; if that is right, run all tests with it"
    assert REQUESTS_TABLE.read_text().splitlines()[1:] == [",".join(row) for row in sorted(table)]


def test_nothing_public_sends_a_request_without_an_operation() -> None:
    assert not RECORDER.without_operation, sorted(RECORDER.without_operation)


@pytest.mark.usefixtures("nobody_listens")
def test_what_a_public_function_sends_without_an_operation_is_found() -> None:
    recorder = Recorder()
    with SnapshotRepository(MemoryStore()) as repo:
        repo.commit(new_session(SESSION, "one"))
        listen(recorder)
        read_live_head(repo.environment, SESSION)
        repo.environment.store.get("~store")
        assert not recorder.without_operation
        pins: Any = SnapshotRepository.pins
        pins.__wrapped__(repo, SESSION)  # as if it were no operation
        repo.pins(SESSION)
        stop_listening(recorder)
    door = "snapshots.repository:SnapshotRepository.pins"
    assert recorder.without_operation == {(door, "get", "heads")}
    assert recorder.rows == {("pins", "get", "heads")}


def test_a_test_is_no_door() -> None:
    assert door_of(sys._getframe()) == ""
