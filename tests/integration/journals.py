"""Journals: what a process set out to do and what it was told, one line each, so that a kill leaves nothing in doubt.

Rules:
1. A line is written before an operation begins, and one when its answer is there; each is handed to the system at once.
2. A line that a kill cut off counts as not written.

    journal = Journal(path, requests=lambda: 0)
    journal.begin("commit", "s1")
    journal.end("done", revision=2, commit_id=result.commit_id)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Said = Literal["done", "refused", "doubt"]
BEGUN = "begun"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one process.

    Attributes:
        what: Its kind.
        session_id: Of which session, "" for none.
        said: What came of it; "killed" if its process did not live to write that down.
        asked: What else was written before.
        told: What else was written afterwards.
        requests: Made for it, and for what was looked up since the operation before.
    """

    what: str
    session_id: str
    said: Said | Literal["killed"]
    asked: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    requests: int = 0

    @property
    def open(self) -> bool:
        """Say whether its process never learnt what came of it."""
        return self.said in ("doubt", "killed")


class Journal:
    """The journal of one process, from its start on; `requests` counts those that it has made."""

    def __init__(self, path: Path, requests: Callable[[], int]) -> None:
        self._file = path.open("x")
        self._requests = requests

    def begin(self, what: str, session_id: str = "", **asked: object) -> None:
        self._write([BEGUN, what, session_id, asked])

    def end(self, said: Said, **told: object) -> Said:
        self._write([said, told, self._requests()])
        return said

    def _write(self, line: list[object]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read_journal(path: Path) -> Iterator[Operation]:
    """Yield the operations of a process that has ended, in order."""
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    before = 0
    for number, line in enumerate(lines):
        if line[0] != BEGUN:
            continue
        _, what, session_id, asked = line
        after = lines[number + 1 : number + 2]
        if after and after[0][0] != BEGUN:
            said, told, requests = after[0]
            yield Operation(what, session_id, said, asked, told, requests - before)
            before = requests
        else:
            assert not after, f"{path}: {what} was begun and has no end, though its process went on"
            yield Operation(what, session_id, "killed", asked)
