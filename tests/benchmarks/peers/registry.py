"""The peers by name. A peer's module is imported in its own process only."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

HERE = "tests.benchmarks.peers"
Workload = Literal["turns", "states"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A peer, and what it stands beside.

    Attributes:
        module: Of this package.
        name: Of the class.
        workload: What it stores.
        ours: Ours on the same ground.
        note: What one should know of its figures.
    """

    module: str
    name: str
    workload: Workload
    ours: str
    note: str

    def load(self) -> Any:
        """Import the peer."""
        return getattr(import_module(f"{HERE}.{self.module}"), self.name)


OURS = {
    "ours_s3": Entry("ours", "OursOnS3", "turns", "", "every revision"),
    "ours_file": Entry("ours", "Ours", "turns", "", "every revision"),
}
NO_STATE = "messages alone: no place for tool state and execution state"
PEERS = {
    "strands_s3": Entry("strands_s3", "StrandsS3", "turns", "ours_s3", "latest state only"),
    "strands_snapshot": Entry("strands_snapshot", "StrandsSnapshot", "turns", "ours_s3", "latest snapshot only"),
    "strands_snapshot_history": Entry(
        "strands_snapshot", "StrandsSnapshotHistory", "turns", "ours_s3", "every revision"
    ),
    "langgraph_dynamodb": Entry("langgraph_dynamodb", "LangGraphDynamoDB", "turns", "ours_s3", "every revision"),
    "langgraph_dynamodb_gzip": Entry(
        "langgraph_dynamodb", "LangGraphDynamoDBCompressed", "turns", "ours_s3", "every revision"
    ),
    "langgraph_sqlite": Entry("langgraph_sqlite", "LangGraphSqlite", "turns", "ours_file", "every revision"),
    "openai_sqlite": Entry("openai_sqlite", "OpenAISqlite", "turns", "ours_file", NO_STATE),
    "restic": Entry("restic", "Restic", "states", "ours_file", "every revision"),
    "borg": Entry("borg", "Borg", "states", "ours_file", "every revision"),
    "borg_tuned": Entry("borg", "BorgTuned", "states", "ours_file", "every revision"),
}


def entry(name: str) -> Entry:
    """Return the entry of a peer or of ours."""
    return OURS.get(name) or PEERS[name]
