"""`acquire` and `release`: one owner of a session, and the lease that is asked for first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from snapshots import PluginSessionSnapshot, ResumeReport, SnapshotRepository, TurnStamp
from snapshots.cli import output
from snapshots.cli.owners import acquired_rows, acquired_view
from snapshots.errors import FencedError
from snapshots.leases import read_lease
from snapshots.state import PluginSession, PluginSnapshot, PluginSnapshotMeta, ResumeFinding
from snapshots.writer import Writer
from storage.leases import Free, Lease
from tests.cli.conftest import Command
from tests.cli.test_use import DEMO
from tests.integration.builders import new_session, take_turn

ACQUIRED = ["session_id", "owner", "fence", "revision", "healed", "missing", "refused", "turn", "lease"]


def lease_of(url: str, session_id: str) -> Lease | Free:
    with SnapshotRepository.open(url) as repo:
        return read_lease(repo.environment, session_id)


def test_a_session_is_taken_over_and_let_go(filled: Command, url: str) -> None:
    view = filled("--json", "acquire", DEMO, "--owner", "host-a").record
    assert list(view) == ACQUIRED
    assert [view[name] for name in ACQUIRED] == [DEMO, "host-a", 1, 11, [], [], [], None, None]
    with SnapshotRepository.open(url) as repo, pytest.raises(FencedError):
        repo.rewind(DEMO, 3)
    again = filled("acquire", DEMO, "--owner", "host-b").out
    assert again.split()[:5] == ["session", DEMO, "held", "by", "host-b"]
    for word in ("fence", "2", "revision", "11", "turn in flight", "none"):
        assert word in again
    assert "healed" not in again
    gone = filled("--json", "release", DEMO, "--owner", "host-b").record
    assert gone == {"session_id": DEMO, "owner": "host-b", "released": True}
    assert filled("--json", "show", DEMO).record["holder"] is None
    assert filled("--json", "show", DEMO).record["fence"] == 2
    filled("rewind", DEMO, "3")
    filled("acquire", DEMO, "--owner", "host-a")
    assert filled("release", DEMO, "--owner", "host-a").out == f"session {DEMO} released by host-a\n"


def test_a_session_that_nobody_holds_is_not_released(filled: Command) -> None:
    nothing = {"session_id": DEMO, "owner": "zzz", "released": False}
    assert filled("--json", "release", DEMO, "--owner", "zzz").record == nothing
    filled("acquire", DEMO, "--owner", "zzz")
    filled("release", DEMO, "--owner", "zzz")
    said = f"session {DEMO} is held by nobody; nothing to release\n"
    assert filled("release", DEMO, "--owner", "zzz").out == said
    assert filled("--quiet", "release", DEMO, "--owner", "zzz").out == ""


def test_a_lease_alone_is_released_too(filled: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        repo.claim_lease(DEMO, "host-a", 60)
    assert filled("--json", "release", DEMO, "--owner", "host-b").record["released"] is False
    assert isinstance(lease_of(url, DEMO), Lease)
    assert filled("--json", "release", DEMO, "--owner", "host-a").record["released"] is True
    assert lease_of(url, DEMO) == Free(1)


def test_show_says_who_has_the_lease(filled: Command) -> None:
    assert filled("--json", "show", DEMO).record["lease"] is None
    assert "lease" not in filled("show", DEMO).out
    lease = filled("--json", "acquire", DEMO, "--owner", "host-a", "--lease-seconds", "60").record["lease"]
    assert filled("--json", "show", DEMO).record["lease"] == {"owner": "host-a", **lease}
    until = output.human_time(datetime.fromisoformat(lease["expires_at"]))
    assert f"host-a until {until} " in filled("show", DEMO).out


def test_a_long_title_stays_on_one_line(filled: Command) -> None:
    owner = "host-" + "a" * 80
    assert filled("acquire", DEMO, "--owner", owner).out.splitlines()[0] == f"session {DEMO} held by {owner}"


def test_the_turn_in_flight_is_shown(filled: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        writer = repo.acquire(DEMO, "host-a")
        writer.begin_turn("turn-12").perform("send-mail", "h", lambda: b"sent")
    view = filled("--json", "acquire", DEMO, "--owner", "host-b").record
    assert view["turn"] == {"turn_id": "turn-12", "effects": ["send-mail"]}
    text = filled("acquire", DEMO, "--owner", "host-b").out
    assert "turn-12" in text
    assert "send-mail" in text


def test_a_turn_that_was_committed_is_in_flight_no_more(filled: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        writer = repo.acquire(DEMO, "host-a")
        writer.begin_turn("turn-12")
        writer.commit(take_turn(writer.state, "a0"), TurnStamp("turn-12"))
    view = filled("--json", "acquire", DEMO, "--owner", "host-b").record
    assert (view["turn"], view["revision"]) == (None, 12)


def test_what_was_not_sound_is_shown(cli: Command, url: str) -> None:
    meta = PluginSnapshotMeta(plugin_id="p", plugin_version="1", revision=1, state={})
    state = new_session("s1", "a0")
    state.plugin_snapshot = PluginSessionSnapshot(plugins={"p": PluginSnapshot(meta=meta)})
    with SnapshotRepository.open(url) as repo:
        repo.commit(state)
        writer = repo.acquire("s1", "host-a", plugins=PluginSession([]))
        view = acquired_view(writer, None)
        writer.report = ResumeReport(healed=[ResumeFinding(kind="leaf", name="m1", reason="it was lost")])
        healed = acquired_view(writer, None)
    ((finding,), rows) = view["missing"], acquired_rows(view)
    assert (finding["kind"], finding["name"]) == ("plugin", "p")
    assert {"name": "missing", "value": f"plugin p: {finding['reason']}"} in rows
    assert {row["name"] for row in rows} == {"fence", "revision", "missing", "turn in flight"}
    assert {"name": "healed", "value": "leaf m1: it was lost"} in acquired_rows(healed)
    assert cli("--json", "acquire", "s1", "--owner", "host-a").record["missing"] == []  # the command has no plugins


# Leases.


def test_a_lease_is_claimed_first_and_released_with_the_session(filled: Command, url: str) -> None:
    before = datetime.now(UTC)
    view = filled("--json", "acquire", DEMO, "--owner", "host-a", "--lease-seconds", "60").record
    until = datetime.fromisoformat(view["lease"]["expires_at"])
    assert before + timedelta(seconds=60) <= until <= datetime.now(UTC) + timedelta(seconds=60)
    assert view["lease"]["fence"] == 1
    assert "lease until" in filled("acquire", DEMO, "--owner", "host-a", "--lease-seconds", "0.5e2").out
    lease = lease_of(url, DEMO)
    assert isinstance(lease, Lease)
    assert lease.owner == "host-a"
    filled("release", DEMO, "--owner", "host-a")
    assert isinstance(lease_of(url, DEMO), Free)
    filled("acquire", DEMO, "--owner", "host-b", "--lease-seconds", "60")


def test_a_lease_that_is_held_refuses_and_takes_nothing_over(filled: Command) -> None:
    filled("acquire", DEMO, "--owner", "host-a", "--lease-seconds", "60")
    error = filled("--json", "acquire", DEMO, "--owner", "host-b", "--lease-seconds", "60", code=7).error
    assert (error["error"], error["holder"]) == ("LeaseHeldError", "host-a")
    assert datetime.fromisoformat(error["expires_at"]) > datetime.now(UTC)
    assert filled("acquire", DEMO, "--owner", "host-b", "--lease-seconds", "60", code=7).err.count("\n") == 1
    view = filled("--json", "show", DEMO).record
    assert (view["holder"], view["fence"]) == ("host-a", 1)
    assert filled("--json", "acquire", DEMO, "--owner", "host-b").record["fence"] == 2  # who does not ask takes over


def test_the_lease_of_another_one_stays_when_a_session_is_released(filled: Command, url: str) -> None:
    filled("acquire", DEMO, "--owner", "host-a", "--lease-seconds", "60")
    filled("acquire", DEMO, "--owner", "host-b")
    filled("release", DEMO, "--owner", "host-b")
    lease = lease_of(url, DEMO)
    assert isinstance(lease, Lease)
    assert lease.owner == "host-a"


def test_no_lease_is_left_where_there_is_no_session(filled: Command, url: str) -> None:
    filled("acquire", "none", "--owner", "host-a", "--lease-seconds", "60", code=3)
    lease = lease_of(url, "none")
    assert lease == Free(0)


def test_a_lease_is_given_up_when_the_session_cannot_be_taken(
    filled: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = SnapshotRepository.acquire

    def deleted_meanwhile(repo: SnapshotRepository, session_id: str, owner: str) -> Writer:
        repo.delete(session_id)
        return taken(repo, session_id, owner)

    monkeypatch.setattr(SnapshotRepository, "acquire", deleted_meanwhile)
    error = filled("--json", "acquire", DEMO, "--owner", "host-a", "--lease-seconds", "60", code=3).error
    assert error["error"] == "SessionDeletedError"
    assert lease_of(url, DEMO) == Free(1)


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (("acquire", DEMO), 2, "UsageError"),
        (("release", DEMO), 2, "UsageError"),
        (("acquire", DEMO, "--owner", "o", "--lease-seconds", "soon"), 2, "UsageError"),
        (("acquire", DEMO, "--owner", "o", "--lease-seconds", "0"), 10, "InvalidStateError"),
        (("acquire", DEMO, "--owner", "o", "--lease-seconds", "nan"), 10, "InvalidStateError"),
        (("acquire", DEMO, "--owner", "o", "--lease-seconds", "99999999"), 10, "InvalidStateError"),
        (("acquire", DEMO, "--owner", ""), 10, "InvalidKeyError"),
        (("acquire", DEMO, "--owner", "o" * 513, "--lease-seconds", "9"), 10, "InvalidKeyError"),
        (("release", DEMO, "--owner", ""), 10, "InvalidKeyError"),
        (("acquire", "none", "--owner", "o"), 3, "SessionNotFoundError"),
        (("release", "none", "--owner", "o"), 3, "SessionNotFoundError"),
        (("acquire", "dead", "--owner", "o"), 3, "SessionDeletedError"),
        (("release", "dead", "--owner", "o"), 3, "SessionDeletedError"),
        (("release", "held", "--owner", "o"), 7, "FencedError"),
    ],
)
def test_what_cannot_be_taken_or_let_go_is_one_line(
    filled: Command, arguments: tuple[str, ...], code: int, name: str
) -> None:
    for child in ("dead", "held"):
        filled("fork", DEMO, child)
    filled("--yes", "rm", "dead")
    filled("acquire", "held", "--owner", "host-a")
    plain = filled(*arguments, code=code)
    assert plain.err.startswith("error: ")
    assert plain.err.count("\n") == 1
    assert plain.out == ""
    error = filled("--json", *arguments, code=code).error
    assert (error["error"], error["exit_code"]) == (name, code)
    assert filled("--json", "show", "held").record["holder"] == "host-a"
    assert filled("--json", "show", DEMO).record["holder"] is None
