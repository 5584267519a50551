"""Epochs: the register that gives collections their numbers, and raising a head to one.

Rules:
1. A number is given once, to the run whose id stands beside it; one that was not confirmed is never used.
2. Only collectors, and forks that help a lagging source, take numbers and raise the epoch of a head.

    number = take_number(environment)
"""

from __future__ import annotations

from dataclasses import replace

from snapshots import codec
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError
from snapshots.fields import SCHEMA_VERSION, U64_MAX, Fields, id_bytes
from snapshots.head import Head
from storage.clock import backoff_seconds
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError, UnavailableError
from storage.registers import Register
from storage.store import Version

ATTEMPTS_MAX = 32  # against other collectors and helpers, each of whom takes one


def take_number(environment: Environment, *, above: int = 0) -> int:
    """Take the next number of a collection.

    Args:
        environment: Whose register.
        above: A number met on a head; the one taken is larger.

    Raises:
        UnavailableError: No number was confirmed; one may be lost, which is harmless.
    """
    register = Register(environment.store, environment.layout.epoch, environment.clock)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        given, version = _given(environment, register)
        number = max(given, above) + 1
        try:
            register.compare_and_swap(version, _encoded(environment, number))
            return number
        except PreconditionFailedError:
            environment.clock.sleep(backoff_seconds(attempt, environment.clock))
    raise UnavailableError(register.key, "others took every number tried; try again", applied="no")


def _encoded(environment: Environment, number: int) -> bytes:
    """Return the register's value; the run id in it makes every write its own."""
    record = codec.encode(
        {
            "schema_version": SCHEMA_VERSION,
            "tenant": environment.layout.tenant,
            "run_id": id_bytes(environment.clock.new_id()),
            "number": number,
        }
    )
    return codec.guarded(record)


def _given(environment: Environment, register: Register) -> tuple[int, Version | None]:
    """Return the last number given, 0 before the first, and the register's version."""
    try:
        stored = register.read()
    except NotFoundError:
        return 0, None
    except CorruptObjectError as error:
        raise CorruptSnapshotError(register.key, error.reason) from error
    fields = Fields(
        codec.decode(codec.unguarded(stored.data, key=register.key), key=register.key), key=register.key, record="epoch"
    )
    fields.schema()
    if fields.text("tenant") != environment.layout.tenant:
        raise fields.wrong("is another tenant's, moved here from its own key")
    fields.raw("run_id", 16)
    number = fields.integer("number", 1, U64_MAX - 1)  # another one must follow
    fields.nothing_else()
    return number, stored.version


def raised(head: Head, number: int) -> Head | None:
    """Return `head` raised to a number, None if it is there already or above."""
    return None if head.epoch >= number else replace(head, epoch=number)
