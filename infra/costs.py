"""What it costs: commits, forks, resumes, collections and copies in US dollars, and an estimate of a month.

Rules:
1. Requests and bytes are measured (`infra/costs_measured.json`) or follow from a model that was (`infra.sizing.model`);
   prices were read somewhere public (`infra.sizing.prices`). Nothing else goes into a figure.
2. What machines and people cost is not in it, nor what leaves the region, unless `--out-share` says so.
3. `infra/COSTS.md` holds what this program prints; `--write` puts it there, `--measure` measures again.

    python -m infra.costs
    python -m infra.costs --sessions 1e6 --turns-per-day 20 --retention-days 90 --price r2
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from infra.sizing.counts import Counts
from infra.sizing.fleets import Fleet
from infra.sizing.measuring import Measured, fleet_of
from infra.sizing.model import predicted
from infra.sizing.prices import PRICES, READ_AT, Price, bill, month_of
from infra.sizing.workloads import WORKLOADS, Session, measured
from infra.tables import dollars, number, replaced, size, table

HERE = Path(__file__).parent
MEASURED, SCALE_MEASURED, DOCUMENT = HERE / "costs_measured.json", HERE / "scale_measured.json", HERE / "COSTS.md"
MILLION, DAYS = 1_000_000, 30
THOUSAND = 1000


@dataclass(frozen=True, slots=True)
class Use:
    """How a store is used, for a month of 30 days.

    Attributes:
        sessions: In use in this month.
        turns_per_day: Of each.
        kind: Of their turns: "agent", "chat" or "large".
        retention_days: How long revisions stay; those of so many days are stored.
        resumes_per_day: How often each is loaded from nothing.
        forks: In the month, of each session.
        collections: In the month.
        deleted_share: Share of the sessions that is deleted between two collections, 0 to 1.
        copies: Runs of a copy in the month.
        out_share: Share of what is read that leaves for the internet, 0 to 1.
    """

    sessions: float = 1e6
    turns_per_day: float = 20
    kind: str = "agent"
    retention_days: float = 90
    resumes_per_day: float = 1
    forks: float = 0.1
    collections: float = 4
    deleted_share: float = 0.01
    copies: float = 0
    out_share: float = 0.0


def stored() -> dict[str, Any]:
    """Return what was measured, as it is stored."""
    found: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return found


def sessions_measured(part: str) -> dict[str, Session]:
    """Return the sessions that were measured, by workload: "usual" or "small"."""
    return {name: Session.from_json(one) for name, one in stored()[part].items()}


# Prices of operations.


def rows_of(found: Mapping[str, Session]) -> Iterator[tuple[str, str, Counts, float]]:
    """Yield what is bought, its requests in words, and requests and bytes, to be taken so many times."""
    for name, session in found.items():
        words = WORKLOADS[name].words
        commit = f"{session.commits.put / session.turns:.2f} PUT"
        yield f"a million commits, {words}", commit, session.commits, MILLION / session.turns
        yield f"a million resumes, {words}", _in_words(session.resume), session.resume, MILLION
        yield f"a million forks, {words}", _in_words(session.fork), session.fork, MILLION
    for words, counts in fleet_counts().items():
        yield words, _in_words(counts), counts, 1


def _in_words(counts: Counts) -> str:
    named = (("PUT", counts.put), ("GET", counts.get + counts.stat), ("LIST", counts.list))
    return ", ".join(f"{value:,} {verb}" for verb, value in named if value)


def fleet_counts() -> dict[str, Counts]:
    """Return what is done to a thousand sessions of a large fleet, from the model: a page is shared by a thousand."""
    whole = fleet_of(100 * THOUSAND)
    clean = Fleet(whole.sessions, forks=whole.forks)
    named = {
        "collection, nothing to do, per 1,000 sessions": ("collect, nothing to do", clean),
        "collection, 1 % deleted, per 1,000 sessions": ("collect", whole),
        "first copy, per 1,000 sessions": ("copy, the first", clean),
        "copy, nothing new, per 1,000 sessions": ("copy, unchanged", clean),
        "copy, 1 % went on, per 1,000 sessions": ("copy, 1 % went on", clean),
        "verify --level full, per 1,000 sessions": ("verify --level full", clean),
    }
    return {words: per_thousand(name, fleet) for words, (name, fleet) in named.items()}


def per_thousand(name: str, fleet: Fleet) -> Counts:
    """Return what an operation costs for a thousand sessions, at both stores, rounded up to whole requests."""
    cost = predicted(name, fleet)
    both = cost.source + cost.destination
    scale = fleet.heads / THOUSAND
    return Counts(**{verb: -(-value // int(scale)) for verb, value in asdict(both).items()})


def costs_table(found: Mapping[str, Session]) -> str:
    """Return the table of prices: a row for each thing, a column for each store."""
    rows = [
        [words, requests, *(dollars(times * bill(counts, price)) for price in PRICES.values())]
        for words, requests, counts, times in rows_of(found)
    ]
    return table(("what", "requests", *(price.name for price in PRICES.values())), rows)


def storage_table(found: Mapping[str, Session]) -> str:
    """Return the table of what revisions take, and what a million of them cost in a month."""
    rows = []
    for name, one in found.items():
        each = one.stored_bytes / one.turns
        rows.append(
            [
                f"{WORKLOADS[name].words}, {one.turns:,} of them",
                size(each),
                size(one.uncollected_bytes / one.turns),
                size(one.commits.bytes_out / one.turns),
                size(one.head_bytes),
                f"{one.packs:,}",
                size(one.resume.bytes_in),
                *(dollars(month_of(each * MILLION, price)) for price in PRICES.values()),
            ]
        )
    head = ("session", "stored per turn", "before a collection", "sent per turn", "head", "packs", "read by a resume")
    return table((*head, *(f"million, a month: {price.name}" for price in PRICES.values())), rows)


def memory_table() -> str:
    """Return the table of what each command takes, from `infra/scale_measured.json`."""
    rows = []
    for name, (each, at_most) in memory_per_head().items():
        rows.append([f"`{name}`", size(at_most), f"{number(each)} B" if each >= 1 else "–"])
    largest = max(map(int, json.loads(SCALE_MEASURED.read_text(encoding="utf-8"))["fleets"]))
    return table(("command", f"memory beyond its start, {largest:,} sessions", "per head"), rows)


def memory_per_head() -> dict[str, tuple[float, int]]:
    """Return for each operation the bytes per head, between the two largest fleets, and the bytes at the largest."""
    fleets = json.loads(SCALE_MEASURED.read_text(encoding="utf-8"))["fleets"]
    smaller, larger = sorted(map(int, fleets))[-2:]
    heads = fleet_of(larger).heads - fleet_of(smaller).heads
    found = {}
    for before, after in zip(fleets[str(smaller)], fleets[str(larger)], strict=True):
        one, other = Measured.from_json(before), Measured.from_json(after)
        found[other.name] = (max(0.0, (other.memory_bytes - one.memory_bytes) / heads), other.memory_bytes)
    return found


# A month.


def month(use: Use, price: Price, found: Mapping[str, Session] | None = None) -> dict[str, float]:
    """Return what a month costs, by item, in US dollars, and the sum as "all".

    Collections and copies are those of the model for young sessions, with what a session of this kind has more to read.
    """
    session = (found or sessions_measured("usual"))[use.kind]
    turns = use.sessions * use.turns_per_day * DAYS

    def bought(counts: Counts, times: float) -> float:
        return times * bill(counts, price, out_share=use.out_share)

    read_more = max(0, session.plan.get - 2)  # the mark cache and the head are in the model already
    fleet = _collection(use.deleted_share) if use.deleted_share else _clean()
    collection = bought(fleet, use.sessions / THOUSAND) + bought(Counts(get=read_more), use.sessions)
    revisions = use.sessions * use.turns_per_day * use.retention_days
    items = {
        "commits": bought(session.commits, turns / session.turns),
        "resumes": bought(session.resume, use.sessions * use.resumes_per_day * DAYS),
        "forks": bought(session.fork, use.sessions * use.forks),
        "collections": collection * use.collections,
        "copies": bought(fleet_counts()["copy, 1 % went on, per 1,000 sessions"], use.sessions / THOUSAND * use.copies),
        "storage": month_of(revisions * session.stored_bytes / session.turns, price),
    }
    return items | {"all": sum(items.values())}


def _collection(deleted_share: float) -> Counts:
    """Return what a collection costs for a thousand sessions, of which this share was deleted."""
    usual = fleet_of(100 * THOUSAND)
    deleted = round(deleted_share * usual.sessions)
    return per_thousand("collect", replace(usual, deleted=deleted, forks=min(usual.forks, usual.sessions - deleted)))


def _clean() -> Counts:
    return fleet_counts()["collection, nothing to do, per 1,000 sessions"]


def month_table(use: Use, found: Mapping[str, Session]) -> str:
    """Return the table of a month, a column for each store."""
    months = [month(use, price, found) for price in PRICES.values()]
    rows = [[item, *(dollars(one[item]) for one in months)] for item in months[0]]
    return table(("a month", *(price.name for price in PRICES.values())), rows)


def prices_table() -> str:
    """Return the table of prices and of where they were read."""
    rows = [
        [
            price.name,
            f"{price.write:g}",
            f"{price.read:g}",
            f"{price.month:g}",
            f"{price.out:g}",
            price.remark,
            ", ".join(price.sources),
        ]
        for price in PRICES.values()
    ]
    head = ("store", "1,000 writes or listings", "1,000 reads", "GB and month", "GB out", "remark", "read in")
    return table(head, rows)


def document(text: str) -> str:
    """Return `infra/COSTS.md` with all its tables."""
    found = sessions_measured("usual")
    sections = {
        "prices": f"US dollars, read {READ_AT}.\n\n{prices_table()}",
        "costs": costs_table(found),
        "storage": storage_table(found),
        "month": month_table(Use(), found),
        "memory": memory_table(),
    }
    for name, section in sections.items():
        text = replaced(text, name, section)
    return text


# The program.


def measure() -> dict[str, Any]:
    """Measure all workloads, at their usual size and at the small one; some minutes."""
    return {
        "command": "python -m infra.costs --measure",
        "usual": {name: measured(name, one.usual, one.state_bytes).as_json() for name, one in WORKLOADS.items()},
        "small": {name: measured(name, *one.small).as_json() for name, one in WORKLOADS.items()},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="What it costs: tables, or with parameters a month.")
    parser.add_argument("--json", action="store_true", help="one object instead of tables")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCUMENT.name}")
    parser.add_argument("--measure", action="store_true", help=f"measure again, into {MEASURED.name}; some minutes")
    parser.add_argument("--price", default="s3", choices=PRICES, help="of the month; s3 unless given")
    for name, value in asdict(Use()).items():
        option, usual = f"--{name.replace('_', '-')}", f"{value} unless given"
        if name == "kind":
            parser.add_argument(option, choices=WORKLOADS, help=usual)
        else:
            parser.add_argument(option, type=float, help=usual)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Print tables, or a month if anything of one is given."""
    given = _parser().parse_args(arguments)
    if given.measure:
        MEASURED.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    if given.write:
        DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    chosen = {name: value for name in asdict(Use()) if (value := getattr(given, name)) is not None}
    use, price = Use(**chosen), PRICES[given.price]
    found = sessions_measured("usual")
    if given.json:
        print(json.dumps(_as_json(use, price, found), indent=2))
    elif chosen:
        print(json.dumps(asdict(use)), price.name, sep="\n")
        print(
            table(("a month", "US dollars"), [[item, dollars(one)] for item, one in month(use, price, found).items()])
        )
    else:
        for section in (prices_table(), costs_table(found), storage_table(found), month_table(use, found)):
            print(section, end="\n\n")


def _as_json(use: Use, price: Price, found: Mapping[str, Session]) -> dict[str, Any]:
    million = {
        words: {name: round(bill(counts, one) * times, 6) for name, one in PRICES.items()}
        for words, _, counts, times in rows_of(found)
    }
    return {
        "use": asdict(use),
        "price": price.name,
        "month": {item: round(one, 2) for item, one in month(use, price, found).items()},
        "costs": million,
        "memory": {name: {"per_head": each, "at_most": most} for name, (each, most) in memory_per_head().items()},
    }


if __name__ == "__main__":
    main()
