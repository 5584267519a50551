"""The command on an archive: whatever reads works as on the store it was made of, whatever writes is denied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from snapshots.cli import main
from snapshots.cli.portable import document_text
from storage.backends import open_store
from storage.backends.archive import ArchiveWriter
from storage.store import Create
from tests.cli.conftest import Command, Outcome
from tests.data import PACKED, unpack
from tests.snapshots.portable.samples import talk

SESSION = "marshmallow-1867"
OTHER = "ctf-web"
REMEDY = "an archive is read-only; import it, or write a new one\n"
Archive = Callable[..., Outcome]


def archived(url: str, path: Path) -> str:
    """Copy all objects of a store into an archive; return its URL."""
    source = open_store(url)
    with ArchiveWriter(path) as writer:
        for row in source.list(""):
            writer.put(row.key, source.get(row.key).data, Create())
    return f"archive:{path}"


@dataclass(frozen=True)
class Made:
    """A store with two sessions, a pin, a fork, and one that was deleted; and the archive of all its objects."""

    url: str
    path: Path

    @property
    def archive(self) -> str:
        return f"archive:{self.path}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("archive")
    found = Made(f"file:{folder / 'store'}", folder / "my.snapshots")
    files = [str(unpack(packed, folder)) for packed in PACKED if "swe-agent" in packed.parts]
    for words in (
        ("replay", *files),
        ("pin", SESSION, "3", "best"),
        ("fork", f"{SESSION}@4", "kid"),
        ("rm", "ctf-crypto"),
    ):
        assert main(["--quiet", "--yes", "--store", found.url, *words]) == 0
    archived(found.url, found.path)
    return found


@pytest.fixture
def archive(cli: Command, made: Made) -> Archive:
    """Give the command on the archive; it checks that not a byte of the file changes."""
    data = made.path.read_bytes()

    def run(*arguments: str, code: int = 0) -> Outcome:
        outcome = cli("--store", made.archive, *arguments, code=code)
        assert made.path.read_bytes() == data
        assert "Traceback" not in outcome.err
        return outcome

    return run


READING = [
    ("ls",),
    ("log", SESSION),
    ("show", SESSION),
    ("show", f"{SESSION}@best"),
    ("cat", f"{SESSION}@3", "messages"),
    ("stats",),
    ("tree",),
    ("diff", f"{SESSION}@2", f"{SESSION}@5"),
    ("diff", SESSION, OTHER),
    ("verify",),
    ("verify", "--level", "heads"),
    ("pins", SESSION),
    ("meta", "get", SESSION),
    ("usage", "--all"),
    ("records", "ls"),
    ("prune", SESSION, "--last", "2", "--dry-run"),
    ("collect", "--dry-run"),
    ("repair", "--dry-run"),
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_what_reads_says_the_same_of_an_archive(archive: Archive, cli: Command, made: Made, words: list[str]) -> None:
    for shown in ((), ("--json",)):
        expected = cli("--store", made.url, *shown, *words)
        found = archive(*shown, *words)
        assert (found.out.replace(made.archive, made.url), found.err) == (expected.out, expected.err)
        assert found.out or shown, "in JSON nothing is no line"


WRITING = [
    ("rm", SESSION),
    ("fork", SESSION, "child"),
    ("rewind", SESSION, "2"),
    ("restore", SESSION, "2"),
    ("pin", SESSION, "2", "again"),
    ("unpin", SESSION, "best"),
    ("acquire", SESSION, "--owner", "me"),
    ("meta", "set", SESSION, "--title", "x"),
    ("prune", SESSION, "--last", "2"),
    ("collect",),
]


@pytest.mark.parametrize("words", WRITING, ids=" ".join)
def test_what_writes_is_denied(archive: Archive, words: list[str]) -> None:
    said = archive("--yes", *words, code=8)
    assert said.err.endswith(REMEDY)
    assert len(said.err.splitlines()) == 1
    error = archive("--yes", "--json", *words, code=8).error
    assert (error["error"], error["remedy"]) == ("PermissionDeniedError", "import it, or write a new one")


def test_a_transcript_is_not_replayed_into_an_archive(archive: Archive, tmp_path: Path) -> None:
    (tau,) = (packed for packed in PACKED if "tau-bench" in packed.parts)
    said = archive("replay", "--limit", "1", str(unpack(tau, tmp_path)), code=8)
    assert REMEDY in said.err


def test_an_export_is_not_imported_into_an_archive(archive: Archive, tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(document_text(talk("i1", state={}).export()))
    assert archive("import", str(file), code=8).err.endswith(REMEDY)


def test_an_archive_of_nothing_is_no_store_and_becomes_none(cli: Command, tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "empty.snapshots"):
        pass
    url = f"archive:{tmp_path}/empty.snapshots"
    assert "there is no store here" in cli("--store", url, "ls", code=3).err
    assert cli("--store", url, "demo", code=8).err == f"error: ~store: {REMEDY}"


def test_a_missing_or_damaged_archive_is_told_by_its_path(cli: Command, url: str, tmp_path: Path) -> None:
    path = tmp_path / "my.snapshots"
    for words in (("ls",), ("demo",)):
        assert str(path) in cli("--store", f"archive:{path}", *words, code=3).err
    cli("--quiet", "demo")
    archived(url, path)
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path} at byte " in cli("--store", f"archive:{path}", "ls", code=4).err
    archived(url, path)
    data = bytearray(path.read_bytes())
    data[data.index(b"SNAPPACK") - 40] ^= 1
    path.write_bytes(data)
    cli("--store", f"archive:{path}", "verify", code=4)
