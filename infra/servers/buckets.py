"""A new bucket on one of these servers, made with the credentials that all of them take.

create_bucket(endpoint, "agents")
"""

from __future__ import annotations

import functools
from contextlib import closing

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.servers.process import CREDENTIALS


class BucketError(Exception):
    """The server did not make the bucket. Choose another name: 3 to 63 of a-z, 0-9 and '-'."""


def create_bucket(endpoint: str, bucket: str) -> None:
    """Create a bucket.

    Args:
        endpoint: Of one of these servers.
        bucket: Its name: 3 to 63 small letters, digits and hyphens.

    Raises:
        BucketError: The server refuses: the name is taken, or no name.
    """
    direct = Config(proxies={}, s3={"addressing_style": "path"})  # to loopback, whatever proxy is set
    with closing(_signing().client("s3", endpoint_url=endpoint, config=direct)) as client:
        try:
            client.create_bucket(Bucket=bucket)
        except (BotoCoreError, ClientError) as error:
            raise BucketError(f"bucket {bucket!r} was not made: {error}; choose 3 to 63 of a-z, 0-9 and '-'") from error


@functools.cache
def _signing() -> boto3.session.Session:
    """Return a session with the credentials: it costs 60 ms, a client of it 4 ms."""
    return boto3.session.Session(
        CREDENTIALS["AWS_ACCESS_KEY_ID"],
        CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
    )
