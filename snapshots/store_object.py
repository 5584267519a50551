"""The store object `~store`: says that this place is a store, and of which format. Created once.

facts = open_or_create(environment, create=True, url="file:sessions")
"""

from __future__ import annotations

from dataclasses import dataclass

from snapshots import codec
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, StoreNotFoundError
from snapshots.fields import STORE_VERSIONS, Fields, id_bytes
from snapshots.layout import STORE_KEY
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError
from storage.registers import Register


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What the store object says.

    Attributes:
        store_id: The store's identity.
        schema_version: The newest one that its heads may have.
    """

    store_id: str
    schema_version: int


def open_or_create(environment: Environment, *, create: bool, url: str) -> StoreFacts:
    """Check that there is a store of our format, or make one of the environment's version; return what it says.

    Raises:
        StoreNotFoundError: There is none, and `create` is False; or there cannot be one (no such bucket).
        UnsupportedSchemaError: It is of another format.
        CorruptSnapshotError: `~store` cannot be read.
    """
    register = Register(environment.store, STORE_KEY, environment.clock)
    try:
        return _checked(register)
    except NotFoundError as error:
        if not create:
            raise StoreNotFoundError(url, f"there is no store here ({error.message})") from error
    made = StoreFacts(environment.clock.new_id(), environment.schema_version)
    try:
        register.compare_and_swap(None, _encoded(made))
    except PreconditionFailedError:
        return _checked(register)  # somebody else made it meanwhile
    except NotFoundError as error:
        raise StoreNotFoundError(url, error.message) from error
    return made


def _encoded(facts: StoreFacts) -> bytes:
    return codec.encode(
        {
            "schema_version": facts.schema_version,
            "write_id": id_bytes(facts.store_id),
            "digest_algorithm": "b3",
            "probe": None,  # what a probe of the server learnt
        }
    )


def _checked(register: Register) -> StoreFacts:
    try:
        data = register.read().data
    except CorruptObjectError as error:
        raise CorruptSnapshotError(register.key, error.reason) from error
    return facts_in(data)


def facts_in(data: bytes) -> StoreFacts:
    """Return what the bytes of a store object say. Raises CorruptSnapshotError, UnsupportedSchemaError."""
    fields = Fields(codec.decode(data, key=STORE_KEY), key=STORE_KEY, record="store")
    version = fields.schema(STORE_VERSIONS)
    if fields.text("digest_algorithm") != "b3":
        raise fields.wrong("names a digest algorithm that this version does not write")
    store_id = fields.raw("write_id", 16).hex()
    fields.value("probe")
    fields.nothing_else()
    return StoreFacts(store_id, version)
