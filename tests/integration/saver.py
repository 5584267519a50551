"""One of many processes on one session: a runtime that saves a copy which is never brought up to date, or a user.

A line on stdin starts it. It tells every save or edit that is confirmed; the last line is what they cost.

    python -m tests.integration.saver file:store runtime left 25
    python -m tests.integration.saver file:store user title 25
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from snapshots import SnapshotRepository
from snapshots.errors import CommitUnknownError, RevisionConflictError
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from storage.errors import UnavailableError
from tests.integration.builders import SESSION, message

REPEATS_MAX = 8  # of one save or edit that was not confirmed
PAUSE_SECONDS = 0.05  # between edits, so that they fall among the saves


def tell(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def messages_of(name: str, number: int) -> list[dict[str, Any]]:
    """Return what a runtime says between two saves: a message of ours and one of another make."""
    ours = message(f"{name}-{number}").model_dump(mode="json")
    return [ours, {"id": f"{name}-{number}-reply", "role": "assistant", "content": f"reply {number}"}]


class Saver:
    """A process at work.

    Attributes:
        repeats: How often something was done again because it was not confirmed.
    """

    def __init__(self, repo: SnapshotRepository, name: str) -> None:
        self.repeats = 0
        self._clock = repo.environment.clock
        self._store = RuntimeSessionStore(repo)
        self._name = name

    def save(self, number: int) -> None:
        copy = RuntimeSession(session_id=SESSION, title=self._name, metadata={"by": self._name, "number": number})
        for at in range(number + 1):  # all that this runtime ever said, and nothing of the others
            copy.messages += messages_of(self._name, at)
        self._patiently(lambda: self._store.save_runtime_session(copy))
        tell(saved=[one["id"] for at in range(number + 1) for one in messages_of(self._name, at)][-2:])

    def edit(self, number: int) -> None:
        title = f"{self._name} {number}"
        self._patiently(lambda: self._store.update_metadata(SESSION, lambda metadata: metadata.changed(title=title)))
        tell(title=title)
        self._clock.sleep(PAUSE_SECONDS)

    def _patiently(self, act: Callable[[], object]) -> None:
        for _ in range(REPEATS_MAX):
            try:
                act()
            except (RevisionConflictError, CommitUnknownError, UnavailableError):
                self.repeats += 1
            else:
                return
        act()


def main(url: str, role: str, name: str, count: str) -> None:
    with SnapshotRepository.open(url, create=False) as repo:
        saver = Saver(repo, name)
        sys.stdin.readline()
        before = repo.metrics.snapshot()
        for number in range(int(count)):
            (saver.save if role == "runtime" else saver.edit)(number)
        after = repo.metrics.snapshot()
        verbs = {verb: after[verb].requests - before[verb].requests for verb in ("get", "put")}
        tell(done=role, count=int(count), repeats=saver.repeats, **verbs)


if __name__ == "__main__":
    main(*sys.argv[1:])
