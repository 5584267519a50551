"""Real transcripts, committed turn by turn: what each session takes with every revision, against `gzip -9` of the file.

python -m tests.benchmarks.transcripts tests/data
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from snapshots import PersistedSessionState, TurnStamp
from snapshots.adapters.transcripts import TranscriptSession, apply_turn, read_transcripts, rebuild
from snapshots.benchmarks.places import MEMORY, new_place
from snapshots.maintenance.collect import execute, plan_collect
from tests.data import unpack

SUFFIXES = (".json", ".traj")
PACKED = ".gz"
GZIP_LEVEL = 9


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the sessions of one file take.

    Attributes:
        file: Its name.
        sessions: How many it has.
        turns: Of all of them; each is a revision that can be loaded.
        file_bytes: Its size.
        gzip_bytes: Its size after `gzip -9`.
        gzip_each_bytes: The same of each session alone, as JSON; a file of many sessions repeats itself.
        stored_bytes: Everything in the stores of its sessions, after a collection.
    """

    file: str
    sessions: int
    turns: int
    file_bytes: int
    gzip_bytes: int
    gzip_each_bytes: int
    stored_bytes: int

    @property
    def over_gzip(self) -> float:
        """Return how many times the sessions compressed each for itself go into what is stored of them."""
        return round(self.stored_bytes / self.gzip_each_bytes, 3)


def transcripts_in(directory: Path) -> Iterator[Transcript]:
    """Yield what each transcript below a directory takes, packed ones too, in the order of their paths."""
    with tempfile.TemporaryDirectory() as unpacked:
        for path in sorted(directory.rglob("*")):
            if path.name.removesuffix(PACKED).endswith(SUFFIXES):
                yield transcript(unpack(path, Path(unpacked)) if path.suffix == PACKED else path)


def transcript(file: Path) -> Transcript:
    """Return what the sessions of one file take."""
    data, sessions = file.read_bytes(), list(read_transcripts(file))
    return Transcript(
        file=file.name,
        sessions=len(sessions),
        turns=sum(len(session.turns) for session in sessions),
        file_bytes=len(data),
        gzip_bytes=len(gzip.compress(data, GZIP_LEVEL)),
        gzip_each_bytes=sum(len(gzip.compress(json_text(one.document), GZIP_LEVEL)) for one in sessions),
        stored_bytes=sum(map(stored_bytes, sessions)),
    )


def stored_bytes(session: TranscriptSession) -> int:
    """Commit a session turn by turn into a store of its own; return what is stored when garbage is collected."""
    with new_place(MEMORY) as place:
        with place.repository() as repo:
            state = PersistedSessionState(session_id=session.session_id)
            for index in range(len(session.turns)):
                apply_turn(state, session, index)
                repo.commit(state, stamp=TurnStamp(f"turn-{index}"))
            execute(plan_collect(repo))
            assert rebuild(repo.load(session.session_id)) == session.document, "what was stored is the transcript"
        return place.stored_bytes()


def json_text(document: object) -> bytes:
    """Return a document as a file would have it, without the spaces."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON object per file."""
    parser = argparse.ArgumentParser(description="Stored bytes of transcripts against gzip -9; a JSON object per file.")
    parser.add_argument("directory", type=Path)
    for one in transcripts_in(parser.parse_args(arguments).directory):
        print(json.dumps({**asdict(one), "over_gzip": one.over_gzip}), flush=True)


if __name__ == "__main__":
    main()
