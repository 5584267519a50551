"""Writers, forkers and collectors at work on one store at once, some of them killed: nothing lost, nothing left behind.

The time comes from the environment, `SNAPSHOTS_SOAK_SECONDS=60 python -m pytest -s tests/integration/test_soak.py`.
What each process did is in its journal, beside the store, in the directory that a failure names.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from snapshots import SnapshotRepository
from snapshots.base import Base
from snapshots.environment import Environment
from snapshots.head import LIVE, RESERVED, TOMBSTONE, Head
from snapshots.maintenance.collect import execute, plan_collect
from snapshots.maintenance.findings import Finding
from snapshots.maintenance.verify import verify
from snapshots.reading import HeadRead, head_at, read_base
from snapshots.roots import named_keys
from storage.testing.draws import Draws
from tests.integration.journals import Operation, read_journal

SECONDS = float(os.environ.get("SNAPSHOTS_SOAK_SECONDS", "4"))
SEED = int(os.environ.get("SNAPSHOTS_SOAK_SEED", "20260103"))
ROOT = Path(__file__).parents[2]
SOAKER = "tests.integration.soaker"
ROLES = (*[("writer", number) for number in range(4)], *[("forker", 0), ("forker", 1)], *[("collector", 0)] * 2)
KILL_EVERY_SECONDS = 1.5  # on average; a start takes a core for most of a second
END_SECONDS = 60.0  # a collection of a slow store
MOVING = "the session kept moving while it was read"

Operations = Sequence[Operation]


class Place:
    """One of the processes, and those that came after it was killed.

    Attributes:
        lives: How many there were.
    """

    def __init__(self, url: str, directory: Path, number: int, role: tuple[str, int]) -> None:
        self.lives = 0
        self.name = f"{role[0]}-{number}"
        self._url = url
        self._directory = directory
        self._role = role

    def start(self) -> None:
        stem = f"{self.name}.{self.lives}"
        self._errors = self._directory / f"{stem}.err"
        journal = self._directory / f"{stem}.jsonl"
        arguments = (self._url, self._role[0], str(self._role[1]), f"{SEED}/{stem}", str(journal))
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", SOAKER, *arguments],
                cwd=ROOT,
                env=os.environ | {"PYTHONFAULTHANDLER": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.lives += 1

    def await_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", self._said()

    def check_alive(self) -> None:
        assert self._process.poll() is None, f"{self.name} ended by itself:\n{self._said()}"

    def kill(self) -> None:
        self.check_alive()
        self._process.send_signal(signal.SIGKILL)
        assert self._process.wait(END_SECONDS) == -signal.SIGKILL
        self._close()

    def tell_to_end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def await_end(self) -> None:
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # it says where it stands
            status = self._process.wait(END_SECONDS)
        assert status == 0, f"{self.name}:\n{self._said()}"

    def end(self) -> None:
        """End the process, however it stands."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _said(self) -> str:
        return self._errors.read_text()[-6000:]


@contextmanager
def running(url: str, directory: Path) -> Iterator[Sequence[Place]]:
    """Run all processes on the store at `url`, which exists; they end with this context at the latest."""
    places = [Place(url, directory, number, role) for number, role in enumerate(ROLES)]
    started: list[Place] = []
    try:
        for place in places:
            place.start()
            started.append(place)
        for place in places:
            place.await_ready()
        yield places
    finally:
        for place in started:
            place.end()


def soak(places: Sequence[Place], draws: Draws) -> int:
    """Let them work, and kill one now and then; then let them end. Return the number of kills."""
    kills, over = 0, time.monotonic() + SECONDS
    due = time.monotonic() + _until_the_next_kill(draws)
    while (now := time.monotonic()) < over:
        for place in places:
            place.check_alive()
        if now >= due:
            victim = draws.pick(places)
            victim.kill()
            victim.start()
            kills, due = kills + 1, now + _until_the_next_kill(draws)
        time.sleep(0.01)  # between two looks at the processes
    for place in places:
        place.tell_to_end()
    for place in places:
        place.await_end()
    return kills


def _until_the_next_kill(draws: Draws) -> float:
    return 2 * KILL_EVERY_SECONDS * draws.random()


def test_a_store_in_use_loses_nothing(shared_url: str, tmp_path: Path) -> None:
    directory = tmp_path / "journals"
    directory.mkdir()
    try:
        with SnapshotRepository.open(shared_url) as repo:
            with running(shared_url, directory) as places:
                kills = soak(places, Draws(SEED))
            operations = [one for path in sorted(directory.glob("*.jsonl")) for one in read_journal(path)]
            check_they_worked(operations)
            check_collections(operations)
            quiet = collect_in_quiet(repo)
            read = check_sessions(repo.environment, operations)
            assert [one for one in verify(repo) if isinstance(one, Finding)] == []
            print({"seed": SEED, "seconds": SECONDS, "kills": kills, **figures(operations), **quiet, **read})
    except BaseException as error:
        error.add_note(f"seed {SEED}, journals in {directory}")
        raise


# What must be.


def check_they_worked(operations: Operations) -> None:
    """Check that there was something to lose: a run in which nobody did anything shows nothing."""
    done = Counter(one.what for one in operations if one.said == "done")
    assert all(done[what] for what in ("commit", "fork", "collect")), done


def check_collections(operations: Operations) -> None:
    """Check that nothing was ever unreadable to a collector."""
    reasons = {reason for one in operations if one.what == "collect" for reason in one.told.get("spared", ())}
    assert reasons <= {MOVING}


def collect_in_quiet(repo: SnapshotRepository) -> dict[str, int]:
    """Collect twice; afterwards what lies there must be what the heads name."""
    deleted = 0
    for _ in range(2):
        report = execute(plan_collect(repo))
        assert (report.stopped, report.spared) == ("", ())
        deleted += report.deleted
    environment = repo.environment
    listed = {row.key for row in environment.store.list(environment.layout.packs)}
    assert listed == {key for read in all_heads(environment) for key in named_keys(environment, read.head)}
    return {"packs left to quiet collections": deleted, "packs in the end": len(listed)}


def check_sessions(environment: Environment, operations: Operations) -> dict[str, int]:
    """Check each session against what all processes were told of it."""
    by_session: defaultdict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        if one.session_id:
            by_session[one.session_id].append(one)
    reads = {read.head.session_id: read for read in all_heads(environment)}
    assert reads.keys() <= by_session.keys()
    revisions = 0
    for session_id, ours in by_session.items():
        if session_id in reads:
            check_session(environment, reads[session_id], ours)
            revisions += reads[session_id].head.revision
        else:
            assert not acknowledged(ours), f"{session_id} has no head"
    statuses = Counter(read.head.status for read in reads.values())
    return {"revisions": revisions, **{f"{status} sessions": count for status, count in sorted(statuses.items())}}


def check_session(environment: Environment, read: HeadRead, operations: Operations) -> None:
    """Check what was acknowledged of a session, and what was refused."""
    head, told = read.head, acknowledged(operations)
    if head.status == LIVE:
        base = read_base(environment, read)
        check_history(base, told, operations)
        check_retained(base, told, operations)
        return
    assert head.status == RESERVED or head.status == TOMBSTONE
    if head.status == RESERVED:
        assert told == {}, f"{head.session_id} was never published"
    else:
        check_tombstone(head, told, operations)


def check_history(base: Base, told: Mapping[str, Operation], operations: Operations) -> None:
    """Check that the acknowledged stands, once and where it was said, the refused nowhere, and nothing else."""
    standing = {row.commit_id: row.revision for row in base.rows}
    assert [row.revision for row in base.rows] == list(range(1, base.head.revision + 1))
    assert len(standing) == len(base.rows), "a commit stands twice"
    assert {commit_id: standing.get(commit_id) for commit_id in told} == {
        commit_id: one.told["revision"] for commit_id, one in told.items()
    }, base.head.session_id
    assert not standing.keys() & refused(operations), f"a refused commit stands in {base.head.session_id}"
    unheard = standing.keys() - told.keys()
    unanswered = [one for one in operations if one.open and one.what not in ("prune", "pin", "unpin", "delete")]
    assert len(unheard) <= len(unanswered), f"nobody made these commits of {base.head.session_id}: {unheard}"


def check_retained(base: Base, told: Mapping[str, Operation], operations: Operations) -> None:
    """Check that what is retained is what was acknowledged, and that nothing went which nobody dropped."""
    head = base.head
    refs = {row.revision: row.checkpoint_ref for row in base.places.entries} | {head.revision: base.checkpoint_ref}
    dropped = {revision for one in operations if one.what == "prune" for revision in one.asked["dropped"]}
    if any(one.what == "unpin" for one in operations):
        dropped |= {one.asked["pinned"] for one in operations if one.what == "pin"}
    for one in told.values():
        revision = one.told["revision"]
        if head.retains(revision):
            assert str(refs[revision]) == one.told["checkpoint_ref"], f"{head.session_id}, revision {revision}"
        else:
            assert revision in dropped, f"nobody dropped revision {revision} of {head.session_id}"


def check_tombstone(head: Head, told: Mapping[str, Operation], operations: Operations) -> None:
    """Check that somebody deleted the session, and that its last commits are those that were acknowledged."""
    assert any(one.what == "delete" for one in operations), f"nobody deleted {head.session_id}"
    for commit_id, one in told.items():
        revision = one.told["revision"]
        assert revision <= head.revision
        assert revision < head.commits.first_revision or head.commits.commit_id(revision) == commit_id
    assert not set(head.commits.commit_ids) & refused(operations)


def acknowledged(operations: Iterable[Operation]) -> dict[str, Operation]:
    """Return what was done and made a revision, by commit id."""
    made = [one for one in operations if one.said == "done" and "commit_id" in one.told]
    by_id = {one.told["commit_id"]: one for one in made}
    assert len(by_id) == len(made), "two commits of one id"
    return by_id


def refused(operations: Iterable[Operation]) -> set[str]:
    """Return the ids of commits that were refused, as far as they are known."""
    return {one.told["commit_id"] for one in operations if one.said == "refused" and one.told["commit_id"]}


def all_heads(environment: Environment) -> list[HeadRead]:
    rows = environment.store.list(environment.layout.heads)
    return list(environment.executor.map(lambda row: head_at(environment, row.key), rows))


def figures(operations: Operations) -> dict[str, object]:
    collections = [one for one in operations if one.what == "collect"]
    what = Counter(f"{one.what} {one.said}" for one in operations if one.what != "collect")
    return {
        "acknowledged": len(acknowledged(operations)),
        **dict(sorted(what.items())),
        "refused because": dict(Counter(one.told["why"] for one in operations if one.said == "refused")),
        "collections": len(collections),
        "that deleted": sum(bool(one.told.get("deleted")) for one in collections),
        "that stopped": sum(bool(one.told.get("stopped")) for one in collections),
        "packs deleted": sum(one.told.get("deleted", 0) for one in collections),
        "requests": sum(one.requests for one in operations),
    }
