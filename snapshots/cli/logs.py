"""Logs of the command: lines of JSON, in a file or on stderr.

stop = log_to("snapshots.log")
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from snapshots.cli.exits import UsageError
from snapshots.telemetry.logs import log_operations

STDERR = "-"


def log_to(place: str) -> Callable[[], None]:
    """Log every operation to the end of a file, or to stderr; return what ends it.

    Raises:
        UsageError: It cannot be written to.
    """
    if place == STDERR:
        return log_operations(sys.stderr)
    try:
        file = Path(place).open("a", encoding="utf-8")  # noqa: SIM115  closed by what is returned
    except OSError as error:
        raise UsageError(f"cannot write the log {place!r:.200}: {error.strerror}", see="snapshots --help") from error
    stop = log_operations(file)

    def end() -> None:
        stop()
        file.close()

    return end
