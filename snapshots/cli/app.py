"""The application: its global options. The commands are in `snapshots.cli.commands`.

app is run by `snapshots.cli.run`
"""

from __future__ import annotations

from typing import Annotated

import typer

import snapshots
from snapshots.cli.commands import CommandGroup
from snapshots.cli.exits import MEANINGS
from snapshots.cli.names import DEFAULT_STORE, DEFAULT_TENANT

app = typer.Typer(
    name="snapshots",
    cls=CommandGroup,
    help="A session store for AI agents: revisions of sessions in a directory or an S3 bucket.",
    epilog=f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in MEANINGS.items())}. "
    "First try: snapshots demo",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"snapshots {snapshots.__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    context: typer.Context,
    store: Annotated[
        str,
        typer.Option(
            envvar="SNAPSHOTS_STORE",
            metavar="URL",
            help="file:PATH, s3://BUCKET/PREFIX?endpoint_url=URL&region=NAME, or archive:PATH, to be read only",
        ),
    ] = DEFAULT_STORE,
    tenant: Annotated[
        str, typer.Option(envvar="SNAPSHOTS_TENANT", metavar="T", help="Whose sessions.")
    ] = DEFAULT_TENANT,
    log: Annotated[
        str,
        typer.Option(
            envvar="SNAPSHOTS_LOG",
            metavar="FILE",
            help="Append a line of JSON for every operation on the store: requests, seconds, outcome; - for stderr.",
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: one object per line for lists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No notes and no progress.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before something is removed.")] = False,
    version: Annotated[  # noqa: ARG001  its callback prints and ends
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A session store for AI agents: revisions of sessions in a directory or an S3 bucket."""
    from snapshots.cli.invocation import Invocation  # the command that follows has imported it
    from snapshots.cli.output import Output

    if log:
        from snapshots.cli.logs import log_to  # with what it needs, for those who ask for it

        context.call_on_close(log_to(log))
    context.obj = Invocation(store, tenant, yes, Output(as_json=as_json, quiet=quiet))
