"""The store object `~store`: says that this place is a store, of which format, and what is known of its servers.

Rules:
1. It is created once. An upgrade changes its version, a probe what is known of one server; nothing else changes it.
2. A server is known by its endpoint: a store that moved is at another.

    facts = read(environment)
    facts.verdict_at("https://s3.example.com")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from snapshots import codec
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError
from snapshots.fields import STORE_VERSIONS, Fields, id_bytes, instant, micros, text_of
from snapshots.layout import STORE_KEY
from storage.errors import CorruptObjectError, PreconditionFailedError, UnavailableError
from storage.registers import Register
from storage.server import ServerFacts, Verdict
from storage.store import StoredObject

ENDPOINTS_MAX = 16  # newest; a store is reached by a few names
FINDINGS_MAX = 64  # a probe has fewer checks
ATTEMPTS_MAX = 8  # to record one verdict while others do


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What the store object says.

    Attributes:
        store_id: The store's identity.
        schema_version: The newest one that its heads may have.
        verdicts: What is known of its servers, the newest last; one for each endpoint.
    """

    store_id: str
    schema_version: int
    verdicts: tuple[Verdict, ...] = ()

    def verdict_at(self, endpoint: str) -> Verdict | None:
        """Return what is known of a server; None before it was probed."""
        return next((verdict for verdict in self.verdicts if verdict.endpoint == endpoint), None)

    def knowing(self, verdict: Verdict) -> StoreFacts:
        """Return these facts with one more verdict, which replaces an earlier one of its endpoint."""
        others = tuple(one for one in self.verdicts if one.endpoint != verdict.endpoint)
        return replace(self, verdicts=(*others, verdict)[-ENDPOINTS_MAX:])


def read(environment: Environment) -> StoreFacts:
    """Return what the store object says.

    Raises:
        NotFoundError: There is none.
        UnsupportedSchemaError: It is of another format.
        CorruptSnapshotError: It cannot be read.
    """
    return facts_in(_read(environment).data)


def make(environment: Environment, *verdicts: Verdict) -> StoreFacts:
    """Create a store object of the environment's version; return what it says, or somebody else's who was faster.

    Raises:
        NotFoundError: There cannot be one (no such bucket).
    """
    facts = StoreFacts(environment.clock.new_id(), environment.schema_version, verdicts)
    try:
        Register(environment.store, STORE_KEY, environment.clock).compare_and_swap(None, encoded(facts))
    except PreconditionFailedError:
        return read(environment)
    return facts


def record(environment: Environment, *verdicts: Verdict) -> StoreFacts:
    """Write down what is known of servers; return what the store object says then.

    Raises:
        NotFoundError: There is no store.
        PermissionDeniedError: The credentials may not write the store object.
        UnavailableError: It was not confirmed.
    """
    register = Register(environment.store, STORE_KEY, environment.clock)
    for _ in range(ATTEMPTS_MAX):
        found = _read(environment)
        facts = facts_in(found.data)
        if not verdicts:
            return facts
        for verdict in verdicts:
            facts = facts.knowing(verdict)
        try:
            register.compare_and_swap(found.version, encoded(facts))
        except PreconditionFailedError:
            continue
        return facts
    raise UnavailableError(STORE_KEY, "the store object never stood still; probe again", applied="no")


def encoded(facts: StoreFacts) -> bytes:
    """Return the bytes of a store object."""
    return codec.encode(
        {
            "schema_version": facts.schema_version,
            "write_id": id_bytes(facts.store_id),
            "digest_algorithm": "b3",
            "probe": [_verdict_to_plain(verdict) for verdict in facts.verdicts] or None,
        }
    )


def facts_in(data: bytes) -> StoreFacts:
    """Return what the bytes of a store object say. Raises CorruptSnapshotError, UnsupportedSchemaError."""
    fields = Fields(codec.decode(data, key=STORE_KEY), key=STORE_KEY, record="store")
    version = fields.schema(STORE_VERSIONS)
    if fields.text("digest_algorithm") != "b3":
        raise fields.wrong("names a digest algorithm that this version does not write")
    store_id = fields.raw("write_id", 16).hex()
    verdicts = () if fields.value("probe") is None else fields.rows("probe", _verdict_from_plain, ENDPOINTS_MAX)
    fields.nothing_else()
    return StoreFacts(store_id, version, verdicts)


def _read(environment: Environment) -> StoredObject:
    try:
        return Register(environment.store, STORE_KEY, environment.clock).read()
    except CorruptObjectError as error:
        raise CorruptSnapshotError(STORE_KEY, error.reason) from error


def _verdict_to_plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "endpoint": verdict.endpoint,
        "probed_at": micros(verdict.probed_at),
        "findings": list(verdict.findings),
        "facts": asdict(verdict.facts),
    }


def _verdict_from_plain(plain: Mapping[str, Any]) -> Verdict:
    fields = Fields(plain, key=STORE_KEY, record="probe")
    verdict = Verdict(
        fields.text("endpoint"),
        fields.parsed("probed_at", instant, fields.value("probed_at")),
        fields.rows("findings", text_of, FINDINGS_MAX),
        fields.parsed("facts", _facts_from_plain, fields.value("facts")),
    )
    fields.nothing_else()
    return verdict


def _facts_from_plain(plain: Mapping[str, Any]) -> ServerFacts:
    fields = Fields(plain, key=STORE_KEY, record="probe's facts")
    facts = ServerFacts(
        quoted=fields.flag("quoted"),
        absent_status=fields.integer("absent_status", 100, 599),
        refuses_crc32=fields.flag("refuses_crc32"),
        refuses_payload=fields.flag("refuses_payload"),
        same_versions=fields.flag("same_versions"),
        keeps_conditions=fields.flag("keeps_conditions"),
        reads_right=fields.flag("reads_right"),
    )
    fields.nothing_else()
    return facts
