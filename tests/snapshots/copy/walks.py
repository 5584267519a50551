"""Stores that live: commits, forks, rewinds, pins, prunes and collections in each, and copies between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from snapshots import SnapshotRepository
from snapshots.compaction import Limits
from snapshots.errors import CopyConflictError
from snapshots.maintenance.collect import execute as execute_collect
from snapshots.maintenance.copy.session import SessionJob, copy_session
from snapshots.maintenance.copy.survey import PRESENT_ONLY, WHOLE
from snapshots.maintenance.findings import Finding
from snapshots.maintenance.garbage import plan_collect
from snapshots.maintenance.prune import Retention, plan_prune
from snapshots.maintenance.prune import execute as execute_prune
from snapshots.maintenance.verify import verify
from storage.backends.memory import MemoryStore
from storage.testing.clock import ManualClock
from tests.integration.builders import message_ids, new_session, take_turn
from tests.snapshots.records import with_limits

LIMITS = (
    Limits(packs=4, merged=2, tail_pack_bytes=2 << 10, tail_bytes=3 << 10),
    Limits(packs=5, merged=3, tail_pack_bytes=0),
    Limits(),
)


def repository(seed: int, limits: Limits) -> SnapshotRepository:
    return with_limits(SnapshotRepository(MemoryStore(), clock=ManualClock(seed=seed)), limits)


def collected(repo: SnapshotRepository) -> None:
    execute_collect(plan_collect(repo))


def live(repo: SnapshotRepository) -> list[str]:
    return sorted(one.session_id for one in repo.sessions() if one.status == "live")


def findings(repo: SnapshotRepository) -> list[Finding]:
    return [one for one in verify(repo) if isinstance(one, Finding)]


class Walk:
    """A walk of some stores.

    Attributes:
        stores: The first is where most is written.
        contents: What was ever committed, by checkpoint: the ids of the messages, and the execution state.
        did: How often each step was taken, and what came of copies.
    """

    def __init__(self, seed: int, stores: int = 3) -> None:
        self.draw = Random(seed)
        self.stores = [repository(100 * seed + number, self.draw.choice(LIMITS)) for number in range(stores)]
        self.contents: dict[str, tuple[list[str], bytes]] = {}
        self.did: Counter[str] = Counter()
        self._turns = 0
        self._forks = 0
        self._pins = 0

    def step(self) -> None:
        steps: list[tuple[int, Callable[[SnapshotRepository], None]]] = [
            (8, self.commit),
            (2, self.fork),
            (1, self.rewind),
            (1, self.pin),
            (1, self.prune),
            (1, self.delete),
            (2, collected),
            (6, self.copy),
        ]
        repo = self.draw.choice([self.stores[0]] * 6 + self.stores)
        (take,) = self.draw.choices([one for _, one in steps], [weight for weight, _ in steps])
        self.did[take.__name__] += 1
        take(repo)

    def commit(self, repo: SnapshotRepository) -> None:
        names = live(repo)
        is_new = repo is self.stores[0] and (not names or self.draw.random() < 0.1)
        if not is_new and not names:
            return
        name = f"s{self._turns}" if is_new else self.draw.choice(names)
        for _ in range(self.draw.choice((1, 1, 2, 6))):
            state = repo.load(name) if name in live(repo) else new_session(name)
            self._turns += 1
            take_turn(state, f"m{self._turns}x{self.draw.randrange(1 << 60)}")
            memory = None
            if self.draw.random() < 0.5:
                before = repo.read_execution_state(state) if state.execution_state_ref is not None else b""
                memory = before[: self.draw.randrange(20_000)] + self.draw.randbytes(self.draw.choice((40, 900, 9_000)))
            repo.commit(state, execution_state=memory)
            self._note(repo, name)

    def _note(self, repo: SnapshotRepository, name: str, revision: int | None = None) -> None:
        state = repo.load(name, revision)
        memory = repo.read_execution_state(state) if state.execution_state_ref is not None else b""
        self.contents.setdefault(str(state.checkpoint_ref), (message_ids(state), memory))

    def fork(self, repo: SnapshotRepository) -> None:
        if names := live(repo):
            source = self.draw.choice(names)
            self._forks += 1
            child = f"{source}.{self._forks}"
            repo.fork(source, child, self.draw.choice(self.retained(repo, source)))
            self._note(repo, child)

    def retained(self, repo: SnapshotRepository, name: str) -> list[int]:
        return [row.revision for row in repo.history(name) if row.retained]

    def rewind(self, repo: SnapshotRepository) -> None:
        if names := live(repo):
            name = self.draw.choice(names)
            repo.restore(name, self.draw.choice(self.retained(repo, name)))
            self._note(repo, name)

    def pin(self, repo: SnapshotRepository) -> None:
        if names := live(repo):
            name = self.draw.choice(names)
            self._pins += 1
            repo.pin(name, self.draw.choice(self.retained(repo, name)), f"pin{self._pins}")

    def prune(self, repo: SnapshotRepository) -> None:
        if names := live(repo):
            execute_prune(plan_prune(repo, self.draw.choice(names), Retention(last=self.draw.choice((1, 2, 4)))))

    def delete(self, repo: SnapshotRepository) -> None:
        names = live(repo)
        if len(names) > 4:
            repo.delete(self.draw.choice(names))

    def copy(self, repo: SnapshotRepository) -> None:
        there = self.draw.choice([one for one in self.stores if one is not repo])
        history = PRESENT_ONLY if self.draw.random() < 0.2 else WHOLE
        infos = {one.session_id: one for one in repo.sessions()}
        for name in self.draw.sample(live(repo), k=min(len(live(repo)), self.draw.choice((1, 2, 9)))):
            origin = infos[name].origin
            relatives = () if origin is None else (origin.session_id, infos[name].family)
            before = self.retained(there, name) if name in live(there) else []
            try:
                copied = copy_session(repo.environment, there.environment, SessionJob(name, "", history, relatives))
            except CopyConflictError:
                self.did["conflict"] += 1
                continue
            self.did["fresh" if not copied.before else "further"] += 1
            self._check(repo, there, name, before, whole=history == WHOLE)

    def _check(
        self, repo: SnapshotRepository, there: SnapshotRepository, name: str, before: list[int], *, whole: bool
    ) -> None:
        rows = [(row.revision, row.commit_id, row.parent, row.kind) for row in repo.history(name)]
        assert [(row.revision, row.commit_id, row.parent, row.kind) for row in there.history(name)] == rows
        last = max(before, default=0)
        new = {one for one in self.retained(repo, name) if one > last} if whole else {len(rows)}
        assert set(self.retained(there, name)) == {*before, *new}
        assert repo.load(name).checkpoint_ref == there.load(name).checkpoint_ref

    def check(self) -> None:
        """Check that every store is whole, has what was committed, and nothing else after a collection."""
        for repo in self.stores:
            collected(repo)
            assert not findings(repo)
            for name in live(repo):
                for revision in self.retained(repo, name):
                    state = repo.load(name, revision)
                    memory = repo.read_execution_state(state) if state.execution_state_ref is not None else b""
                    assert (message_ids(state), memory) == self.contents[str(state.checkpoint_ref)]
