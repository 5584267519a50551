"""How sessions and revisions are given on the command line: the arguments that several commands share.

def show(context: typer.Context, session: SessionName, revision: RevisionOption = None) -> None: ...
"""

from __future__ import annotations

from typing import Annotated

import typer

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
