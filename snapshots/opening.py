"""Opening a store: its store object is read, or made, and its server is admitted.

Rules:
1. A server is asked before a store is made there, and when a store is opened at an endpoint that it does not know; the
   verdict lands in the store object. A store without a server (memory, a directory) is not asked.
2. A server that would lose work is refused. If it is only conditions that it does not keep, its store may allow it for
   one writer at a time (`OneWriterStore`); then each opening says so.
3. Who may not ask, as credentials of readers may not, reads, and writes nothing.
4. A process asks a server once whether it is safe for many, and then only whether it is still the same one;
   `probe_server` asks again.

    opened = open_store_object(environment, create=True, url="s3://bucket")
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from snapshots import store_object
from snapshots.environment import Environment
from snapshots.errors import StoreNotFoundError
from snapshots.layout import PROBE_PREFIX, Layout
from snapshots.operations import operation
from snapshots.store_object import StoreFacts
from storage.clock import Clock, SystemClock
from storage.errors import NotFoundError, PermissionDeniedError, UnsupportedServerError
from storage.executor import InlineExecutor
from storage.server import Verdict, adapt, allows_one_writer, endpoint_of
from storage.store import ObjectStore
from storage.wrappers.metered import MeteredStore
from storage.wrappers.observed import observed
from storage.wrappers.one_writer import OneWriterStore
from storage.wrappers.read_only import ReadOnlyStore

if TYPE_CHECKING:
    from storage.probe import ProbeReport

_NOT_PROBED = "nobody has probed this server, and these credentials may not"
_PROBE_IT = "run snapshots probe with credentials that may write ~probe/ and ~store"
_USE_ANOTHER = "use another server: on this one not even a single writer reads what it wrote"
_PROBE_AGAIN = "run snapshots probe if the server changed since it was probed,"
_USE_ANOTHER_OR_ONE_WRITER = (
    "use a server that keeps the conditions of writes; only where a single process at a time writes, "
    "add one_writer=yes to the URL"
)

logger = logging.getLogger("snapshots")


@dataclass(frozen=True, slots=True)
class Opened:
    """A store that may be worked on.

    Attributes:
        facts: What its store object says.
        store: What to work with: the store, or what guards it.
        findings: What its server does not keep, where one writer at a time was allowed; else none.
    """

    facts: StoreFacts
    store: ObjectStore
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probed:
    """What `probe_server` did.

    Attributes:
        report: What was tried, and the verdict.
        is_recorded: Whether the verdict stands in a store object.
        is_made: Whether that was made now.
        is_there: Whether there is a store now; one without a server has nothing to remember.
    """

    report: ProbeReport
    is_recorded: bool
    is_made: bool
    is_there: bool


def open_store_object(environment: Environment, *, create: bool, url: str) -> Opened:
    """Check that there is a store of our format on a server that can be trusted, or make one.

    Args:
        environment: Where.
        create: Whether to make a store of the environment's version where there is none.
        url: How to name the store in errors.

    Raises:
        StoreNotFoundError: There is none, and `create` is False; or there cannot be one (no such bucket).
        UnsupportedSchemaError: It is of another format.
        CorruptSnapshotError: `~store` cannot be read.
        UnsupportedServerError: The server would lose work.
        PermissionDeniedError: A store is to be made, and these credentials may not.
        UnavailableError: The store did not answer.
    """
    endpoint = endpoint_of(environment.store)
    try:
        facts = store_object.read(environment)
    except NotFoundError as error:
        if not create:
            raise StoreNotFoundError(url, f"there is no store here ({error.message})") from error
        try:
            facts = _made(environment)
        except NotFoundError as missing:
            reason = f"no store can be made here ({missing.message})"
            raise StoreNotFoundError(url, reason, remedy="check the URL") from missing
    if not endpoint:
        return Opened(facts, environment.store)
    verdict = facts.verdict_at(endpoint)
    if verdict is not None:
        _check(environment, verdict, remedy=f"; {_PROBE_AGAIN} {verdict.probed_at:%Y-%m-%d}")
    else:
        try:
            verdict = _asked(environment)
            facts = _recorded(environment, verdict)
        except PermissionDeniedError as error:
            if verdict is not None:  # found, but may not be written down
                _check(environment, verdict)
            logger.warning("%s is open for reading only: %s (%s)", url, _NOT_PROBED, error.reason)
            return Opened(facts, ReadOnlyStore(environment.store, f"{_NOT_PROBED} ({error.reason})", remedy=_PROBE_IT))
        _check(environment, verdict)
    if not verdict.is_safe:
        logger.warning("%s: one writer at a time, or work is lost: %s", url, "; ".join(verdict.findings))
    return Opened(facts, _guarded(environment, verdict).store, verdict.findings)


def probe_server(store: ObjectStore, *, create: bool = False, clock: Clock | None = None) -> Probed:
    """Probe the server of a store, whatever is known of it, and write the verdict down where there is a store.

    Args:
        store: What `storage.backends.open_store` gives, and nobody uses yet: it forgets what it was told.
        create: Whether to make a store where there is none, if the server is safe.
        clock: Time and ids; tests pass their own.

    Raises:
        NotFoundError: There is no such bucket.
        PermissionDeniedError: The credentials may not probe, or not write the store object.
        UnavailableError: The server did not answer; nothing is known.
    """
    environment = Environment(MeteredStore(observed(store)), Layout("~"), clock or SystemClock(), InlineExecutor())
    report = _report(environment)
    verdict = report.verdict
    _asked.learn(verdict)
    guarded = _guarded(environment, verdict)
    known = (verdict,) if verdict.endpoint else ()
    try:
        _recorded(environment, *known)
    except NotFoundError:
        if not create or not is_admitted(store, verdict):
            return Probed(report, is_recorded=False, is_made=False, is_there=False)
        _make(guarded, *known)
        return Probed(report, is_recorded=bool(known), is_made=True, is_there=True)
    return Probed(report, is_recorded=bool(known), is_made=False, is_there=True)


def refusal(verdict: Verdict, *, remedy: str = "") -> UnsupportedServerError:
    """Return the error that says why a server is refused, and what would help; `remedy` is said at its end."""
    helps = _USE_ANOTHER_OR_ONE_WRITER if verdict.facts.reads_right else _USE_ANOTHER
    return UnsupportedServerError(verdict.findings, remedy=helps + remedy)


def is_admitted(store: ObjectStore, verdict: Verdict) -> bool:
    """Say whether a store may be worked on: its server is safe, or keeps no conditions and that is allowed."""
    return verdict.is_safe or (verdict.facts.reads_right and allows_one_writer(store))


def _made(environment: Environment) -> StoreFacts:
    if not endpoint_of(environment.store):
        return _make(environment)
    verdict = _asked(environment)
    _check(environment, verdict)
    return _make(_guarded(environment, verdict), verdict)


@operation("probe", "environment")
def _recorded(environment: Environment, *verdicts: Verdict) -> StoreFacts:
    """Write verdicts down, with whatever conditions the server keeps: others may write the store object as well."""
    try:
        return store_object.record(environment, *verdicts)
    except UnsupportedServerError:  # it knows no conditions; so look instead
        return store_object.record(_looking(environment, verdicts[0]), *verdicts)


@operation("create", "environment")
def _make(environment: Environment, *verdicts: Verdict) -> StoreFacts:
    return store_object.make(environment, *verdicts)


def _check(environment: Environment, verdict: Verdict, *, remedy: str = "") -> None:
    if not is_admitted(environment.store, verdict):
        raise refusal(verdict, remedy=remedy)


def _guarded(environment: Environment, verdict: Verdict) -> Environment:
    """Return an environment whose store knows its server, and keeps conditions, if only for one writer at a time."""
    is_guarded = verdict.is_safe or allows_one_writer(environment.store)
    if not is_guarded:
        return _looking(environment, verdict)
    adapt(environment.store, verdict.facts)
    return environment


def _looking(environment: Environment, verdict: Verdict) -> Environment:
    store = OneWriterStore(environment.store)
    adapt(store, verdict.facts)
    return replace(environment, store=store)


@operation("probe", "environment")
def _report(environment: Environment) -> ProbeReport:
    from storage.probe import probe  # a process that opens a known store does without

    return probe(environment.store, PROBE_PREFIX, environment.clock)


@operation("probe", "environment")
def _is_still(environment: Environment, verdict: Verdict) -> bool:
    from storage.probe import is_still

    return is_still(environment.store, PROBE_PREFIX, environment.clock, verdict)


class _Asked:
    """The good verdicts of this process, by endpoint (rule 4)."""

    def __init__(self) -> None:
        self._verdicts: dict[str, Verdict] = {}

    def __call__(self, environment: Environment) -> Verdict:
        known = self._verdicts.get(endpoint_of(environment.store))
        if known is not None and _is_still(environment, known):
            return known
        verdict = _report(environment).verdict
        self.learn(verdict)
        return verdict

    def learn(self, verdict: Verdict) -> None:
        """Keep a verdict if it is good; a server that was mended is not refused by memory."""
        self._verdicts.pop(verdict.endpoint, None)
        if verdict.is_safe:
            self._verdicts[verdict.endpoint] = verdict


_asked = _Asked()
