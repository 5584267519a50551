"""What lies in a place, and how its server is reached."""

from __future__ import annotations

import os
from pathlib import Path

import boto3

from infra.servers.process import CREDENTIALS, NOT_INHERITED
from tests.benchmarks.peers.protocol import Place


def use_server(place: Place) -> None:
    """Let every client of this process talk to the place's server, with its credentials."""
    for name in NOT_INHERITED:
        os.environ.pop(name, None)
    os.environ |= CREDENTIALS | {"AWS_ENDPOINT_URL": place.endpoint}


def bucket_bytes(place: Place) -> int:
    """Return the size of all objects in the place's bucket."""
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=place.bucket)
    return sum(entry["Size"] for page in pages for entry in page.get("Contents", ()))


def directory_bytes(directory: Path) -> int:
    """Return the size of all files in a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
