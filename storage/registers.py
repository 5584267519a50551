"""`Register`: one key that is only ever changed by compare-and-swap. The only user of If-Match.

Rules:
1. Every value written holds a fresh write id, so that two writes never have equal bytes (an ETag is the MD5 of the
   content on many servers, and A→B→A must not match).
2. `swap_once` is one request and leaves the meaning of a lost answer to its caller; `compare_and_swap` finds out.
3. There is no unconditional write.

    register = Register(store, key, clock)
    version = register.compare_and_swap(None, value)
"""

from __future__ import annotations

from storage.clock import Clock, backoff_seconds
from storage.errors import Applied, NotFoundError, PreconditionFailedError, UnavailableError
from storage.store import Create, ObjectStore, Replace, StoredObject, Version

REGISTER_BYTES_MAX = 1 << 20  # every register is read whole by everyone who uses it
ATTEMPTS_MAX = 8


class Register:
    """One key, compare-and-swap only."""

    def __init__(self, store: ObjectStore, key: str, clock: Clock) -> None:
        self.key = key
        self._store = store
        self._clock = clock

    def read(self) -> StoredObject:
        """Return value and version. Raises NotFoundError, UnavailableError."""
        return self._store.get(self.key)

    def swap_once(self, expected: Version | None, value: bytes) -> Version:
        """Send one conditional PUT; `None` means "must not exist".

        Raises:
            PreconditionFailedError: Not as expected, or an earlier attempt of ours landed; read before deciding.
            UnavailableError: No answer; `applied` says whether it may have landed or may yet.
        """
        assert len(value) <= REGISTER_BYTES_MAX, "a register's limit is its record's to keep"
        return self._store.put(self.key, value, Create() if expected is None else Replace(expected))

    def compare_and_swap(self, expected: Version | None, value: bytes) -> Version:
        """Replace the register's value if it still has the expected version.

        A write whose answer was lost is recognised by its bytes (rule 1) and, while nothing changed, sent again.

        Args:
            expected: Version last read, or None to create. Never guessed.
            value: New content with a fresh write id, at most REGISTER_BYTES_MAX bytes.

        Returns:
            The version now stored.

        Raises:
            PreconditionFailedError: Someone else wrote; this write may have been applied before theirs.
            UnavailableError: Nothing was confirmed in ATTEMPTS_MAX attempts; `applied` is "no" only if none of them can
                have landed.

        Source: RFC 9110 §13.1.1 (If-Match), §13.1.2 (If-None-Match).
        """
        applied: Applied = "no"  # of all attempts together: what a read says goes for the past, not for a late write
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return self.swap_once(expected, value)
            except (PreconditionFailedError, UnavailableError) as error:
                if not isinstance(error, UnavailableError) or error.applied == "unknown":
                    applied = "unknown"
                try:
                    found = self._found()
                except UnavailableError as unread:
                    if attempt == ATTEMPTS_MAX:
                        raise UnavailableError(self.key, unread.reason, applied=applied) from unread
                else:
                    if found is not None and found.data == value:
                        return found.version
                    if (found.version if found else None) != expected:
                        raise PreconditionFailedError(self.key) from error
                    if attempt == ATTEMPTS_MAX:
                        raise UnavailableError(
                            self.key, f"no write was confirmed ({error.reason})", applied=applied
                        ) from error
            self._clock.sleep(backoff_seconds(attempt, self._clock))
        raise AssertionError("the last attempt returns or raises")

    def _found(self) -> StoredObject | None:
        try:
            return self.read()
        except NotFoundError:
            return None
