"""`snapshots probe` says what a server keeps; one that would lose work is refused by every command until the switch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command

SWITCH = "&one_writer=yes"


def test_a_good_server_is_tried_and_the_store_remembers_it(cli: Command, ministack_url: str) -> None:
    before = cli("probe", ministack_url)
    assert before.code == 0
    assert "no store remembers it" in before.out
    assert "probe --create' makes one" in before.out.replace("\n", " ") or "--create" in before.out
    made = cli("--store", ministack_url, "--json", "probe", "--create").rows
    assert {row["meaning"] for row in made[:-1]} == {"right", "fact"}
    assert made[-1]["safe"]
    assert (made[-1]["recorded"], made[-1]["created"]) == (True, True)
    assert made[-1]["facts"]["absent_status"] == 404
    assert cli("--store", ministack_url, "ls").code == 0
    again = cli("--store", ministack_url, "--json", "probe").rows[-1]
    assert (again["recorded"], again["created"]) == (True, False)


def test_a_directory_is_tried_too(cli: Command, tmp_path: Path) -> None:
    told = cli("--json", "probe", f"file:{tmp_path}/store", "--create").rows[-1]
    assert (told["safe"], told["endpoint"], told["created"]) == (True, "", True)
    assert not list((tmp_path / "store").glob("~probe/**/*.*"))
    again = cli("probe", f"file:{tmp_path}/store").out
    assert "can be trusted" in again
    assert "no store remembers it" not in again


def test_a_store_that_could_not_be_made_is_not_to_be_made_by_the_same_command(cli: Command, ministack_url: str) -> None:
    said = cli("--store", ministack_url.replace("s3://", "s3://not-there-"), "demo", code=3).err.strip()
    assert said.endswith("does not exist; create it or check its name); check the URL")


def test_what_leads_on_is_typed_for_the_store_that_was_meant(
    cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the default of --store is another store than the environment's
    missing = cli("--store", "file:.snapshots", "--tenant", "default", "probe")
    assert "snapshots --store file:.snapshots probe --create" in " ".join(missing.out.split())
    monkeypatch.setenv("SNAPSHOTS_TENANT", "acme")
    made = cli("--store", "file:.snapshots", "--tenant", "default", "demo")
    assert "snapshots --store file:.snapshots --tenant default ls" in made.out


@pytest.mark.parametrize(("server", "reason"), [("rclone", "stored all the same"), ("swift", "501 NotImplemented")])
def test_a_server_that_would_lose_work_is_refused_until_the_switch(
    cli: Command, server: str, reason: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{server}_url")
    refused = cli("--store", url, "--json", "demo", code=9).error
    assert (refused["error"], refused["exit_code"]) == ("UnsupportedServerError", 9)
    assert reason in refused["message"]
    assert "one_writer=yes" in refused["message"]
    assert cli("--store", url, "ls", code=3).err.startswith("error:")
    allowed = url + SWITCH
    assert "one writer at a time" in cli("--store", allowed, "demo").err
    assert reason in cli("--store", url, "ls", code=9).err
    forked = cli("--store", allowed, "--json", "fork", "marshmallow-1867@3", "child")
    (line,) = forked.err.splitlines()
    assert reason in " ".join(json.loads(line)["findings"])
    for words in (["--yes", "rm", "marshmallow-1867"], ["--yes", "collect"], ["verify"]):
        assert "one writer at a time" in cli("--store", allowed, *words).err
    assert [row["session_id"] for row in cli("--store", allowed, "--json", "ls").rows] == ["child"]


def test_a_probe_of_such_a_server_says_what_is_wrong_and_makes_nothing(cli: Command, rclone_url: str) -> None:
    tried = cli("--json", "probe", rclone_url, "--create", code=9)
    assert (tried.rows[-1]["safe"], tried.rows[-1]["recorded"], tried.rows[-1]["created"]) == (False, False, False)
    assert [row["name"] for row in tried.rows[:-1] if row["meaning"] == "wrong"]
    assert cli("--store", rclone_url, "ls", code=3).out == ""
    allowed = cli("probe", rclone_url + SWITCH, "--create")
    assert "a store was made there" in allowed.out
