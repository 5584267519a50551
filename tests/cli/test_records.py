"""`records`: the life of a record from the command line, listings, reaping, and what errors name."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, codec
from snapshots.fields import U64_MAX
from snapshots.maintenance.copy.satellites import retire_satellites
from snapshots.records import SessionRecords
from snapshots.records.scan import SIDE_BY_SIDE
from storage.backends import open_store
from storage.backends.memory import MemoryStore
from storage.registers import REGISTER_BYTES_MAX
from storage.store import Overwrite
from storage.testing.faults import FailBefore, FaultyStore
from tests.cli.conftest import Command, Outcome

FIELDS = [
    *("status", "session_id", "tenant_id", "provider_id", "model", "created_at", "activated_at", "closed_at"),
    *("ttl_secs", "round_count", "initial_token_count", "delta_token_count", "metadata"),
    *("expires_at", "due", "tokens_saved"),
]
NEW = ("--provider", "openai", "--model", "gpt-5")


def create(cli: Command, session: str = "s1", *options: str, code: int = 0) -> Outcome:
    return cli("--json", "records", "create", session, *NEW, *options, code=code)


def key_of(url: str, session: str) -> str:
    with SnapshotRepository.open(url) as repo:
        return repo.environment.layout.record(session)


def damage(url: str, session: str) -> str:
    key = key_of(url, session)
    store = open_store(url)
    store.put(key, store.get(key).data[:-1] + b"!", Overwrite())
    return key


def test_a_life(cli: Command, url: str) -> None:
    made = create(cli, "s1", "--ttl", "12h", "--initial-tokens", "100", "--metadata", '{"a": [1]}').record
    assert list(made) == FIELDS
    assert (made["status"], made["tenant_id"], made["ttl_secs"], made["metadata"]) == (
        "created",
        "default",
        43_200,
        {"a": [1]},
    )
    assert cli("--json", "records", "activate", "s1").record["status"] == "active"
    cli("records", "delta", "s1", "40")
    counted = cli("--json", "records", "delta", "s1", "60", "--rounds", "2").record
    assert (counted["round_count"], counted["delta_token_count"], counted["tokens_saved"]) == (3, 100, 200)
    assert cli("--json", "records", "show", "s1").record == counted
    closed = cli("--json", "records", "close", "s1").record
    assert (closed["status"], closed["due"]) == ("closed", False)
    assert closed["closed_at"] > closed["activated_at"] > closed["created_at"]
    with SnapshotRepository.open(url) as repo:
        assert SessionRecords(repo).read("s1").record.model_dump() == {
            name: closed[name] for name in FIELDS if name not in ("status", "expires_at", "due", "tokens_saved")
        }


def test_people_are_told_in_words(cli: Command) -> None:
    said = cli("records", "create", "s1", *NEW, "--metadata", '{"a": [1]}').out
    assert said == "the record of session s1 is created\n"
    assert cli("--quiet", "records", "activate", "s1").out == ""
    assert cli("records", "delta", "s1", "1200").out == "the record of session s1 is active\n"
    shown = cli("records", "show", "s1").out
    assert shown.splitlines()[0] == "record of session s1"
    for word in ("openai", "gpt-5", "active", "1,200", '{"a":[1]}'):
        assert word in shown
    assert "closed" not in shown
    assert "expires" not in shown
    listed = cli("records", "ls").out
    for word in ("s1", "active", "openai", "gpt-5", "1 record read"):
        assert word in listed
    assert "due" not in listed


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [("0", 0), ("3600", 3600), ("90s", 90), ("12h", 43_200), ("30d", 2_592_000), (str(U64_MAX), U64_MAX)],
)
def test_a_time_to_live_is_seconds_or_a_span(cli: Command, ttl: str, seconds: int) -> None:
    made = create(cli, "s1", "--ttl", ttl).record
    assert made["ttl_secs"] == seconds
    assert (made["expires_at"] is None) == (seconds in (0, U64_MAX))


@pytest.mark.parametrize(
    ("options", "code", "name"),
    [
        (("--ttl", "soon"), 2, "UsageError"),
        (("--ttl", "-1"), 2, "UsageError"),
        (("--ttl", "999999999w"), 2, "UsageError"),
        (("--ttl", str(U64_MAX + 1)), 10, "InvalidStateError"),
        (("--ttl", "9" * 5000), 2, "UsageError"),
        (("--initial-tokens", "-1"), 2, "UsageError"),
        (("--initial-tokens", str(U64_MAX + 1)), 10, "InvalidStateError"),
        (("--metadata", "{"), 10, "InvalidInputError"),
        (("--metadata", ""), 10, "InvalidInputError"),
        (("--metadata", "NaN"), 10, "InvalidInputError"),
        (("--metadata", '{"a": 1, "a": 2}'), 10, "InvalidInputError"),
        (("--metadata", '"\udcff"'), 10, "InvalidInputError"),
        (("--model", ""), 10, "InvalidStateError"),
    ],
    ids=lambda value: str(value)[:40].encode("ascii", "replace").decode(),
)
def test_what_is_no_record_is_not_made(cli: Command, options: tuple[str, ...], code: int, name: str) -> None:
    error = create(cli, "s1", *options, code=code).error
    assert (error["error"], error["exit_code"]) == (name, code)
    cli("records", "show", "s1", code=3)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--model", ""), "InvalidStateError"),
        (("--ttl", str(U64_MAX + 1)), "InvalidStateError"),
        (("--metadata", json.dumps("x" * REGISTER_BYTES_MAX)), "LimitExceededError"),
    ],
    ids=["model", "ttl", "metadata"],
)
def test_what_is_no_record_leaves_no_store(cli: Command, tmp_path: Path, options: tuple[str, ...], name: str) -> None:
    assert create(cli, "s1", *options, code=10).error["error"] == name
    assert create(cli, "a\nb", code=10).error["error"] == "InvalidKeyError"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--provider", "--model"])
def test_provider_and_model_are_asked_for(cli: Command, option: str) -> None:
    given = [word for pair in zip(NEW[::2], NEW[1::2], strict=True) if pair[0] != option for word in pair]
    error = cli("--json", "records", "create", "s1", *given, code=2).error
    assert option in error["message"]
    assert error["see"] == "snapshots records create --help"


def test_steps_that_are_refused(cli: Command) -> None:
    create(cli)
    assert create(cli, code=5).error["error"] == "SessionExistsError"
    for command in (("close", "s1"), ("delta", "s1", "5")):
        error = cli("--json", "records", *command, code=10).error
        assert (error["error"], error["from_status"]) == ("IllegalTransitionError", "created")
        assert error["remedy"] == "activate it first"
    cli("records", "activate", "s1")
    cli("records", "activate", "s1", code=10)
    cli("records", "close", "s1")
    error = cli("--json", "records", "close", "s1", code=10).error
    assert (error["from_status"], error["to_status"]) == ("closed", "closed")
    cli("records", "delta", "s1", "-5", code=2)
    for command in (("show", "s2"), ("activate", "s2"), ("close", "s2"), ("delta", "s2", "1")):
        assert cli("--json", "records", *command, code=3).error["error"] == "SessionNotFoundError"


def test_a_count_that_leaves_64_bits_is_refused(cli: Command) -> None:
    create(cli)
    cli("records", "activate", "s1")
    cli("records", "delta", "s1", str(U64_MAX))
    assert cli("--json", "records", "delta", "s1", "1", code=10).error["error"] == "LimitExceededError"
    assert cli("--json", "records", "delta", "s1", str(U64_MAX + 1), code=10).error["error"] == "InvalidStateError"


def test_the_record_of_a_deleted_session_is_not_made_again(cli: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        repo.commit(PersistedSessionState(session_id="s1"))
        repo.delete("s1")
    assert create(cli, code=3).error["error"] == "SessionDeletedError"


@pytest.mark.parametrize(
    "command", ["activate s", "delta s 1", "close s", "show s", "ls", "ls --expired", "reap", "reap --dry-run"]
)
def test_only_create_creates_a_store(cli: Command, url: str, command: str) -> None:
    assert cli("--json", "records", *command.split(), code=3).error["error"] == "StoreNotFoundError"
    assert not Path(url.removeprefix("file:")).exists()
    create(cli)
    assert Path(url.removeprefix("file:")).exists()


# Listing and reaping.


def some(cli: Command) -> None:
    """Make a record that is closed, one that is active, and two whose time is up."""
    for session, ttl in (("closed", "0"), ("active", "0"), ("due-1", "1"), ("due-2", "1s")):
        create(cli, session, "--ttl", ttl)
    cli("records", "activate", "closed")
    cli("records", "close", "closed")
    cli("records", "activate", "active")
    cli("records", "activate", "due-2")
    time.sleep(1.05)  # the command goes by the real clock, and the record lives a second


def listed(cli: Command, *options: str) -> dict[str, str]:
    return {row["session_id"]: row["status"] for row in cli("--json", "records", "ls", *options).rows}


def test_records_are_listed_by_status_and_time(cli: Command) -> None:
    some(cli)
    every = {"closed": "closed", "active": "active", "due-1": "created", "due-2": "active"}
    assert listed(cli) == every
    assert listed(cli, "--status", "ACTIVE") == {"active": "active", "due-2": "active"}
    assert listed(cli, "--expired") == {"due-1": "created", "due-2": "active"}
    assert listed(cli, "--expired", "--status", "created") == {"due-1": "created"}
    assert {row["session_id"]: row["due"] for row in cli("--json", "records", "ls").rows} == {
        name: name.startswith("due") for name in every
    }
    assert "4 records read" in cli("records", "ls", "--status", "closed").out
    error = cli("--json", "records", "ls", "--status", "open", code=10).error
    assert "created, active, closed, expired" in error["message"]
    assert list(cli("--json", "records", "ls").rows[0]) == FIELDS
    assert "its time is up" in cli("records", "show", "due-1").out
    assert cli("--json", "records", "activate", "due-1", code=10).error["from_status"] == "expired"


def test_a_listing_goes_on_after_a_key(cli: Command, url: str) -> None:
    names = sorted((f"s{number}" for number in range(4)), key=lambda name: key_of(url, name))
    for name in names:
        create(cli, name)
    assert list(listed(cli, "--after", key_of(url, names[1]))) == names[2:]
    assert cli("--json", "records", "ls", "--after", "none", code=10).error["error"] == "InvalidStateError"


def test_a_listing_that_fails_says_where_to_go_on(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"s{number:03}" for number in range(SIDE_BY_SIDE + 2)]
    behind = MemoryStore()
    records = SessionRecords(SnapshotRepository(behind))
    for name in names:
        records.create(name, provider_id="openai", model="gpt-5")
    faulty = FaultyStore(behind)
    faulty.plan.on("get", "default/records/", nth=SIDE_BY_SIDE + 1, fault=FailBefore(), times=None)
    monkeypatch.setattr("snapshots.cli.invocation.open_store", lambda _url: faulty)
    rows = cli("--json", "records", "ls", code=6).rows
    assert rows[-1]["read"] == len(rows) - 1 == SIDE_BY_SIDE
    faulty.plan.clear()
    rest = cli("--json", "records", "ls", "--after", rows[-1]["next_after"]).rows
    assert sorted(row["session_id"] for row in [*rows[:-1], *rest]) == names


def test_what_is_due_is_reaped(cli: Command) -> None:
    some(cli)
    *rows, summary = cli("--json", "records", "reap", "--dry-run").rows
    assert {row["session_id"]: row["status"] for row in rows} == {"due-1": "created", "due-2": "active"}
    assert all(row["expires_at"] for row in rows)
    assert summary == {"read": 4, "due": 2, "next_after": ""}
    assert "2 of 4 records would be expired" in cli("records", "reap", "--dry-run").out
    assert listed(cli)["due-1"] == "created"
    record = cli("--json", "records", "reap").record
    assert record == {"read": 4, "expired": 2, "skipped": 0, "damaged": [], "damaged_count": 0, "next_after": ""}
    assert listed(cli) == {"closed": "closed", "active": "active", "due-1": "expired", "due-2": "expired"}
    assert cli("records", "reap").out == "0 of 4 records expired\n"


def test_a_reap_is_gone_on_with(cli: Command) -> None:
    some(cli)
    expired, after = 0, ""
    for _ in range(4):
        options = ("--after", after) if after else ()
        record = cli("--json", "records", "reap", "--limit", "1", *options).record
        expired += record["expired"]
        after = record["next_after"]
    assert (expired, after) == (2, "")
    said = cli("records", "reap", "--limit", "1").out.splitlines()
    assert said[0] == "0 of 1 record expired"
    assert said[1].startswith("not all were looked at: go on with --after default/records/")
    cli("records", "reap", "--limit", "0", code=2)
    assert cli("--json", "records", "reap", "--after", "elsewhere", code=10).error["error"] == "InvalidStateError"


def test_a_record_that_was_left_behind_is_named(cli: Command, url: str) -> None:
    some(cli)
    with SnapshotRepository(open_store(url)) as repo:
        retire_satellites(repo.environment, "due-1", "file:elsewhere")
    rows = cli("--json", "records", "ls").rows
    assert {row["session_id"] for row in rows[:-1]} == {"closed", "active", "due-2"}
    assert rows[-1] == {"session_id": "due-1", "moved": "file:elsewhere"}
    assert "moved: due-1 to file:elsewhere\n" in cli("records", "ls").out
    assert cli("--json", "records", "reap").record["expired"] == 1
    assert cli("--json", "records", "show", "due-1", code=3).error["error"] == "SessionMovedError"


def test_a_damaged_record_hides_no_other_and_is_exit_code_4(cli: Command, url: str) -> None:
    some(cli)
    key = damage(url, "due-1")
    rows = cli("--json", "records", "ls", code=4).rows
    assert {row["session_id"] for row in rows[:-1]} == {"closed", "active", "due-2"}
    assert rows[-1]["key"] == key
    assert "checksum" in rows[-1]["damaged"]
    shown = cli("records", "ls", code=4).out
    assert f"damaged: {key}: the record does not match its own checksum\n" in shown
    assert "due-2" in shown
    *due, summary, damaged = cli("--json", "records", "reap", "--dry-run", code=4).rows
    assert ([row["session_id"] for row in due], summary["due"], damaged["key"]) == (["due-2"], 1, key)
    record = cli("--json", "records", "reap", code=4).record
    assert (record["expired"], record["damaged_count"], record["damaged"][0]["key"]) == (1, 1, key)
    assert f"damaged: {key}" in cli("records", "reap", code=4).out
    assert cli("--json", "records", "show", "due-1", code=4).error["key"] == key
    assert cli("--json", "records", "close", "due-1", code=4).error["error"] == "CorruptSnapshotError"


def test_a_record_moved_to_another_session_is_corrupt(cli: Command, url: str) -> None:
    create(cli)
    store = open_store(url)
    store.put(key_of(url, "s2"), store.get(key_of(url, "s1")).data, Overwrite())
    assert "moved here" in cli("records", "show", "s2", code=4).err


def test_a_record_of_a_later_format_is_named(cli: Command, url: str) -> None:
    create(cli)
    store, key = open_store(url), key_of(url, "s1")
    plain: dict[str, Any] = codec.decode(codec.unguarded(store.get(key).data, key=key), key=key)
    store.put(key, codec.guarded(codec.encode({**plain, "schema_version": 99})), Overwrite())
    assert cli("--json", "records", "show", "s1", code=9).error["found"] == 99
    assert "99" in cli("records", "ls", code=4).out


def test_tenants_have_their_own_records(cli: Command) -> None:
    create(cli)
    assert cli("--json", "--tenant", "other", "records", "ls").rows == []
    assert cli("--json", "records", "create", "s1", *NEW, "--tenant", "other").record["tenant_id"] == "other"
    cli("records", "close", "s1", code=10)


def test_text_from_a_store_does_not_steer_the_terminal(cli: Command) -> None:
    create(cli, "s1", "--metadata", json.dumps("\x1b[31mred"))
    assert "\x1b" not in cli("records", "show", "s1").out


# What errors of usage name.


@pytest.mark.parametrize(
    ("arguments", "see"),
    [
        (("records",), "snapshots records --help"),
        (("records", "dance"), "snapshots records --help"),
        (("records", "--loud"), "snapshots records --help"),
        (("records", "create"), "snapshots records create --help"),
        (("records", "create", "s1", "--loud"), "snapshots records create --help"),
        (("--tenant", "records", "records", "show"), "snapshots records show --help"),
        (("records", "--tenant", "ls", "show"), "snapshots records show --help"),
        (("records", "delta", "close"), "snapshots records delta --help"),
        (("fork", "records"), "snapshots fork --help"),
        (("show", "records", "ls"), "snapshots show --help"),
        (("dance", "records", "ls"), "snapshots --help"),
    ],
)
def test_an_error_of_usage_names_the_command_in_its_group(cli: Command, arguments: tuple[str, ...], see: str) -> None:
    outcome = cli("--json", *arguments, code=2)
    assert outcome.error["see"] == see
    assert outcome.error["message"].endswith(f"; see {see}")


def test_h_is_help_in_a_group(cli: Command) -> None:
    for command in ((), ("create",), ("reap",)):
        assert cli("records", *command, "-h").out == cli("records", *command, "--help").out
