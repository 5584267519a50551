"""The record of requests: which operation sends what to which kind of object, of the whole suite.

`infra/requests.csv` is what was seen when all tests ran; whoever grants permissions may rest on it. A request that no
operation sent (`OUTSIDE`) is one of the tests' own, at stores and functions below the public ones.
"""

from __future__ import annotations

import csv
import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from snapshots.layout import kind_of
from storage.errors import InvalidKeyError
from storage.observed import Listener, Operation, Request

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "infra" / "requests.csv"
HEADER = ("operation", "request", "kind")
UNKNOWN = "unknown"  # what lies under a key that only a test writes
OURS = (str(ROOT / "snapshots"), str(ROOT / "storage"))
Row = tuple[str, str, str]


class Recorder(Listener):
    """Keeps every combination once.

    Attributes:
        rows: What operations sent.
        outside: Who began what sent a request without an operation → what it was, and in which test.
    """

    def __init__(self) -> None:
        self.rows: set[Row] = set()
        self.outside: defaultdict[str, set[tuple[str, str, str]]] = defaultdict(set)

    def requested(self, operation: Operation | None, request: Request) -> None:
        try:
            kind = kind_of(request.key)
        except InvalidKeyError:
            kind = UNKNOWN
        if operation is not None:
            self.rows.add((operation.name, request.name, kind))
        else:
            test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
            self.outside[_begun_by(sys._getframe())].add((request.name, kind, test))


def _begun_by(frame: FrameType | None) -> str:
    """Return the outermost function of ours of the innermost call of ours, by module and name."""
    while frame is not None and not _is_ours(frame):
        frame = frame.f_back
    begun = ""
    while frame is not None and (_is_ours(frame) or "/lib/python" in frame.f_code.co_filename):
        if _is_ours(frame):
            begun = f"{frame.f_globals['__name__']}:{frame.f_code.co_qualname}"
        frame = frame.f_back
    return begun


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(OURS)


def read_table() -> set[Row]:
    """Return the rows of the committed table."""
    with TABLE.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == HEADER
    return {(operation, request, kind) for operation, request, kind in rows}


def write_table(rows: Iterable[Row]) -> None:
    """Write the table anew."""
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([HEADER, *sorted(set(rows))])
