"""Charts of what peers and ours store and compute as a session goes on: SVG for light pages and for dark ones.

Rules:
1. A line is labelled where it ends, in its colour; ours are in colour, peers in grey. There is no legend.
2. Both axes are logarithmic: a straight line that rises is a cost that grows with the session.
3. Equal results, equal bytes: no dates, no random ids; text stays text.

python -m tests.benchmarks.charts tests/benchmarks/results.json --out tests/benchmarks/charts
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

LABEL_GAP = 0.062  # of the axis, between the labels of two lines
TICKS_APART = 3  # times, for the labels of two to stand side by side
SIZE_INCHES = (10.0, 4.2)
DECADES_LABELLED = 100  # axes that span less have labels at 2 and 5 as well
LABEL_ROOM = 1.9  # of the length of the axis, times what it spans: for the labels at its end
NAMES = {
    "ours_s3": "ours, on S3",
    "ours_file": "ours, in files",
    "strands_s3": "Strands S3 (latest only)",
    "strands_snapshot": "Strands snapshot (latest only)",
    "strands_snapshot_history": "Strands snapshots",
    "langgraph_dynamodb": "LangGraph DynamoDB",
    "langgraph_dynamodb_gzip": "LangGraph DynamoDB, gzip",
    "langgraph_sqlite": "LangGraph SQLite",
    "openai_sqlite": "OpenAI SQLite (messages only)",
    "restic": "restic",
    "borg": "Borg",
    "borg_tuned": "Borg, small chunks",
}


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours: of text and axes, of the lines of peers, and of ours on S3 and in files."""

    text: str
    peer: str
    ours: tuple[str, str]


THEMES = {
    "light": Theme("#24292f", "#8c959f", ("#0969da", "#1a7f37")),
    "dark": Theme("#e6edf3", "#7d8590", ("#58a6ff", "#3fb950")),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: a value after so many commits."""

    name: str
    commits: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: a series of the results, what that is in words, and how many of its unit are one of the axis's."""

    series: str
    title: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Workload:
    """What is drawn of a workload: the name of the file, what a commit is, and the charts."""

    file: str
    what: str
    panels: tuple[Panel, Panel]


STORED, CPU = "stored_kib_per_commit", "cpu_ms_per_commit"
WORKLOADS = {
    "turns": Workload(
        "agent-turns", "turn", (Panel(STORED, "Stored per turn so far, KiB"), Panel(CPU, "CPU of a commit, ms"))
    ),
    "states": Workload(
        "large-state",
        "revision",
        (Panel(STORED, "Stored per revision so far, MiB", 1024), Panel(CPU, "CPU of a commit, s", 1000)),
    ),
}


def lines_of(peers: Mapping[str, Any], workload: str, panel: Panel) -> list[Line]:
    """Return the lines of one workload: of each peer, and of ours the median over all peers that it stood beside."""
    chosen = {name: one for name, one in peers.items() if one["workload"] == workload}
    lines = [_line(name, [one["peer"]["series"]], panel) for name, one in chosen.items()]
    for ours in sorted({one["ours_is"] for one in chosen.values()}):
        beside = [one["ours"]["series"] for one in chosen.values() if one["ours_is"] == ours]
        lines.append(_line(ours, beside, panel))
    return lines


def _line(name: str, found: Sequence[Mapping[str, Sequence[float]]], panel: Panel) -> Line:
    commits = tuple(int(number) for number in found[0]["commits"])
    values = (median(values) / panel.scale for values in zip(*(one[panel.series] for one in found), strict=True))
    return Line(name, commits, tuple(values))


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Return the positions moved apart as little as needed for each to be `gap` from the next; in their order.

    Each run of positions that are too near is laid out evenly around its own middle.
    """
    order = sorted(range(len(positions)), key=lambda at: positions[at])
    runs: list[list[int]] = []
    for at in order:
        runs.append([at])
        while len(runs) > 1 and _start(runs[-1], positions, gap) < _start(runs[-2], positions, gap) + gap * len(
            runs[-2]
        ):
            last = runs.pop()
            runs[-1] += last
    moved = list(positions)
    for run in runs:
        for number, at in enumerate(run):
            moved[at] = _start(run, positions, gap) + number * gap
    return moved


def _start(run: Sequence[int], positions: Sequence[float], gap: float) -> float:
    return sum(positions[at] for at in run) / len(run) - gap * (len(run) - 1) / 2


def draw(peers: Mapping[str, Any], workload: str, theme: Theme) -> Figure:
    """Return the two charts of a workload, side by side."""
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    figure.patch.set_alpha(0.0)
    shown = WORKLOADS[workload]
    for axes, panel in zip(figure.subplots(1, len(shown.panels)), shown.panels, strict=True):
        _draw_lines(axes, lines_of(peers, workload, panel), theme)
        axes.set_title(panel.title, loc="left", color=theme.text, fontsize=10.5, fontweight="bold")
        axes.set_xlabel(f"{shown.what}s of the session", color=theme.text, loc="left")
    return figure


def _draw_lines(axes: Axes, lines: Sequence[Line], theme: Theme) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    values = [value for line in lines for value in line.values]
    low, high = math.log(min(values)), math.log(max(values))
    margin = 0.1 * (high - low) + 0.05  # the labels at the ends may be moved beyond the lines
    axes.set_ylim(math.exp(low - margin), math.exp(high + margin))
    last = max(line.commits[-1] for line in lines)
    axes.set_xlim(1, last ** (1 + LABEL_ROOM / 2))
    span = high - low + 2 * margin
    ends = spread([math.log(line.values[-1]) for line in lines], LABEL_GAP * span)
    for line, end in zip(lines, ends, strict=True):
        colour, is_ours = _colour(line, theme), line.name.startswith("ours")
        axes.plot(line.commits, line.values, color=colour, linewidth=2.4 if is_ours else 1.2, clip_on=False)
        axes.annotate(
            f"{NAMES[line.name]}  {_number(line.values[-1])}",
            (last * last**0.04, math.exp(end)),
            color=colour if is_ours else theme.text,
            fontweight="bold" if is_ours else "normal",
            fontsize=8.5,
            va="center",
            annotation_clip=False,
        )
    _plain(axes, theme, [at for at in (1, 10, 100, 1000) if TICKS_APART * at < last] + [last])


def _colour(line: Line, theme: Theme) -> str:
    if not line.name.startswith("ours"):
        return theme.peer
    return theme.ours[line.name == "ours_file"]


def _plain(axes: Axes, theme: Theme, ticks: Iterable[int]) -> None:
    axes.patch.set_alpha(0.0)
    axes.set_xticks(sorted(set(ticks)))
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > DECADES_LABELLED * low else (1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    axes.tick_params(which="both", color=theme.peer, labelcolor=theme.text)
    axes.tick_params(which="minor", length=0)
    axes.grid(axis="y", which="major", color=theme.peer, alpha=0.25, linewidth=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.peer)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def save_all(peers: Mapping[str, Any], directory: Path) -> list[Path]:
    """Draw every workload that there are results of, for light and dark pages; return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    workloads = [name for name in WORKLOADS if any(one["workload"] == name for one in peers.values())]
    saved = []
    with mpl.rc_context(
        {
            "font.size": 9.5,
            "svg.fonttype": "none",  # text stays text: small, and readable by machines
            "svg.hashsalt": "charts",
        }
    ):
        for workload in workloads:
            for name, theme in THEMES.items():
                path = directory / f"{WORKLOADS[workload].file}-{name}.svg"
                nothing = {"Date": None, "Creator": None}
                draw(peers, workload, theme).savefig(path, format="svg", transparent=True, metadata=nothing)
                saved.append(path)
    return saved


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the charts of a file of results."""
    parser = argparse.ArgumentParser(description="Draw the charts of measured results, as SVG.")
    parser.add_argument("results", type=Path, help="what tests.benchmarks.report or tests.benchmarks.peers wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("charts"), help="a directory")
    given = parser.parse_args(arguments)
    for path in save_all(json.loads(given.results.read_text())["peers"], given.out):
        print(path)


if __name__ == "__main__":
    main()
