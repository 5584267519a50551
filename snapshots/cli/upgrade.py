"""The command that brings a store to the newest schema version.

snapshots upgrade --dry-run; snapshots --yes upgrade
"""

from __future__ import annotations

from typing import Annotated

import typer

from snapshots.cli.invocation import invocation
from snapshots.cli.output import Columns, Row, count
from snapshots.maintenance.upgrade import UpgradePlan, UpgradeReport, execute, plan_upgrade

commands = typer.Typer()
VERSION_COLUMNS: Columns = {"record": "record", "schema version": "schema_version", "number": "number"}
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what is of which schema version.")]


@commands.command()
def upgrade(context: typer.Context, dry_run: DryRun = False) -> None:
    """Bring the store and a tenant's heads to the newest schema version. Older software cannot open it any more.

    Safe while others work, and when it is interrupted: run it again. What other tenants have can be read as before.
    """
    run = invocation(context)
    with run.repository() as repo:
        with run.output.counted() as progress:
            plan = plan_upgrade(repo, progress=progress)
        if dry_run:
            run.output.rows(_versions(plan), VERSION_COLUMNS, title=f"schema versions of {run.store}")
            if run.output.as_json:
                run.output.record(_summary(plan))
            can = f"{_older(plan)} can be upgraded to schema version {plan.to}"
            run.output.note(_nothing(plan) if plan.is_empty else can)
            return
        if plan.is_empty:
            run.output.note(_nothing(plan))
        else:
            question = f"Upgrade {_older(plan)} in {run.store} to schema version {plan.to}?"
            run.confirm(f"{question} Software that reads only earlier ones cannot open it any more.")
        with run.output.counted() as progress:
            report = execute(plan, progress=progress)
    if run.output.as_json:
        run.output.record(_report(report))
    if not plan.is_empty:
        run.output.note(_said(report))


def _versions(plan: UpgradePlan) -> list[Row]:
    store: Row = {"record": "store", "schema_version": plan.store_version, "number": 1}
    heads = ({"record": "head", "schema_version": one, "number": plan.heads[one]} for one in sorted(plan.heads))
    return [store, *heads]


def _older(plan: UpgradePlan) -> str:
    """Return what is of an earlier version: only what there is of it."""
    said = ["the store"] if plan.store_version < plan.to else []
    if plan.older:
        said.append(f"{plan.older:,} of {count(sum(plan.heads.values()), 'head')}")
    return " and ".join(said)


def _nothing(plan: UpgradePlan) -> str:
    heads = count(sum(plan.heads.values()), "head")
    return f"nothing to upgrade: the store and {heads} are of schema version {plan.to}"


def _summary(plan: UpgradePlan) -> Row:
    return {"store_version": plan.store_version, "to": plan.to, "heads_older": plan.older}


def _report(report: UpgradeReport) -> Row:
    return {
        "from_version": report.from_version,
        "to_version": report.to_version,
        "heads": report.heads,
        "heads_upgraded": report.upgraded,
    }


def _said(report: UpgradeReport) -> str:
    upgraded = f"{report.upgraded:,} of {count(report.heads, 'head')} upgraded"
    return f"the store is of schema version {report.to_version}, {upgraded}"
