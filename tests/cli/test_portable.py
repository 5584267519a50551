"""`export` and `import`: a session as a file, whole or not at all."""

from __future__ import annotations

import io
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from snapshots import SnapshotRepository
from snapshots.portable import Session, SessionService
from snapshots.portable.document import document_digest
from snapshots.state import PluginPayload
from storage.backends.memory import MemoryStore
from storage.clock import SystemClock
from storage.testing.faults import FailBefore, FaultyStore, LoseAnswer
from tests.cli.conftest import Command
from tests.cli.test_use import DEMO
from tests.snapshots.portable.samples import event, original, talk


@pytest.fixture
def talked(cli: Command, url: str) -> Command:
    """Give the command on a store with a portable session `s1` of two events at revision 3."""
    with SnapshotRepository.open(url) as repo:
        service = SessionService(repo)
        service.create_session("app", "user", state={"tier": "gold"}, session_id="s1")
        service.append_event("s1", event(1, "i1"))
        service.append_event("s1", event(2, "i2", content="é\u202e"))
    return cli


def written(path: Path, document: Any) -> str:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def typed(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))


# Export.


def test_an_export_is_a_document_with_the_events(talked: Command, tmp_path: Path) -> None:
    file = tmp_path / "s1.json"
    said = talked("export", "s1", str(file)).out
    document = json.loads(file.read_text())
    assert [one["id"] for one in document["events"]] == ["e1", "e2"]
    assert Session.import_(document).initial_state == {"tier": "gold"}
    assert "2 events" in said
    assert "revision 3" in said
    view = talked("--json", "export", "s1", str(file)).record
    assert view == {
        "session_id": "s1",
        "revision": 3,
        "events": 2,
        "digest": document["digest"],
        "file": str(file),
        "size_bytes": file.stat().st_size,
    }
    assert talked("--quiet", "export", "s1", str(file)).out == ""


def test_a_dash_is_stdout_and_nothing_else_is_on_it(talked: Command, tmp_path: Path) -> None:
    talked("export", "s1", str(tmp_path / "s1.json"))
    for options in ((), ("--json",), ("--quiet",)):
        assert talked(*options, "export", "s1", "-").out == (tmp_path / "s1.json").read_text()


SNAPSHOTS = str(Path(sys.executable).with_name("snapshots"))


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-16"])
def test_stdout_gets_the_bytes_of_a_file_whatever_its_encoding(
    talked: Command, tmp_path: Path, encoding: str, url: str
) -> None:
    talked("export", "s1", str(tmp_path / "s1.json"))
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    run = subprocess.run([SNAPSHOTS, "--store", url, "export", "s1", "-"], capture_output=True, env=env, check=True)
    assert run.stdout == (tmp_path / "s1.json").read_bytes()


@pytest.mark.parametrize(
    ("command", "code"), [("export s1 - >&-", 6), ("--json export s1 - >&-", 6), ("import - <&-", 10)]
)
def test_a_stream_that_is_closed_is_no_fault_of_ours(talked: Command, command: str, code: int) -> None:
    talked("stats")
    run = subprocess.run(["sh", "-c", f"{SNAPSHOTS} {command}"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (code, "")
    assert "closed" in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_pipe_is_not_replaced_by_a_file(talked: Command, tmp_path: Path) -> None:
    pipe = tmp_path / "s1.json"
    os.mkfifo(pipe)
    assert "no file" in talked("export", "s1", str(pipe), code=2).err
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s1.json", "store"]


def test_a_name_may_be_as_long_as_names_are(talked: Command, tmp_path: Path) -> None:
    file = tmp_path / ("é" * 125 + ".json")  # 255 bytes
    talked("export", "s1", str(file))
    assert json.loads(file.read_text())["id"] == "s1"


def test_an_earlier_revision_is_exported(talked: Command) -> None:
    assert len(json.loads(talked("export", "s1@2", "-").out)["events"]) == 1
    assert len(json.loads(talked("export", "s1", "-", "--revision", "1").out)["events"]) == 0
    talked("pin", "s1", "2", "good")
    assert len(json.loads(talked("export", "s1@good", "-").out)["events"]) == 1


def test_nodes_of_other_kinds_are_mentioned(talked: Command, url: str, tmp_path: Path) -> None:
    with SnapshotRepository.open(url) as repo:
        repo.update("s1", lambda state: void(state.append_session_nodes([PluginPayload(plugin_type="x", body=1)])))
    assert "not in it: 1 node of other kinds" in talked("export", "s1", str(tmp_path / "a.json")).out


def void(_: object) -> None:
    pass


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (("export", "s1"), 2, "UsageError"),
        (("export", "a.json"), 2, "UsageError"),
        (("export", "s1", "s1", "a.json"), 2, "UsageError"),
        (("export", "s1", "a.snapshots", "--revision", "1"), 2, "UsageError"),
        (("export", "none", "a.snapshots"), 3, "SessionNotFoundError"),
        (("export", "dead", "a.snapshots"), 3, "SessionDeletedError"),
        (("export", "s1", "none/a.snapshots"), 3, "NotFoundError"),
        (("export", "s1", "s1"), 2, "UsageError"),
        (("export", "s1", "s1.JSON"), 2, "UsageError"),
        (("export", "s1", ".json"), 2, "UsageError"),
        (("export", "s1", ""), 2, "UsageError"),
        (("export", "s1", "none/s1.json"), 2, "UsageError"),
        (("export", "s1", "dir.json"), 2, "UsageError"),
        (("export", "none", "a.json"), 3, "SessionNotFoundError"),
        (("export", "s1@9", "a.json"), 3, "RevisionNotFoundError"),
        (("export", "dead", "a.json"), 3, "SessionDeletedError"),
        (("--tenant", "other", "export", "s1", "a.json"), 3, "SessionNotFoundError"),
        (("export", DEMO, "a.json"), 10, "InvalidStateError"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_no_file(
    talked: Command, arguments: tuple[str, ...], code: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talked("--quiet", "demo")
    talked("fork", "s1", "dead")
    talked("--yes", "rm", "dead")
    work = tmp_path / "work"
    (work / "dir.json" / "x").mkdir(parents=True)
    monkeypatch.chdir(work)
    before = sorted(work.rglob("*"))
    plain = talked(*arguments, code=code)
    assert plain.err.startswith("error: ")
    assert plain.err.count("\n") == 1
    assert plain.out == ""
    error = talked("--json", *arguments, code=code).error
    assert (error["error"], error["exit_code"]) == (name, code)
    assert sorted(work.rglob("*")) == before


def test_an_export_creates_no_store(cli: Command, tmp_path: Path) -> None:
    assert cli("--json", "export", "s1", str(tmp_path / "a.json"), code=3).error["error"] == "StoreNotFoundError"
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_and_sessions_are_refused_with_a_remedy(talked: Command) -> None:
    assert ".json" in talked("export", "s1", "all.zip", code=2).err
    talked("--quiet", "demo")
    assert "snapshots cat" in talked("export", DEMO, "-", code=10).err


def test_a_file_is_replaced_at_once_and_keeps_its_permissions(talked: Command, tmp_path: Path) -> None:
    file = tmp_path / "s1.json"
    file.write_text("old")
    file.chmod(0o640)
    link = tmp_path / "link.json"
    link.symlink_to(file)
    with file.open() as reader:
        talked("export", "s1", str(link))
        assert reader.read() == "old"  # whoever reads the old one has all of it
    assert link.is_symlink()
    assert json.loads(file.read_text())["id"] == "s1"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "s1.json", "store"]


def test_a_new_file_has_the_permissions_of_any(talked: Command, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        talked("export", "s1", str(tmp_path / "s1.json"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s1.json").stat().st_mode) == 0o640


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))


def test_what_cannot_be_written_to_the_end_leaves_the_old_file(talked: Command, tmp_path: Path, url: str) -> None:
    file = tmp_path / "s1.json"
    file.write_text("old")
    talked("stats")
    run = subprocess.run(
        [SNAPSHOTS, "--store", url, "export", "s1", str(file)],
        capture_output=True,
        text=True,
        preexec_fn=small_files,
        check=False,
    )
    assert (run.returncode, run.stdout) == (6, "")
    assert str(file) in run.stderr
    assert "File too large" in run.stderr
    assert run.stderr.count("\n") == 1
    assert file.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s1.json", "store"]


# Import.


def test_an_export_is_imported_into_another_store(talked: Command, tmp_path: Path) -> None:
    file = str(tmp_path / "s1.json")
    talked("export", "s1", file)
    other = ("--store", f"file:{tmp_path / 'other'}")
    said = talked(*other, "import", file).out
    assert "s1 stands at revision 1, 2 events" in said
    assert f"--store file:{tmp_path / 'other'} log s1" in said
    assert talked(*other, "export", "s1", "-").out == Path(file).read_text()


def test_stdin_is_imported(talked: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, talked("export", "s1", "-").out.encode())
    view = talked("--tenant", "other", "--json", "import", "-").record
    assert view == {"session_id": "s1", "revision": 1, "events": 2, "imported_id": "s1", "policy": "fail-if-exists"}


def test_content_decides_whatever_the_name(talked: Command, tmp_path: Path) -> None:
    file = written(tmp_path / "s1.snapshots", talked("export", "s1", "-").out)
    assert talked("--tenant", "other", "--json", "import", file).record["session_id"] == "s1"


def test_the_policies(talked: Command, tmp_path: Path) -> None:
    file = written(tmp_path / "s1.json", talked("export", "s1@2", "-").out)
    assert talked("--json", "import", file, code=5).error["error"] == "SessionExistsError"
    found = talked("--json", "import", file, "--policy", "new-id").record
    assert (found["imported_id"], found["revision"], found["policy"]) == ("s1", 1, "new-id")
    assert found["session_id"] != "s1"
    assert talked("--json", "import", file, "--policy", "keep-id").record["revision"] == 4
    assert talked("--json", "import", file, "--policy", "keep-id").record["revision"] == 4  # just the same already
    assert len(json.loads(talked("export", "s1", "-").out)["events"]) == 1
    talked("restore", "s1", "3")
    assert len(json.loads(talked("export", "s1", "-").out)["events"]) == 2
    talked("--yes", "rm", "s1")
    for policy in ("keep-id", "fail-if-exists"):
        assert talked("--json", "import", file, "--policy", policy, code=3).error["error"] == "SessionDeletedError"


def test_an_import_in_doubt_names_the_session_to_look_for(
    talked: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "s1.json")
    talked("export", "s1", file)
    behind = MemoryStore()
    faulty = FaultyStore(behind)
    faulty.plan.on("put", "heads/", nth=2, fault=LoseAnswer(), times=None)
    faulty.plan.on("get", "heads/", nth=2, fault=FailBefore(), times=None)
    monkeypatch.setattr("snapshots.cli.invocation.open_store", lambda _url: faulty)
    monkeypatch.setattr(SystemClock, "sleep", lambda _clock, _seconds: None)
    error = talked("--json", "import", file, "--policy", "new-id", code=6).error
    faulty.plan.clear()
    (found,) = SessionService(SnapshotRepository(behind)).list_sessions("app")
    assert error["error"] == "CommitUnknownError"
    assert f"look for session {found.session_id!r}: if it is there, it was stored" in error["message"]
    assert found.session_id != "s1"


def test_an_import_over_a_session_that_something_else_made_is_refused(talked: Command, tmp_path: Path) -> None:
    talked("--quiet", "demo")
    file = written(tmp_path / "a.json", talk("i1", session_id=DEMO).export())
    assert talked("--json", "import", file, "--policy", "keep-id", code=10).error["error"] == "InvalidStateError"
    assert talked("--json", "log", DEMO).rows[0]["revision"] == 11


def newer() -> dict[str, Any]:
    return {**talk("i1").export(), "format_version": 2}


def tampered() -> dict[str, Any]:
    return {**talk("i1").export(), "user_id": "somebody else"}


def incomplete() -> dict[str, Any]:
    document = talk("i1").export()
    del document["events"][0]["timestamp"]
    return {**document, "digest": document_digest(document)}


DOCUMENTS: dict[str, tuple[Any, int, str]] = {
    "tampered": (tampered(), 10, "InvalidInputError"),
    "newer": (newer(), 9, "UnsupportedSchemaError"),
    "incomplete": (incomplete(), 10, "InvalidInputError"),
    "truncated": (json.dumps(talk("i1").export())[:-9], 10, "InvalidInputError"),
    "without a format": (original(), 10, "InvalidInputError"),
    "an id that no store has": (talk(session_id="a\nb").export(), 10, "InvalidInputError"),
    "names that are too long": (Session.new("a" * 9000, "u").export(), 10, "LimitExceededError"),
    "a list": ([], 10, "InvalidInputError"),
    "nothing": ("", 10, "InvalidInputError"),
    "no text": ("\x00\x01", 10, "InvalidInputError"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_bad_document_creates_nothing_at_all(cli: Command, tmp_path: Path, name: str) -> None:
    document, code, error = DOCUMENTS[name]
    file = written(tmp_path / "bad.json", document)
    plain = cli("import", file, code=code)
    assert (plain.out, plain.err.count("\n")) == ("", 1)
    found = cli("--json", "import", file, code=code).error
    assert (found["error"], found["exit_code"]) == (error, code)
    assert found.get("source", file) == file
    assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]


def test_a_document_of_the_original_is_refused_with_a_remedy(cli: Command, tmp_path: Path) -> None:
    assert "Session.model_validate" in cli("import", written(tmp_path / "a.json", original()), code=10).err


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (("import",), 2, "UsageError"),
        (("import", "a.json", "b.json"), 2, "UsageError"),
        (("import", "a.json", "--policy", "replace"), 2, "UsageError"),
        (("import", "none.json"), 10, "InvalidInputError"),
        (("import", "."), 10, "InvalidInputError"),
        (("import", ""), 10, "InvalidInputError"),
    ],
)
def test_what_cannot_be_imported_is_one_line(
    cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli(*arguments, code=code).err.count("\n") == 1
    assert cli("--json", *arguments, code=code).error["error"] == name
    assert list(tmp_path.iterdir()) == []
