"""`meta get` and `meta set`: what a user says of a session, and what no stale save undoes."""

from __future__ import annotations

from typing import Any

import pytest

from snapshots import SnapshotRepository
from snapshots.cli.meta import VALUE_CHARACTERS
from snapshots.layout import Layout
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from storage.backends import open_store
from storage.store import Overwrite
from tests.cli.conftest import Command
from tests.cli.test_use import DEMO

FIELDS = ["session_id", "updated_at", "title", "title_version", "pinned", "metadata_version", "metadata"]


def saved(url: str, **fields: Any) -> RuntimeSession:
    session = RuntimeSession(session_id="s1", messages=[{"id": "m1", "role": "user"}], **fields)
    with SnapshotRepository.open(url) as repo:
        RuntimeSessionStore(repo).save_runtime_session(session)
    return session


def test_a_session_that_no_runtime_saved_has_defaults(filled: Command) -> None:
    view = filled("--json", "meta", "get", DEMO).record
    assert list(view) == FIELDS
    assert [view[name] for name in FIELDS] == [DEMO, None, "", 0, False, 0, {}]
    text = filled("meta", "get", DEMO).out
    assert text.splitlines()[0] == f"metadata of session {DEMO}"
    assert "pinned" in text


def test_what_is_set_is_shown(filled: Command) -> None:
    said = filled("meta", "set", DEMO, "--title", "Trip to Rome", "--pinned", 'gold_config={"id": 7.0}', "x=null")
    assert said.out == f"metadata of session {DEMO} is at version 1\n"
    view = filled("--json", "meta", "get", DEMO).record
    metadata = {"gold_config": {"id": 7.0}, "x": None}
    assert [view[name] for name in FIELDS] == [DEMO, None, "Trip to Rome", 1, True, 1, metadata]
    text = filled("meta", "get", DEMO).out
    for word in ("Trip to Rome", "yes", "metadata gold_config", '{"id":7.0}', "metadata x", "null"):
        assert word in text
    view = filled("--json", "meta", "set", DEMO, "--unpinned", "--unset", "x", "--unset", "none").record
    assert [view[name] for name in FIELDS[2:]] == ["Trip to Rome", 1, False, 2, {"gold_config": {"id": 7.0}}]
    assert filled("--quiet", "meta", "set", DEMO, "--title", "").out == ""
    assert filled("--json", "meta", "get", DEMO).record["title"] == ""


def test_what_is_so_already_changes_no_version(filled: Command) -> None:
    for _ in range(2):
        assert filled("--json", "meta", "set", DEMO, "--pinned", "x=1").record["metadata_version"] == 1


def test_a_stale_save_undoes_no_key_that_was_set_or_unset(cli: Command, url: str) -> None:
    session = saved(url, metadata={"step": 1, "theme": "light", "old": 1})
    cli("meta", "set", "s1", 'theme="dark"', "--unset", "old")
    session.metadata["step"] = 2
    with SnapshotRepository.open(url) as repo:
        RuntimeSessionStore(repo).save_runtime_session(session)
    assert cli("--json", "meta", "get", "s1").record["metadata"] == {"step": 2, "theme": "dark"}


def test_a_stale_save_does_not_undo_it(cli: Command, url: str) -> None:
    session = saved(url, title="old", metadata={"step": 1})
    cli("meta", "set", "s1", "--title", "new", "gold_config=1")
    session.metadata["step"] = 2
    with SnapshotRepository.open(url) as repo:
        RuntimeSessionStore(repo).save_runtime_session(session)
    view = cli("--json", "meta", "get", "s1").record
    assert (view["title"], view["metadata"]) == ("new", {"step": 2, "gold_config": 1})


def test_further_fields_and_long_values_are_shown(cli: Command, url: str) -> None:
    saved(url, title="t", updated_at="2026-01-01T00:00:00Z", spawn_depth=3, metadata={"long": "x" * 500})
    view = cli("--json", "meta", "get", "s1").record
    assert (view["spawn_depth"], view["updated_at"]) == (3, "2026-01-01T00:00:00Z")
    assert view["metadata"] == {"long": "x" * 500}
    text = cli("meta", "get", "s1").out
    assert "field spawn_depth" in text
    assert "2026-01-01T00:00:00Z" in text
    assert "x" * (VALUE_CHARACTERS - 2) + "…" in text


def test_an_expected_version_is_a_condition(filled: Command) -> None:
    filled("meta", "set", DEMO, "--title", "a", "--expected-version", "0")
    error = filled("--json", "meta", "set", DEMO, "--title", "b", "--expected-version", "0", code=5).error
    assert (error["error"], error["expected"], error["actual"]) == ("RevisionConflictError", 0, 1)
    assert "read it and decide anew" in error["message"]
    filled("meta", "set", DEMO, "--title", "b", "--expected-version", "1")
    assert filled("--json", "meta", "get", DEMO).record["title"] == "b"


@pytest.mark.parametrize(
    ("arguments", "code", "name", "says"),
    [
        (("get",), 2, "UsageError", "see snapshots meta get --help"),
        (("set", DEMO), 2, "UsageError", "nothing to set"),
        (("set", DEMO, "--expected-version", "0"), 2, "UsageError", "nothing to set"),
        (("set", DEMO, "--expected-version", "-1", "x=1"), 2, "UsageError", "expected-version"),
        (("set", DEMO, "title"), 2, "UsageError", "want KEY=JSON, not 'title'; see snapshots meta set --help"),
        (("set", DEMO, "=1"), 2, "UsageError", "want KEY=JSON"),
        (("set", DEMO, "x=1", "x=2"), 2, "UsageError", "'x' is set twice"),
        (("set", DEMO, "x=1", "--unset", "x"), 2, "UsageError", "'x' cannot be set and unset at once"),
        (("set", DEMO, "x=red"), 10, "InvalidInputError", "x=: line 1 column 1: not JSON"),
        (("set", DEMO, "x="), 10, "InvalidInputError", "x=: line 1 column 1"),
        (("set", DEMO, "x=NaN"), 10, "InvalidInputError", "not a finite number"),
        (("set", DEMO, 'x={"a": 1, "a": 2}'), 10, "InvalidInputError", "stands twice"),
        (("set", DEMO, f'x="{"x" * (1 << 20)}"'), 10, "LimitExceededError", "metadata of 1048576 bytes"),
        (("get", ""), 10, "InvalidKeyError", "session id"),
        (("get", "none"), 3, "SessionNotFoundError", "no session 'none'"),
        (("set", "none", "x=1"), 3, "SessionNotFoundError", "no session 'none'"),
        (("get", "dead"), 3, "SessionDeletedError", "deleted"),
        (("set", "dead", "x=1"), 3, "SessionDeletedError", "deleted"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    filled: Command, arguments: tuple[str, ...], code: int, name: str, says: str
) -> None:
    filled("fork", DEMO, "dead")
    filled("--yes", "rm", "dead")
    plain = filled("meta", *arguments, code=code)
    assert plain.err.startswith("error: ")
    assert plain.err.count("\n") == 1
    assert plain.out == ""
    assert says in plain.err
    error = filled("--json", "meta", *arguments, code=code).error
    assert (error["error"], error["exit_code"]) == (name, code)
    assert filled("--json", "meta", "get", DEMO).record["metadata_version"] == 0


@pytest.mark.parametrize("arguments", [("get", "s1"), ("set", "s1", "x=1")])
def test_no_store_is_created(cli: Command, arguments: tuple[str, ...]) -> None:
    assert cli("--json", "meta", *arguments, code=3).error["error"] == "StoreNotFoundError"


def test_a_damaged_register_is_corruption(filled: Command, url: str) -> None:
    filled("meta", "set", DEMO, "x=1")
    store, key = open_store(url), Layout("default").metadata(DEMO)
    data = store.get(key).data
    store.put(key, data[:-1] + bytes([data[-1] ^ 1]), Overwrite())
    for arguments in (("get", DEMO), ("set", DEMO, "x=2")):
        assert filled("--json", "meta", *arguments, code=4).error["key"] == key


def test_what_stands_in_metadata_is_shown_as_text(filled: Command) -> None:
    filled("meta", "set", DEMO, "--title", "a\x1b[31mred[/b]")
    assert "\x1b" not in filled("meta", "get", DEMO).out
    assert "[/b]" in filled("meta", "get", DEMO).out
