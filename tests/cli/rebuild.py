"""Run as a process of its own: load every revision of every session of the transcripts, and compare with the files.

    python -m tests.cli.rebuild URL FILE…

Prints one JSON object with the number of sessions and revisions compared; fails with the first difference.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snapshots import SnapshotRepository
from snapshots.adapters.transcripts import TranscriptSession, read_transcripts, rebuild
from snapshots.state.values import json_text
from tests.data import documents


def originals(file: Path) -> Iterator[tuple[str, Any, TranscriptSession]]:
    """Yield session id, document as the file has it, and the transcript."""
    for document, session in zip(documents(file), read_transcripts(file), strict=True):
        named = file.stem if "history" in document else f"{file.stem}-{document['task_id']}-{document['trial']}"
        yield named, document, session


def compare(repo: SnapshotRepository, session_id: str, document: Any, session: TranscriptSession) -> int:
    """Return how many revisions were loaded; each is what the transcript was after that turn."""
    revisions = [info.revision for info in repo.history(session_id)]
    assert revisions == list(range(1, len(session.turns) + 1)), session_id
    for revision, turn in zip(revisions, session.turns, strict=True):
        state = repo.load(session_id, revision)
        where = f"{session_id}@{revision}"
        assert (state.head_revision, state.turn_index) == (revision, revision), where
        assert json_text(rebuild(state)) == json_text(session.document_until(revision)), where
        assert repo.read_execution_state(state) == turn.execution_state, where
        assert state.tool_state_generation == turn.tool_state.generation, where
        assert state.tool_state_snapshot == turn.tool_state, where
    assert json_text(rebuild(repo.load(session_id))) == json_text(document), session_id
    return len(revisions)


def run(url: str, files: list[Path]) -> None:
    """Compare all files with the store."""
    with SnapshotRepository.open(url, create=False) as repo:
        counts = [compare(repo, *original) for file in files for original in originals(file)]
    print(json.dumps({"sessions": len(counts), "revisions": sum(counts)}))


if __name__ == "__main__":
    run(sys.argv[1], [Path(name) for name in sys.argv[2:]])
