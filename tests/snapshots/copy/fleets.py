"""Stores full of sessions, what is in them byte for byte, and hands that damage them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

from snapshots import SnapshotRepository
from snapshots.layout import Layout
from snapshots.maintenance.copy.compare import Difference, verify_copy
from snapshots.maintenance.copy.fleet import CopyReport
from snapshots.maintenance.findings import Finding
from snapshots.maintenance.verify import verify
from snapshots.records import SessionRecords
from snapshots.usage import UsageLog
from storage.backends.memory import MemoryStore
from storage.executor import InlineExecutor
from storage.store import ObjectStore, Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import FaultyStore
from tests.integration.builders import message, new_session, take_turn

LAYOUT = Layout("default")
LONG = "long " * 60
"""An id that no key spells out."""


class Shop:
    """A repository on a store in memory, behind faults, where everything is done in order."""

    def __init__(self, seed: int = 1, *, inline_limit_bytes: int = 0, tenant: str = "default") -> None:
        self.store = MemoryStore(ManualClock())
        self.faulty = FaultyStore(self.store)
        self.repo = SnapshotRepository(
            self.faulty, tenant=tenant, clock=ManualClock(seed=seed), inline_limit_bytes=inline_limit_bytes
        )
        in_order(self.repo)
        self.faulty.log.clear()

    def cloned(self, seed: int) -> Shop:
        """Return another shop that holds the same."""
        other = Shop(seed)
        for key, data in bytes_of(self.store).items():
            other.store.put(key, data, Overwrite())
        return other

    @property
    def records(self) -> SessionRecords:
        return SessionRecords(self.repo)

    def log(self, name: str) -> UsageLog:
        return UsageLog(self.repo, name)

    def commit(self, name: str, *turns: str) -> None:
        """Commit a turn after the other, in packs of their own."""
        for turn in turns:
            is_there = any(one.session_id == name and one.revision for one in self.repo.sessions())
            state = self.repo.load(name) if is_there else new_session(name)
            self.repo.commit(take_turn(state, turn))

    def record(self, name: str) -> None:
        self.records.create(name, provider_id="p", model="m", ttl_secs=0)

    def requests(self) -> list[tuple[str, str]]:
        """Return verb and kind of key of every request since this was last asked."""
        found: list[tuple[str, str]] = [(one.verb, one.keys[0].split("/")[1]) for one in self.faulty.log]
        self.faulty.log.clear()
        return found

    def works_again(self) -> None:
        """Let the store work again after a crash, or whatever was planned."""
        self.faulty.plan.clear()
        self.faulty.restart()
        self.faulty.release()


def in_order(repo: SnapshotRepository) -> SnapshotRepository:
    """Let a repository do one thing after the other."""
    repo._environment = replace(repo.environment, executor=InlineExecutor())
    return repo


def fill_with_text(repo: SnapshotRepository, names: Iterable[str], *, turns: int) -> None:
    """Commit sessions whose texts cannot be compressed to less than half, and are like no other."""
    for number, name in enumerate(names):
        state, draw = new_session(name), Random(number)
        for turn in range(turns):
            text = draw.randbytes(3000).hex()
            state.append_active_read_delta([*state.read_view().messages, message(f"m{turn}", text=text)], [])
            repo.commit(state)


def bytes_of(store: ObjectStore, prefix: str = "") -> dict[str, bytes]:
    """Return every object of a store."""
    return {row.key: store.get(row.key).data for row in store.list(prefix)}


def pack_bytes(store: ObjectStore) -> int:
    return sum(row.size_bytes for row in store.list(LAYOUT.packs))


def damage(store: ObjectStore, key: str, position: int = 20) -> None:
    """Alter one bit of an object."""
    data = bytearray(store.get(key).data)
    data[position] ^= 1
    store.put(key, bytes(data), Overwrite())


def differences(source: SnapshotRepository, copy: SnapshotRepository, target: str = "") -> list[Difference]:
    sessions = [target.partition("=")[0]] if target else None
    reported = verify_copy(source, copy, sessions=sessions, target=target.partition("=")[2])
    return [one for one in reported if isinstance(one, Difference)]


def findings(repo: SnapshotRepository) -> list[Finding]:
    return [one for one in verify(repo) if isinstance(one, Finding)]


def outcomes(report: CopyReport) -> dict[str, str]:
    return {one.session_id: one.outcome for one in report.sessions}
