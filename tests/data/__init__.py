"""The transcripts that the suite replays, unpacked on demand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKED = tuple(sorted(HERE.glob("*/*.gz")))
SESSION_COUNT = 103  # 100 of tau-bench, 3 of SWE-agent


def unpack(packed: Path, folder: Path) -> Path:
    """Write the transcript into `folder` under its own name, and return its path."""
    target = folder / packed.stem
    target.write_bytes(gzip.decompress(packed.read_bytes()))
    return target


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a transcript file as plain JSON: one per session, in order."""
    found = json.loads(path.read_bytes())
    return found if isinstance(found, list) else [found]
