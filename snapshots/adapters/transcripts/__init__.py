"""Transcripts of agent runs: read from files, replayed into sessions turn by turn, and given back exactly.

Rules:
1. A file is checked whole before anything of it is used: what cannot be stored and given back is refused, with the
   position.
2. The format is recognised by content: a tau-bench list of runs, or a SWE-agent `.traj` document.
3. A turn runs from one user message up to the next; in a `.traj` it is one step of `trajectory`.
4. `rebuild` gives the document back from the active path alone: equal to the file, whatever fields it had.

    for session in read_transcripts(Path("runs.json")):
        state = PersistedSessionState(session_id=session.session_id)
        for index in range(len(session.turns)):
            apply_turn(state, session, index)
        assert rebuild(state) == session.document
"""

from snapshots.adapters.transcripts.reading import read_transcripts
from snapshots.adapters.transcripts.session import (
    TranscriptFormat,
    TranscriptSession,
    TranscriptTurn,
    apply_turn,
    check_continues,
    rebuild,
)

__all__ = [
    "TranscriptFormat",
    "TranscriptSession",
    "TranscriptTurn",
    "apply_turn",
    "check_continues",
    "read_transcripts",
    "rebuild",
]
