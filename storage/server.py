"""Servers: what differs between them, and how one is asked. An ability beside the six verbs.

Rules:
1. A store without a server (memory, a directory) has none of this: `endpoint_of` is "".
2. A variant is a put that no store sends in earnest; its answer is told as it came, and nothing is made of it here.
3. A store that was told facts sends its writes as the server understands them. What it was not told it does not guess.

    if endpoint_of(store):
        attempt_on(store, "~probe/1/a", b"one", Variant.QUOTED, version).status
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from storage.store import ObjectStore, Version


class Variant(StrEnum):
    """A put that shows what a server makes of it."""

    BARE = "bare"
    """If-Match, the version without quotes."""
    QUOTED = "quoted"
    """If-Match, the version in quotes, as RFC 9110 §8.8.3 writes it."""
    WRONG_CRC32 = "wrong-crc32"
    """With the CRC32 of other bytes (`x-amz-checksum-crc32`)."""
    WRONG_PAYLOAD = "wrong-payload"
    """With other bytes than those whose SHA-256 was signed (`x-amz-content-sha256`)."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a server answered to a variant.

    Attributes:
        status: Of the answer.
        code: What S3 calls the error; "" where it stored the object.
        date: What the answer says of the time (`Date`, RFC 9110 §6.6.1); "" where it says nothing.
    """

    status: int
    code: str
    date: str

    @property
    def is_stored(self) -> bool:
        """Say whether the object was stored."""
        return self.status < 300

    def __str__(self) -> str:
        return f"{self.status} {self.code}".rstrip()


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """In what servers differ that keep the rules; the defaults are right for all of those that were met.

    Attributes:
        quoted: Whether If-Match is understood only with the version in quotes.
        absent_status: What If-Match is answered with where nothing is: 404 tells that, 412 leaves it open.
        refuses_crc32: Whether a body that does not fit its CRC32 is refused.
        refuses_payload: Whether a body that does not fit its signed SHA-256 is refused.
        same_versions: Whether the same content has the same version again.
        keeps_conditions: Whether nothing was found by which a second writer's work would be lost.
        reads_right: Whether what was written is read, listed and gone as it should be.
    """

    quoted: bool = False
    absent_status: int = 412
    refuses_crc32: bool = False
    refuses_payload: bool = False
    same_versions: bool = True
    keeps_conditions: bool = True
    reads_right: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is kept of a probe.

    Attributes:
        endpoint: Which server, as the store names it.
        probed_at: When.
        findings: Why it is refused; none for a server that keeps its promises.
        facts: What it is like.
    """

    endpoint: str
    probed_at: datetime
    findings: tuple[str, ...]
    facts: ServerFacts

    @property
    def is_safe(self) -> bool:
        """Say whether several writers can trust the server."""
        return not self.findings


@runtime_checkable
class Server(Protocol):
    """A store that is a server, or a wrapper around any store."""

    @property
    def endpoint(self) -> str:
        """Return which server, as a URL without credentials; "" where there is none."""
        ...

    @property
    def allows_one_writer(self) -> bool:
        """Say whether a server that keeps no conditions will do, for one writer at a time (`OneWriterStore`)."""
        ...

    @property
    def variants(self) -> frozenset[Variant]:
        """Return what can be tried; none where the library that speaks to the server leaves no choice."""
        ...

    def attempt(self, key: str, data: bytes, variant: Variant, version: Version) -> Attempt:
        """Send one put, once; `version` matters to those with If-Match.

        Raises:
            PermissionDeniedError: Refused, as every request would be.
            UnavailableError: No usable answer.
        """
        ...

    def adapt(self, facts: ServerFacts) -> None:
        """Send what follows as this server understands it. Called before the store is used by others."""
        ...


def endpoint_of(store: ObjectStore) -> str:
    """Return which server a store is in; "" for none."""
    return store.endpoint if isinstance(store, Server) else ""


def allows_one_writer(store: ObjectStore) -> bool:
    """Say whether a server that keeps no conditions will do."""
    return isinstance(store, Server) and store.allows_one_writer


def variants_of(store: ObjectStore) -> frozenset[Variant]:
    """Return what can be tried there."""
    return store.variants if isinstance(store, Server) else frozenset()


def attempt_on(store: ObjectStore, key: str, data: bytes, variant: Variant, version: Version) -> Attempt:
    """Try a variant; see `Server.attempt`.

    Raises:
        TypeError: It is none of `variants_of`.
    """
    if not isinstance(store, Server) or variant not in store.variants:
        raise TypeError(f"{type(store).__name__} cannot try {variant}")
    return store.attempt(key, data, variant, version)


def adapt(store: ObjectStore, facts: ServerFacts) -> None:
    """Tell a store what its server is like; nothing to do where there is none."""
    if isinstance(store, Server):
        store.adapt(facts)


class ServerWithin:
    """What a wrapper inherits to be asked like the store in it, which is `_store`."""

    _store: ObjectStore

    @property
    def endpoint(self) -> str:
        """Return the server of the store within. See `Server.endpoint`."""
        return endpoint_of(self._store)

    @property
    def allows_one_writer(self) -> bool:
        """Say what the store within says. See `Server.allows_one_writer`."""
        return allows_one_writer(self._store)

    @property
    def variants(self) -> frozenset[Variant]:
        """Return what can be tried on the store within. See `Server.variants`."""
        return variants_of(self._store)

    def attempt(self, key: str, data: bytes, variant: Variant, version: Version) -> Attempt:
        """Try a variant on the store within. See `Server.attempt`."""
        return attempt_on(self._store, key, data, variant, version)

    def adapt(self, facts: ServerFacts) -> None:
        """Tell the store within what its server is like. See `Server.adapt`."""
        adapt(self._store, facts)
