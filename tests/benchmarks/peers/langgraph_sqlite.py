"""LangGraph, `SqliteSaver`: a row per checkpoint, with the whole state in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Self

from langgraph.checkpoint.sqlite import SqliteSaver  # type: ignore[import-not-found]  # in the peers' own environment

from tests.benchmarks.peers.langgraph_state import MESSAGES, LangGraphThread, contents
from tests.benchmarks.peers.protocol import Contents, Place, PlainTurn


class LangGraphSqlite:
    """A thread in a database file."""

    PACKAGES: ClassVar = ("langgraph", "langgraph-checkpoint", "langgraph-checkpoint-sqlite")
    MESSAGES_PER_TURN: ClassVar = MESSAGES

    def __init__(self, place: Place) -> None:
        self._file = place.directory / "checkpoints.sqlite"
        self._connection = sqlite3.connect(self._file, check_same_thread=False)
        self._thread = LangGraphThread(SqliteSaver(self._connection))

    @classmethod
    def open(cls, place: Place) -> Self:
        return cls(place)

    def commit(self, turn: PlainTurn) -> None:
        self._thread.put(turn)

    def resume(self) -> Callable[[], Contents]:
        return partial(contents, self._thread.get())

    def stored_bytes(self) -> int:
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # takes the write-ahead log into the database
        return self._file.stat().st_size
