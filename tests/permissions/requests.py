"""The record of requests: which operation sends what to which kind of object, in the whole suite.

`infra/requests.csv` is what was seen when all tests ran; who grants permissions may rest on it. It is of the process
that runs the tests: of what others do (`tests.aside`, killed writers and the like), nothing is recorded.

Rules:
1. A request without an operation is one of the tests' own, at stores and at functions below the public ones. A public
   one (`DOORS`) sends none: it is an operation, or part of one.
2. What lies under no key of ours is a test's own too, and so is an upload that a directory gives no key for.
3. Nothing is overwritten without a condition but by `OneWriterStore`, on servers that keep none: nobody is allowed to.
"""

from __future__ import annotations

import csv
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from infra.permissions import HEADER, REQUESTS_TABLE
from infra.policies.roles import Row
from snapshots.layout import kind_of
from storage.errors import InvalidKeyError
from storage.observed import Listener, Operation, Request
from tests.architecture.rules import matches

ROOT = Path(__file__).resolve().parents[2]
OURS = (str(ROOT / "snapshots"), str(ROOT / "storage"))
DOORS = (
    "snapshots.cli.*",
    "snapshots.execution",
    "snapshots.maintenance.collect",
    "snapshots.maintenance.copy.archives",
    "snapshots.maintenance.copy.compare",
    "snapshots.maintenance.copy.fleet",
    "snapshots.maintenance.copy.moving",
    "snapshots.maintenance.garbage",
    "snapshots.maintenance.prune",
    "snapshots.maintenance.repair.execution",
    "snapshots.maintenance.repair.plan",
    "snapshots.maintenance.upgrade",
    "snapshots.maintenance.verify",
    "snapshots.portable.service",
    "snapshots.realtime.controller",
    "snapshots.realtime.subscription",
    "snapshots.records.reaper",
    "snapshots.records.scan",
    "snapshots.records.store",
    "snapshots.repository",
    "snapshots.runtime.persistence",
    "snapshots.turns",
    "snapshots.usage.compaction",
    "snapshots.usage.log",
    "snapshots.usage.reading",
    "snapshots.writer",
)


class Recorder(Listener):
    """Keeps every combination once.

    Attributes:
        rows: What operations sent.
        without_operation: What public functions sent outside of an operation, and which.
    """

    def __init__(self) -> None:
        self.rows: set[Row] = set()
        self.without_operation: set[Row] = set()

    def requested(self, operation: Operation | None, request: Request) -> None:
        if request.key == "" and request.name == "abort-upload":
            return
        if request.name == "put-overwrite":  # Rule 3.
            return
        try:
            kind = kind_of(request.key)
        except InvalidKeyError:
            return
        if operation is not None:
            self.rows.add((operation.name, request.name, kind))
        elif door := door_of(sys._getframe()):
            self.without_operation.add((door, request.name, kind))


RECORDER = Recorder()
OBSERVING = frozenset(
    ("_paged", *(f"ObservedStore.{verb}" for verb in ("get", "put", "stat", "attempt", "delete", "delete_many")))
)


def door_of(frame: FrameType | None) -> str:
    """Return the public function that the innermost call of ours began with, "" for one below the public ones.

    That is one in no module with a door, one that is given an environment, which is what the public ones work with, or
    what a thread of a repository was given to do: who gave it has asked for more in a thread of its own.
    """
    if threading.current_thread().name.startswith("snapshots"):
        return ""
    while frame is not None and not _is_ours(frame):
        frame = frame.f_back
    first, observing = None, 0
    while frame is not None and (_is_ours(frame) or "/lib/python" in frame.f_code.co_filename):
        first = frame if _is_ours(frame) else first
        observing += frame.f_code.co_qualname in OBSERVING
        frame = frame.f_back
    if observing > 1:  # a test's repository around the store of another: the outer one has told it
        return ""
    if first is None or first.f_code.co_varnames[:1] == ("environment",):
        return ""
    module = first.f_globals["__name__"]
    return f"{module}:{first.f_code.co_qualname}" if any(matches(door, module) for door in DOORS) else ""


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(OURS)


def write_table(rows: Iterable[Row]) -> None:
    """Write the table anew."""
    with REQUESTS_TABLE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *sorted(rows)])
