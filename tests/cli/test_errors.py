"""Every failure is one line with the exit code of the table."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import snapshots.errors
import storage.errors
from snapshots import SnapshotRepository, codec
from snapshots.cli import exits
from snapshots.cli.exits import EXIT_CODES, error_fields, exit_code
from snapshots.errors import LeaseHeldError, SnapshotError
from storage.backends import open_store
from storage.errors import PermissionDeniedError, StorageError
from storage.store import Overwrite
from tests.cli.conftest import Answering, Command
from tests.cli.test_use import DEMO, SAMPLES

EXPECTED = {
    3: "SessionNotFoundError RevisionNotFoundError StoreNotFoundError SessionDeletedError SessionMovedError "
    "NotFoundError",
    4: "CorruptSnapshotError CorruptObjectError",
    5: "SessionExistsError RevisionConflictError TurnConflictError EffectConflictError CopyConflictError "
    "PreconditionFailedError",
    6: "CommitUnknownError UnavailableError",
    7: "FencedError LeaseHeldError",
    8: "PermissionDeniedError",
    9: "UnsupportedSchemaError UnsupportedServerError",
    10: "InvalidStateError IllegalTransitionError InvalidInputError LimitExceededError InvalidKeyError",
}


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_error_of_both_trees_has_its_exit_code() -> None:
    ours = {kind for root in (SnapshotError, StorageError) for kind in subclasses(root)}
    public = {kind for kind in ours if kind.__module__ in (snapshots.errors.__name__, storage.errors.__name__)}
    public = {kind for kind in public if not kind.__name__.startswith("_")}
    expected = {name: code for code, names in EXPECTED.items() for name in names.split()}
    assert {kind.__name__: EXIT_CODES[kind] for kind in public} == expected
    for kind in ours - {kind for kind in ours if kind.__name__.startswith("_")}:
        assert exit_code(kind.__new__(kind)) != exits.BUG, kind


def test_what_is_not_in_the_table_is_our_bug() -> None:
    assert exit_code(KeyError("x")) == exit_code(ValueError()) == exit_code(SnapshotError()) == 1


def test_json_errors_have_their_facts() -> None:
    until = datetime(2026, 1, 1, tzinfo=UTC)
    fields = error_fields(LeaseHeldError("s", holder="h", expires_at=until), "held", 7)
    assert list(fields)[:3] == ["error", "message", "exit_code"]
    assert fields["expires_at"] == "2026-01-01T00:00:00+00:00"
    found = error_fields(storage.errors.UnsupportedServerError(["a", "b"], remedy="r"), "m", 9)
    facts = {"error": "UnsupportedServerError", "message": "m", "exit_code": 9, "findings": ["a", "b"]}
    assert found == {**facts, "remedy": "r"}


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (("show", "nobody"), 3, "SessionNotFoundError"),
        (("log", "nobody"), 3, "SessionNotFoundError"),
        (("--yes", "rm", "nobody"), 3, "SessionNotFoundError"),
        (("cat", "nobody", "messages"), 3, "SessionNotFoundError"),
        (("show", f"{DEMO}@12"), 3, "RevisionNotFoundError"),
        (("show", f"{DEMO}@0"), 3, "RevisionNotFoundError"),
        (("show", ""), 10, "InvalidKeyError"),
        (("show", "a" * 513), 10, "InvalidKeyError"),
        (("show", "a\nb"), 10, "InvalidKeyError"),
        (("show", "\udcff"), 10, "InvalidKeyError"),
        (("--tenant", "", "ls"), 10, "InvalidKeyError"),
        (("--store", "ftp://x", "ls"), 10, "InvalidKeyError"),
        (("cat", DEMO, "everything"), 2, "UsageError"),
        (("cat", DEMO), 2, "UsageError"),
        (("show",), 2, "UsageError"),
        (("dance",), 2, "UsageError"),
        (("ls", "--loud"), 2, "UsageError"),
        (("ls", "--store"), 2, "UsageError"),
        (("replay",), 2, "UsageError"),
        (("replay", "--limit", "0", "x"), 2, "UsageError"),
        (("rm", DEMO), 2, "UsageError"),
        (("replay", "/no/such/file.json"), 10, "InvalidInputError"),
        (("cat", DEMO, "plugin-snapshot"), 10, "InvalidStateError"),
    ],
)
def test_bad_input_is_one_line(filled: Command, arguments: tuple[str, ...], code: int, name: str) -> None:
    plain = filled(*arguments, code=code)
    assert plain.err.startswith("error: ")
    assert plain.err.count("\n") == 1
    assert plain.out == ""
    error = filled("--json", *arguments, code=code).error
    assert (error["error"], error["exit_code"]) == (name, code)
    assert f"error: {error['message']}\n" == plain.err


def test_no_command_shows_the_help(cli: Command) -> None:
    outcome = cli(code=2)
    assert "Usage: snapshots" in outcome.out
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "see"),
    [
        (("fork",), "snapshots fork --help"),
        (("fork", DEMO, "c", "--reason", "none"), "snapshots fork --help"),
        (("--store", "ls", "fork", DEMO), "snapshots fork --help"),
        (("fork", "ls", "--store"), "snapshots --help"),
        (("ls", "--loud"), "snapshots ls --help"),
        (("dance", "ls"), "snapshots --help"),
        (("diff", DEMO, "--", "-h", "x"), "snapshots diff --help"),
        (("rewind", DEMO, "New"), f"snapshots log {DEMO} and snapshots pins {DEMO}"),
        (("pin", "a b", "New", "n"), "snapshots log 'a b' and snapshots pins 'a b'"),
    ],
)
def test_an_error_of_usage_ends_with_what_to_look_at(filled: Command, arguments: tuple[str, ...], see: str) -> None:
    error = filled("--json", *arguments, code=2).error
    assert error["see"] == see
    assert error["message"].endswith(f"; see {see}")
    assert ".; see" not in error["message"]


def test_values_to_choose_from_are_named_without_words_of_a_library(filled: Command) -> None:
    choices = "'root', 'child', 'handoff'"
    said = filled("fork", DEMO, "c", "--relation", "twin", code=2).err
    assert said == f"error: Invalid value for '--relation': 'twin' is not one of {choices}; see snapshots fork --help\n"


def test_an_argument_of_diff_that_is_missing_is_named(cli: Command) -> None:
    assert "Missing argument 'A'" in cli("diff", code=2).err
    assert "Missing argument 'B'" in cli("diff", DEMO, code=2).err
    text = cli("diff", "--help").out
    assert re.search(r"diff \[OPTIONS\] \W?A\W+B\W", text)
    assert "S@REV" in text


def test_help_lists_every_exit_code(cli: Command) -> None:
    text = " ".join(cli("--help").out.split())
    listed = text.partition("Exit codes: ")[2].partition(". First")[0].split("; ")
    assert [int(one.split()[0]) for one in listed] == [*range(12), 130]
    assert listed[3] == "3 not found, deleted or moved"
    assert set(EXIT_CODES.values()) <= set(exits.MEANINGS)


def test_the_command_is_not_taken_for_the_value_of_an_option_that_has_none(filled: Command) -> None:
    for arguments in (("ls", "--store"), ("fork", "ls", "--store"), ("ls", "log", "--quiet", "--tenant")):
        said = filled(*arguments, code=2).err
        assert said == f"error: Option '{arguments[-1]}' requires an argument; see snapshots --help\n"
    assert filled("--json", "fork", "ls", "--store", code=2).error["exit_code"] == 2


@pytest.mark.parametrize("command", [(), ("fork",)])
def test_h_is_help(cli: Command, command: tuple[str, ...]) -> None:
    assert cli(*command, "-h").out == cli(*command, "--help").out


EXISTING = (
    *("ls", "log s", "show s", "show s@pin", "cat s messages", "stats", "--yes rm s"),
    *("fork s t", "tree", "tree s", "rewind s 1", "restore s 1", "diff s s@1", "pin s 1 p", "unpin s p", "pins s"),
    *("acquire s --owner o", "acquire s --owner o --lease-seconds 9", "release s --owner o"),
)


@pytest.mark.parametrize("command", EXISTING)
def test_only_replay_and_demo_create_a_store(cli: Command, url: str, command: str) -> None:
    assert cli("--json", *command.split(), code=3).error["error"] == "StoreNotFoundError"
    assert not Path(url.removeprefix("file:")).exists()


def test_no_store_is_created_for_a_bad_file(cli: Command, url: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('[{"task_id": 1, "trial": 0, "traj": [{"role": "user"}, {}]}]')
    error = cli("--json", "replay", str(SAMPLES / "airline.json"), str(bad), code=10).error
    assert (error["source"], error["position"], error["reason"]) == (str(bad), "item 0: traj[1].role", "missing")
    assert not Path(url.removeprefix("file:")).exists()


def test_two_files_with_one_id_are_refused(cli: Command, tmp_path: Path) -> None:
    other = tmp_path / "airline.json"
    shutil.copyfile(SAMPLES / "airline.json", other)
    assert "is in" in cli("replay", str(SAMPLES / "airline.json"), str(other), code=10).err


def test_another_transcript_of_the_same_name_is_not_mixed_in(cli: Command, tmp_path: Path) -> None:
    item = {"task_id": 48, "trial": 1, "traj": [{"role": "user", "content": str(turn)} for turn in range(9)]}
    (tmp_path / "airline.json").write_text(json.dumps([item]))
    cli("replay", str(SAMPLES / "airline.json"))
    before = cli("--json", "log", "airline-48-1").rows
    assert "has another session of the id" in cli("replay", str(tmp_path / "airline.json"), code=10).err
    assert cli("--json", "log", "airline-48-1").rows == before


def test_a_session_that_is_no_transcript_is_not_replayed_into(cli: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        repo.commit(snapshots.PersistedSessionState(session_id="airline-48-1"))
    assert "has another session" in cli("replay", str(SAMPLES / "airline.json"), code=10).err


def test_what_was_done_is_shown_when_the_rest_fails(cli: Command) -> None:
    file = str(SAMPLES / "airline.json")
    cli("replay", file)
    cli("--yes", "rm", "airline-18-1")
    cli("--yes", "rm", "airline-42-0")
    outcome = cli("replay", file, code=3)
    assert "airline-48-1" in outcome.out
    assert "airline-42-0" in outcome.err


def test_a_corrupt_head_and_a_corrupt_pack_are_named(filled: Command, url: str) -> None:
    store = open_store(url)
    (head,) = [row.key for row in store.list("default/heads/")]
    good = store.get(head).data
    store.put(head, good[: len(good) // 2], Overwrite())
    for command in (("ls",), ("show", DEMO), ("log", DEMO), ("stats",)):
        assert filled("--json", *command, code=4).error["key"] == head
    assert filled("show", DEMO, code=4).err.endswith("; run snapshots verify, then snapshots repair\n")
    store.put(head, good, Overwrite())
    for row in list(store.list("default/packs/")):
        store.put(row.key, b"\0" * row.size_bytes, Overwrite())
    assert filled("--json", "show", DEMO, code=4).error["error"] == "CorruptSnapshotError"
    assert filled("ls").out


def test_a_newer_format_is_named(filled: Command, url: str) -> None:
    store = open_store(url)
    fields = codec.decode(store.get("~store").data, key="~store")
    store.put("~store", codec.encode({**fields, "schema_version": 99}), Overwrite())
    assert filled("--json", "ls", code=9).error["found"] == 99


def test_a_missing_bucket_and_wrong_credentials_are_told_apart(
    cli: Command, moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"s3://no-such-bucket/x?endpoint_url={moto_endpoint}&region=us-east-1"
    assert cli("--json", "--store", where, "ls", code=3).error["error"] == "StoreNotFoundError"
    assert cli("--json", "--store", where, "demo", code=3).error["error"] == "StoreNotFoundError"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert cli("--json", "--store", where, "ls", code=8).error["error"] == PermissionDeniedError.__name__


@pytest.mark.usefixtures("s3_credentials")
def test_an_endpoint_that_does_not_answer_means_retry(cli: Command) -> None:
    where = "s3://bucket/x?endpoint_url=http://127.0.0.1:9&region=us-east-1"
    assert cli("--json", "--store", where, "ls", code=6).error["applied"] == "no"


def test_a_backend_whose_library_is_missing_says_how_to_get_it(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "storage.backends.s3"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert "pip install 'session-snapshots[s3]'" in cli("--store", "s3://b/p", "ls", code=2).err


def test_an_unexpected_error_is_one_line_unless_asked(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines")

    cli("--quiet", "demo")
    monkeypatch.setattr(SnapshotRepository, "sessions", broken)
    assert cli("ls", code=1).err.startswith("error: unexpected RuntimeError: two lines; ")
    assert cli("ls", code=1).err.count("\n") == 1
    assert cli("--json", "ls", code=1).error["exit_code"] == 1
    monkeypatch.setenv("SNAPSHOTS_DEBUG", "1")
    assert "Traceback" in cli("ls", code=1).err


def test_ctrl_c_is_130(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    cli("--quiet", "demo")
    monkeypatch.setattr(SnapshotRepository, "sessions", interrupted)
    assert cli("ls", code=130).err.strip() == "error: interrupted"


def test_ctrl_c_while_it_starts_is_130_too() -> None:
    program = (
        "import sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from snapshots.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    done = python(program, "ls")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
    done = python(program, "ls", "--json")
    error = {"error": "KeyboardInterrupt", "message": "interrupted", "exit_code": 130}
    assert (done.returncode, json.loads(done.stderr)) == (130, error)


def test_who_answers_no_is_told_that_nothing_was_changed(filled: Command, answering: Answering) -> None:
    answering("n")
    assert filled("rm", DEMO, code=130).err.endswith("error: not confirmed; nothing was changed\n")
    answering("n")
    assert '"exit_code": 130' in filled("--json", "rm", DEMO, code=130).err
    answering("y")
    filled("rm", DEMO)
    filled("show", DEMO, code=3)


def test_optional_arguments_have_one_pair_of_brackets(cli: Command) -> None:
    for command in ("verify", "repair", "tree"):
        text = cli(command, "--help").out
        assert "[S]" in text
        assert "[[" not in text


SNAPSHOTS = str(Path(sys.executable).with_name("snapshots"))


@contextlib.contextmanager
def interrupts(handler: Callable[..., object] | signal.Handlers) -> Iterator[None]:
    """Handle SIGINT like this meanwhile; a process that starts ignores it if this one does."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("inherited", [signal.SIG_IGN, signal.default_int_handler])
def test_a_signal_ends_the_process_cleanly(
    url: str, tmp_path: Path, inherited: Callable[..., object] | signal.Handlers
) -> None:
    os.mkfifo(tmp_path / "never.json")  # opening it waits for ever
    command = [SNAPSHOTS, "--store", url, "replay", str(tmp_path / "never.json")]
    with interrupts(inherited), interrupts(signal.default_int_handler):
        started = subprocess.Popen(command, stderr=subprocess.PIPE)
    with started as process:
        writer = _open_when_read(tmp_path / "never.json")
        for _ in range(3):  # Python swallows an interrupt that arrives inside a destructor; a person presses again
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
                break
        os.close(writer)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().strip() == "error: interrupted"


def _open_when_read(fifo: Path) -> int:
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads yet
                raise


@pytest.mark.parametrize("arguments", [["cat", DEMO, "messages"], ["ls"], ["--help"], ["cat", DEMO, "execution-state"]])
def test_a_closed_pipe_makes_no_noise(filled: Command, arguments: list[str]) -> None:  # noqa: ARG001  for its effect
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([SNAPSHOTS, *arguments], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (130, b"")


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_without_its_libraries_the_command_says_how_to_get_them(library: str) -> None:
    done = python(
        f"import sys; sys.modules[{library!r}] = None\nfrom snapshots.cli import main\nsys.exit(main(['ls']))"
    )
    assert done.returncode == 2
    assert done.stderr == f"error: the command needs {library}; pip install 'session-snapshots[cli]'\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["show", "--help"]])
def test_help_imports_no_backend(arguments: list[str]) -> None:
    done = python(
        "import sys\nfrom snapshots.cli import main\ncode = main(sys.argv[1:])\n"
        "found = {name for name in sys.modules if name.partition('.')[0] in ('boto3', 'botocore')}\n"
        "sys.exit(code or len(found))",
        *arguments,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_output_is_never_stopped_by_an_encoding(filled: Command) -> None:  # noqa: ARG001  for its effect
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for arguments in (["ls"], ["show", DEMO], ["--json", "show", DEMO], ["show", "日本"]):
        done = subprocess.run([SNAPSHOTS, *arguments], env=environment, capture_output=True, check=False)
        assert done.returncode in (0, 3)
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_no_bug_of_ours(unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [SNAPSHOTS, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=environment
        )
    assert (run.returncode, run.stderr) == (6, "error: cannot write output: No space left on device\n")
