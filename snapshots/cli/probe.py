"""The command that tries a server.

snapshots probe; snapshots probe 's3://bucket/agents?endpoint_url=http://127.0.0.1:9000' --create
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer

from snapshots.cli.invocation import Invocation, invocation
from snapshots.cli.output import Columns, Row
from snapshots.opening import Probed, is_admitted, probe_server, refusal
from storage.probe import Check

commands = typer.Typer()
CHECK_COLUMNS: Columns = {"what was tried": "name", "what was seen": "seen", "": "meaning"}
Place = Annotated[str | None, typer.Argument(metavar="[URL]", help="Of the store; the one of --store without.")]
Create = Annotated[bool, typer.Option("--create", help="Make a store there, if there is none and the server is safe.")]


@commands.command()
def probe(context: typer.Context, url: Place = None, create: Create = False) -> None:
    """Try whether a server keeps what commits rest on; exit code 9 if not. The store remembers the verdict.

    Sends some 200 small requests below ~probe/ and removes what they wrote; of the store only the verdict is changed.
    """
    run = invocation(context)
    here = run if url is None else replace(run, store=url)
    store = here.raw_store()
    probed = probe_server(store, create=create)
    run.output.rows([_row(check) for check in probed.report.checks], CHECK_COLUMNS, title=f"probe of {here.store}")
    verdict = probed.report.verdict
    if run.output.as_json:
        run.output.record(
            {
                "endpoint": verdict.endpoint,
                "safe": verdict.is_safe,
                "findings": verdict.findings,
                "facts": asdict(verdict.facts),
                "recorded": probed.is_recorded,
                "created": probed.is_made,
            }
        )
    run.output.note(_said(here, probed))
    if not is_admitted(store, verdict):
        raise refusal(verdict)


def _row(check: Check) -> Row:
    return {"name": check.name, "seen": check.seen, "meaning": check.meaning}


def _said(run: Invocation, probed: Probed) -> str:
    verdict = probed.report.verdict
    where = "a store was made there" if probed.is_made else "the store remembers it" if probed.is_recorded else ""
    if not probed.is_there:
        where = f"no store remembers it: {run.command('probe', '--create')} makes one" if verdict.is_safe else ""
    lost = "this server would lose work" + (" of a second writer" if verdict.facts.reads_right else "")
    said = "this server can be trusted" if verdict.is_safe else lost
    return "; ".join(filter(None, (said, where)))
