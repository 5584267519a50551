"""The command `snapshots`. This file only starts it: typer and rich are optional, and imported when it runs.

Rules:
1. Results go to stdout, everything else to stderr. With `--json` results are JSON, one object per line for lists, and
   an error is one JSON object.
2. Every failure is one line and the exit code of `snapshots.cli.exits`; Ctrl-C too, also while this starts.
3. Nothing of a backend is imported before a store is opened, and nothing of a command before it is meant.

    snapshots demo
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # what checkers take for typing's own; nothing is imported yet where Ctrl-C would be a traceback
if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 130  # as in `snapshots.cli.exits`, which may not be there yet
_LIBRARIES = frozenset({"typer", "rich", "click", "shellingham", "annotated_doc"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the entry point of the script `snapshots`.

    Args:
        arguments: Those after the program's name; None for the process's own.

    Returns:
        The exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        from snapshots.cli.interrupts import HeldInterrupts

        with HeldInterrupts():
            from snapshots.cli.run import run
        return run(given)
    except KeyboardInterrupt:
        return _interrupted(given)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _LIBRARIES:
            raise
        sys.stderr.write(f"error: the command needs {library}; pip install 'session-snapshots[cli]'\n")
        return 2


def _interrupted(arguments: Sequence[str]) -> int:
    """Say what `snapshots.cli.run` says of Ctrl-C, while that is not there yet."""
    if "--json" in arguments:
        import json

        found = {"error": "KeyboardInterrupt", "message": "interrupted", "exit_code": _INTERRUPTED}
        sys.stderr.write(json.dumps(found) + "\n")
    else:
        sys.stderr.write("error: interrupted\n")
    return _INTERRUPTED
