"""A process that works on the usage log of one session: it appends lines one by one, or merges and collects.

`append` says the number of every line that was acknowledged, as soon as it is; and at the end, on a line of JSON, what
it took. `care` merges the segments again and again, and collects now and then, until its stdin ends.

    python -m tests.integration.appender file:store append host-a 100
    python -m tests.integration.appender file:store care

`fork` opens a log and uses it, forks, and appends equal lines in both processes with the log that they share.

    python -m tests.integration.appender file:store fork 20
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from snapshots import SnapshotRepository
from snapshots.errors import SessionNotFoundError
from snapshots.maintenance.collect import execute, plan_collect
from snapshots.usage import UsageLog, compact

SESSION = "s1"
COLLECT_EVERY = 5  # rounds of merging
PAUSE_SECONDS = 0.1


def line(writer: str, number: int) -> str:
    return json.dumps({"writer": writer, "n": number, "model": "m", "input_tokens": number, "text": "x" * 200})


def append(repo: SnapshotRepository, writer: str, count: int) -> dict[str, Any]:
    log, before = UsageLog(repo, SESSION), repo.metrics.snapshot()
    for number in range(count):
        log.append(line(writer, number))
        print(number, flush=True)
    requests = (repo.metrics.snapshot() - before).total_requests
    return {"requests": requests, "upkeep_failure": str(log.upkeep_failure or "")}


def care(repo: SnapshotRepository) -> dict[str, Any]:
    merged = deleted = rounds = 0
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    while not ended.wait(PAUSE_SECONDS):
        rounds += 1
        try:
            merged += compact(repo, SESSION).merged
        except SessionNotFoundError:
            continue  # nobody has appended yet
        if rounds % COLLECT_EVERY == 0:
            report = execute(plan_collect(repo))
            assert not report.logs_spared or "another collection" in report.logs_spared[0].reason, report
            deleted += report.segments
    return {"merged": merged, "deleted": deleted}


def fork(repo: SnapshotRepository, count: int) -> dict[str, Any]:
    log = UsageLog(repo, SESSION)
    ids = [log.append(line("same", 0)) for _ in range(count)]
    child = os.fork()
    ids += [log.append(line("same", 0)) for _ in range(count)]
    if not child:
        assert len(list(log.read())) >= len(ids)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return {"ids": ids, "child": os.waitstatus_to_exitcode(status)}


def main(url: str, role: str, *arguments: str) -> None:
    with SnapshotRepository.open(url, create=False) as repo:
        match role:
            case "append":
                done = append(repo, arguments[0], int(arguments[1]))
            case "fork":
                done = fork(repo, int(arguments[0]))
            case _:
                done = care(repo)
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
