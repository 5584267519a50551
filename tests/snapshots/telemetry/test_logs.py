"""Structured logs: one line per operation, ids and numbers alone; the program's own logging stays as it is."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from snapshots import SnapshotRepository
from snapshots.errors import SessionNotFoundError
from snapshots.telemetry.logs import log_operations
from storage.backends.memory import MemoryStore
from storage.testing.clock import ManualClock
from tests.integration.builders import SESSION, new_session, take_turn

pytestmark = pytest.mark.usefixtures("nobody_listens")


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_operation_is_one_line() -> None:
    stream = io.StringIO()
    stop = log_operations(stream, clock=ManualClock(seed=1))
    with SnapshotRepository(MemoryStore()) as repo:
        repo.commit(new_session(SESSION, "one"))
        repo.update(SESSION, lambda state: (take_turn(state, "two"), None)[1])
        with pytest.raises(SessionNotFoundError):
            repo.load("nobody")
    stop()
    with SnapshotRepository(MemoryStore()):
        pass
    lines = lines_of(stream)
    assert [line["operation"] for line in lines] == ["create", "open", "commit", "commit", "update", "load"]
    assert [line["parent"] for line in lines] == ["open", "", "", "update", "", ""]
    assert lines[-1].pop("seconds") > 0
    assert lines[-1] == {
        "at": ManualClock(seed=1).now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "operation": "load",
        "outcome": "SessionNotFoundError",
        "tenant": "default",
        "session_id": "nobody",
        "parent": "",
        "requests": {"get": 1},
        "bytes_in": {},
        "bytes_out": {},
        "retries": 0,
        "unavailable": 0,
    }
    assert (lines[2]["revision"], lines[2]["requests"]) == (1, {"put": 2})


def test_no_content_is_logged() -> None:
    stream = io.StringIO()
    stop = log_operations(stream)
    with SnapshotRepository(MemoryStore()) as repo:
        repo.commit(new_session(SESSION, "a secret word"), execution_state=b"another secret")
        repo.load(SESSION)
    stop()
    assert len(lines_of(stream)) == 4
    assert "secret" not in stream.getvalue()


def test_without_a_stream_the_programs_own_handlers_have_the_lines(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("snapshots.operations")
    before = logger.level, logger.propagate, list(logger.handlers)
    stop = log_operations()
    with SnapshotRepository(MemoryStore()) as repo:
        repo.commit(new_session("unheard", "one"))  # at level WARNING, as loggers are
        with caplog.at_level(logging.INFO, "snapshots.operations"):
            repo.commit(new_session("heard", "one"))
    stop()
    (record,) = caplog.records
    assert json.loads(record.getMessage())["session_id"] == "heard"
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_several_logs_have_every_line_once_each_until_it_is_ended() -> None:
    one, other = io.StringIO(), io.StringIO()
    stop_one, stop_other = log_operations(one), log_operations(other)
    with SnapshotRepository(MemoryStore()) as repo:
        stop_one()
        repo.commit(new_session(SESSION, "one"))
    stop_other()
    assert [line["operation"] for line in lines_of(one)] == ["create", "open"]
    assert [line["operation"] for line in lines_of(other)] == ["create", "open", "commit"]


def test_with_a_stream_the_programs_own_handlers_hear_nothing(caplog: pytest.LogCaptureFixture) -> None:
    stop = log_operations(io.StringIO())
    with caplog.at_level(logging.DEBUG), SnapshotRepository(MemoryStore()) as repo:
        repo.commit(new_session(SESSION, "one"))
    stop()
    assert [record for record in caplog.records if record.name == "snapshots.operations"] == []
