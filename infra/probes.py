"""What a probe says of the five servers that the tests run on, side by side: `python -m infra.probes`.

Rules:
1. A server's own words and counts of a crowd differ from run to run; the table says only whether one wins or several.
2. The table stands in PROVIDERS.md, and a test holds the two together.

    print(table_of({"Ceph": probed(endpoint)}))
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from infra.servers.buckets import create_bucket
from infra.servers.ceph import ceph_running
from infra.servers.ministack import ministack_running
from infra.servers.moto import moto_running
from infra.servers.process import server_environment
from infra.servers.rclone import rclone_running
from infra.servers.swift import swift_running
from infra.tables import table
from snapshots.layout import PROBE_PREFIX
from storage.backends import open_store
from storage.clock import SystemClock
from storage.probe import ProbeReport, probe

SERVERS: Mapping[str, Callable[[Path], AbstractContextManager[str]]] = {
    "Ceph RGW 16.2": ceph_running,
    "ministack 1.5": ministack_running,
    "moto 5.2": moto_running,
    "Swift 2.38, s3api": swift_running,
    "rclone 1.75": rclone_running,
}
NOT_ASKED = "–"
_SEVERAL = re.compile(r"\d+(-\d+)? win.*")
_OWN_WORDS = re.compile(r" \(put was answered with (\d+) \w+\)")


def probed(endpoint: str) -> ProbeReport:
    """Probe a server in a bucket that is made for it. Raises what `storage.probe.probe` does."""
    bucket = f"probe-{SystemClock().new_id()}"
    create_bucket(endpoint, bucket)
    return probe(open_store(f"s3://{bucket}?endpoint_url={endpoint}"), PROBE_PREFIX, SystemClock())


def table_of(reports: Mapping[str, ProbeReport]) -> str:
    """Return a table of Markdown: a row for each check, a column for each server; what is wrong is bold."""
    names = list(dict.fromkeys(check.name for report in reports.values() for check in report.checks))
    cells = {name: {check.name: _cell(check.seen, check.meaning) for check in reports[name].checks} for name in reports}
    rows = [[name, *(cells[server].get(name, NOT_ASKED) for server in reports)] for name in names]
    rows += [["**verdict**", *("safe" if report.verdict.is_safe else "**refused**" for report in reports.values())]]
    return table(("what was tried", *reports), rows)


def _cell(seen: str, meaning: str) -> str:
    said = _OWN_WORDS.sub(r" (\1)", _SEVERAL.sub("several win", seen))
    return f"**{said}**" if meaning == "wrong" else said


def main() -> None:
    """Start the servers one after the other, probe them, and print the table."""
    os.environ.update(server_environment())
    reports = {}
    for name, running in SERVERS.items():
        with tempfile.TemporaryDirectory(prefix="probes-") as directory, running(Path(directory)) as endpoint:
            reports[name] = probed(endpoint)
    print(table_of(reports))


if __name__ == "__main__":
    main()
