"""Which role does which operation, what it therefore sends, and what else S3 lets it do. Pure.

Rules:
1. Every operation has a role. A role is allowed what its operations send (`infra/requests.csv`, `UNRECORDED`), what S3
   cannot tell from that (`IMPLIED`), and what `BEYOND` names with a reason; nothing else.
2. Everybody may do what a reader does.

    needed = needed_by("writer", rows)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from snapshots.layout import PROBE_PREFIX, STORE_KEY, Layout

Role = str
Sent = tuple[str, str]  # request and kind
Row = tuple[str, str, str]  # operation, request and kind

ROLES: Mapping[Role, str] = {
    "reader": "ReaderRole",
    "writer": "WriterRole",
    "maintainer": "MaintainerRole",
    "copier": "CopierRole",
}
_EVERYBODY = tuple(ROLES)
_READS = (
    *("open", "load", "look", "read_execution_state", "history", "sessions", "forest", "stats", "diff", "pins"),
    *("read_lease", "turn_in_flight", "verify", "verify_copy", "prune.plan", "repair.plan", "upgrade.plan"),
    *("portable.get", "portable.list", "records.read", "records.list", "records.reap.plan"),
    *("runtime.load", "runtime.read_metadata", "usage.read", "usage.logs", "usage.segments"),
    *("realtime.load", "realtime.read"),
)
_WRITES = (
    *("commit", "update", "upload_ahead", "append_session_nodes", "fork", "start_child", "rewind", "restore", "delete"),
    *("pin", "unpin", "acquire", "release", "park", "save_turn"),
    *("claim_lease", "renew_lease", "release_lease"),
    *("portable.append", "portable.create", "portable.delete", "portable.rewind", "portable.store"),
    *("records.activate", "records.close", "records.create", "records.expire", "records.reap", "records.record_delta"),
    *("runtime.save", "runtime.update_metadata", "usage.append", "usage.compact"),
    *("realtime.begin_restart", "realtime.close", "realtime.complete_restart", "realtime.connect"),
    *("realtime.interrupt", "realtime.receive", "realtime.resume", "realtime.send"),
)
_CARES = ("create", "probe", "collect.plan", "collect", "prune", "repair", "upgrade")
_COPIES = ("copy.plan", "copy", "move")
OPERATIONS: Mapping[str, tuple[Role, ...]] = {
    **dict.fromkeys(_READS, _EVERYBODY),
    **dict.fromkeys(_WRITES, ("writer",)),
    **dict.fromkeys(_CARES, ("maintainer",)),
    **dict.fromkeys(_COPIES, ("copier",)),
}
# What a copier writes in a store that it migrates sessions away from; the rest it sends there are a reader's requests.
LEAVES: frozenset[Sent] = frozenset(
    {
        ("put-create", "turns"),
        *(("put-replace", kind) for kind in ("heads", "turns", "records", "metadata", "usage-index", "realtime-state")),
    }
)

KINDS = (
    *("store", "probe", "heads", "packs", "turns", "leases", "records", "metadata", "usage-index", "usage-segments"),
    *("realtime-state", "realtime-records", "epoch", "marks", "quarantine"),
)
REGISTERS = frozenset(
    (
        *("store", "probe", "heads", "turns", "leases", "records", "metadata", "usage-index", "realtime-state"),
        *("epoch", "marks"),
    )
)
REMOVABLE = frozenset(KINDS) - {"store", "heads", "epoch", "quarantine"}

# One action of S3 stands for several requests of ours.
IMPLIED: Mapping[str, tuple[str, ...]] = {
    "get": ("stat", "list"),  # the listing: of prefixes that the key begins with, without which nothing is "absent"
    "stat": ("get", "list"),
    "put-replace": ("get", "stat", "list"),
    "put-parts": ("put-create", "abort-upload"),
}
# What the code sends and no recorded test makes it send: it takes more than one collection, or large packs.
UNRECORDED: frozenset[Row] = frozenset(
    {
        ("fork", "put-replace", "epoch"),
        *(("collect", "delete", kind) for kind in ("leases", "realtime-state", "usage-index")),
        *(("copy", "put-create", kind) for kind in ("usage-index", "usage-segments")),
        ("move", "put-parts", "packs"),
        *(("repair", "put-parts", kind) for kind in ("packs", "quarantine")),
        *(("records.expire", request, "records") for request in ("get", "put-replace")),
    }
)
# What a role may do that it need not, with the reason. Nothing at present.
BEYOND: Mapping[tuple[Role, str, str], str] = {}


def sent_by_all(recorded: Iterable[Row]) -> set[Row]:
    """Return what operations send: what was recorded, and what no test reaches."""
    return set(recorded) | UNRECORDED


def needed_by(role: Role, recorded: Iterable[Row]) -> set[Sent]:
    """Return what the operations of a role send, and what S3 cannot tell from it.

    Args:
        role: One of ROLES.
        recorded: The rows of `infra/requests.csv`.

    Raises:
        KeyError: An operation has no role: give it one in OPERATIONS.
    """
    rows = sent_by_all(recorded)
    sent = {(request, kind) for operation, request, kind in rows if role in _roles_of(operation, request, kind)}
    return sent | implied_by(sent)


def _roles_of(operation: str, request: str, kind: str) -> tuple[Role, ...]:
    """Return who sends this; an opening where nobody has probed yet does, and whoever may not goes on reading."""
    probes = operation == "open" and (kind == "probe" or (kind == "store" and request.startswith("put-")))
    return OPERATIONS["probe"] if probes else OPERATIONS[operation]


def implied_by(sent: Iterable[Sent]) -> set[Sent]:
    """Return what S3 cannot tell from these requests."""
    return {(other, kind) for request, kind in sent for other in IMPLIED.get(request, ())}


@lru_cache
def keys_of(kind: str, *, prefix: str, tenant: str) -> tuple[str, ...]:
    """Return whole keys of a kind in a bucket: of ordinary ids, and of some that read like other keys."""
    layout = Layout(tenant)
    ids = ("support-42", "heads", "index", "state", "0" * 20)
    return tuple(dict.fromkeys(f"{prefix}/{_key(layout, kind, one)}" for one in ids))


def prefix_of(kind: str, *, prefix: str, tenant: str) -> str:
    """Return the prefix under which everything of a kind lies; of one object its key. "tenant" is all of a tenant's."""
    whole = {"store": STORE_KEY, "probe": PROBE_PREFIX, "epoch": Layout(tenant).epoch, "marks": Layout(tenant).marks}
    folder = kind.split("-")[0]
    return f"{prefix}/{whole.get(kind, Layout(tenant).everything + ('' if kind == 'tenant' else f'{folder}/'))}"


def _key(layout: Layout, kind: str, one: str) -> str:
    pack, segment = f"{'a' * 32}.{'b' * 16}", f"{'c' * 32}-0000000007.jsonl.zst"
    return {
        "store": STORE_KEY,
        "probe": f"{PROBE_PREFIX}{'d' * 32}/a",
        "heads": layout.head(one),
        "packs": layout.pack(one, pack),
        "turns": layout.turns(one),
        "leases": layout.lease(one),
        "records": layout.record(one),
        "metadata": layout.metadata(one),
        "usage-index": layout.usage_index(one),
        "usage-segments": layout.usage_segment(one, segment),
        "realtime-state": layout.realtime_state(one),
        "realtime-records": layout.realtime_record(one, 7),
        "epoch": layout.epoch,
        "marks": layout.marks,
        "quarantine": layout.quarantined(one, pack, b"hash"),
    }[kind]
