"""The command `snapshots`. This file only starts it: typer and rich are optional, and imported when it runs.

Rules:
1. Results go to stdout, everything else to stderr. With `--json` results are JSON, one object per line for lists, and
   an error is one JSON object.
2. Every failure is one line and the exit code of `snapshots.cli.exits`.
3. Nothing of a backend is imported before a store is opened.

    snapshots demo
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_LIBRARIES = frozenset({"typer", "rich", "click", "shellingham", "annotated_doc"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the entry point of the script `snapshots`.

    Args:
        arguments: Those after the program's name; None for the process's own.

    Returns:
        The exit code.
    """
    try:
        from snapshots.cli.run import run
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _LIBRARIES:
            raise
        sys.stderr.write(f"error: the command needs {library}; pip install 'session-snapshots[cli]'\n")
        return 2
    return run(sys.argv[1:] if arguments is None else arguments)
