"""All figures in one command: measures, peers and transcripts; then the summary, the charts, and the README's section.

Rules:
1. The summary is in pieces, each measured in one run, with machine, versions and commit of its own. A run replaces the
   pieces that it measures, and no others: `--pieces`.
2. Ratios are between figures of one run: ours and a peer alternate commit by commit.
3. The README's section and the charts follow from the summary alone: `--pieces` with nothing behind it draws them anew.

python -m tests.benchmarks.report --peers /tmp/peers/bin/python
python -m tests.benchmarks.report --pieces measures --turns 60 --revisions 4 --sessions 500 --readme /tmp/section.md
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from snapshots.benchmarks.machine import machine, versions
from snapshots.benchmarks.measures import MEASURES
from snapshots.benchmarks.settings import Settings
from tests.benchmarks import charts
from tests.benchmarks.contention import places
from tests.benchmarks.readme import BEGIN, END, section
from tests.benchmarks.transcripts import transcripts_in

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
USUAL = Settings()
SIZES = ("turns", "revisions", "sessions", "seconds", "seed")
ON_A_SERVER = "contention"
WRITTEN = ("README.md", "tests/benchmarks/results.json", "tests/benchmarks/charts")  # by this command itself
BENCH = "import sys; from snapshots.cli import main; sys.exit(main())"
KEPT_OF_PEERS = (
    "requests_per_turn",
    "uploaded_kib_per_turn",
    "stored_kib_per_turn",
    "cpu_ms_per_turn",
    "stored_mb_per_revision",
    "cpu_s_per_revision",
    "resume_requests",
    "resume_cpu_ms",
    "restore_mb_per_cpu_second",
    "peak_mib",
    "series",
    "versions",
)

Piece = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for; write summary, charts and section."""
    given = _parser().parse_args(arguments)
    summary: dict[str, Piece] = json.loads(given.summary.read_text()) if given.summary.exists() else {}
    pieces = given.pieces if given.pieces is not None else [name for name in PIECES if name != "peers" or given.peers]
    commit = _commit()
    for name in pieces:
        about = {"commit": commit, "machine": machine(), "versions": versions()}
        summary[name] = about | PIECES[name](given)
        given.summary.write_text(dumped(summary) + "\n")
        _say(f"{name}: in {given.summary}")
    peers = summary.get("peers", {}).get("peers", {})
    for path in charts.save_all(peers, given.charts):
        _say(f"drawn: {path}")
    drawn = {path.stem for path in given.charts.glob("*.svg")}
    text = section(summary, drawn, Path(os.path.relpath(given.charts, given.readme.parent)))
    given.readme.write_text(replaced(given.readme.read_text(), text))
    _say(f"figures: in {given.readme}")


def measures(given: argparse.Namespace) -> Piece:
    """Run `snapshots bench`; the contention on a server, which is where writers meet."""
    found: Piece = {}
    for name in given.measures:
        if name != ON_A_SERVER:
            found |= _bench(given, name)
            continue
        with tempfile.TemporaryDirectory() as directory, places("ministack", Path(directory)) as urls:
            found |= _bench(given, name, "--store", next(urls))
    sizes = {name: getattr(given, name) for name in SIZES}
    return {"settings": sizes, "measures": found}


def _bench(given: argparse.Namespace, name: str, *options: str) -> Piece:
    """Return what the command measures, as anybody runs it."""
    sizes = (f"--{size}={getattr(given, size)}" for size in SIZES)
    command = [sys.executable, "-c", BENCH, "--json", *options, "bench", name, *sizes]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: Piece = json.loads(done.stdout)["measures"]
    _say(f"{name}: {found[name]['wall_seconds']} s")
    return found


def peers(given: argparse.Namespace) -> Piece:
    """Run the peers in their own environment."""
    if not given.peers:
        raise SystemExit('the piece "peers" needs --peers PYTHON; see tests/benchmarks/peers/README.md')
    counts = ["--turns", str(given.peer_turns), "--revisions", str(given.peer_revisions)]
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "peers.json"
        command = [
            given.peers,
            "-m",
            "tests.benchmarks.peers",
            *counts,
            "--peers",
            *given.peer_names,
            "--out",
            str(out),
        ]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        found = json.loads(out.read_text())
    for one in found["peers"].values():
        for side in ("peer", "ours"):
            one[side] = {key: one[side][key] for key in KEPT_OF_PEERS if key in one[side]}
    return {"turns": found["turns"], "revisions": found["revisions"], "peers": found["peers"]}


def transcripts(given: argparse.Namespace) -> Piece:
    """Commit the transcripts of a directory."""
    found = [asdict(one) | {"over_gzip": one.over_gzip} for one in transcripts_in(given.transcripts)]
    return {"transcripts": found}


PIECES: Mapping[str, Callable[[argparse.Namespace], Piece]] = {
    "measures": measures,
    "peers": peers,
    "transcripts": transcripts,
}


def dumped(value: Any, depth: int = 4, indent: str = "") -> str:
    """Return JSON whose outer levels stand on lines of their own, and the inner ones on one line each."""
    if not isinstance(value, dict) or depth == 0 or not value:
        return json.dumps(value, ensure_ascii=False)
    inner = indent + " "
    rows = (f"{inner}{json.dumps(key)}: {dumped(one, depth - 1, inner)}" for key, one in value.items())
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


def replaced(text: str, section: str) -> str:
    """Return a README with another section of figures between its markers.

    Raises:
        ValueError: There are no such markers in it.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the README has no section between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{section}{END}{after}"


def _commit() -> str:
    """Return what is measured; asked before anything is written, which would make it another."""
    changed = _git("status", "--porcelain", "--", ".", *(f":!{path}" for path in WRITTEN))
    return _git("describe", "--always") + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure everything; write the summary, the charts and the README.")
    parser.add_argument(
        "--peers", default="", metavar="PYTHON", help="of the peers' environment; without: not measured"
    )
    parser.add_argument("--pieces", nargs="*", choices=PIECES, help="what to measure; without: all that can be")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=[*MEASURES], metavar="NAME")
    parser.add_argument("--turns", type=int, default=USUAL.turns)
    parser.add_argument("--revisions", type=int, default=USUAL.revisions)
    parser.add_argument("--sessions", type=int, default=USUAL.sessions)
    parser.add_argument("--seconds", type=float, default=USUAL.seconds, help="of contention")
    parser.add_argument("--seed", type=int, default=USUAL.seed)
    parser.add_argument("--peer-turns", type=int, default=200)
    parser.add_argument("--peer-revisions", type=int, default=20)
    parser.add_argument("--peer-names", nargs="+", default=["all"], metavar="NAME")
    parser.add_argument("--transcripts", type=Path, default=ROOT / "tests" / "data", metavar="DIRECTORY")
    parser.add_argument("--summary", type=Path, default=HERE / "results.json")
    parser.add_argument("--charts", type=Path, default=HERE / "charts", metavar="DIRECTORY")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    return parser


if __name__ == "__main__":
    main()
