"""What the pages of `infra/` name exists: commands with those options, files, headings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from infra.tables import between_markers
from snapshots import SnapshotRepository
from snapshots.cli import main
from snapshots.cli.app import app
from snapshots.cli.commands import loaded
from snapshots.errors import RevisionNotFoundError
from tests.infra.documents import INFRA, anchors, commands, links, pages

USAGE: type[Any] = typer.BadParameter.__mro__[2]  # typer does not export it
VALUED, FLAGS = {"--store", "--tenant", "--log"}, {"--json", "--quiet", "--yes", "--version", "--help"}


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
    if not names:
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


def test_log_lines_that_a_page_explains_are_written_by_our_code() -> None:
    lines = re.findall(
        r"^\| `([^`]+)` \|", between_markers((INFRA / "ALARMS.md").read_text(), "log lines"), re.MULTILINE
    )
    sources = [path.read_text() for path in (INFRA.parent / "snapshots").rglob("*.py")]
    warnings = [call for text in sources for call in re.findall(r"logger\.warning\(\s*f?\"([^\"]+)\"", text)]
    assert len(lines) == len(warnings)
    for line in lines:
        assert any(line in warning for warning in warnings), line


def test_each_provider_is_said_to_be_known_in_one_of_four_ways() -> None:
    rows = [
        row.split(" | ") for row in between_markers((INFRA / "PROVIDERS.md").read_text(), "providers").splitlines()[2:]
    ]
    assert len(rows) > 20
    for server, create, replace, *rest in rows:
        ways = re.compile(r"(measured|documented|reported|unknown|own header)\b")
        assert ways.match(create), server
        assert ways.match(replace), server
        is_sourced = "://" in " ".join(rest) or {create, replace} == {"unknown"} or "measured" in create
        assert is_sourced or "issue" in rest[0] or "claim" in rest[0] or "its" in rest[0], server


def test_the_prune_job_prunes_every_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNAPSHOTS_STORE", "file:live")
    assert [main(words.split()) for words in ("--quiet demo", "fork marshmallow-1867@3 child")] == [0, 0]
    assert main(["--yes", "rm", "child"]) == 0
    job = re.search(r"<!-- prune job -->\n```python\n(.*?)```", (INFRA / "ALARMS.md").read_text(), re.DOTALL)
    assert job is not None
    exec(compile(job[1].replace("last=50, daily=14", "last=2"), "the prune job", "exec"), {})
    with SnapshotRepository.open("file:live", create=False) as repo:
        retained = [row for row in repo.history("marshmallow-1867") if _loads(repo, row.revision)]
    assert [row.revision for row in retained] == [10, 11]


def test_the_set_up_of_opentelemetry_makes_spans_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--store", "file:live", "--quiet", "demo"]) == 0
    _, _, block = (INFRA / "ALARMS.md").read_text().partition("<!-- traces -->\n```python\n")
    # A process of its own: the exporter keeps the standard output that it found when it was imported.
    run = subprocess.run([sys.executable, "-c", block.partition("```")[0]], capture_output=True, text=True, timeout=60)
    assert run.stdout.startswith("11\n"), run.stderr
    for name in ("snapshots.open", "snapshots.load", "snapshots.operation.duration"):
        assert f'"name": "{name}"' in run.stdout


def _loads(repo: SnapshotRepository, revision: int) -> bool:
    try:
        repo.load("marshmallow-1867", revision)
    except RevisionNotFoundError:
        return False
    return True
