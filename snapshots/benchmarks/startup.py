"""What starting costs: modules, and CPU against an empty interpreter.

start_up(Settings(), quiet)["cli_version_modules"]
"""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

from snapshots.benchmarks.meters import Figure, Figures, ms, ratio
from snapshots.benchmarks.settings import Settings
from snapshots.maintenance.progress import Progress

EMPTY = "pass"
PROGRAMS = {
    "import_snapshots": "import snapshots",
    "import_repository": "from snapshots import SnapshotRepository",
    "cli_version": "from snapshots.cli import main; main(['--version'])",
    "cli_help": "from snapshots.cli import main; main(['--help'])",
}
STARTS = 11  # of each; the median counts
COUNTED = "; import sys; print(len(sys.modules), file=sys.stderr)"


def start_up(_settings: Settings, progress: Progress) -> Figures:
    """Start each program eleven times, in turn with an empty one."""
    programs = {"empty": EMPTY, **PROGRAMS}
    modules = {name: _modules(program) for name, program in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(STARTS):
        for name, program in programs.items():
            seconds[name].append(_cpu_seconds(program))
        progress("starts", number + 1, STARTS)
    figures: Figures = {"empty_cpu": ms(median(seconds["empty"]))}
    for name in PROGRAMS:
        figures[f"{name}_modules"] = Figure(modules[name] - modules["empty"], "modules")
        figures[f"{name}_cpu"] = ms(median(seconds[name]))
        figures[f"{name}_over_empty"] = ratio(median(seconds[name]), median(seconds["empty"]))
    return figures


def _modules(program: str) -> int:
    python = [sys.executable, "-c", program + COUNTED]
    run = subprocess.run(python, capture_output=True, text=True, check=True)  # noqa: S603  the programs above
    return int(run.stderr.split()[-1])


def _cpu_seconds(program: str) -> float:
    """Return what CPU a start takes; only one process is started meanwhile, so that the children's sum is its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    python = [sys.executable, "-c", program]
    subprocess.run(python, stdout=subprocess.DEVNULL, check=True)  # noqa: S603  the programs above
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
