"""The measures by name. A measure's module is imported when it is asked for.

name, settings = "fork", Settings(turns=50)
figures = measured(name, settings)["figures"]
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from snapshots.benchmarks.alone import alone
from snapshots.benchmarks.meters import Figures, metering_process
from snapshots.benchmarks.settings import Settings
from snapshots.maintenance.progress import Progress, quiet


class Measure(NamedTuple):
    """A measure.

    Attributes:
        home: Module of this package that has it.
        function: Its name there.
        is_long: Whether it takes minutes at its usual size, and is run only when it is named.
    """

    home: str
    function: str
    is_long: bool = False

    def load(self) -> Callable[[Settings, Progress], Figures]:
        """Import it."""
        found: Callable[[Settings, Progress], Figures] = getattr(
            importlib.import_module(f"{__package__}.{self.home}"), self.function
        )
        return found


MEASURES: Mapping[str, Measure] = {
    "agent-turns": Measure("turns", "agent_turns"),
    "chat-only": Measure("turns", "chat_only"),
    "resume": Measure("reads", "resume"),
    "load": Measure("reads", "load"),
    "fork": Measure("reads", "fork"),
    "start-up": Measure("startup", "start_up"),
    "contention": Measure("contention", "contention"),
    "large-state": Measure("large", "large_state", is_long=True),
    "collection": Measure("collection", "collection", is_long=True),
}


def measured(name: str, settings: Settings, *, progress: Progress = quiet) -> dict[str, Any]:
    """Run a measure in a process of its own; return its figures, with what the whole run took.

    Returns:
        `figures`: name → {"value", "unit"}; and of the process, with workload and checks and a store in memory,
        `cpu_seconds`, `wall_seconds`, `memory_before_mib` and `memory_peak_mib`.

    Raises:
        InvalidKeyError, PermissionDeniedError, UnavailableError: Of the store.
    """
    return alone(_measured_here, name, settings, progress=progress)


def _measured_here(name: str, settings: Settings, *, progress: Progress) -> dict[str, Any]:
    function = MEASURES[name].load()
    with metering_process() as used:
        figures = function(settings, progress)
    return {"figures": {key: figure._asdict() for key, figure in figures.items()}, **used}
