"""Strands, `S3SessionManager`: an object per message, the agent's state in one more that is rewritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

from strands.session import S3SessionManager  # type: ignore[import-not-found]  # in the peers' own environment

from tests.benchmarks.peers.places import bucket_bytes
from tests.benchmarks.peers.protocol import SESSION, Contents, Place, PlainTurn
from tests.benchmarks.peers.strands_agent import MESSAGES, StrandsAgent


class StrandsS3:
    """A session of `S3SessionManager`; it keeps no history of the state."""

    PACKAGES: ClassVar = ("strands-agents", "boto3")
    MESSAGES_PER_TURN: ClassVar = MESSAGES

    def __init__(self, place: Place) -> None:
        self._place = place
        self._agent = StrandsAgent(S3SessionManager(SESSION, place.bucket, endpoint_url=place.endpoint))

    @classmethod
    def open(cls, place: Place) -> Self:
        return cls(place)

    def commit(self, turn: PlainTurn) -> None:
        self._agent.turn(turn)

    def resume(self) -> Callable[[], Contents]:
        return self._agent.contents  # an agent reads its session when it is made

    def stored_bytes(self) -> int:
        return bucket_bytes(self._place)
