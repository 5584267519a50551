"""One of two writers: a process that prepares a commit, waits for the word, and commits.

Lines on stdin: `join SESSION NAME` (load and take a turn), `create SESSION NAME` (begin a session), `go` (commit).
Each is answered by one line of JSON.

    python -m tests.integration.writer file:store
"""

from __future__ import annotations

import json
import sys
from typing import Any

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.errors import RevisionConflictError
from tests.integration.builders import new_session, take_turn


def prepared(repo: SnapshotRepository, verb: str, session_id: str, name: str) -> PersistedSessionState:
    return take_turn(repo.load(session_id), name) if verb == "join" else new_session(session_id, name)


def committed(repo: SnapshotRepository, state: PersistedSessionState) -> dict[str, Any]:
    try:
        result = repo.commit(state)
    except RevisionConflictError as error:
        return {"won": False, "expected": error.expected, "actual": error.actual}
    return {"won": True, "revision": result.head_revision, "commit_id": result.commit_id}


def main(url: str) -> None:
    with SnapshotRepository.open(url, create=False) as repo:
        state = PersistedSessionState()
        for line in sys.stdin:
            words = line.split()
            if words == ["go"]:
                answer = committed(repo, state)
            else:
                state = prepared(repo, *words)
                answer = {"ready": True}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
