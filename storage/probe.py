"""`probe`: asks a server whether it keeps what commits rest on, and in what it differs from others.

Rules:
1. What commits and collections rest on and a server may break is tried, each promise under keys of its own, which are
   removed at the end. Nothing else of the store is touched. Uploads in parts are not tried: they are of packs, whose
   names are never used twice.
2. What one writer alone sees is asked first; then crowds, several times: a server that looks and then writes is right
   until two ask at once.
3. A broken promise is a finding, and the server is refused. What merely differs is a fact, and used.
4. No answer is no finding: who probes is told to try again.

    report = probe(store, "~probe/", SystemClock())
    for check in report.checks:
        print(check.name, check.seen, check.meaning)
    print(report.verdict.findings)

Source: what servers were seen to break, 2026: conditions ignored (rclone, s3rver), kept only while nobody else asks
(Swift, SeaweedFS issue 8800), If-Match on nothing creating it (MinIO issue 21526), quotes taken for a part of the
version (Ceph 16).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Literal

from storage.clock import Clock, backoff_seconds
from storage.errors import (
    CorruptObjectError,
    NotFoundError,
    PreconditionFailedError,
    StorageError,
    UnavailableError,
    UnsupportedServerError,
)
from storage.server import Attempt, ServerFacts, Variant, Verdict, adapt, attempt_on, endpoint_of, variants_of
from storage.store import ByteRange, Create, ObjectStore, Overwrite, PutMode, Replace, Version

ACTORS = 16  # in a crowd
ROUNDS = 4  # of each crowd: what is kept by luck fails in one of a few
TOGETHER_SECONDS = 60.0  # for all to stand at the line; threads that cannot be started keep nobody waiting
READS_MAX = 4  # of what a crowd left
OBJECTS = 8  # listed after they were written
_BUSY = frozenset({408, 425, 429, 503})  # says nothing of the request
_TROUBLE = frozenset({500, 502, 504})  # nor does this, most of the time

Meaning = Literal["right", "wrong", "fact"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried.

    Attributes:
        name: What was asked.
        seen: What the server did.
        meaning: "wrong" is a finding; a "fact" is neither right nor wrong.
        is_of_readers: Whether it is about reads, which are broken for a single writer as well.
    """

    name: str
    seen: str
    meaning: Meaning
    is_of_readers: bool = False


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """All that was tried, in order, and what it comes to."""

    checks: tuple[Check, ...]
    verdict: Verdict


def probe(store: ObjectStore, prefix: str, clock: Clock) -> ProbeReport:
    """Try a server: about 200 small requests. The store is told the facts.

    Args:
        store: Any; of one without a server the same promises are tried.
        prefix: Of keys that are nobody's, with a slash at its end.
        clock: Time, and an id for the scratch below the prefix.

    Raises:
        PermissionDeniedError: The credentials may not read, write, list or delete below the prefix.
        NotFoundError: There is no such bucket.
        UnavailableError: The server did not answer; nothing is known. Try again.
    """
    with _probing(store, prefix, clock) as probing:
        checks = tuple(probing.checks())
    findings = tuple(f"{check.name}: {check.seen}" for check in checks if check.meaning == "wrong")
    reading = any(check.is_of_readers for check in checks if check.meaning == "wrong")
    writing = any(not check.is_of_readers for check in checks if check.meaning == "wrong")
    facts = replace(probing.facts, keeps_conditions=not writing, reads_right=not reading)
    adapt(store, facts)
    return ProbeReport(checks, Verdict(endpoint_of(store), clock.now(), findings, facts))


def is_still(store: ObjectStore, prefix: str, clock: Clock, verdict: Verdict) -> bool:
    """Look whether a server is the one that a probe found safe, by what a single writer sees: some 20 small requests.

    Behind one endpoint there may be several, by bucket or by time. The store is told the verdict's facts if it is.

    Args:
        store: Any.
        prefix: As for `probe`.
        clock: As for `probe`.
        verdict: Of an earlier probe.

    Raises:
        PermissionDeniedError, NotFoundError, UnavailableError: As `probe`.
    """
    with _probing(store, prefix, clock) as probing:
        found = tuple(probing.alone())
    seen = replace(
        verdict.facts,
        quoted=probing.facts.quoted,
        absent_status=probing.facts.absent_status,
        same_versions=probing.facts.same_versions,
    )
    if any(check.meaning == "wrong" for check in found) or seen != verdict.facts:
        return False
    adapt(store, verdict.facts)
    return True


@contextmanager
def _probing(store: ObjectStore, prefix: str, clock: Clock) -> Iterator[_Probing]:
    """Give what tries a server; what it wrote is removed at the end."""
    probing = _Probing(store, f"{prefix}{clock.new_id()}/", clock)
    try:
        yield probing
    except BaseException:
        with suppress(StorageError):  # the error of the block is the one to tell; what is left disturbs no later probe
            probing.clear()
        raise
    probing.clear()


class _Probing:
    def __init__(self, store: ObjectStore, scratch: str, clock: Clock) -> None:
        self.facts = ServerFacts()
        self._store = store
        self._scratch = scratch
        self._clock = clock
        self._can_replace = True
        self._anew: PutMode = Create()  # how an object is written that only reads are about
        self._keys: set[str] = set()  # that may have been written

    def checks(self) -> Iterator[Check]:
        """Try everything."""
        yield from self.alone()
        if isinstance(self._anew, Create):
            yield from self._crowds()
        yield from (replace(check, is_of_readers=True) for check in self._reading())
        yield from self._bodies()

    def alone(self) -> Iterator[Check]:
        """Try what one writer sees of conditions."""
        adapt(self._store, self.facts)  # whatever it was told before
        created = self._expect("create", "stored", self._key("create"), b"first", Create())
        yield created
        if created.meaning == "right":  # every condition that is tried begins with it
            yield from self._creating()
            yield from self._how_conditions_are_written()
            yield from self._replacing()
        else:
            self._anew = Overwrite()

    def clear(self) -> None:
        """Remove what was written. Raises what keeps the first of it from being removed."""
        for failure in self._store.delete_many(sorted(self._keys)):
            raise failure.error

    def _key(self, name: str) -> str:
        self._keys.add(self._scratch + name)
        return self._scratch + name

    def _holds(self, key: str, wanted: bytes) -> bool:
        return self._read(key) == wanted

    def _read_at_last(self, key: str) -> bytes:
        """Return what a crowd left; a server that is still at it may break off in the middle of an answer."""
        for attempt in range(1, READS_MAX):
            try:
                return self._read(key)
            except UnavailableError:
                self._clock.sleep(backoff_seconds(attempt, self._clock))
        return self._read(key)

    def _read(self, key: str) -> bytes:
        """Return what is there; b"" for nothing: no probe writes that."""
        try:
            return self._store.get(key).data
        except NotFoundError:
            return b""

    # What the store's library leaves open.

    def _how_conditions_are_written(self) -> Iterator[Check]:
        """Learn first how a version is written: everything that follows needs it."""
        answers: dict[Variant, Attempt] = {}
        for variant in (Variant.BARE, Variant.QUOTED):
            if variant not in variants_of(self._store):
                continue
            key = self._key(variant.value)
            version = self._store.put(key, b"first", Create())
            answers[variant] = answer = self._attempt(key, b"second", variant, version)
            yield Check(f"If-Match, {variant}", "taken" if answer.is_stored else f"refused ({answer})", "fact")
        taken = [variant for variant, answer in answers.items() if answer.is_stored]
        troubles = [answer for answer in answers.values() if answer.status in _TROUBLE]
        if troubles and not taken:  # neither way is understood, or the one that is met with an accident
            raise UnavailableError(self._scratch, str(troubles[0]), applied="unknown")
        if taken == [Variant.QUOTED]:
            self._learn(replace(self.facts, quoted=True))

    def _attempt(self, key: str, data: bytes, variant: Variant, version: Version) -> Attempt:
        """Try a variant. Raises UnavailableError for what says only that the server is busy."""
        answer = attempt_on(self._store, key, data, variant, version)
        if answer.status in _BUSY:
            raise UnavailableError(key, str(answer), applied="unknown")
        return answer

    def _learn(self, facts: ServerFacts) -> None:
        self.facts = facts
        adapt(self._store, facts)

    # One writer.

    def _creating(self) -> Iterator[Check]:
        key = self._key("create")
        yield self._expect("create where something is", "refused", key, b"second", Create())
        yield self._kept("what is there after that create", key, b"first")

    def _replacing(self) -> Iterator[Check]:
        key = self._key("replace")
        first = self._store.put(key, b"A", Create())
        right = self._expect("replace the present version", "stored", key, b"B", Replace(first))
        yield right
        self._can_replace = right.meaning == "right"
        if not self._can_replace:
            return
        yield self._expect("replace an earlier version", "refused", key, b"lost", Replace(first))
        yield self._kept("what is there after that replace", key, b"B")
        again = self._store.put(key, b"A", Replace(self._store.stat(key).version))
        self._learn(replace(self.facts, same_versions=again == first))
        yield Check("version of the same content again", "the same" if again == first else "another", "fact")
        yield from self._replacing_nothing(first)

    def _replacing_nothing(self, version: Version) -> Iterator[Check]:
        key = self._key("nothing")
        yield self._expect("replace where nothing is", "refused", key, b"made up", Replace(version))
        if Variant.BARE in variants_of(self._store):
            variant = Variant.QUOTED if self.facts.quoted else Variant.BARE
            answer = self._attempt(key, b"made up", variant, version)
            if not answer.is_stored:
                self._learn(replace(self.facts, absent_status=answer.status))
            yield Check("If-Match where nothing is", str(answer), "fact")
        yield self._gone("what is there after it", key)

    def _expect(self, name: str, wanted: Literal["stored", "refused"], key: str, data: bytes, mode: PutMode) -> Check:
        try:
            self._store.put(key, data, mode)
        except PreconditionFailedError:
            seen = "refused"
        except UnsupportedServerError as error:
            seen = f"not understood ({'; '.join(error.findings)})"
        else:
            seen = "stored"
        if seen == wanted:
            return Check(name, seen, "right")
        return Check(name, "stored all the same" if seen == "stored" else seen, "wrong")

    def _kept(self, name: str, key: str, wanted: bytes) -> Check:
        is_kept = self._holds(key, wanted)
        return Check(name, "as it was" if is_kept else "overwritten", "right" if is_kept else "wrong")

    def _gone(self, name: str, key: str) -> Check:
        try:
            self._store.get(key)
        except NotFoundError:
            return Check(name, "nothing", "right")
        return Check(name, "an object", "wrong")

    # Many writers.

    def _crowds(self) -> Iterator[Check]:
        with ThreadPoolExecutor(ACTORS, thread_name_prefix="probe") as actors:
            creators = [self._round(actors, self._key(f"creators-{number}"), Create()) for number in range(ROUNDS)]
            yield _crowd(f"{ACTORS} create at once, {ROUNDS} times", creators)
            if self._can_replace:
                updaters = [self._updaters(actors, self._key(f"updaters-{number}")) for number in range(ROUNDS)]
                yield _crowd(f"{ACTORS} replace at once, {ROUNDS} times", updaters)

    def _updaters(self, actors: ThreadPoolExecutor, key: str) -> _Crowd:
        return self._round(actors, key, Replace(self._store.put(key, b"before", Create())))

    def _round(self, actors: ThreadPoolExecutor, key: str, mode: PutMode) -> _Crowd:
        """Let all send at once; return how it went. Raises UnavailableError if it cannot be told."""
        together = threading.Barrier(ACTORS, timeout=TOGETHER_SECONDS)

        def act(number: int) -> str:
            together.wait()
            return _outcome(lambda: self._store.put(key, _body(number), mode))

        outcomes = list(actors.map(act, range(ACTORS)))
        try:
            there = self._read_at_last(key)
        except UnavailableError:
            if outcomes.count("won") < 2:  # else it is wrong whatever is there
                raise
            return _Crowd(Counter(outcomes), "unread")
        stored = [outcome for number, outcome in enumerate(outcomes) if _body(number) == there]
        if not stored and "won" not in outcomes and not {"busy", "unknown"}.isdisjoint(outcomes):
            raise UnavailableError(key, "the server was too busy to be probed", applied="unknown")
        return _Crowd(Counter(outcomes), stored[0] if stored else "none")

    # Readers.

    def _reading(self) -> Iterator[Check]:
        keys = [self._key(f"list/{number}") for number in range(OBJECTS)]
        for key in keys:
            self._store.put(key, key.encode(), self._anew)
        yield _right("read after write", all(self._holds(key, key.encode()) for key in keys))
        yield _right("list after write, in order", self._listed() == keys)
        yield _right("list from a key on", self._listed(after=keys[2]) == keys[3:])
        self._store.delete(keys[0])
        yield self._gone("read after delete", keys[0])
        yield _right("list after delete", self._listed() == keys[1:])
        yield self._ranges()

    def _listed(self, *, after: str = "") -> list[str]:
        """Return what is listed; nothing where the store found that it is in no order."""
        try:
            return [row.key for row in self._store.list(f"{self._scratch}list/", start_after=after)]
        except UnsupportedServerError:
            return []

    def _ranges(self) -> Check:
        key = self._key("range")
        self._store.put(key, b"0123456789", self._anew)
        try:
            middle = self._store.get(key, ByteRange(2, 3)).data
            end = self._store.get(key, ByteRange(8, 100)).data
        except (CorruptObjectError, UnavailableError, UnsupportedServerError) as error:
            return Check("read a range", str(error), "wrong")
        try:
            beyond = self._store.get(key, ByteRange(10, 1)).data
        except CorruptObjectError:
            return _right("read a range", (middle, end) == (b"234", b"89"))
        return Check("read a range", f"{len(beyond)} bytes from behind the end", "wrong")

    # Bodies.

    def _bodies(self) -> Iterator[Check]:
        known = variants_of(self._store)
        date = ""
        for variant in (Variant.WRONG_CRC32, Variant.WRONG_PAYLOAD):
            if variant in known:
                answer = self._attempt(self._key(variant.value), b"as sent", variant, Version(""))
                seen = "stored" if answer.is_stored else f"refused ({answer})"
                is_checked = not answer.is_stored
                if is_checked and variant is Variant.WRONG_CRC32 and not self._takes_crc32():
                    is_checked, seen = False, f"{seen}, as is a right one"
                self._note(variant, is_checked)
                yield Check(variant.value, seen, "fact")
                date = answer.date
        if known:
            yield self._clock_of(date)

    def _takes_crc32(self) -> bool:
        """Say whether a body with the right CRC32 is stored; some servers refuse whatever has one."""
        known = self.facts
        self._learn(replace(known, refuses_crc32=True))
        try:
            self._store.put(self._key("right-crc32"), b"as sent", Overwrite())
        except UnsupportedServerError:
            return False
        except UnavailableError as error:
            if error.applied == "unknown":
                raise
            return False
        finally:
            self._learn(known)
        return True

    def _note(self, variant: Variant, is_refused: bool) -> None:
        if variant is Variant.WRONG_CRC32:
            self.facts = replace(self.facts, refuses_crc32=is_refused)
        else:
            self.facts = replace(self.facts, refuses_payload=is_refused)

    def _clock_of(self, date: str) -> Check:
        if not date:
            return Check("clock", "answers carry no date", "fact")
        try:
            seconds = round((parsedate_to_datetime(date) - self._clock.now()).total_seconds())
        except (ValueError, TypeError):
            return Check("clock", f"no date: {date[:40]!r}", "fact")
        said = "as ours" if abs(seconds) <= 1 else f"{abs(seconds)} s {'ahead' if seconds > 0 else 'behind'}"
        return Check("clock", said, "fact")


@dataclass(frozen=True, slots=True)
class _Crowd:
    """How it went.

    Attributes:
        outcomes: How many had which.
        stored: The outcome of the one whose bytes are there now; "none" of theirs, or "unread".
    """

    outcomes: Counter[str]
    stored: str

    @property
    def is_right(self) -> bool:
        won = self.outcomes["won"]
        if won == 1:
            return self.stored == "won"
        return won == 0 and self.stored == "unknown"


def _crowd(name: str, crowds: Iterable[_Crowd]) -> Check:
    crowds = list(crowds)
    if all(crowd.is_right for crowd in crowds):
        return Check(name, "one wins each time", "right")
    numbers = sorted({crowd.outcomes["won"] for crowd in crowds})
    said = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
    lost = sum(bool(crowd.outcomes["won"]) and crowd.stored not in ("won", "unread") for crowd in crowds)
    return Check(name, f"{said} win" + (f", {lost} times none of those is stored" if lost else ""), "wrong")


def _outcome(put: Callable[[], object]) -> str:
    try:
        put()
    except PreconditionFailedError:
        return "lost"
    except UnavailableError as error:
        return "unknown" if error.applied == "unknown" else "busy"
    except UnsupportedServerError:
        return "lost"
    return "won"


def _right(name: str, is_right: bool) -> Check:
    return Check(name, "right" if is_right else "wrong", "right" if is_right else "wrong")


def _body(number: int) -> bytes:
    return b"actor %02d" % number
