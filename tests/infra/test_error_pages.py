"""One page per error; what it shows of the error is what the error says."""

from __future__ import annotations

import re

import pytest

import snapshots.errors
import storage.errors
from infra import error_pages
from infra.error_pages import EXAMPLES, FOLDER, name_of
from snapshots.cli.exits import EXIT_CODES
from snapshots.errors import SnapshotError
from storage.errors import StorageError
from tests.cli.test_errors import subclasses

HEADINGS = ["What was applied", "What the caller does", "What the operator looks at"]
NAMES = [name_of(error) for error in EXAMPLES]


def test_every_error_has_one_page() -> None:
    ours = {kind for root in (SnapshotError, StorageError) for kind in subclasses(root)}
    modules = (snapshots.errors.__name__, storage.errors.__name__)
    public = {kind.__name__ for kind in ours if kind.__module__ in modules and not kind.__name__.startswith("_")}
    assert sorted(NAMES) == sorted(public)
    assert {path.stem for path in FOLDER.glob("*.md")} == {*public, "README"}


def test_heads_and_index_are_those_of_the_classes() -> None:
    stale = [path.name for path, text in error_pages.pages().items() if path.read_text() != text]
    assert stale == [], "run python -m infra.error_pages"


@pytest.mark.parametrize("error", EXAMPLES, ids=NAMES)
def test_a_page_shows_what_the_command_prints(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("snapshots.cli.invocation.SnapshotRepository", fails)
    code = snapshots.cli.main(["ls"])
    text = (FOLDER / f"{name_of(error)}.md").read_text()
    shown = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    assert (code, capsys.readouterr().err) == (EXIT_CODES[type(error)], shown[1])
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    assert parts[1::2] == HEADINGS
    assert all(len(part.split()) > 0 for part in parts[2::2])


def test_an_error_without_a_remedy_is_refused() -> None:
    class Wordless(Exception):  # noqa: N818  it is no error of ours
        """It happened."""

    with pytest.raises(ValueError, match="Wordless names no remedy"):
        error_pages.said_of(Wordless())
