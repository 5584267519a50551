"""Azurite, Microsoft's own emulator of Azure's blob service, on loopback: one process, everything in memory.

Rules:
1. It is optional on a machine, and present in CI: `INSTALL`. 2. Its one account and key are public, and its own.

    with azurite_running(directory) as endpoint:
        store = open_store(new_container_url(endpoint))
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import itertools
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote, urlsplit

from infra.servers.process import LOOPBACK, Command, one_process, program

PROGRAM = "azurite-blob"
INSTALL = "npm install --global --no-audit --no-fund azurite@3.35.0"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
AZURITE_CREDENTIALS = {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": KEY}
API_VERSION = "2021-12-02"
_numbers = itertools.count(1)


@contextmanager
def azurite_running(directory: Path) -> Iterator[str]:
    """Run Azurite; yield its endpoint, which ends with the account. Raises ServerMissingError, ServerStartError."""
    azurite = program(PROGRAM, INSTALL)

    def command(port: int) -> Command:
        place = ["--blobHost", LOOPBACK, "--blobPort", str(port), "--inMemoryPersistence"]
        # obstore speaks a later version of the protocol than this Azurite knows by name.
        return Command([azurite, *place, "--skipApiVersionCheck", "--silent", "--disableTelemetry"])

    with one_process("azurite", command, directory) as endpoint:
        yield f"{endpoint}/{ACCOUNT}"


def new_container_url(endpoint: str, prefix: str = "agents") -> str:
    """Create a container that no other test has; return the URL of a store in it."""
    container = f"test-{os.getpid()}-{next(_numbers)}"
    status, _ = signed(endpoint, "PUT", f"/{container}", {"restype": "container"})
    assert status == 201, status
    return f"az://{container}/{prefix}?account={ACCOUNT}&endpoint_url={endpoint}"


def signed(
    endpoint: str, method: str, path: str, query: dict[str, str] | None = None, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    """Send one request with a client of its own; return status and body.

    Source: Azure, "Authorize with Shared Key", blob service; API version 2021-12-02.
    """
    parts = urlsplit(endpoint)
    place = parts.path + quote(path)
    own = {name.replace("_", "-"): value for name, value in headers.items()}
    own |= {"x-ms-date": formatdate(usegmt=True), "x-ms-version": API_VERSION}
    length = str(len(body)) if body else ""
    ours = "".join(f"{name}:{value}\n" for name, value in sorted(own.items()) if name.startswith("x-ms-"))
    asked = "".join(f"\n{name}:{value}" for name, value in sorted((query or {}).items()))
    text = f"{method}\n\n\n{length}\n\n\n\n\n\n\n\n\n{ours}/{ACCOUNT}{place}{asked}"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    target = place + ("?" + "&".join(f"{name}={value}" for name, value in query.items()) if query else "")
    with closing(http.client.HTTPConnection(parts.netloc, timeout=30)) as connection:
        connection.request(
            method,
            target,
            body,
            own | {"Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": str(len(body))},
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
