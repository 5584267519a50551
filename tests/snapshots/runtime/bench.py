"""Two runtimes on one store, one of them behind faults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from snapshots import SnapshotRepository
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from storage.backends.memory import MemoryStore
from storage.testing.clock import ManualClock
from storage.testing.faults import FaultyStore

SESSION = "s1"


@dataclass
class Bench:
    """The store behind, the faulty one, and a repository and its runtime sessions on each."""

    behind: MemoryStore
    faulty: FaultyStore
    my_repo: SnapshotRepository
    their_repo: SnapshotRepository
    mine: RuntimeSessionStore
    theirs: RuntimeSessionStore

    def stored(self, session_id: str = SESSION) -> RuntimeSession:
        """Return what somebody else loads."""
        return RuntimeSessionStore(self.their_repo).load_runtime_session(session_id)

    def objects(self) -> dict[str, bytes]:
        return {row.key: self.behind.get(row.key).data for row in self.behind.list("")}

    def requests(self) -> list[str]:
        """Return verb and kind of the requests so far, `put heads` for example, and forget them."""
        found = [f"{one.verb} {one.keys[0].split('/')[1]}" for one in self.faulty.log]
        self.faulty.log.clear()
        return found


@contextmanager
def opened(behind: MemoryStore | None = None) -> Iterator[Bench]:
    behind = MemoryStore() if behind is None else behind
    faulty = FaultyStore(behind)
    with (
        SnapshotRepository(behind, clock=ManualClock(seed=1), inline_limit_bytes=0) as their_repo,
        SnapshotRepository(faulty, clock=ManualClock(seed=2), inline_limit_bytes=0) as my_repo,
    ):
        faulty.log.clear()
        stores = RuntimeSessionStore(my_repo), RuntimeSessionStore(their_repo)
        yield Bench(behind, faulty, my_repo, their_repo, *stores)


def said(text: str, **fields: Any) -> dict[str, Any]:
    """Return a message of others whose id and content are the text."""
    return {"id": text, "role": "user", "content": text, **fields}


def session(*texts: str, session_id: str = SESSION, **fields: Any) -> RuntimeSession:
    return RuntimeSession(session_id=session_id, messages=[said(text) for text in texts], **fields)


def texts_of(found: RuntimeSession) -> list[str]:
    return [message["id"] for message in found.messages]
