"""What the pages of `infra/` name exists: commands with those options, files, headings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from snapshots.cli.app import app
from snapshots.cli.commands import loaded
from tests.infra.documents import INFRA, anchors, commands, links, pages

NOT_YET = frozenset({"COSTS.md", "SCALE.md", "PERMISSIONS.md", "template.yaml", "local_s3.py"})  # written elsewhere
COMMANDS_NOT_YET = frozenset({"probe"})  # likewise
USAGE: type[Any] = typer.BadParameter.__mro__[
    2
]  # typer does not export it
VALUED, FLAGS = {"--store", "--tenant"}, {"--json", "--quiet", "--yes", "--version", "--help"}


def command_of(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of the command and what follows them; options of the whole program are left out."""
    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word in VALUED:
            next(remaining)
        elif word not in FLAGS:
            rest.append(word)
    return rest[:1], rest[1:]


def check(words: list[str]) -> None:
    """Parse a use of the command as the program does, without running it."""
    names, rest = command_of(words)
    if not names or names[0] in COMMANDS_NOT_YET:
        return
    assert names[0] in typer.main.get_command(app).commands, words  # type: ignore[attr-defined]  # it is a group
    found: Any = loaded(names[0])
    if hasattr(found, "commands") and rest:
        found, rest = found.commands[rest[0]], rest[1:]
    if rest:  # a span may name a command alone
        found.make_context(names[0], rest, resilient_parsing=False).close()


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(INFRA)))
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    for words in commands(page.read_text()):
        try:
            check(words)
        except USAGE as error:
            pytest.fail(f"{words}: {error}")


def _in_a_block(line: str) -> str:
    return f"```bash\n{line}\n```"


def test_a_command_that_does_not_exist_is_found() -> None:
    for text in (
        "`snapshots dance now`",
        "```bash\nsnapshots verify --loud\n```",
        "```bash\nfor s in $(snapshots lss)\n```",
    ):
        (words,) = commands(text)
        with pytest.raises((AssertionError, USAGE)):
            check(words)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(INFRA)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in links(page.read_text()):
        file, _, anchor = link.partition("#")
        if file in NOT_YET or Path(file).name in NOT_YET:
            continue
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_first_one() -> None:
    reached, waiting = set(), [INFRA / "OPERATIONS.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        found = {(page.parent / link.partition("#")[0]).resolve() for link in links(page.read_text())}
        waiting += [one for one in found if one.suffix == ".md" and one.exists() and one not in reached]
    assert set(pages()) <= reached
