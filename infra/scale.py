"""How far it goes: the request model beside what was measured, and what follows from it for large stores.

Rules:
1. Predicted counts equal measured ones (`infra.sizing.model`). What was measured at 10^2 to 10^5 sessions lies in
   `infra/scale_measured.json`; a test measures 10^2 and 10^3 again.
2. Times are waits at a latency, or the CPU of the requests if that is more; the latency is an assumption that can be
   given, the CPU was measured.
3. `infra/SCALE.md` holds what this program prints; `--write` puts it there.

    python -m infra.scale
    python -m infra.scale --measure 1000
    python -m infra.scale --measure 100000 --keep
"""

from __future__ import annotations

import argparse
import json
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

from infra.costs import sessions_measured
from infra.sizing.contention import DELAY_SECONDS, contended, waited
from infra.sizing.counts import Counts, pages
from infra.sizing.fleet_work import OPERATIONS
from infra.sizing.fleets import Fleet
from infra.sizing.measuring import Measured, fleet_of, measured_apart
from infra.sizing.model import Way, collection, predicted, seconds, waits
from infra.sizing.prices import PRICES, bill
from infra.sizing.request_cpu import request_cpu
from infra.sizing.server_limits import (
    LATENCY_SECONDS,
    S3_READS_PER_SECOND,
    S3_WRITES_PER_SECOND,
    attempts_at,
    hottest_share,
    partitions_for,
)
from infra.sizing.workloads import WORKLOADS
from infra.tables import dollars, duration, number, replaced, size, table
from snapshots.benchmarks.machine import machine
from snapshots.layout import Layout
from snapshots.maintenance.marks import MARK_BYTES, ROW_BYTES, ROWS_BYTES_MAX
from snapshots.maintenance.progress import Progress, quiet
from snapshots.repository import THREADS_MAX
from storage.digest import short_hash

HERE = Path(__file__).parent
MEASURED, DOCUMENT = HERE / "scale_measured.json", HERE / "SCALE.md"
LARGE = (10**6, 10**7, 10**8)
DAY_SECONDS = 86_400
WRITERS = (1, 2, 4, 8, 16)
CONTENTION_SECONDS = 3.0
WAITED = ("ls", "tree", "verify --level heads", "collect --dry-run", "collect", "copy, the first")
WAITED_FLEET = Fleet(1000, forks=100, deleted=50, reserved=1, records=10)
REQUESTS_TIMED = 2000
RATES = (10**3, 10**4, 10**5)
POWERS_MAX = 10  # sessions of a tenant are looked at up to this power of ten
IDS, PARTITIONS = 10_000, 64  # keys for which the hottest of so many partitions is looked for
HEAD_PREFIXES = 256  # two hex digits


def stored() -> dict[str, Any]:
    """Return what was measured, as it is stored."""
    found: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return found


def fleets_measured() -> dict[int, list[Measured]]:
    """Return what was measured of fleets, by their sessions, smallest first."""
    found = stored()["fleets"]
    return {size: [Measured.from_json(one) for one in found[str(size)]] for size in sorted(map(int, found))}


def cpu_seconds() -> float:
    """Return the CPU that a client needs for a request, as measured: of a GET."""
    found: float = stored()["request_cpu"]["get_ms"] / 1000
    return found


# Tables.


def counts_table(sessions: int, rows: Sequence[Measured]) -> str:
    """Return predicted beside measured counts."""
    fleet = fleet_of(sessions)
    lines = []
    for one in rows:
        model = predicted(one.name, fleet)
        both = (
            (model.source, one.done.source.without_bytes()),
            (model.destination, one.done.destination.without_bytes()),
        )
        shown = [f"{mine}" if mine == theirs else f"{mine} **≠** {theirs}" for mine, theirs in both]
        lines.append([f"`{one.name}`", *shown, size(_bytes(one)), f"{one.seconds:,.1f} s", size(one.memory_bytes)])
    head = ("operation", "requests: predicted = measured", "at the destination", "bytes", "in a directory", "memory")
    return table(head, lines)


def _bytes(one: Measured) -> int:
    both = one.done.source + one.done.destination
    return both.bytes_in + both.bytes_out


def per_session_table() -> str:
    """Return what a session adds to each operation: requests from the model, bytes and memory measured."""
    measured = fleets_measured()
    largest = max(measured)
    smaller = sorted(measured)[-2]
    heads, fewer = fleet_of(largest).heads, fleet_of(smaller).heads
    lines = []
    for one, before in zip(measured[largest], measured[smaller], strict=True):
        memory = max(0.0, (one.memory_bytes - before.memory_bytes) / (heads - fewer))
        model = predicted(one.name, fleet_of(largest))
        requests = (model.source + model.destination).requests
        at = [size(memory * fleet_of(count).heads) if memory >= 1 else "–" for count in LARGE]
        lines.append([f"`{one.name}`", number(requests / heads), size(_bytes(one) / heads), f"{number(memory)} B", *at])
    head = ("operation", "requests per head", "bytes per head", "memory per head")
    return table((*head, *(f"memory, {_power(count)} sessions" for count in LARGE)), lines)


def large_table(latency_seconds: float) -> str:
    """Return requests, price and time of each operation on large stores."""
    lines, cpu = [], cpu_seconds()
    for name in OPERATIONS:
        cells = []
        for count in LARGE:
            fleet = fleet_of(count)
            cost = predicted(name, fleet)
            both = cost.source + cost.destination
            taken = seconds(name, fleet, latency_seconds=latency_seconds, cpu_seconds=cpu)
            cells.append(f"{_short(both.requests)}, {dollars(bill(both, PRICES['s3']))}, {duration(taken)}")
        lines.append([f"`{name}`", *cells])
    return table(("operation", *(f"{_power(count)} sessions" for count in LARGE)), lines)


CHANGES: Sequence[tuple[str, dict[str, Any]]] = (
    ("as it is", {}),
    ("heads whose family the plan has seen are not read again", {"rereads": False}),
    ("heads listed by their 256 prefixes, 32 at a time", {"listers": 32}),
    ("families listed and heads raised 32 at a time, heads read so too", {"raisers": 32, "threads": 32}),
    ("batches of 1,000,000 packs instead of 20,000", {"packs_at_once": 1_000_000}),
    ("one batch shared by 32 processes, by prefix", {"processes": 32}),
)


def ways() -> Iterator[tuple[str, Way]]:
    """Yield ways of a collection: as it is, with one change after the other, and as it is in a hundred tenants."""
    added = accumulate((change for _, change in CHANGES), lambda before, more: before | more)
    for (words, _), fields in zip(CHANGES, added, strict=True):
        yield words, Way(**fields)
    yield "as it is, in 100 tenants, 32 processes with one each", Way(tenants=100, processes=32)


def changes_table(sessions: int, latency_seconds: float) -> str:
    """Return what a collection of a large store costs as it is, and with changes, each added to those above."""
    lines = []
    for words, way in ways():
        found = collection(fleet_of(sessions), way)
        taken = max(found.waits * latency_seconds, found.counts.requests * cpu_seconds() / way.processes)
        each = Counts(list=found.counts.list), Counts(get=found.counts.get), Counts(put=found.counts.put)
        lines.append(
            [
                words,
                f"{found.batches:,}",
                *(_short(one.requests) for one in each),
                dollars(bill(found.counts, PRICES["s3"])),
                duration(found.waits * latency_seconds),
                duration(taken),
            ]
        )
    head = ("collection", "batches", "LIST", "GET", "PUT", "S3", "waits", "waits or CPU")
    return table(head, lines)


def listings_table(latency_seconds: float) -> str:
    """Return what R2 asks of every batch: two complete listings of the heads."""
    lines = []
    for count in (10**5, *LARGE):
        heads = fleet_of(count).heads
        listed = 2 * pages(heads)
        sharded = 2 * pages(-(-heads // HEAD_PREFIXES))
        cost = bill(Counts(list=listed), PRICES["s3"])
        first = heads / THREADS_MAX * latency_seconds
        lines.append(
            [
                _power(count),
                f"{listed:,}",
                dollars(cost),
                duration(listed * latency_seconds),
                duration(sharded * latency_seconds),
                f"{heads:,}, {duration(first)}",
            ]
        )
    head = ("sessions", "pages of a batch", "S3", "page by page", "256 prefixes at once", "heads read by the first")
    return table(head, lines)


def rates_table() -> str:
    """Return what commits per second ask of prefixes: each is a write of a head and one of a pack."""
    shares = hot_shares()
    lines = []
    for rate in RATES:
        needed = partitions_for(rate, S3_WRITES_PER_SECOND)
        lines.append(
            [
                f"{rate:,}",
                f"{rate / HEAD_PREFIXES:,.0f}",
                str(needed),
                *(f"{rate * share:,.0f} ({rate * share / S3_WRITES_PER_SECOND:.2g} ×)" for share in shares.values()),
                f"{rate / S3_READS_PER_SECOND:.2g} ×",
            ]
        )
    head = ("commits per second", "writes of each `heads/<hh>/`", "partitions that heads need, and packs")
    hot = (
        f"writes of the hottest of {PARTITIONS} partitions of packs, {name} ids (times its limit)" for name in shares
    )
    return table((*head, *hot, "opens per second as many (times the limit of one key)"), lines)


def hot_shares() -> dict[str, float]:
    """Return the share of new packs that falls into the hottest partition, by kind of session id."""
    kinds: dict[str, Callable[[int], str]] = {
        "random": lambda number: short_hash(str(number).encode(), 16).hex(),
        "rising": lambda number: f"{number:012d}",
    }
    layout, name = Layout("default"), f"{0:032x}.{0:016x}"
    found = {}
    for kind, id_of in kinds.items():
        keys = [layout.pack(id_of(number), name) for number in range(2 * IDS)]
        found[kind] = hottest_share(keys[:IDS], keys[IDS:], PARTITIONS)
    return found


def contention_table() -> str:
    """Return attempts and requests of strangers on one head, beside the model and the bare loop."""
    lines = []
    for one in stored()["contention"]:
        writers = int(one["writers"])
        others = one["bare_commits_per_second"] * (writers - 1) / writers
        lines.append(
            [
                str(writers),
                *(f"{one[name]:,}" for name in ("commits_per_second", "attempts_per_commit", "requests_per_commit")),
                f"{one['bare_commits_per_second']:,}",
                f"{attempts_at(others, DELAY_SECONDS):.2f} ≤ {one['bare_attempts_per_commit']:.2f} ≤ {writers}",
                f"{one['bare_requests_per_commit']:,}",
            ]
        )
    head = ("writers", "commits per second", "attempts each", "requests each")
    return table((*head, "bare: per second", "attempts: random times ≤ measured ≤ writers", "requests each"), lines)


def waits_table() -> str:
    """Return predicted beside measured seconds of a fleet on a store that is late."""
    lines = []
    for one in stored()["waits"]:
        model = waits(one["name"], Fleet(**one["fleet"])) * one["delay_seconds"]
        ratio = one["seconds"] / model
        lines.append([f"`{one['name']}`", f"{model:.2f} s", f"{one['seconds']:.2f} s", f"{ratio:.2f} ×"])
    return table(("operation", "predicted", "measured", "over"), lines)


def far(name: str, latency_seconds: float, seconds_max: float = DAY_SECONDS) -> int:
    """Return how many sessions an operation gets through in a time, in one process, to two digits."""
    sizes = [digit * 10**power for power in range(1, POWERS_MAX) for digit in range(10, 100)]

    cpu = cpu_seconds()

    def taken(count: int) -> float:
        return seconds(name, fleet_of(count), latency_seconds=latency_seconds, cpu_seconds=cpu)

    found: int = sizes[bisect_right(sizes, seconds_max, key=taken) - 1]
    return found


def far_table(latency_seconds: float) -> str:
    """Return how many sessions each long operation gets through in a day."""
    names = ("ls", "verify --level presence", "verify --level full", "collect --dry-run", "collect", "copy, unchanged")
    return table(
        ("operation", "sessions in a day, one process"),
        [[f"`{name}`", f"{far(name, latency_seconds):,}"] for name in names],
    )


def long_table(latency_seconds: float) -> str:
    """Return what a plan of a collection reads of long sessions, which the mark cache has no room for."""
    lines = []
    for name, session in sessions_measured("usual").items():
        room = ROWS_BYTES_MAX // (ROW_BYTES + MARK_BYTES * (1 + session.packs))
        cells = []
        for count in LARGE:
            gets = (session.plan.get - 1) * count
            waited_for = gets / THREADS_MAX * latency_seconds
            cells.append(f"{_short(gets)}, {dollars(bill(Counts(get=gets), PRICES['s3']))}, {duration(waited_for)}")
        lines.append([f"{WORKLOADS[name].words}, {session.turns}", f"{session.plan.get - 1}", f"{room:,}", *cells])
    head = ("sessions of", "GET of each, its head among them", "heads that the mark cache has room for")
    return table((*head, *(f"{_power(count)} sessions" for count in LARGE)), lines)


def _power(count: int) -> str:
    return f"10^{len(str(count)) - 1}"


def _short(count: float) -> str:
    for unit, length in (("G", 10**9), ("M", 10**6)):
        if count >= length:
            return f"{number(count / length)} {unit}"
    return f"{count:,.0f}"


def sections(latency_seconds: float) -> dict[str, str]:
    """Return all tables by the names that they have in the document."""
    measured = fleets_measured()
    counts = [
        f"{count:,} sessions ({fleet_of(count).heads:,} heads):\n\n{counts_table(count, rows)}"
        for count, rows in measured.items()
    ]
    return {
        "counts": "\n\n".join(counts),
        "per session": per_session_table(),
        "waits": waits_table(),
        "large": large_table(latency_seconds),
        "far": far_table(latency_seconds),
        "long": long_table(latency_seconds),
        "batch": listings_table(latency_seconds),
        "changes": changes_table(10**8, latency_seconds),
        "rates": rates_table(),
        "contention": contention_table(),
    }


def document(text: str) -> str:
    """Return `infra/SCALE.md` with all its tables."""
    for name, section in sections(LATENCY_SECONDS).items():
        text = replaced(text, name, section)
    return text


# The program.


def measure_waits() -> dict[str, Any]:
    """Measure what does not belong to a fleet's size: strangers on one head, waits, a request's CPU; two minutes."""
    return {
        "contention": [contended(writers, CONTENTION_SECONDS) for writers in WRITERS],
        "waits": [
            {
                "name": name,
                "fleet": asdict(WAITED_FLEET),
                "delay_seconds": DELAY_SECONDS,
                "seconds": round(waited(name, WAITED_FLEET), 2),
            }
            for name in WAITED
        ],
        "request_cpu": request_cpu(REQUESTS_TIMED),
    }


def _told() -> Progress:
    def tell(what: str, done: int, total: int) -> None:
        print(f"\r{what} {done:,} {total:,}", end="", file=sys.stderr)

    return tell if sys.stderr.isatty() else quiet


def _keep(found: dict[str, Any]) -> None:
    kept = stored() if MEASURED.exists() else {"fleets": {}}
    kept["fleets"] |= found.pop("fleets", {})
    kept |= {"command": "python -m infra.scale --measure N --keep, --measure-waits", "machine": machine()}
    MEASURED.write_text(json.dumps(kept | found, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="How far it goes: predicted beside measured, and large stores.")
    parser.add_argument("--json", action="store_true", help="one object instead of tables")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCUMENT.name}")
    parser.add_argument("--measure", type=int, metavar="N", help="measure a fleet of N sessions now, and print that")
    parser.add_argument("--only", choices=OPERATIONS, help="measure this operation alone")
    parser.add_argument("--keep", action="store_true", help=f"put what was measured into {MEASURED.name}")
    parser.add_argument("--measure-waits", action="store_true", help=f"measure the rest, into {MEASURED.name}")
    parser.add_argument("--latency-ms", type=float, default=LATENCY_SECONDS * 1000, help="of one request")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Print tables; measure first if that is asked for."""
    given = _parser().parse_args(arguments)
    if given.measure:
        _measured_now(given)
        return
    if given.measure_waits:
        _keep(measure_waits())
    if given.write:
        DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    found = sections(given.latency_ms / 1000)
    if given.json:
        print(json.dumps({"measured": stored(), "tables": found}, indent=2))
        return
    for section in found.values():
        print(section, end="\n\n")


def _measured_now(given: argparse.Namespace) -> None:
    names = [given.only] if given.only else OPERATIONS
    rows = list(measured_apart(fleet_of(given.measure), _told(), names))
    if given.keep:
        _keep({"fleets": {str(given.measure): [one.as_json() for one in rows]}})
    if given.json:
        print(json.dumps([one.as_json() for one in rows], indent=2))
        return
    print(counts_table(given.measure, rows))


if __name__ == "__main__":
    main()
