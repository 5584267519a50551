"""This package, through its public interface; on the S3 server or in a directory."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

from snapshots import PersistedSessionState, SnapshotRepository
from tests.benchmarks.peers.places import bucket_bytes, directory_bytes
from tests.benchmarks.peers.protocol import SESSION, Contents, Place, PlainRevision, PlainTurn


class Ours:
    """A session in a directory."""

    PACKAGES: ClassVar = ("blake3", "cbor2", "pydantic", "zstandard", "boto3")
    MESSAGES_PER_TURN: ClassVar = 5

    def __init__(self, place: Place) -> None:
        self._place = place
        self._repo = SnapshotRepository.open(self._url(place))
        self._state = PersistedSessionState(session_id=SESSION)

    @classmethod
    def open(cls, place: Place) -> Self:
        return cls(place)

    def commit(self, turn: PlainTurn | PlainRevision) -> None:
        turn.native.apply(self._state)
        self._repo.commit(self._state, execution_state=turn.execution_state)

    def resume(self) -> Callable[[], Contents]:
        state = self._repo.load(SESSION, execution_state=True)
        return lambda: _contents(state)

    def stored_bytes(self) -> int:
        return directory_bytes(self._place.directory)

    @staticmethod
    def _url(place: Place) -> str:
        return f"file:{place.directory}"


class OursOnS3(Ours):
    """A session in a bucket."""

    def stored_bytes(self) -> int:
        return bucket_bytes(self._place)

    @staticmethod
    def _url(place: Place) -> str:
        return f"s3://{place.bucket}/agents?endpoint_url={place.endpoint}&region=us-east-1"


def _contents(state: PersistedSessionState) -> Contents:
    tools = state.tool_state_snapshot
    return Contents(
        messages=len(state.session_graph.nodes),
        answered=state.read_view().messages[-1].parts[0].content,
        tool_state=None if tools is None else tools.model_dump(mode="json"),
        execution_state=state.execution_state_snapshot,
    )
