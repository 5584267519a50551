"""`fork` and `tree`: new sessions from old ones, and who came from whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snapshots import PersistedSessionState, PluginSessionSnapshot, SnapshotRepository
from snapshots.children import EmptyStart
from snapshots.cli import output
from snapshots.cli.trees import LEVELS_MAX
from snapshots.head import Origin
from snapshots.layout import Layout
from snapshots.state import ChildRelation, HandoffRelation, PluginSnapshot, PluginSnapshotMeta
from storage.backends import open_store
from storage.store import Create
from tests.cli.conftest import Command
from tests.cli.test_use import DEMO
from tests.integration.builders import new_session, raw_head, rewrite_head, take_turn

CHAIN = 1500  # deeper than Python recurses
FORK_KEYS = ["session_id", "revision", "origin", "checkpoint_ref", "commit_id", "requests", "uploaded_bytes"]


def test_a_fork_is_shown_with_what_it_cost(filled: Command) -> None:
    view = filled("--json", "fork", f"{DEMO}@3", "child").record
    assert list(view) == FORK_KEYS
    assert (view["session_id"], view["revision"]) == ("child", 1)
    assert (view["origin"]["session_id"], view["origin"]["revision"]) == (DEMO, 3)
    source = filled("--json", "show", f"{DEMO}@3").record
    child = filled("--json", "show", "child").record
    assert view["origin"]["checkpoint_ref"] == source["checkpoint_ref"]
    assert view["checkpoint_ref"] == child["checkpoint_ref"]
    assert view["requests"] <= 5
    assert view["uploaded_bytes"] > 0
    assert child["last_messages"] == source["last_messages"]
    text = filled("fork", DEMO, "other").out
    for word in ("child", "other", "origin", f"{DEMO}@11", "checkpoint", "b3:", "requests", "uploaded"):
        assert word in text


@pytest.mark.parametrize(
    ("options", "relation"),
    [
        ((), {"kind": "child", "parent_session_id": DEMO}),
        (("--relation", "root"), {"kind": "root"}),
        (("--relation", "child"), {"kind": "child", "parent_session_id": DEMO}),
        (("--tool-call", "c1"), {"kind": "child", "parent_session_id": DEMO, "originating_tool_call_id": "c1"}),
        (
            ("--relation", "handoff", "--reason", "full"),
            {"kind": "handoff", "parent_session_id": DEMO, "reason": "full"},
        ),
    ],
)
def test_a_fork_has_the_relation_that_was_asked_for(
    filled: Command, options: tuple[str, ...], relation: dict[str, str]
) -> None:
    filled("fork", DEMO, "child", *options)
    assert filled("--json", "show", "child").record["relation"] == relation
    assert next(row for row in filled("--json", "ls").rows if row["session_id"] == "child")["relation"] == relation
    text = filled("show", "child").out
    assert all(str(value) in text for value in relation.values())


def test_plugins_are_inherited_or_fresh(cli: Command, url: str) -> None:
    state = PersistedSessionState(session_id="s1")
    meta = PluginSnapshotMeta(plugin_id="p", plugin_version="1", revision=1, state={"n": 1})
    state.plugin_snapshot = PluginSessionSnapshot(plugins={"p": PluginSnapshot(meta=meta)})
    with SnapshotRepository.open(url) as repo:
        repo.commit(state)
    cli("fork", "s1", "same")
    cli("fork", "s1", "alike", "--plugins", "inherit")
    cli("fork", "s1", "bare", "--plugins", "fresh")
    assert cli("cat", "same", "plugin-snapshot").record == cli("cat", "alike", "plugin-snapshot").record
    assert cli("--json", "show", "bare").record["parts"]["plugin_snapshot"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (("fork", DEMO), 2, "UsageError"),
        (("fork", DEMO, "c", "--relation", "twin"), 2, "UsageError"),
        (("fork", DEMO, "c", "--relation", "handoff"), 2, "UsageError"),
        (("fork", DEMO, "c", "--reason", "none"), 2, "UsageError"),
        (("fork", DEMO, "c", "--relation", "root", "--reason", "none"), 2, "UsageError"),
        (("fork", DEMO, "c", "--relation", "root", "--tool-call", "c1"), 2, "UsageError"),
        (("fork", DEMO, "c", "--relation", "handoff", "--reason", "r", "--tool-call", "c1"), 2, "UsageError"),
        (("fork", DEMO, "c", "--plugins", "some"), 2, "UsageError"),
        (("fork", DEMO, "c", "--revision", "?"), 2, "UsageError"),
        (("fork", "none", "c"), 3, "SessionNotFoundError"),
        (("fork", f"{DEMO}@12", "c"), 3, "RevisionNotFoundError"),
        (("fork", f"{DEMO}@0", "c"), 3, "RevisionNotFoundError"),
        (("fork", DEMO, "c", "--revision", "unknown"), 3, "RevisionNotFoundError"),
        (("fork", f"{DEMO}@nope", "c"), 3, "RevisionNotFoundError"),
        (("fork", f"{DEMO}@-1", "c"), 3, "RevisionNotFoundError"),
        (("fork", DEMO, DEMO), 5, "SessionExistsError"),
        (("fork", DEMO, "taken"), 5, "SessionExistsError"),
        (("fork", "dead", "c"), 3, "SessionDeletedError"),
        (("fork", DEMO, "dead"), 3, "SessionDeletedError"),
        (("fork", DEMO, ""), 10, "InvalidKeyError"),
        (("fork", DEMO, "c", "--tool-call", "c" * 5000), 10, "LimitExceededError"),
        (("tree", "none"), 3, "SessionNotFoundError"),
        (("tree", "dead"), 3, "SessionDeletedError"),
        (("tree", "a", "b"), 2, "UsageError"),
    ],
)
def test_what_cannot_be_forked_or_shown_is_one_line(
    filled: Command, arguments: tuple[str, ...], code: int, name: str
) -> None:
    filled("fork", DEMO, "taken")
    filled("fork", DEMO, "dead")
    filled("--yes", "rm", "dead")
    plain = filled(*arguments, code=code)
    assert plain.err.startswith("error: ")
    assert plain.err.count("\n") == 1
    assert plain.out == ""
    error = filled("--json", *arguments, code=code).error
    assert (error["error"], error["exit_code"]) == (name, code)
    assert {row["session_id"] for row in filled("--json", "ls").rows} == {DEMO, "taken"}


# The tree.


@pytest.fixture
def family(cli: Command, url: str) -> Command:
    """Give the command on a store with a family of five, and a session alone."""
    with SnapshotRepository.open(url, inline_limit_bytes=0) as repo:
        state = new_session("s1")
        for number in range(3):
            repo.commit(take_turn(state, f"a{number}"), execution_state=bytes([number]) * 100_000)
        repo.fork("s1", "s2", 2)
        repo.fork("s2", "s3")
        repo.commit(take_turn(repo.load("s3"), "b0"))
        repo.fork("s1", "x1", relation=HandoffRelation(parent_session_id="s1", reason="full"))
        repo.start_child("s1", EmptyStart(), "empty")
        repo.commit(new_session("alone", "a0"))
        repo.pin("s1", 2, "good")
    return cli


def test_tree_shows_revisions_sizes_and_pins(family: Command) -> None:
    lines = family("tree").out.splitlines()
    starts = ["s1 · revision 3 · ", "├── s2 · from @2 · revision 1 · ", "│   └── s3 · from @1 · revision 2 · "]
    starts += [
        "├── x1 · from @3 · handoff · revision 1 · ",
        "└── empty · child · revision 1 · ",
        "alone · revision 1 · ",
    ]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
        assert " own" in line
        assert " · packs " in line
    assert lines[0].endswith("pins good@2")
    assert [line.count("family") for line in lines] == [1, 0, 0, 0, 1, 1]  # `empty` shares nothing with its parent
    assert ", 0 B own" in lines[1]


def test_tree_as_json_is_an_object_per_session(family: Command) -> None:
    rows = {row["session_id"]: row for row in family("--json", "tree").rows}
    assert list(rows) == ["s1", "s2", "s3", "x1", "empty", "alone"]
    assert [row["depth"] for row in rows.values()] == [0, 1, 2, 1, 1, 0]
    assert [row["parent"] for row in rows.values()] == [None, "s1", "s2", "s1", "s1", None]
    assert {row["holder"] for row in rows.values()} == {None}
    one = rows["s1"]
    assert list(one) == [
        *("session_id", "parent", "depth", "status", "revision", "retained", "created_at", "family", "relation"),
        *("origin", "holder", "pins", "stored_bytes", "own_bytes", "family_bytes"),
    ]
    assert one["pins"] == [{"name": "good", "revision": 2, "expires_at": None, "expired": False}]
    assert (rows["s2"]["origin"]["session_id"], rows["s2"]["origin"]["revision"]) == ("s1", 2)
    assert rows["x1"]["relation"]["reason"] == "full"
    stats = family("--json", "stats").record
    assert sum(rows[name]["family_bytes"] for name in ("s1", "empty", "alone")) == stats["packs_bytes"]
    assert rows["s3"]["own_bytes"] > rows["s2"]["own_bytes"] == 0


def test_tree_of_one_session_is_what_came_from_it(family: Command) -> None:
    rows = family("--json", "tree", "s2").rows
    assert [(row["session_id"], row["parent"], row["depth"]) for row in rows] == [("s2", None, 0), ("s3", "s2", 1)]
    lines = family("tree", "s2").out.splitlines()
    assert lines[0].startswith("s2 · from s1@2 · ")
    assert lines[1].startswith("└── s3 · from @1 · ")


def test_tree_names_the_relation_of_a_fork_that_is_no_child(family: Command) -> None:
    family("fork", "s1", "own", "--relation", "root")
    with_relation = [line for line in family("tree").out.splitlines() if " · from " in line and "@3 · " in line]
    assert [line.lstrip("│├└─ ").split(" · ")[:3] for line in with_relation] == [
        ["x1", "from @3", "handoff"],
        ["own", "from @3", "root"],
    ]
    assert family("tree", "own").out.startswith("own · from s1@3 · root · revision 1")


def test_tree_names_a_parent_that_is_not_the_session_left_from(family: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        repo.fork("s1", "y1", relation=HandoffRelation(parent_session_id="alone", reason="full"))
        repo.fork("s1", "y2", relation=ChildRelation(parent_session_id="alone"))
    text = family("tree").out
    assert "y1 · from @3 · handoff of alone · revision 1" in text
    assert "y2 · from @3 · child of alone · revision 1" in text


def test_help_of_tree_says_what_is_counted_and_from_where(cli: Command) -> None:
    text = " ".join(cli("tree", "--help").out.split())
    assert "Sizes are those of packs" in text
    assert "parent and depth are within the printed tree" in text


def test_tree_says_what_is_deleted_held_or_dropped(family: Command, url: str) -> None:
    family("--yes", "rm", "s2")
    family("acquire", "alone", "--owner", "host-a")
    rewrite_head(open_store(url), lambda head: replace(head, floor=3), "s1")
    lines = family("tree").out.splitlines()
    assert lines[0].startswith("s1 · revision 3 (2 retained) · ")
    assert lines[1].startswith("├── s2 · from @2 · deleted")
    assert lines[2].startswith("│   └── s3 · from @1 · ")
    assert lines[5].endswith("held by host-a")
    assert family("--json", "tree", "s2").rows[0]["status"] == "tombstone"


def test_tree_of_nothing_is_nothing(filled: Command) -> None:
    assert filled("--tenant", "other", "tree").out == ""
    assert filled("--tenant", "other", "--json", "tree").rows == []


def test_tree_of_a_child_whose_parent_is_gone_names_it(family: Command, url: str) -> None:
    store = open_store(url)
    store.delete(Layout("default").head("s1"))
    lines = family("tree").out.splitlines()
    assert lines[0].startswith("s2 · from s1@2 · ")
    assert any(line.startswith("empty · child of s1 · ") for line in lines)


def test_a_tree_of_two_hundred_sessions_fits_the_screen(
    cli: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PLAIN_WIDTH", 80)
    names = [f"an-agent-with-a-long-name-{number:03}" for number in range(200)]
    with SnapshotRepository.open(url) as repo:
        repo.commit(new_session(names[0], "a0"))
        for number in range(1, 200):
            repo.fork(names[(number - 1) // 2 if number < 150 else number - 1], names[number])
        for number in range(0, 200, 9):
            repo.pin(names[number], 1, f"pin-of-{number}")
    assert cli("--json", "tree").rows[0]["session_id"] == names[0]
    assert {row["session_id"] for row in cli("--json", "tree").rows} == set(names)
    text = cli("tree").out
    assert all(len(line) <= 80 for line in text.splitlines())
    joined = "".join(line.lstrip("│├└─ ") + " " for line in text.splitlines())
    for name in names:
        assert name in joined
    assert joined.count(" own") == 200


def chain(url: str, length: int) -> None:
    """Write heads by hand: each a fork of the one before."""
    store = open_store(url)
    with SnapshotRepository.open(url) as repo:
        repo.commit(new_session("c0", "a0"))
    head = raw_head(store, "c0")
    assert head.checkpoint_ref is not None
    for number in range(1, length):
        origin = Origin(f"c{number - 1}", 1, head.checkpoint_ref)
        planted = replace(head, session_id=f"c{number}", origin=origin, write_id=f"{number:032x}")
        store.put(Layout("default").head(f"c{number}"), planted.encode(), Create())


def test_a_chain_of_thousands_is_shown_at_the_depth_of_a_screen(cli: Command, url: str) -> None:
    chain(url, CHAIN)
    lines = cli("tree").out.splitlines()
    assert len(lines) == CHAIN
    assert lines[LEVELS_MAX].startswith("    " * (LEVELS_MAX - 1) + "├── c8 · from @1 · ")
    assert lines[LEVELS_MAX + 1].startswith("    " * (LEVELS_MAX - 1) + "├── c9 · from c8@1 · ")
    assert lines[-1].startswith("    " * (LEVELS_MAX - 1) + f"└── c{CHAIN - 1} · from c{CHAIN - 2}@1 · ")
    assert cli("--json", "tree").rows[-1]["depth"] == CHAIN - 1


def test_a_tree_of_a_corrupt_store_names_what_is_corrupt(family: Command, url: str) -> None:
    store = open_store(url)
    key = next(row.key for row in store.list("default/packs/"))
    store.delete(key)
    assert family("--json", "tree", code=4).error["error"] == "CorruptSnapshotError"


def test_names_in_a_tree_cannot_steer_a_terminal(cli: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        repo.commit(new_session("[red]x[/red] :smile:", "a0"))
        repo.fork("[red]x[/red] :smile:", "child")
        repo.acquire("child", "\u202eevil")
    text = cli("tree").out
    assert "[red]x[/red] :smile: · revision 1" in text
    assert "held by \\u202eevil" in text
