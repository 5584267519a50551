"""Strands, `SnapshotSessionManager` on its `S3Storage`: the whole agent as one object after each invocation."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

from strands.session import SnapshotSessionManager  # type: ignore[import-not-found]  # in the peers' own environment
from strands.storage import S3Storage  # type: ignore[import-not-found]  # in the peers' own environment

from tests.benchmarks.peers.places import bucket_bytes
from tests.benchmarks.peers.protocol import SESSION, Contents, Place, PlainTurn
from tests.benchmarks.peers.strands_agent import MESSAGES, StrandsAgent


class StrandsSnapshot:
    """The latest snapshot alone, which is the default."""

    PACKAGES: ClassVar = ("strands-agents", "boto3")
    MESSAGES_PER_TURN: ClassVar = MESSAGES

    def __init__(self, place: Place) -> None:
        self._place = place
        storage = S3Storage(place.bucket)  # takes its endpoint from the environment
        self._agent = StrandsAgent(
            SnapshotSessionManager(SESSION, storage=storage, snapshot_trigger=self._keeps_history)
        )

    @classmethod
    def open(cls, place: Place) -> Self:
        return cls(place)

    def commit(self, turn: PlainTurn) -> None:
        self._agent.turn(turn)

    def resume(self) -> Callable[[], Contents]:
        return self._agent.contents  # an agent reads its session when it is made

    def stored_bytes(self) -> int:
        return bucket_bytes(self._place)

    @staticmethod
    def _keeps_history(**_: object) -> bool:
        return False


class StrandsSnapshotHistory(StrandsSnapshot):
    """An immutable snapshot after each turn as well."""

    @staticmethod
    def _keeps_history(**_: object) -> bool:
        return True
