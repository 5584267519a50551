"""How a record of a realtime session is stored. Pure.

Rules:
1. A record is one object: CBOR with a checksum behind it, at most RECORD_BYTES_MAX bytes.
2. Full session id and tenant stand in it, and its number; `checked` compares them with those of its key.
3. No two attempts to write a record have equal bytes: each has a write id of its own.

    data = encode("default", "s1", write_id, record)
    record = decode(data, key=key).checked("default", "s1", 7)
"""

from __future__ import annotations

from dataclasses import dataclass

from snapshots import codec
from snapshots.errors import CorruptSnapshotError, LimitExceededError
from snapshots.fields import SCHEMA_VERSION, Fields, id_bytes
from snapshots.realtime.values import RealtimeSessionRecord
from storage.keys import check_id

RECORD_BYTES_MAX = 128 << 10  # raw: frames carry references, and every reader reads records whole
QUEUED_BYTES_MAX = RECORD_BYTES_MAX - 1024  # of a frame that is held back: the request to send it must fit as well
_NAME = "realtime record"


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A decoded record, and whose it says it is."""

    key: str
    tenant: str
    session_id: str
    write_id: str
    record: RealtimeSessionRecord

    def checked(self, tenant: str, session_id: str, sequence: int) -> RealtimeSessionRecord:
        """Return the record if it belongs where it lies. Raises CorruptSnapshotError."""
        if (self.tenant, self.session_id, self.record.sequence) != (tenant, session_id, sequence):
            whose = f"record {self.record.sequence} of session {self.session_id!r} of tenant {self.tenant!r}"
            raise CorruptSnapshotError(self.key, f"this is {whose}, moved here from its own key")
        return self.record


def encode(tenant: str, session_id: str, write_id: str, record: RealtimeSessionRecord) -> bytes:
    """Return a record's bytes. Raises LimitExceededError, InvalidStateError for what is no text."""
    plain = {
        "schema_version": SCHEMA_VERSION,
        "tenant": tenant,
        "session_id": session_id,
        "write_id": id_bytes(write_id),
        "record": record.model_dump(mode="json"),
    }
    data = codec.guarded(codec.encode(plain))
    limit = QUEUED_BYTES_MAX if record.queued else RECORD_BYTES_MAX
    if len(data) > limit:
        raise LimitExceededError(f"{_NAME} of {limit} bytes", len(data))
    return data


def decode(data: bytes, *, key: str) -> StoredRecord:
    """Return what `encode` wrote. Raises CorruptSnapshotError, UnsupportedSchemaError."""
    fields = Fields(codec.decode(codec.unguarded(data, key=key), key=key), key=key, record=_NAME)
    fields.schema()
    if len(data) > RECORD_BYTES_MAX:
        raise fields.wrong(f"has {len(data)} bytes, over {RECORD_BYTES_MAX}")
    stored = StoredRecord(
        key=key,
        tenant=fields.parsed("tenant", check_id, fields.value("tenant")),
        session_id=fields.parsed("session_id", check_id, fields.value("session_id")),
        write_id=fields.raw("write_id", 16).hex(),
        record=fields.parsed("record", RealtimeSessionRecord.model_validate, fields.value("record")),
    )
    fields.nothing_else()
    if stored.record.state.session_id.value != stored.session_id:
        raise fields.wrong("holds the state of another session")
    return stored
