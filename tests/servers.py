"""What tests ask of the servers of `infra.servers`: a bucket of their own, and what processes they have.

with moto_running(directory) as endpoint:
    store = open_store(new_bucket_url(endpoint))
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from infra.servers.buckets import create_bucket

_numbers = itertools.count(1)


def new_bucket_url(endpoint: str, prefix: str = "agents") -> str:
    """Create a bucket that no other test has; return the URL of a store in it."""
    bucket = f"test-{os.getpid()}-{next(_numbers)}"
    create_bucket(endpoint, bucket)
    return f"s3://{bucket}/{prefix}?endpoint_url={endpoint}&region=us-east-1"


def processes_of(directory: Path) -> list[int]:
    """Return the ids of processes whose environment names `directory`."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = environment.read_bytes()
        except OSError:
            continue  # ended, or of another user
        if os.fsencode(directory) in content:
            found.append(int(environment.parent.name))
    return found
