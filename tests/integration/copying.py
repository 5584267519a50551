"""The command `snapshots copy` as a process of its own, killed at one of its requests or not; and a fleet to copy.

fill(source)
with KillingProxy(endpoint, number=7, when="before") as proxy:
    killed = copied("file:store", url.replace(endpoint, proxy.url), proxy)
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.maintenance.collect import execute, plan_collect
from snapshots.maintenance.copy.compare import Difference, verify_copy
from snapshots.maintenance.findings import Finding
from snapshots.maintenance.verify import verify
from snapshots.realtime import RealtimeController
from snapshots.records import SessionRecords
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from snapshots.usage import UsageLog
from storage.testing.draws import Draws
from tests.integration.builders import take_turn
from tests.proxy import FaultProxy, Seen, _Closed, _Reply
from tests.snapshots.realtime.bench import NotingAdapter, out, sidecar
from tests.snapshots.usage.bench import line

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("snapshots")
END_SECONDS = 120.0  # a copy to Ceph on a busy machine; 2 s is usual
MEMORY_BYTES = 20_000
LARGE, LARGE_BYTES, LARGE_REVISIONS = "large", 2_200_000, 5  # three of them fill a pack of a copy
ALONE = "alone"  # there is no such session, only what lies beside it
LOGGED, ROWS = ("talk-0", ALONE), 40
KILLED = -9

When = Literal["before", "after"]
"""Before the request is passed on, or when the server has carried it out."""


# A fleet.


def fill(repo: SnapshotRepository, *, sessions: int = 5) -> None:
    """Commit sessions, forks of forks, and everything that may lie beside them."""
    draws = Draws("fleet")
    for number in range(sessions):
        name = f"talk-{number}"
        go_on(repo, name, 2 + draws.below(4))
        if number % 2 == 0:
            repo.fork(name, f"{name}/fork", 2)
            go_on(repo, f"{name}/fork", 2)
            repo.fork(f"{name}/fork", f"{name}/fork/fork")
            repo.pin(f"{name}/fork", 2, "forked")
    beside(repo)


def fill_large(repo: SnapshotRepository) -> None:
    """Commit a session that is copied into several packs, which its reserved head names meanwhile."""
    state = PersistedSessionState(session_id=LARGE)
    for turn in range(LARGE_REVISIONS):
        repo.commit(take_turn(state, f"turn {turn}"), execution_state=bytes_of(f"large {turn}", LARGE_BYTES))


def go_on(repo: SnapshotRepository, session_id: str, turns: int) -> None:
    """Take some turns of a session that may be new."""
    state = PersistedSessionState(session_id=session_id)
    if any(one.session_id == session_id for one in repo.sessions()):
        state = repo.load(session_id, execution_state=True)
    for _ in range(turns):
        name = f"{session_id} {state.turn_index}"
        repo.commit(take_turn(state, name), execution_state=bytes_of(name, MEMORY_BYTES))


def bytes_of(seed: str, size: int) -> bytes:
    """Return bytes that no compression makes smaller."""
    return hashlib.shake_128(seed.encode()).digest(size)


def beside(repo: SnapshotRepository) -> None:
    """Give one session one of everything, and another id everything that needs no session."""
    for name in LOGGED:
        records = SessionRecords(repo)
        records.create(name, provider_id="p", model="m", ttl_secs=0, metadata={"a": [1, None]})
        records.activate(name)
        UsageLog(repo, name).append_many([line(number, text="x" * (number % 7)) for number in range(ROWS)])
    session = RuntimeSession(session_id="runtime", title="Trip", metadata={"theme": "dark"}, own=[1.0])
    session.messages.append({"role": "user", "content": "hello"})
    runtime = RuntimeSessionStore(repo)
    runtime.save_runtime_session(session)
    runtime.update_metadata("runtime", lambda before: before.changed(title="Rome"))
    controller = RealtimeController(repo, LOGGED[0], NotingAdapter(), sidecar())
    controller.connect()
    for number in range(3):
        controller.send(out(f"frame {number}"))


# The command.


class KillingProxy(FaultProxy):
    """A proxy that kills the process it was told of at one of the requests that pass through it.

    Args:
        endpoint: In front of which server.
        number: At which request, from 1; 0 for none.
        when: Whether the server still hears of it.
        part: What path and query must contain for a request to count.
    """

    def __init__(self, endpoint: str, number: int = 0, when: When = "before", part: str = "") -> None:
        super().__init__(endpoint)
        self._number = number
        self._when = when
        self._part = part
        self._passed = 0
        self._victim: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)

    def kills(self, process: subprocess.Popen[str]) -> None:
        """Say whom to kill. Nobody has sent anything before."""
        self._victim = process

    def _forward(self, request: Seen) -> _Reply:
        with self._lock:
            counts = request.matches("*", self._part)
            self._passed += counts
            is_due = counts and self._passed == self._number
        if is_due and self._when == "before":
            self._kill()
            raise _Closed
        reply = super()._forward(request)
        if is_due:
            self._kill()
        return reply

    def _kill(self) -> None:
        assert self._victim is not None
        self._victim.kill()


def copying(source: str, destination: str) -> subprocess.Popen[str]:
    """Begin to copy all that is in a store to another one."""
    return subprocess.Popen(
        [str(COMMAND), "--json", "--quiet", "copy", source, destination],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait until a copy has ended well; return its summary, {} if it was killed."""
    output, errors = process.communicate(timeout=END_SECONDS)
    if process.returncode == KILLED:
        return {}
    assert process.returncode == 0, f"{output[-2000:]}\n{errors[-4000:]}"
    summary: dict[str, Any] = json.loads(output.splitlines()[-1])
    return summary


def copied(
    source: str, destination: str, endpoint: str, number: int = 0, when: When = "before", part: str = ""
) -> dict[str, Any]:
    """Copy, killed at a request to the destination; return the summary, {} if it was killed.

    It tells the requests that came there too: "passed", and "large" those for the large session.
    """
    with KillingProxy(endpoint, number, when, part) as proxy:
        process = copying(source, destination.replace(endpoint, proxy.url))
        proxy.kills(process)
        summary = ended(process)
    if summary:
        summary |= {"passed": len(proxy.requests), "large": len(proxy.seen("*", LARGE))}
    return summary


# What must be.


def check_copy(source: SnapshotRepository, copy: SnapshotRepository) -> None:
    """Check that the copy lacks nothing and that nothing is wrong with it."""
    assert [str(one) for one in verify_copy(source, copy) if isinstance(one, Difference)] == []
    assert [str(one) for one in verify(copy) if isinstance(one, Finding)] == []


def check_usage(source: SnapshotRepository, copy: SnapshotRepository, session_id: str) -> None:
    """Check that every row of a usage log is in its copy, once."""
    there, here = UsageLog(source, session_id), UsageLog(copy, session_id)
    assert [row.row_id for row in here.read()] == [row.row_id for row in there.read()]
    assert sum(one.rows for one in here.segments()) == ROWS, "a row stands twice"


def collected_bytes(repo: SnapshotRepository) -> int:
    """Collect; return the size of the packs that are left."""
    report = execute(plan_collect(repo))
    assert (report.stopped, report.spared) == ("", ())
    return repo.stats().packs_bytes
