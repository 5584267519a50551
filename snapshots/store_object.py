"""The store object `~store`: says that this place is a store, and of which format. Created once.

open_or_create(environment, create=True, url="file:sessions")
"""

from __future__ import annotations

from snapshots import codec
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, StoreNotFoundError
from snapshots.fields import SCHEMA_VERSION, Fields, id_bytes
from snapshots.layout import STORE_KEY
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError
from storage.registers import Register


def open_or_create(environment: Environment, *, create: bool, url: str) -> str:
    """Check that there is a store of our format, or make one; return its id.

    Raises:
        StoreNotFoundError: There is none, and `create` is False; or there cannot be one (no such bucket).
        UnsupportedSchemaError: It is of another format.
        CorruptSnapshotError: `~store` cannot be read.
    """
    register = Register(environment.store, STORE_KEY, environment.clock)
    try:
        return _checked_id(register)
    except NotFoundError as error:
        if not create:
            raise StoreNotFoundError(url, f"there is no store here ({error.message})") from error
    store_id = environment.clock.new_id()
    try:
        register.compare_and_swap(None, _encoded(store_id))
    except PreconditionFailedError:
        return _checked_id(register)  # somebody else made it meanwhile
    except NotFoundError as error:
        raise StoreNotFoundError(url, error.message) from error
    return store_id


def _encoded(write_id: str) -> bytes:
    return codec.encode(
        {
            "schema_version": SCHEMA_VERSION,
            "write_id": id_bytes(write_id),
            "digest_algorithm": "b3",
            "probe": None,  # what a probe of the server learnt
        }
    )


def _checked_id(register: Register) -> str:
    try:
        data = register.read().data
    except CorruptObjectError as error:
        raise CorruptSnapshotError(register.key, error.reason) from error
    fields = Fields(codec.decode(data, key=STORE_KEY), key=STORE_KEY, record="store")
    fields.schema()
    if fields.text("digest_algorithm") != "b3":
        raise fields.wrong("names a digest algorithm that this version does not write")
    store_id = fields.raw("write_id", 16).hex()
    fields.value("probe")
    fields.nothing_else()
    return store_id
