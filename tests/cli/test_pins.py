"""`pin`, `unpin` and `pins`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from snapshots import SnapshotRepository
from snapshots.pins import PINS_MAX
from storage.backends import open_store
from storage.testing.clock import ManualClock
from tests.cli.conftest import Command
from tests.cli.test_use import DEMO


def expiry(row: dict[str, str]) -> datetime:
    return datetime.fromisoformat(row["expires_at"])


def test_a_pin_is_made_listed_and_taken_away(filled: Command) -> None:
    made = filled("--json", "pin", DEMO, "3", "good").record
    assert made == {"session_id": DEMO, "name": "good", "revision": 3, "expires_at": None, "expired": False}
    assert filled("pin", DEMO, "good", "again").out == f"pin again stands for revision 3 of session {DEMO}\n"
    rows = filled("--json", "pins", DEMO).rows
    assert rows[0] == {"name": "again", "revision": 3, "expires_at": None, "expired": False}
    assert [row["name"] for row in rows] == ["again", "good"]
    text = filled("pins", DEMO).out
    assert "good" in text
    assert "expire" not in text
    gone = filled("--json", "unpin", DEMO, "good").record
    assert gone == {"session_id": DEMO, "name": "good", "unpinned": True}
    assert filled("unpin", DEMO, "again").out == f"pin again of session {DEMO} removed\n"
    assert filled("--json", "pins", DEMO).rows == []
    assert filled("--quiet", "pin", DEMO, "3", "good").out == ""


def test_the_same_pin_again_is_no_failure(filled: Command) -> None:
    filled("pin", DEMO, "3", "good")
    filled("pin", DEMO, "3", "good")
    assert len(filled("--json", "pins", DEMO).rows) == 1


@pytest.mark.parametrize(
    ("span", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_a_pin_can_last_for_a_span(filled: Command, span: str, length: timedelta) -> None:
    before = datetime.now(UTC)
    made = filled("--json", "pin", DEMO, "3", "good", "--for", span).record
    assert before + length <= expiry(made) <= datetime.now(UTC) + length
    assert made["expired"] is False


@pytest.mark.parametrize("text", ["2999-12-01T00:00:00Z", "2999-12-01T01:00:00+01:00"])
def test_a_pin_can_last_until_an_instant(filled: Command, text: str) -> None:
    made = filled("--json", "pin", DEMO, "3", "good", "--expires", text).record
    assert expiry(made) == datetime(2999, 12, 1, tzinfo=UTC)
    assert "2999-12-01" in filled("pins", DEMO).out
    until = filled("pin", DEMO, "3", "good", "--expires", text).out
    assert until == f"pin good stands for revision 3 of session {DEMO} until 2999-12-01 00:00:00Z\n"


@pytest.mark.parametrize(
    ("text", "meant"), [("2999-12-01", "2999-12-01T00:00:00Z"), ("2999-12-01T08:30", "2999-12-01T08:30:00Z")]
)
def test_an_instant_without_a_time_zone_is_told_with_one(filled: Command, text: str, meant: str) -> None:
    error = filled("--json", "pin", DEMO, "3", "good", "--expires", text, code=2).error
    assert error["message"].startswith(f"--expires wants a time zone: {meant}; ")
    filled("pin", DEMO, "3", "good", "--expires", meant)


def test_the_present_revision_can_be_pinned_by_the_word_for_it(filled: Command) -> None:
    assert filled("--json", "pin", DEMO, "head", "good").record["revision"] == 11
    filled("rewind", DEMO, "3")
    assert filled("--json", "pin", DEMO, "head", "better").record["revision"] == 12


def test_an_expired_pin_is_listed_and_stands_for_nothing(filled: Command, url: str) -> None:
    clock = ManualClock()  # of long ago, so that what lasts a second has expired by now
    with SnapshotRepository(open_store(url), clock=clock) as repo:
        repo.pin(DEMO, 3, "brief", clock.now() + timedelta(seconds=1))
    assert filled("--json", "pins", DEMO).record["expired"] is True
    assert "expired" in filled("pins", DEMO).out
    assert "brief@3 (expired)" in filled("show", DEMO).out
    assert "brief@3 (expired)" in filled("tree").out
    error = filled("--json", "show", f"{DEMO}@brief", code=3).error
    assert (error["session_id"], error["revision"]) == (DEMO, "brief")
    filled("pin", DEMO, "4", "brief")  # an expired name may be given to another revision
    assert filled("--json", "show", f"{DEMO}@brief").record["revision"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (("pin", DEMO, "3"), 2, "UsageError"),
        (("pin", DEMO, "3", "n", "--for", "7"), 2, "UsageError"),
        (("pin", DEMO, "3", "n", "--for", "week"), 2, "UsageError"),
        (("pin", DEMO, "3", "n", "--for", "999999999d"), 2, "UsageError"),
        (("pin", DEMO, "3", "n", "--for", "999999999w"), 2, "UsageError"),
        (("pin", DEMO, "3", "n", "--expires", "tomorrow"), 2, "UsageError"),
        (("pin", DEMO, "3", "n", "--expires", "9999-12-31T23:59:59-12:00"), 2, "UsageError"),
        (("pin", DEMO, "3", "n", "--expires", "2999-12-01T00:00:00Z", "--for", "7d"), 2, "UsageError"),
        (("pin", DEMO, "3?", "n"), 2, "UsageError"),
        (("pin", DEMO, "3", "n", "--for", "0d"), 10, "InvalidStateError"),
        (("pin", DEMO, "3", "n", "--expires", "2020-01-01T00:00:00Z"), 10, "InvalidStateError"),
        (("pin", DEMO, "3", "n", "--expires", "2999-12-01"), 2, "UsageError"),
        (("pin", "none", "head", "n"), 3, "SessionNotFoundError"),
        (("pin", DEMO, "3", "Good"), 10, "InvalidStateError"),
        (("pin", DEMO, "3", "7"), 10, "InvalidStateError"),
        (("pin", DEMO, "3", "n" * 65), 10, "InvalidStateError"),
        (("pin", DEMO, "3", "head"), 10, "InvalidStateError"),
        (("pin", DEMO, "4", "taken"), 10, "InvalidStateError"),
        (("pin", DEMO, "12", "n"), 3, "RevisionNotFoundError"),
        (("pin", DEMO, "unknown", "n"), 3, "RevisionNotFoundError"),
        (("pin", "none", "1", "n"), 3, "SessionNotFoundError"),
        (("unpin", DEMO, "unknown"), 3, "RevisionNotFoundError"),
        (("unpin", DEMO, "Good"), 10, "InvalidStateError"),
        (("unpin", "none", "n"), 3, "SessionNotFoundError"),
        (("pins", "none"), 3, "SessionNotFoundError"),
        (("pins",), 2, "UsageError"),
    ],
)
def test_what_cannot_be_pinned_is_one_line(filled: Command, arguments: tuple[str, ...], code: int, name: str) -> None:
    filled("pin", DEMO, "3", "taken")
    plain = filled(*arguments, code=code)
    assert plain.err.startswith("error: ")
    assert plain.err.count("\n") == 1
    assert plain.out == ""
    error = filled("--json", *arguments, code=code).error
    assert (error["error"], error["exit_code"]) == (name, code)
    assert [row["name"] for row in filled("--json", "pins", DEMO).rows] == ["taken"]


def test_a_pin_too_many_says_the_limit(filled: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        for number in range(PINS_MAX):
            repo.pin(DEMO, 3, f"n{number}")
    error = filled("--json", "pin", DEMO, "3", "more", code=10).error
    assert (error["error"], error["value"]) == ("LimitExceededError", PINS_MAX + 1)
    assert "unpin" in error["message"]


def test_pins_of_a_deleted_session_are_gone(filled: Command) -> None:
    filled("pin", DEMO, "3", "good")
    filled("--yes", "rm", DEMO)
    for command in (("pins", DEMO), ("pin", DEMO, "3", "x"), ("unpin", DEMO, "good")):
        assert filled("--json", *command, code=3).error["error"] == "SessionDeletedError"
