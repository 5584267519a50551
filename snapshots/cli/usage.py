"""The command of usage logs: what calls of models cost, by source, model or day.

Rules:
1. With `--all` a log that cannot be read hides no other one: it is named, nothing of it is counted, and the exit code
   says so. One that goes with its session meanwhile is passed over; one whose session was moved is named, and counts
   where it is now.
2. Lines are appended as they come, some at a time. However it ends it is said how many were, and from which line on the
   rest is to be appended again; of how many nobody can tell. A log is made with its first line, without a session too.

snapshots usage s1 --by day; snapshots usage --all; snapshots usage s1 --files; snapshots usage s1 --append calls.jsonl
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated, BinaryIO, TypeVar

import typer
from rich.cells import cell_len, set_cell_size

from snapshots.cli.exits import CORRUPT, UsageError
from snapshots.cli.invocation import Invocation, invocation
from snapshots.cli.output import PLAIN_WIDTH, Columns, Output, Row, count, human_bytes, visible
from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    InvalidInputError,
    SessionDeletedError,
    SessionMovedError,
    SessionNotFoundError,
    SnapshotError,
    UnsupportedSchemaError,
)
from snapshots.operations import operation
from snapshots.reading import read_head
from snapshots.repository import SnapshotRepository
from snapshots.usage import UsageLog, UsageReport, UsageTotals, compact
from snapshots.usage.index import ListedLog, for_each_log, index_at
from snapshots.usage.reading import read_rows
from snapshots.usage.report import Grouping, Tally
from snapshots.usage.rows import BLANKS, ROW_BYTES_MAX, Line, distinct_lines, line_of, line_too_long
from storage.backends import object_url
from storage.errors import StorageError, UnavailableError

commands = typer.Typer()
T = TypeVar("T")

STANDARD = "-"
LINE_BYTES_MAX = ROW_BYTES_MAX + 64  # of the input: with a byte order mark and blanks around it
LINES_AT_ONCE = 1000  # appended together
LINES_BYTES_AT_ONCE = 4 << 20
NOTHING_SAID = "(not said)"
LABEL_CELLS_MAX = 40
BAR_CELLS_MIN = 10
BAR_CELLS_MAX = 60
FILE_COLUMNS: Columns = {"file": "url", "rows": "rows", "size": lambda row: human_bytes(row["size_bytes"])}


class By(StrEnum):
    """What usage is grouped by."""

    MODEL = "model"
    SOURCE = "source"
    DAY = "day"


GROUPINGS: dict[By, Grouping] = {By.MODEL: "model", By.SOURCE: "source", By.DAY: "day"}
Session = Annotated[str | None, typer.Argument(metavar="S", help="A session; or --all.")]


@commands.command()
def usage(
    context: typer.Context,
    session: Session = None,
    every: Annotated[bool, typer.Option("--all", help="Of all sessions together.")] = False,
    by: Annotated[By, typer.Option(help="One line for each.")] = By.MODEL,
    files: Annotated[bool, typer.Option("--files", help="Print where the rows lie, for DuckDB or zstdcat.")] = False,
    rows: Annotated[bool, typer.Option("--rows", help="Print the rows, each once, as JSON lines.")] = False,
    append: Annotated[
        str | None, typer.Option("--append", metavar="FILE", help="Append the JSON lines of a file; - for stdin.")
    ] = None,
    compacted: Annotated[bool, typer.Option("--compact", help="Merge small segments.")] = False,
) -> None:
    """Show what the calls of models came to: tokens, and the share of the cache."""
    run = invocation(context)
    verbs = {"--files": files, "--rows": rows, "--append": append is not None, "--compact": compacted}
    chosen = [name for name, wanted in verbs.items() if wanted]
    if len(chosen) > 1:
        raise UsageError(f"{chosen[0]} and {chosen[1]} exclude each other")
    if (session is None) == (not every):
        raise UsageError("name a session, or say --all")
    if session is None and chosen:
        raise UsageError(f"{chosen[0]} wants a session, not --all")
    with run.repository() as repo:
        if session is None:
            _all(run, repo, by)
        elif files:
            _files(run, repo, session)
        elif rows:
            for row in UsageLog(repo, session).read():
                run.output.record(row.value)
        elif append is not None:
            _append(run, repo, session, append)
        elif compacted:
            _compact(run, repo, session)
        else:
            tally = _tally(repo.environment, session, by)
            _show(run.output, tally.report(), f"usage of session {session} by {by}")


def _tally(environment: Environment, session_id: str, by: By) -> Tally:
    tally = Tally(GROUPINGS[by])
    for row in read_rows(environment, session_id):
        tally.add(row.record)
    return tally


@dataclass(frozen=True, slots=True)
class _Damaged:
    """A log that cannot be read, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Moved:
    """A log that was left behind, and where its session is now."""

    session_id: str
    destination: str


def _all(run: Invocation, repo: SnapshotRepository, by: By) -> None:
    environment = repo.environment
    total, logs = Tally(GROUPINGS[by]), 0
    damaged: list[_Damaged] = []
    moved: list[_Moved] = []

    def found(log: ListedLog) -> str | _Damaged | _Moved | None:
        return _unless_damaged(log.prefix, lambda: index_at(environment, log)[0])

    with run.output.counted() as progress:
        for one in for_each_log(environment, found):
            tally = _unless_damaged(one, partial(_tally, environment, one, by)) if isinstance(one, str) else one
            if isinstance(tally, Tally):
                total.include(tally)
                logs += 1
            elif isinstance(tally, _Damaged):
                damaged.append(tally)
            elif isinstance(tally, _Moved):
                moved.append(tally)
            progress("usage logs read", logs, 0)
    _show(run.output, total.report(), f"usage of {count(logs, 'session')} by {by}", damaged, moved)
    for left in moved:
        run.output.line(f"the usage log of {left.session_id} was moved to {left.destination}, and is not counted")
    for log in damaged:
        run.output.line(f"the usage log of {log.key} cannot be read, and is not counted: {log.reason}")
    if damaged:
        raise typer.Exit(CORRUPT)


def _unless_damaged(log: str, read: Callable[[], T]) -> T | _Damaged | _Moved | None:
    """Return what is read of a log; why that cannot be; None where its session was deleted meanwhile (rule 1)."""
    try:
        return read()
    except SessionDeletedError:
        return None
    except SessionMovedError as error:
        return _Moved(error.session_id, error.destination)
    except CorruptSnapshotError as error:
        return _Damaged(log, f"{error.key}: {error.reason}")
    except (UnsupportedSchemaError, SessionNotFoundError) as error:
        return _Damaged(log, str(error))


def _show(
    output: Output,
    report: UsageReport,
    title: str,
    damaged: Sequence[_Damaged] = (),
    moved: Sequence[_Moved] = (),
) -> None:
    groups = [{report.by: label, **_totals(totals)} for label, totals in report.groups.items()]
    total = _totals(report.total)
    if output.as_json:
        for row in groups:
            output.record(row)
        named = {"damaged": list(map(asdict, damaged)), "moved": list(map(asdict, moved))}
        output.record({"total": True, **total, **named})
        return
    if not report.total.calls:
        output.note(f"{title}: no rows")
        return
    labelled = [{**row, "label": row[report.by] or NOTHING_SAID} for row in groups]
    output.table([*labelled, *([{**total, "label": "total"}] if groups[1:] else [])], _columns(report.by), title=title)
    for line in bars([(str(row["label"]), row["tokens"]) for row in labelled]):
        output.line(line)


def _totals(totals: UsageTotals) -> Row:
    ratio = totals.cache_hit_ratio
    rounded = None if ratio is None else round(ratio, 4)
    return {**asdict(totals), "tokens": totals.tokens, "cache_hit_ratio": rounded}


def _columns(by: Grouping) -> Columns:
    return {
        by: "label",
        "calls": "calls",
        "input": "input_tokens",
        "cache written": "cache_creation_input_tokens",
        "cache read": "cache_read_input_tokens",
        "output": "output_tokens",
        "reasoning": "thinking_tokens",
        "tokens": "tokens",
        "cache hits": lambda row: "" if row["cache_hit_ratio"] is None else f"{row['cache_hit_ratio']:.1%}",
    }


def bars(tokens: Sequence[tuple[str, int]], *, cells: int | None = None) -> Iterator[str]:
    """Yield a line with a bar for each label; none where there is nothing to show, or no room for it.

    Args:
        tokens: Labels, and how many.
        cells: How wide a line may be; by default the terminal, PLAIN_WIDTH columns where there is none.
    """
    terminal = sys.stdout.isatty()
    if cells is None:
        cells = shutil.get_terminal_size().columns if terminal else PLAIN_WIDTH
    block = "█" if terminal and "utf" in (sys.stdout.encoding or "").lower() else "#"
    labels = [visible(label).replace("\n", " ") for label, _ in tokens]
    numbers = [number for _, number in tokens]
    widest = min(max(map(cell_len, labels), default=0), LABEL_CELLS_MAX, cells // 3)
    digits = max((len(f"{number:,}") for number in numbers), default=0)
    room = min(cells - widest - digits - 3, BAR_CELLS_MAX)
    most = max(numbers, default=0)
    if room < BAR_CELLS_MIN or not most:
        return
    for label, number in zip(labels, numbers, strict=True):
        bar = block * max(number * room // most, 1 if number else 0)
        yield f"{set_cell_size(label, widest)}  {number:>{digits},} {bar}".rstrip()


def _files(run: Invocation, repo: SnapshotRepository, session: str) -> None:
    layout = repo.environment.layout
    rows: list[Row] = [
        {
            "url": object_url(run.store, layout.usage_segment(session, one.name)),
            "rows": one.rows,
            "size_bytes": one.size_bytes,
        }
        for one in UsageLog(repo, session).segments()
    ]
    if run.output.as_json:
        run.output.rows(rows, FILE_COLUMNS)
        return
    for row in rows:
        run.output.line(row["url"])


def _compact(run: Invocation, repo: SnapshotRepository, session: str) -> None:
    report = compact(repo, session)
    if run.output.as_json:
        run.output.record({"session_id": session, **asdict(report)})
    now = f"{count(report.segments, 'segment')} of {count(report.rows, 'row')} ({human_bytes(report.size_bytes)})"
    run.output.note(f"{count(report.merged, 'segment')} of the usage log of session {session} merged: now {now}")
    if report.merged:
        run.output.note(f"what was merged goes with {run.command('collect')}")


@dataclass(slots=True)
class _Told:
    """How far appending came.

    Attributes:
        appended: Lines that are in the log.
        in_doubt: Lines behind them that may be, or not.
        next_line: Number of the first line that is not known to be, 0 at the end.
    """

    appended: int = 0
    in_doubt: int = 0
    next_line: int = 1


@operation("look", "repo.environment", "session_id")
def _is_without_session(repo: SnapshotRepository, session_id: str) -> bool:
    return read_head(repo.environment, session_id) is None


def _append(run: Invocation, repo: SnapshotRepository, session: str, file: str) -> None:
    told, source = _Told(), "stdin" if file == STANDARD else file
    stands_alone = _is_without_session(repo, session)
    try:
        _append_all(UsageLog(repo, session), file, source, told)
    finally:
        _tell(run, session, source, told)
    if stands_alone and told.appended:
        run.output.note(f"there is no session {session}: its usage log stands alone")


def _append_all(log: UsageLog, file: str, source: str, told: _Told) -> None:
    with _opened(file) as stream:
        for some in _lines(stream, source):
            told.in_doubt = len(some.texts)  # as long as nobody knows, interrupted or not
            try:
                log.append_many(some.texts)
            except (SnapshotError, StorageError) as error:
                if not isinstance(error, UnavailableError) or error.applied == "no":
                    told.in_doubt = 0
                raise
            told.appended += len(some.texts)
            told.in_doubt, told.next_line = 0, some.next_line
    told.next_line = 0


def _tell(run: Invocation, session: str, source: str, told: _Told) -> None:
    if run.output.as_json:
        run.output.record({"session_id": session, **asdict(told)})
    run.output.note(f"{count(told.appended, 'line')} appended to the usage log of session {session}")
    rows = run.command("usage", session, "--rows")
    if told.in_doubt:
        lines = f"{count(told.in_doubt, 'line')} from line {told.next_line} of {source} on"
        run.output.note(
            f"{lines} may be there or not: append from there again where they have a row_id, else see {rows}"
        )
    elif told.next_line:
        run.output.note(f"nothing from line {told.next_line} of {source} on was appended: append from there again")


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == STANDARD:
        yield sys.stdin.buffer
        return
    try:
        stream = open(file, "rb")  # noqa: SIM115  closed below; only its opening is an error of the input
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InvalidInputError(file, "", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    with stream:
        yield stream


@dataclass(frozen=True, slots=True)
class _Some:
    """Lines that are appended together.

    Attributes:
        texts: They.
        next_line: Number of the line of the input behind them.
    """

    texts: Sequence[str]
    next_line: int


def _lines(stream: BinaryIO, source: str) -> Iterator[_Some]:
    """Yield lines that were checked, some at a time; blank ones are passed over."""
    some: list[Line] = []
    size = number = 0
    for number, raw in enumerate(iter(lambda: stream.readline(LINE_BYTES_MAX + 1), b""), start=1):
        if (line := _line(raw, source, f"line {number}")) is None:
            continue
        some.append(line)
        size += len(line.text)
        if len(some) >= LINES_AT_ONCE or size >= LINES_BYTES_AT_ONCE:
            yield _some(some, source, number)
            some, size = [], 0
    if some:
        yield _some(some, source, number)


def _some(lines: Sequence[Line], source: str, last: int) -> _Some:
    distinct_lines(lines, source=source)  # as appending checks it, but with the numbers of the input
    return _Some([line.text.decode() for line in lines], last + 1)


def _line(raw: bytes, source: str, position: str) -> Line | None:
    """Return a line that was checked, None for a blank one."""
    if len(raw) > LINE_BYTES_MAX:
        raise line_too_long(len(raw), source=source, position=position)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(source, position, "not UTF-8, as JSON must be") from error
    return line_of(text, source=source, position=position) if text.strip(BLANKS) else None
