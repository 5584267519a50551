"""What the command prints: JSON lines or tables on stdout, notes for people, progress on stderr.

Rules:
1. With `--json` only records are printed, everything else is silent.
2. Text from a store is shown as text: no markup, and control characters made visible.
3. Progress is shown only if stderr is a terminal; results that come meanwhile stand on lines of their own.

    output.rows(rows, {"session": "session_id", "head": lambda row: human_bytes(row["head_bytes"])})
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

PLAIN_WIDTH = 200  # columns where there is no terminal: rows stay on one line
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

Row = Mapping[str, Any]
Columns = Mapping[str, str | Callable[[Row], Any]]  # heading → field, or what to make of the row
Counted = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much; the last is 0 where that is not known."""


class Output:
    """Where a command's results go.

    Args:
        as_json: Whether results are JSON.
        quiet: Whether to leave out notes and progress.
    """

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        plain: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False}
        width = None if sys.stdout.isatty() else PLAIN_WIDTH
        self._console = Console(width=width, soft_wrap=False, **plain)
        self._errors = Console(stderr=True, **plain)
        self._bar: Progress | None = None

    def record(self, row: Row, *, flush: bool = False) -> None:
        """Print one JSON object on a line of its own; with `flush` a reader has it at once."""
        with self._bar_hidden():
            sys.stdout.write(json.dumps(row, ensure_ascii=False, allow_nan=False, default=_json_default) + "\n")
            if flush:
                sys.stdout.flush()

    def rows(self, rows: Iterable[Row], columns: Columns, *, title: str = "", optional: Sequence[str] = ()) -> None:
        """Print rows: as JSON objects as they come, or as a table of these columns.

        Args:
            rows: What to print.
            columns: Heading → field, in order.
            title: Above the table.
            optional: Headings of columns that are left out of a table in which they would be empty.
        """
        if self.as_json:
            for row in rows:
                self.record(row)
        else:
            self._print_table(rows, columns, title, optional)

    def table(self, rows: Iterable[Row], columns: Columns, *, title: str = "") -> None:
        """Print a table of these columns, which is not a result of its own (nothing with `--json`)."""
        if not self.as_json:
            self._print_table(rows, columns, title)

    def _print_table(self, rows: Iterable[Row], columns: Columns, title: str, optional: Sequence[str] = ()) -> None:
        if title:  # on a line of its own: a table would wrap it at its own width
            self._console.print(Text(visible(title), style="table.title"), soft_wrap=True)
        self._console.print(_table(rows, columns, optional))

    def tree(self, levels: Iterable[tuple[int, str]]) -> None:
        """Print lines as trees (nothing with `--json`).

        Args:
            levels: Level and text of each line, parents first; a line stands under the last one of the level above.
        """
        if self.as_json:
            return
        above: list[Tree] = []
        for level, text in levels:
            label = Text(visible(text), overflow="fold")
            if level == 0:
                self._print_tree(above)
                above = [Tree(label)]
            else:
                above[level:] = [above[level - 1].add(label)]
        self._print_tree(above)

    def _print_tree(self, above: Sequence[Tree]) -> None:
        for root in above[:1]:
            self._console.print(root)

    def line(self, text: str = "") -> None:
        """Print a line of the result for people (nothing with `--json`)."""
        if not self.as_json:
            with self._bar_hidden():
                self._console.print(visible(text), soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a line that is not a result (nothing with `--json` or `--quiet`)."""
        if not self.quiet:
            self.line(text)

    def caution(self, text: str, findings: Sequence[str]) -> None:
        """Print on stderr what must not be overlooked, also with `--quiet`; with `--json` as an object."""
        if self.as_json:
            sys.stderr.write(json.dumps({"warning": text, "findings": list(findings)}, ensure_ascii=False) + "\n")
        else:
            self._errors.print(visible(f"warning: {text}: {'; '.join(findings)}"), soft_wrap=True)

    @contextmanager
    def progress(self, total: int | None) -> Iterator[Callable[[str], None]]:
        """Show a bar while the block runs; the function given moves it one step on, under a new label.

        Args:
            total: Steps, None where nobody knows.
        """
        with self._shown(BarColumn(), MofNCompleteColumn()) as bar:
            if bar is None:
                yield lambda label: None  # noqa: ARG005  the same signature
                return
            task = bar.add_task("", total=total)
            yield lambda label: bar.update(task, advance=1, description=visible(label))

    @contextmanager
    def counted(self) -> Iterator[Counted]:
        """Show while the block runs what is being done and how much of it; the function given is told."""
        with self._shown(SpinnerColumn()) as bar:
            if bar is None:
                yield lambda what, done, total: None  # noqa: ARG005  the same signature
                return
            task = bar.add_task("", total=None)
            yield lambda what, done, total: bar.update(task, description=visible(_step(what, done, total)))

    @contextmanager
    def transferred(self) -> Iterator[Counted]:
        """Show while the block runs how many bytes went, how fast, how long it will take, and how much else is done."""
        columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
        with self._shown(*columns) as bar:
            if bar is None:
                yield lambda what, done, total: None  # noqa: ARG005  the same signature
                return
            task = bar.add_task("", total=None)

            def told(what: str, done: int, total: int) -> None:
                if what == "bytes":
                    bar.update(task, completed=done, total=total)
                else:
                    bar.update(task, description=visible(_step(what, done, total)))

            yield told

    @contextmanager
    def _shown(self, *columns: ProgressColumn) -> Iterator[Progress | None]:
        """Give what shows progress on stderr, None where nobody would see it."""
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            *columns,
            TimeElapsedColumn(),
            console=self._errors,
            transient=True,
            redirect_stdout=False,  # results that come meanwhile are for stdout, not for the bar's console
            redirect_stderr=False,
        )
        try:
            with self._bar as bar:
                yield bar
        finally:
            self._bar = None

    @contextmanager
    def _bar_hidden(self) -> Iterator[None]:
        """Take the bar away while something is printed on the terminal that shows it (rule 3)."""
        if self._bar is None or not sys.stdout.isatty():
            yield
            return
        self._bar.stop()
        yield
        sys.stdout.flush()
        self._bar.start()


def _step(what: str, done: int, total: int) -> str:
    return f"{what}: {done:,} of {total:,}" if total else f"{what}: {done:,}"


def _table(rows: Iterable[Row], columns: Columns, optional: Sequence[str]) -> Table:
    has_headings = any(heading.strip() for heading in columns)
    table = Table(show_header=has_headings)
    rows = list(rows)
    shown: list[list[str]] = []
    for heading, field in columns.items():
        values = [row.get(field) if isinstance(field, str) else field(row) for row in rows]
        cells = list(map(_cell, values))
        if heading in optional and not any(cells):
            continue
        numeric = bool(values) and all(isinstance(value, int | float | None) for value in values)
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
        shown.append(cells)
    for row_cells in zip(*shown, strict=True):
        table.add_row(*row_cells)
    return table


def _json_default(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _cell(value: Any) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return human_time(value)
    return f"{value:,.2f}" if isinstance(value, float) else visible(str(value))


def visible(text: str) -> str:
    """Return `text` without anything that could steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character == "\n" or character.isprintable() else ascii(character)[1:-1] for character in text
    )


def one_line(text: str) -> str:
    """Return `text` on one line, as an error is shown."""
    return visible(" ".join(text.split()))


def count(number: int, what: str) -> str:
    """Return a number of things as people read it: `1 pack`, `1,200 packs`, `2 families`."""
    return f"{number:,} {what if number == 1 else plural(what)}"


def plural(what: str) -> str:
    """Return the plural of a word: `packs`, `families`, `batches`."""
    if what.endswith("y"):
        return f"{what[:-1]}ies"
    return f"{what}es" if what.endswith("ch") else f"{what}s"


def numbered(what: str, numbers: Sequence[int]) -> str:
    """Return numbers that rise, runs of them as a range: `revision 8`, `revisions 3, 8–21`."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    shown = ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in runs)
    return f"{what if len(numbers) == 1 else plural(what)} {shown}"


def human_bytes(number: int) -> str:
    """Return a number of bytes as people read it: `1.2 KiB`."""
    size = float(number)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{number} B" if unit == "B" else f"{size:.1f} {unit}"


def human_time(instant: datetime) -> str:
    """Return an instant as people read it, in UTC."""
    return f"{instant:%Y-%m-%d %H:%M:%S}Z"
