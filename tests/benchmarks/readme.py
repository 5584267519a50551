"""The README's section of figures, from a summary of results.

section(summary, charts={"agent-turns-light", "agent-turns-dark"}, directory=Path("tests/benchmarks/charts"))
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapshots.benchmarks.settings import Settings
from tests.benchmarks.charts import NAMES, WORKLOADS

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table of ours.

    Attributes:
        measure: Whose figures.
        text: What is measured; `{n}` is the usual length of a session, `{first}` the least and `{last}` the most.
        figures: Keys of the figures, with the same places.
        gate: What must not be exceeded, gated in CI; "" for what is timed.
    """

    measure: str
    text: str
    figures: tuple[str, ...]
    gate: str = ""


ROWS = (
    Row("agent-turns", "agent turns: stored per turn, every revision kept, {n} turns", ("stored_per_turn_{n}",), "40"),
    Row(
        "agent-turns",
        "uploaded per turn, {n} and {last} turns",
        ("uploaded_per_turn_{n}", "uploaded_per_turn_{last}"),
        "40",
    ),
    Row(
        "agent-turns",
        "requests per commit, {last} turns: mean, most",
        ("requests_per_commit_{last}", "requests_per_commit_max_{last}"),
        "2",
    ),
    Row(
        "agent-turns",
        "CPU per commit, {n} turns; the last 50 of {last} over those of {first}",
        ("cpu_per_commit_{n}", "cpu_{last}_over_{first}"),
    ),
    Row(
        "chat-only",
        "chat: requests per commit, mean; before the acknowledgement; CPU",
        ("requests_per_commit", "requests_before_acknowledged", "cpu_per_commit"),
        "1.5, 1.05",
    ),
    Row(
        "resume",
        "cold resume, the most at 50 lengths up to {last}: requests, rounds of them",
        ("gets_max_{last}", "rounds_max_{last}"),
        "24, 3",
    ),
    Row("load", "load of {last} turns: nodes, CPU", ("nodes", "cpu")),
    Row(
        "fork",
        "fork of {n} turns: requests; of an older revision, at most",
        ("requests", "requests_older_max"),
        "3, 5",
    ),
    Row(
        "large-state",
        "large state, 64 MiB, 1 % edited: stored per revision, of {revisions}",
        ("stored_per_revision",),
        "1.0",
    ),
    Row("large-state", "CPU per commit: mean, most", ("cpu_per_commit", "cpu_per_commit_max")),
    Row(
        "large-state",
        "restore of any revision, each compared: requests at most; speed per CPU second",
        ("gets_per_restore_max", "restore_per_cpu_second"),
        "40",
    ),
    Row(
        "contention",
        "eight threads of one process on one head of a server: acknowledged, in the history once; rate over a bare "
        "compare-and-swap",
        ("acknowledged", "in_history_once", "ours_over_bare"),
        "all",
    ),
    Row(
        "start-up",
        "`import snapshots`, `snapshots --version`: modules; CPU over an empty interpreter",
        ("import_snapshots_modules", "cli_version_modules", "import_snapshots_over_empty", "cli_version_over_empty"),
        "1, 208",
    ),
    Row(
        "collection",
        "collection among {sessions} sessions: requests and time per 1,000; memory per session",
        ("requests_per_1000_sessions", "seconds_per_1000_sessions", "memory_per_session"),
        "2,400",
    ),
    Row(
        "collection",
        "the same with nothing to do",
        ("nothing_to_do_requests", "nothing_to_do_seconds_per_1000_sessions"),
    ),
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table of peers: heading, key of the figure, and its unit."""

    heading: str
    figure: str
    unit: str


TURNS = (
    Column("stored per turn", "stored_kib_per_turn", "KiB"),
    Column("requests", "requests_per_turn", ""),
    Column("CPU of a turn", "cpu_ms_per_turn", "ms"),
    Column("requests of a resume", "resume_requests", ""),
)
STATES = (
    Column("stored per revision", "stored_mb_per_revision", "MB"),
    Column("CPU of a commit", "cpu_s_per_revision", "s"),
    Column("restored per CPU second", "restore_mb_per_cpu_second", "MB"),
)


def section(summary: Mapping[str, Any], charts: Collection[str], directory: Path) -> str:
    """Return the section: the charts that there are, and a table for each piece of the summary."""
    parts: list[str] = []
    if "measures" in summary:
        parts += [_ours(summary["measures"])]
    if "peers" in summary:
        for workload, columns in (("turns", TURNS), ("states", STATES)):
            parts += _beside(summary["peers"], workload, columns, charts, directory)
    if "transcripts" in summary:
        parts += [_transcripts(summary["transcripts"])]
    return "\n" + "\n\n".join(parts) + "\n\n"


def _ours(piece: Mapping[str, Any]) -> str:
    rows = [_row(row, piece) for row in ROWS if row.measure in piece["measures"]]
    return "\n".join([_where(piece), "", "| what | measured | at most |", "|---|---|---|", *rows])


def _row(row: Row, piece: Mapping[str, Any]) -> str:
    lengths = _lengths(piece["settings"]["turns"])
    figures = piece["measures"][row.measure]["figures"]
    found = [figures[key.format(**lengths)] for key in row.figures]
    shown = {key: f"{value:,}" for key, value in lengths.items()} | {
        name: f"{piece['settings'][name]:,}" for name in ("revisions", "sessions")
    }
    values = ", ".join(f"{_value(one['value'])}{_unit(one['unit'])}" for one in found)
    return f"| {row.text.format(**shown)} | {values} | {row.gate} |"


def _lengths(turns: int) -> dict[str, int]:
    lengths = Settings(turns=turns).lengths
    return {"first": lengths[0], "n": 200 if 200 in lengths else lengths[-1], "last": lengths[-1]}


def _beside(
    piece: Mapping[str, Any], workload: str, columns: tuple[Column, ...], charts: Collection[str], directory: Path
) -> Iterator[str]:
    chosen = {name: one for name, one in piece["peers"].items() if one["workload"] == workload}
    if not chosen:
        return
    count = piece["turns"] if workload == "turns" else piece["revisions"]
    what = f"{count:,} agent turns" if workload == "turns" else f"{count:,} revisions of the large state"
    yield f"Beside others, {what}; each pair took turns commit by commit; ours uncollected. {_where(piece)}"
    file = WORKLOADS[workload].file
    if {f"{file}-light", f"{file}-dark"} <= set(charts):
        yield _picture(directory, file, f"What is stored and the CPU of a commit over {what}, ours and others.")
    headings = "".join(f" {column.heading} |" for column in columns)
    lines = [f"| peer / ours (times) | keeps |{headings}", "|---|---|" + "---|" * len(columns)]
    for name, one in chosen.items():
        cells = "".join(f" {_pair(one, column)} |" for column in columns)
        lines.append(f"| {NAMES[name].partition(' (')[0]} | {one['note']} |{cells}")
    yield "\n".join(lines)


def _pair(one: Mapping[str, Any], column: Column) -> str:
    peer, ours = one["peer"].get(column.figure), one["ours"].get(column.figure)
    if not peer or not ours:  # of a peer without a network, requests
        return "–"
    return f"{_value(peer)} / {_value(ours)}{_unit(column.unit)} (**{_value(peer / ours)}**)"


def _picture(directory: Path, file: str, text: str) -> str:
    dark, light = (f"{directory.as_posix()}/{file}-{theme}.svg" for theme in ("dark", "light"))
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    return f'<picture>{source}<img alt="{text}" src="{light}"></picture>'


def _transcripts(piece: Mapping[str, Any]) -> str:
    lines = [
        "Real transcripts, each turn a revision that can be loaded, after a collection:",
        "",
        "| transcript | sessions, turns | `gzip -9` of the file; of each session | stored | over those |",
        "|---|---|---|---|---|",
    ]
    for one in piece["transcripts"]:
        gzipped = f"{_kib(one['gzip_bytes'])}; {_kib(one['gzip_each_bytes'])}"
        counts = f"{one['sessions']:,}, {one['turns']:,}"
        lines.append(
            f"| {one['file']} | {counts} | {gzipped} | {_kib(one['stored_bytes'])} | {one['over_gzip']:.2f} × |"
        )
    return "\n".join(lines)


def _where(piece: Mapping[str, Any]) -> str:
    machine, versions = piece["machine"], piece["versions"]
    return f"({machine['cores']} cores of {machine['cpu']}, Python {versions['python']}, at `{piece['commit']}`.)"


def _value(value: float) -> str:
    if value >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.2g}"


def _unit(unit: str) -> str:
    return "" if unit in ("", "requests", "rounds", "modules", "commits", "nodes") else f" {unit}"


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:,.1f} KiB"
