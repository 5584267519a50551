"""The large state as two files, for tools that store directories."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.peers.protocol import Contents, PlainRevision

EXECUTION_STATE, TRANSCRIPT = "exec.bin", "transcript.json"


def write(directory: Path, revision: PlainRevision) -> None:
    """Write the files of a revision."""
    (directory / EXECUTION_STATE).write_bytes(revision.execution_state)
    (directory / TRANSCRIPT).write_text("[\n" + ",\n".join(revision.lines) + "\n]\n")


def clear(directory: Path) -> None:
    """Delete what was restored before."""
    for name in (EXECUTION_STATE, TRANSCRIPT):
        (directory / name).unlink(missing_ok=True)


def read(directory: Path) -> Contents:
    """Return what restored files hold."""
    messages = json.loads((directory / TRANSCRIPT).read_text())
    return Contents(
        messages=len(messages),
        answered=messages[-1]["parts"][0]["content"],
        tool_state=None,
        execution_state=(directory / EXECUTION_STATE).read_bytes(),
    )
