"""The pages in `infra/`, as tests see them: blocks, drills, commands and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INFRA = Path(__file__).parents[2] / "infra"
_BLOCK = re.compile(r"^ *```bash\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_DRILL = re.compile(r"<!-- drill: ([\w-]+) -->\n```bash\n(.*?)```", re.DOTALL)
_SPAN = re.compile(r"(?<!`)`(snapshots [^`\n]+)`(?!`)")
_USE = re.compile(r"(?:^|[|;&(]|\bdo )\s*(snapshots\b[^|;&<>()#]*)")
_CODE = re.compile(r"\s+# .*?exit code (\d+)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_ALL_FENCES = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Line:
    """A line of a drill: what is typed, and the exit code that it says."""

    command: str
    code: int


def pages() -> list[Path]:
    return sorted(INFRA.rglob("*.md"))


def drills() -> dict[str, list[Line]]:
    """Return the drills of all pages by name, each with its lines."""
    found = [pair for page in pages() for pair in _DRILL.findall(page.read_text())]
    assert len(dict(found)) == len(found), "two drills have one name"
    return {name: [_line(text) for text in block.splitlines() if text.strip()] for name, block in found}


def _line(text: str) -> Line:
    code = _CODE.search(text)
    return Line(text.partition("  # ")[0].strip(), int(code[1]) if code else 0)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each use of our command in a page: in blocks, within pipes and loops, and in spans."""
    lines = [line for block in _BLOCK.findall(text) for line in block.splitlines()]
    for line in [*lines, *_SPAN.findall(_ALL_FENCES.sub("", text))]:
        yield from (shlex.split(use)[1:] for use in _USE.findall(line.partition("  # ")[0]))


def links(text: str) -> list[str]:
    """Return where a page links to within the repository."""
    return [to for to in _LINK.findall(_ALL_FENCES.sub("", text)) if "://" not in to]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _ALL_FENCES.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
