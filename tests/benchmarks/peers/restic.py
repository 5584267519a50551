"""restic: a snapshot per revision, in a repository on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Self

from tests.benchmarks.peers import files
from tests.benchmarks.peers.meters import run_command
from tests.benchmarks.peers.places import directory_bytes
from tests.benchmarks.peers.protocol import Contents, Place, PlainRevision


class Restic:
    """A repository in its present format, compression "auto", which is the default; always encrypted."""

    PACKAGES: ClassVar = ()
    PROGRAM: ClassVar = "restic"
    MESSAGES_PER_TURN: ClassVar = 0

    def __init__(self, place: Place) -> None:
        self._files, self._restored, self._stored = (place.directory / name for name in ("files", "restored", "stored"))
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(place.directory),
            "RESTIC_CACHE_DIR": str(place.directory / "cache"),
            "RESTIC_REPOSITORY": str(self._stored),
            "RESTIC_PASSWORD": "restic",
        }

    @classmethod
    def open(cls, place: Place) -> Self:
        peer = cls(place)
        if not peer._stored.exists():
            peer._files.mkdir()
            peer._restored.mkdir()
            peer._run("init")
        return peer

    def commit(self, turn: PlainRevision) -> None:
        files.write(self._files, turn)
        self._run("backup", "--quiet", ".")

    def resume(self) -> Callable[[], Contents]:
        files.clear(self._restored)
        self._run("restore", "latest", "--target", str(self._restored))
        return partial(files.read, self._restored)

    def stored_bytes(self) -> int:
        return directory_bytes(self._stored)

    def _run(self, *arguments: str) -> None:
        run_command(["restic", *arguments], self._environment, self._files)
