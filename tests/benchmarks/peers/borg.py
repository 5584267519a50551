"""Borg: an archive per revision, in a repository on disk; as it comes, and tuned to small edits."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Self

from tests.benchmarks.peers import files
from tests.benchmarks.peers.meters import run_command
from tests.benchmarks.peers.places import directory_bytes
from tests.benchmarks.peers.protocol import Contents, Place, PlainRevision


class Borg:
    """A repository without encryption; chunks of 2 MiB and lz4, which are the defaults."""

    PACKAGES: ClassVar = ()
    PROGRAM: ClassVar = "borg"
    MESSAGES_PER_TURN: ClassVar = 0
    OPTIONS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, place: Place) -> None:
        self._files, self._restored, self._stored = (place.directory / name for name in ("files", "restored", "stored"))
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(place.directory),
            "BORG_BASE_DIR": str(place.directory / "cache"),
            "BORG_REPO": str(self._stored),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }

    @classmethod
    def open(cls, place: Place) -> Self:
        peer = cls(place)
        if not peer._stored.exists():
            peer._files.mkdir()
            peer._restored.mkdir()
            run_command(["borg", "init", "--encryption", "none"], peer._environment, peer._files)
        return peer

    def commit(self, turn: PlainRevision) -> None:
        files.write(self._files, turn)
        run_command(
            ["borg", "create", *self.OPTIONS, f"::r{turn.index}", files.EXECUTION_STATE, files.TRANSCRIPT],
            self._environment,
            self._files,
        )
        (self._stored.parent / "latest").write_text(f"r{turn.index}")

    def resume(self) -> Callable[[], Contents]:
        latest = (self._stored.parent / "latest").read_text()
        files.clear(self._restored)
        run_command(["borg", "extract", f"::{latest}"], self._environment, self._restored)
        return partial(files.read, self._restored)

    def stored_bytes(self) -> int:
        return directory_bytes(self._stored)


class BorgTuned(Borg):
    """Chunks of about 4 KiB, compressed with zstd."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("--chunker-params", "buzhash,10,16,12,4095", "--compression", "zstd,3")
