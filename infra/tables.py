"""Tables of Markdown, and documents that hold them between markers. Pure.

Rules:
1. What stands between `<!-- name -->` and `<!-- end of name -->` is written by a program, and nobody else.

    text = replaced(text, "costs", table(("store", "costs"), [("r2", "$1")]))
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


class MissingMarkersError(ValueError):
    """A document has not the markers of a section, each once. Remedy: put them where the section shall stand."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown; a cell is text without line breaks."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def replaced(text: str, name: str, section: str) -> str:
    """Return a document with a section replaced. Raises MissingMarkersError."""
    found = _found(text, name)
    return f"{text[: found.start(1)]}{section}{text[found.end(1) :]}"


def between_markers(text: str, name: str) -> str:
    """Return what stands between the markers of a section, without the line breaks beside them.

    Raises:
        MissingMarkersError: They do not stand there, once each.
    """
    return _found(text, name)[1]


def _found(text: str, name: str) -> re.Match[str]:
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    found = list(re.finditer(f"{re.escape(begin)}\n(.*?)\n{re.escape(end)}", text, re.DOTALL))
    if len(found) != 1:
        raise MissingMarkersError(f"want {begin} and {end} once each")
    return found[0]


def number(value: float) -> str:
    """Return a number of three digits that say something, with commas: 0.0123, 1.23, 1,230."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def dollars(value: float) -> str:
    """Return an amount of US dollars."""
    return f"${value:,.0f}" if value >= 1000 else f"${value:,.2f}" if value >= 0.1 else f"${value:.2g}"


def size(value: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{number(value)} {unit}"
        value /= 1024
    raise AssertionError("the last unit takes everything")


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for name, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{number(seconds / length)} {name}"
    return f"{number(seconds)} s"
