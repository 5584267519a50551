"""How stores, sessions, revisions and spans of time are given on the command line: what several commands share.

def show(context: typer.Context, session: SessionName, revision: RevisionOption = None) -> None: ...
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

import typer

from snapshots.cli.exits import UsageError

DEFAULT_STORE = "file:.snapshots"
DEFAULT_TENANT = "default"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"(?P<count>[0-9]{1,9})(?P<unit>[smhdw])")
_POWERS = {"": 0, "K": 10, "M": 20, "G": 30}
_SIZE = re.compile(r"(?P<count>[0-9]{1,9})(?P<unit>[KMG]?)")
SessionName = Annotated[
    str, typer.Argument(metavar="S[@REV]", help="A session, at its present revision, a number, a pin, or head.")
]
SessionId = Annotated[str, typer.Argument(metavar="S", help="A session.")]
RevisionName = Annotated[str, typer.Argument(metavar="REV", help="Number of a revision, a pin, or head.")]
PinName = Annotated[str, typer.Argument(metavar="NAME", help="1-64 of a-z, 0-9, dot, dash, underscore; with a letter.")]
RevisionOption = Annotated[
    str | None,
    typer.Option("--revision", metavar="N|PIN", help="Number, pin, or head; S is then taken as it stands."),
]


def span_of(text: str, *, option: str) -> timedelta:
    """Return a span of time such as `12h` or `7d`. Raises UsageError, OverflowError."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise UsageError(f"{option} wants a span such as 12h or 7d, not {text!r:.80}")
    return timedelta(**{_UNITS[found["unit"]]: int(found["count"])})


def size_of(text: str, *, option: str) -> int:
    """Return a number of bytes such as `500K`, `10M` or `2G`, in powers of 1024. Raises UsageError."""
    found = _SIZE.fullmatch(text)
    if found is None or not int(found["count"]):
        raise UsageError(f"{option} wants a size such as 500K or 10M, not {text!r:.80}")
    return int(found["count"]) << _POWERS[found["unit"]]
