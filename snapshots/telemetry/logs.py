"""Structured logs: one line of JSON per operation, when it ends, to a stream or to the logger `snapshots.operations`.

Rules:
1. A line has ids, numbers and the class of an error; never content, never an error's text, which may quote content.
2. What else is logged (`snapshots`: warnings, errors) stays as it is, and so do the loggers of the program.
3. Several logs may be on at once: each has every line once, until it is ended.

    stop = log_operations(sys.stderr)
    repo.commit(state)  # {"at": "…", "operation": "commit", "outcome": "ok", "seconds": 0.004, "tenant": "default", …
    stop()
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, TextIO

from storage.clock import Clock, SystemClock
from storage.observed import Listener, Operation, listen, stop_listening

NAME = "snapshots.operations"
SECONDS_DIGITS = 6


def log_operations(stream: TextIO | None = None, *, clock: Clock | None = None) -> Callable[[], None]:
    """Log every operation that begins from now on, at level INFO.

    Args:
        stream: Where lines go, and nowhere else; it stays open. None: to whatever handlers the program has, if it lets
            level INFO of `snapshots.operations` through.
        clock: Tells when an operation ended; tests pass their own.

    Returns:
        What ends it, once.
    """
    listener = OperationLog(clock or SystemClock(), logging.getLogger(NAME) if stream is None else _logger_to(stream))
    listen(listener)
    return lambda: stop_listening(listener)


def _logger_to(stream: TextIO) -> logging.Logger:
    """Return a logger that nobody else has: what the program does with its own changes nothing here, nor this there."""
    logger = logging.Logger(NAME, logging.INFO)
    logger.addHandler(logging.StreamHandler(stream))
    return logger


class OperationLog(Listener):
    """Writes the line of every operation that ends.

    Args:
        clock: Tells when that is.
        logger: What it is written to, at level INFO.
    """

    def __init__(self, clock: Clock, logger: logging.Logger) -> None:
        self._clock = clock
        self._logger = logger

    def ended(self, operation: Operation) -> None:
        """Write the line."""
        if self._logger.isEnabledFor(logging.INFO):
            at = self._clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._logger.info("%s", json.dumps({"at": at, **line_of(operation)}, ensure_ascii=False))


def line_of(operation: Operation) -> dict[str, Any]:
    """Return what a line says of an operation that has ended, but for the time.

    Returns:
        operation, outcome ("ok" or the class of the error), seconds, tenant, session_id and revision where there are
        such, parent (name of the operation that it is part of, "" for none), requests, bytes_in and bytes_out (verb →
        number), retries, unavailable.
    """
    traffic = sorted(operation.traffic.items())
    return {
        "operation": operation.name,
        "outcome": operation.outcome,
        "seconds": round(operation.seconds, SECONDS_DIGITS),
        **operation.attributes,
        "parent": "" if operation.parent is None else operation.parent.name,
        "requests": {verb: one.requests for verb, one in traffic},
        "bytes_in": {verb: one.bytes_in for verb, one in traffic if one.bytes_in},
        "bytes_out": {verb: one.bytes_out for verb, one in traffic if one.bytes_out},
        "retries": operation.retries,
        "unavailable": operation.unavailable,
    }
