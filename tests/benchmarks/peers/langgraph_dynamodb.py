"""LangGraph, `DynamoDBSaver` with payloads in S3: two items or an item and an object per checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

import boto3
from langgraph_checkpoint_aws import DynamoDBSaver  # type: ignore[import-not-found]  # in the peers' own environment

from tests.benchmarks.peers.langgraph_state import MESSAGES, LangGraphThread, contents
from tests.benchmarks.peers.places import bucket_bytes
from tests.benchmarks.peers.protocol import Contents, Place, PlainTurn

KEYS = (("PK", "HASH"), ("SK", "RANGE"))


class LangGraphDynamoDB:
    """A thread in a table and a bucket of the same name."""

    PACKAGES: ClassVar = ("langgraph", "langgraph-checkpoint", "langgraph-checkpoint-aws", "boto3")
    MESSAGES_PER_TURN: ClassVar = MESSAGES
    COMPRESSED: ClassVar = False

    def __init__(self, place: Place) -> None:
        self._place = place
        saver = DynamoDBSaver(
            place.bucket,
            endpoint_url=place.endpoint,
            enable_checkpoint_compression=self.COMPRESSED,
            s3_offload_config={"bucket_name": place.bucket, "endpoint_url": place.endpoint},
        )
        self._thread = LangGraphThread(saver)

    @classmethod
    def open(cls, place: Place) -> Self:
        return cls(place)

    @staticmethod
    def prepare(place: Place) -> None:
        """Create the table, which the saver expects to be there."""
        boto3.client("dynamodb").create_table(
            TableName=place.bucket,
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in KEYS],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in KEYS],
            BillingMode="PAY_PER_REQUEST",
        )

    def commit(self, turn: PlainTurn) -> None:
        self._thread.put(turn)

    def resume(self) -> Callable[[], Contents]:
        return partial(contents, self._thread.get())

    def stored_bytes(self) -> int:
        pages = boto3.client("dynamodb").get_paginator("scan").paginate(TableName=self._place.bucket)
        return bucket_bytes(self._place) + sum(_item_bytes(item) for page in pages for item in page["Items"])


class LangGraphDynamoDBCompressed(LangGraphDynamoDB):
    """The same with its own compression, gzip."""

    COMPRESSED: ClassVar = True


def _item_bytes(item: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(len(name) + sum(len(value) for value in values.values()) for name, values in item.items())
