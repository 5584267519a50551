"""`realtime show` and `realtime log`: where a session stands and what happened, without what is private."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from snapshots import SnapshotRepository
from snapshots.environment import Environment
from snapshots.realtime import RealtimeController
from storage.backends import open_store
from storage.store import Overwrite
from tests.cli.conftest import Command
from tests.integration.builders import new_session
from tests.snapshots.realtime.bench import LostError, NotingAdapter, incoming, out, sidecar

CLASSES = ("public", "internal", "content_refs_only", "sensitive", "secret")


@contextmanager
def environment_of(url: str) -> Iterator[Environment]:
    with SnapshotRepository.open(url) as repo:
        yield repo.environment


@pytest.fixture
def told(cli: Command, url: str) -> Command:
    """Give the command on a store with a realtime session "s1": one frame of each class, one in doubt, one queued."""
    adapter = NotingAdapter()
    with SnapshotRepository.open(url) as repo:
        controller = RealtimeController(repo, "s1", adapter, sidecar(capacity=4), run_id="run-1", agent_id="agent-1")
        controller.connect()
        for name in CLASSES:
            controller.send(out(name, privacy=name))
        adapter.coming.append(incoming("answer", privacy="public"))
        controller.receive()
        adapter.failing["send"] = 1
        with pytest.raises(LostError):
            controller.send(out("doubtful", privacy="secret"))
        controller.begin_restart()
        controller.send(out("held", privacy="secret", critical=True))
    return cli


def test_show_says_where_a_session_stands(told: Command) -> None:
    view = told("--json", "realtime", "show", "s1").record
    assert list(view) == [
        "session_id",
        "sequence",
        "recorded_at",
        "run_id",
        "agent_id",
        "state",
        "queued",
        "in_doubt",
        "open_output",
    ]
    assert (view["session_id"], view["sequence"], view["run_id"], view["agent_id"]) == ("s1", 19, "run-1", "agent-1")
    state = view["state"]
    assert (state["lifecycle_status"], state["restart_count"]) == ("restart_started", 1)
    assert state["send_cursor"]["chunk_sequence"] == 5
    assert state["backpressure_state"]["queued_frames"] == 1
    assert view["queued"] == [{"sequence": 19, "media_kind": "audio", "privacy": "secret", "critical": True}]
    assert view["in_doubt"] == [{"sequence": 15, "media_kind": "audio", "privacy": "secret", "critical": False}]
    assert view["open_output"] is None


def test_show_is_a_table_for_people(told: Command) -> None:
    shown = told("realtime", "show", "s1").out
    for text in ("restart_started", "1 of 4 (record 19)", "1 (record 15)", "route.main", "run-1", "1 frame, 0 dropped"):
        assert text in shown
    assert "blob:" not in shown
    assert "about" not in shown


def test_show_says_that_output_is_awaited(cli: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        controller = RealtimeController(repo, "s1", NotingAdapter(), sidecar())
        controller.connect()
        controller.receive()
    assert "since record 3" in cli("realtime", "show", "s1").out
    assert cli("--json", "realtime", "show", "s1").record["open_output"] == 3


def test_log_lists_every_record_in_order(told: Command) -> None:
    rows = told("--json", "realtime", "log", "s1").rows
    assert [row["sequence"] for row in rows] == list(range(1, 20))
    assert list(rows[2]) == [
        "sequence",
        "recorded_at",
        "kind",
        "status",
        "restart_count",
        "close_reason",
        "answers",
        "repeats",
        "takes",
        "queued",
        "frame_id",
        "media_kind",
        "privacy",
        "summary",
        "content_refs",
        "redacted",
    ]
    assert rows[2]["summary"] == "about public"
    assert rows[3]["answers"] == 3
    assert rows[15]["close_reason"] == "provider_failure"
    assert rows[18]["queued"] is True


def test_log_goes_on_behind_a_record(told: Command) -> None:
    rows = told("--json", "realtime", "log", "s1", "--after", "17").rows
    assert [row["kind"] for row in rows] == ["restart_started", "backpressure_applied"]
    assert told("--json", "realtime", "log", "s1", "--after", "19").rows == []


@pytest.mark.parametrize("privacy", ["", *CLASSES[:-1]])
def test_log_shows_frames_up_to_a_class_and_nothing_of_others(told: Command, privacy: str) -> None:
    arguments = ["--json", "realtime", "log", "s1", *(["--privacy", privacy] if privacy else [])]
    told_of = told(*arguments)
    shown = CLASSES[: CLASSES.index(privacy or "public") + 1]
    for name in (*CLASSES, "doubtful", "held"):
        is_shown = name in shown
        assert (f"about {name}" in told_of.out) == is_shown
        assert (f"blob:{name}" in told_of.out) == is_shown
        ids = [row["frame_id"] for row in told_of.rows]
        assert ids.count(name) == 2 * is_shown
    redacted = [row["sequence"] for row in told_of.rows if row["redacted"]]
    assert len(redacted) == 2 * (len(CLASSES) - len(shown)) + 2
    text = told(*arguments[1:]).out
    assert ("about secret" in text, "about public" in text, "redacted" in text) == (False, True, True)


def test_what_is_secret_is_not_to_be_asked_for(told: Command) -> None:
    told("realtime", "log", "s1", "--privacy", "secret", code=2)
    told("realtime", "log", "s1", "--after", "-1", code=2)


def test_what_is_not_there(cli: Command, filled: Command) -> None:
    for command in ("show", "log"):
        error = filled("--json", "realtime", command, "marshmallow-1867", code=3).error
        assert (error["error"], error["what"]) == ("SessionNotFoundError", "realtime session")
        cli("--store", "file:/nowhere/at/all", "realtime", command, "s1", code=3)
        cli("realtime", command, "", code=10)


def test_a_deleted_session_is_gone(cli: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        repo.commit(new_session("s1"))
        repo.delete("s1")
    for command in ("show", "log"):
        assert cli("--json", "realtime", command, "s1", code=3).error["error"] == "SessionDeletedError"


def test_damage_is_named(told: Command, url: str) -> None:
    with environment_of(url) as environment:
        key = environment.layout.realtime_record("s1", 4)
    store = open_store(url)
    data = bytearray(store.get(key).data)
    data[50] ^= 1
    store.put(key, bytes(data), Overwrite())
    for command in ("show", "log"):
        outcome = told("--json", "realtime", command, "s1", code=4)
        assert json.loads(outcome.err)["key"] == key


def test_the_group_says_what_is_in_it(cli: Command) -> None:
    shown = cli("realtime", "--help").out
    assert "show" in shown
    assert "log" in shown
