"""The commands by name: the line of each in `snapshots --help`, and the module that is imported when it is meant.

Rules:
1. A command's module, and what that imports, is loaded when the command runs or its own help is asked for, no sooner.
2. The line of a command is the first of its own help; a test holds the two together.

app = typer.Typer(cls=CommandGroup)
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from snapshots.cli.interrupts import HeldInterrupts


class Line(NamedTuple):
    """A command as the list of all shows it.

    Attributes:
        home: Module of this package whose `commands` has it.
        text: What it does.
    """

    home: str
    text: str


LINES: Mapping[str, Line] = {
    "demo": Line("use", "Replay a shipped run of a coding agent, then show what is stored. Creates the store."),
    "replay": Line("use", "Commit transcripts turn by turn, going on where an earlier run stopped. Creates the store."),
    "ls": Line("use", "List the sessions."),
    "log": Line("use", "List the revisions of a session, newest first."),
    "show": Line("use", "Show one revision on one screen."),
    "cat": Line(
        "use",
        "Print a part of a revision: JSON, one object per line for messages and ledger; execution states as bytes.",
    ),
    "stats": Line("use", "Count sessions, packs and bytes. Reads every head."),
    "rm": Line("use", "Delete a session. Its id is spent; its bytes go with the next collection."),
    "fork": Line("forks", "Start a new session from any revision of another one. Nothing is copied."),
    "tree": Line("forks", "Show all sessions by origin, with what each has stored. Reads every head."),
    "rewind": Line("revisions", "Go back to an earlier revision, as a new one. What came after stays in the history."),
    "restore": Line("revisions", "Bring back any retained revision, as a new one; also one that a rewind left behind."),
    "diff": Line("revisions", "Compare two revisions, of one session or of two."),
    "pin": Line(
        "pins", "Name a revision: retention keeps it, and the name stands for it wherever a revision is asked for."
    ),
    "unpin": Line("pins", "Take a pin away."),
    "pins": Line("pins", "List the pins of a session, expired ones too."),
    "acquire": Line("owners", "Take a session over: only its owner commits from now on, whoever held it before."),
    "release": Line("owners", "Let a session go, and the lease that its owner has: anyone may commit again."),
    "export": Line(
        "portable",
        "Write sessions into one file: a portable one as JSON, or any number with all their revisions as an archive.",
    ),
    "import": Line("portable", "Store the sessions of an export. Creates the store."),
    "copy": Line(
        "copying", "Copy sessions to another store, or what is new of them. Run it again if it was interrupted."
    ),
    "migrate": Line(
        "copying",
        "Move sessions to another store: copied, compared, and then left behind with the address of their new place.",
    ),
    "backup": Line(
        "copying", "Copy what is new of the store to another one. Nothing is deleted there, whatever went here."
    ),
    "verify-copy": Line(
        "copying", "Say how a copy differs from its source, revision by revision; exit code 4 if it does."
    ),
    "records": Line("records", "Records of sessions: provider, model, time to live, and what was sent."),
    "usage": Line("usage", "Show what the calls of models came to: tokens, and the share of the cache."),
    "meta": Line("meta", "Metadata of sessions: title, pinned, and the keys of a runtime."),
    "realtime": Line("realtime", "Realtime sessions: state and records."),
    "prune": Line(
        "prune",
        "Drop the revisions that no rule keeps. Pinned ones stay, and the history; the bytes go with a collection.",
    ),
    "collect": Line(
        "collect",
        "Delete the packs that no session names. Safe while others work, and when it is interrupted: run it again.",
    ),
    "gc": Line("collect", "Do what `collect` does."),
    "upgrade": Line(
        "upgrade",
        "Bring the store and a tenant's heads to the newest schema version. Older software cannot open it any more.",
    ),
    "verify": Line("verify", "Look for damage, and change nothing; exit code 4 if there is any."),
    "repair": Line("repair", "Store again what is damaged, as far as it can be proved. Deletes nothing."),
    "probe": Line(
        "probe", "Try whether a server keeps what commits rest on; exit code 9 if not. The store remembers the verdict."
    ),
    "bench": Line("bench", "Measure requests, bytes, CPU and memory of this software, here or on a store of yours."),
    "simulate": Line(
        "simulate", "Run this software against lost answers, crashes and collections, in memory. No store is touched."
    ),
}
HIDDEN = frozenset({"gc"})


class CommandGroup(TyperGroup):
    """All commands of LINES: the line of each where they are listed, the command itself where it is meant."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            name: TyperCommand(name, help=line.text, hidden=name in HIDDEN) for name, line in LINES.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return name, command and further arguments of what `args` mean; imports the command's module."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed if name is None else loaded(name), rest


def loaded(name: str) -> TyperCommand | TyperGroup:
    """Return the command of a name in LINES, or the group of commands; imports its module.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed meanwhile; the module is whole.
    """
    with HeldInterrupts():
        module = importlib.import_module(f"{__package__}.{LINES[name].home}")
    group = typer.main.get_group(module.commands)
    if group.name:
        return group
    command = group.commands[name]
    assert isinstance(command, TyperCommand | TyperGroup), "typer makes no others"
    return command
