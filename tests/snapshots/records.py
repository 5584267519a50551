"""Short ways to build records, and a session that is committed without a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import strategies as st

from snapshots import SnapshotRepository
from snapshots.base import Base
from snapshots.checkpoint import (
    EXECUTION_STATE_BYTES_MAX,
    RECORD_BLOB_BYTES_MAX,
    SessionCheckpoint,
    SmallFields,
)
from snapshots.compaction import LIMITS, Limits
from snapshots.content import Content, content_of
from snapshots.fields import STORE_VERSIONS, U64_MAX
from snapshots.head import (
    LIVE,
    MOVED,
    RESERVED,
    STAGED_SINCE,
    TAIL_BYTES_MAX,
    TAIL_PACK_BYTES_MAX,
    TOMBSTONE,
    Head,
    Holder,
    Origin,
    Ring,
    StagedPacks,
    StampRow,
    TailPack,
    stamps_appended,
)
from snapshots.history import KINDS, HistoryRow
from snapshots.layout import pack_name
from snapshots.logs import NO_LOG, HeldLog, LogRef
from snapshots.overrides import FRESH, INHERIT, Overrides
from snapshots.parts import HeldPart
from snapshots.pins import Pin
from snapshots.placement import (
    MANIFEST_BYTES_MAX,
    Homes,
    ManifestPlace,
    Move,
    PackUse,
    Placement,
    PlaceRow,
    homes_of,
)
from snapshots.staging import Identity, Staged, stage
from snapshots.stamps import StampMark
from snapshots.state import (
    ROOT,
    ChildRelation,
    CommitResult,
    HandoffRelation,
    ModeTurnOptions,
    ObservationalMemory,
    PersistedSessionState,
    PersistedTurnState,
    PromptLayer,
    PromptUsage,
    RollingHistory,
    SessionPolicy,
    TokenLedgerEntry,
    TokenUsage,
)
from snapshots.state.values import I64_MAX
from snapshots.stretches import Stretch
from storage.digest import BLOB_BYTES_MAX, BlobRef, blob_ref, parse_digest
from storage.extents import READ_BYTES_MAX, Extent, Read
from storage.frame import FRAME_BYTES_MAX, STORED_BYTES_MAX
from storage.store import ByteRange, Version
from tests.snapshots.state.strategies import json_values

NO_TAIL = Limits(tail_pack_bytes=0)  # each commit has a pack in the store
TAIL = Limits(tail_pack_bytes=TAIL_PACK_BYTES_MAX, tail_bytes=TAIL_BYTES_MAX)  # that of a small one lies in the head
AT = datetime(2026, 1, 1, tzinfo=UTC)
ID = "0123456789abcdef" * 2
PACK = f"{ID}.0123456789abcdef"


def ref(text: str) -> BlobRef:
    return blob_ref(text.encode())


def with_limits(repo: SnapshotRepository, limits: Limits) -> SnapshotRepository:
    """Return the repository; from now on its commits leave so much lying apart."""
    repo._environment = replace(repo.environment, limits=limits)
    return repo


def without_tail(repo: SnapshotRepository) -> SnapshotRepository:
    """Return the repository; from now on each of its commits has a pack in the store."""
    return with_limits(repo, NO_TAIL)


def head(**fields: Any) -> Head:
    """Return a live head at revision 1; `fields` say what is different."""
    plain: dict[str, Any] = {
        "session_id": "s1",
        "tenant": "default",
        "family": "s1",
        "status": LIVE,
        "revision": 1,
        "write_id": ID,
        "commit_id": ID,
        "state_id": ID,
        "epoch": 0,
        "fence": 0,
        "holder": None,
        "checkpoint_ref": ref("checkpoint"),
        "manifest": ManifestPlace(PACK, 0, 100),
        "inline_manifest": b"manifest",
        "commits": Ring(1, (ID,)),
        "stamps": (),
        "floor": 1,
        "destination": "",
        "created_at": AT,
        "updated_at": AT,
    }
    return Head(**{**plain, **fields})


def reserved_head(**fields: Any) -> Head:
    nothing = {"checkpoint_ref": None, "manifest": None, "inline_manifest": b"", "commits": Ring()}
    return head(**{"status": RESERVED, "revision": 0, "family": "", "commit_id": "", **nothing, **fields})


def pack_bytes(staged: Staged) -> bytes:
    """Return the pack that a commit puts."""
    assert staged.data is not None, "it lies in the head"
    return staged.data if isinstance(staged.data, bytes) else staged.data.open().read()


def bytes_of(part: HeldPart) -> bytes:
    """Return the bytes of a part that is not too large to be held."""
    assert isinstance(part.data, bytes)
    return part.data


@dataclass
class StagedSession:
    """A session whose commits are staged and taken as published: no store, no head object.

    Attributes:
        state: The state.
        base: What it stands on.
        needed: By revision, the packs that its own placement uses, worked out from its extents.
        manifests: By revision, where its manifest lies.
        packs: Every pack, by name, those in the head too; a fork's are those of its source too.
        random: What the names of its packs end with, one for each session of a family.
        limits: What its commits leave lying apart.
    """

    state: PersistedSessionState
    base: Base
    needed: dict[int, frozenset[str]]
    manifests: dict[int, ManifestPlace]
    packs: dict[str, bytes]
    random: str = "f" * 16
    limits: Limits = LIMITS

    @classmethod
    def new(cls, session_id: str = "s1", *, limits: Limits = LIMITS) -> StagedSession:
        state = PersistedSessionState(session_id=session_id)
        base = Base(home=None, head=reserved_head(session_id=session_id), version=Version("v0"))
        return cls(state, base, {}, {}, {}, limits=limits)

    def content(self, execution_state: bytes | None = None, *, replaces: bool = False) -> Content:
        """Return what a commit would store."""
        base = self.base
        return content_of(self.state, base.checkpoint, base.ledger, execution_state=execution_state, replaces=replaces)

    def commit(self, execution_state: bytes | None = None, *, replaces: bool = False) -> Staged:
        """Stage the state and stand on the new revision."""
        content = self.content(execution_state, replaces=replaces)
        number = self.base.revision + 1
        identity = Identity(f"{number:032x}", AT, StampMark(number.to_bytes(16, "big"), b"c" * 16))
        staged = stage(content, self.base, identity, pack_name(identity.commit_id, self.random), self.limits)
        self._stand_on(staged, content, identity)
        return staged

    def homes(self) -> Homes:
        """Return where the packs lie now that others carry."""
        return homes_of(self.base.places.entries)

    def forked(self) -> StagedSession:
        """Return a fork: it stands on the manifest of its source, with a history of its own, as a load leaves it."""
        base, manifest = self.base, self.base.head.manifest
        assert base.checkpoint_ref is not None
        assert manifest is not None
        overrides = Overrides(base.checkpoint_ref, base.revision, ID, AT)
        checkpoint = overrides.applied(base.checkpoint)
        own = replace(
            base.head, revision=1, checkpoint_ref=overrides.checkpoint_ref(), overrides=overrides, stretches=()
        )
        forked = replace(
            base,
            head=replace(own, commits=Ring(1, (ID,)), stamps=(), stretches=()),
            checkpoint=checkpoint,
            checkpoint_ref=own.checkpoint_ref,
            placement=base.placement.narrowed(checkpoint.refs(), manifest),
            history=HeldLog(),
            unstored=(overrides.row(checkpoint.node_count),),
            places=HeldLog(),
            ledger=(),
            full=None if manifest.against is not None else base.full,
        )
        state = self.state.copy()
        state.token_ledger, state.head_revision = [], 1
        used = {extent.pack for many in forked.placement.extents.values() for extent in many}
        needed = {1: frozenset({*used, *(run.pack for run in manifest.runs())})}
        return StagedSession(state, forked, needed, {1: manifest}, dict(self.packs), self.random[1:] + "0", self.limits)

    def _stand_on(self, staged: Staged, content: Content, identity: Identity) -> None:
        revision = staged.checkpoint.revision
        old = self.base.head
        new = replace(
            old,
            family=old.family or old.session_id,
            status=LIVE,
            revision=revision,
            commit_id=identity.commit_id,
            checkpoint_ref=staged.checkpoint_ref,
            manifest=staged.manifest,
            inline_manifest=staged.inline_manifest,
            reads=staged.reads,
            stretches=staged.stretches,
            tail=staged.tail,
            commits=old.commits.appended(identity.commit_id),
            stamps=stamps_appended(old.stamps, revision, identity.stamp),
        )
        self.base = replace(
            self.base,
            head=new,
            version=Version(f"v{revision}"),
            checkpoint=staged.checkpoint,
            checkpoint_ref=staged.checkpoint_ref,
            placement=staged.placement,
            graph=staged.graph,
            history=staged.history,
            places=staged.places,
            ledger=content.ledger,
            parts=staged.parts,
            full=staged.full,
            at_hand=staged.at_hand,
        )
        self.needed[revision] = packs_used(staged)
        self.manifests[revision] = staged.manifest
        self.packs[staged.name] = staged.tail[-1].data if staged.data is None else pack_bytes(staged)
        self.state.apply_persisted_commit_result(
            CommitResult(
                head_revision=revision,
                checkpoint_ref=staged.checkpoint_ref,
                manifest=staged.checkpoint.manifest(),
                commit_id=identity.commit_id,
            )
        )


def packs_used(staged: Staged) -> frozenset[str]:
    """Return the packs of a revision: those of its extents, and those that its manifest is read from."""
    used = {extent.pack for many in staged.placement.extents.values() for extent in many}
    return frozenset({*used, *(run.pack for run in staged.manifest.runs())})


def uses_named(session: StagedSession) -> Mapping[str, list[PackUse]]:
    """Return what head, manifest and the log of places say of every pack, by the one that it lies in now."""
    rows, now = session.base.places.entries, session.homes()
    uses: dict[str, list[PackUse]] = {}
    for use in (*(use for row in rows for use in row.ended), *session.base.placement.packs):
        uses.setdefault(now.pack(use.pack), []).append(use)
    return uses


def scattered_states(count: int, seed: int) -> Iterator[bytes]:
    """Yield execution states: one, the same in some hundred pieces, then with a byte more in one place each time."""
    draw = Random(seed)
    memory = draw.randbytes(1 << 20)
    yield memory
    cuts = sorted(draw.sample(range(1 << 20), 600))
    memory = b"".join(memory[start + 1 : end] for start, end in pairwise(cuts) if end - start > 200)
    yield memory
    for _ in range(2, count):
        place = draw.randrange(len(memory))
        memory = memory[:place] + b"x" + memory[place:]
        yield memory


# Generated records.

u64 = st.integers(0, U64_MAX) | st.sampled_from([0, 1, U64_MAX])
hex_ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
session_ids = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
sizes = st.integers(0, RECORD_BLOB_BYTES_MAX)
digests = st.builds(
    lambda kind, raw: parse_digest(f"{kind}:{raw.hex()}"),
    st.sampled_from(["b3", "b3", "sha256"]),
    st.binary(min_size=32, max_size=32),
)
refs = st.builds(BlobRef, digests, sizes)
log_refs = st.just(NO_LOG) | st.builds(BlobRef, digests, st.integers(1, RECORD_BLOB_BYTES_MAX)).flatmap(
    lambda ref: st.builds(LogRef, st.just(ref), st.integers(1, ref.size_bytes))
)
pack_names = st.builds(lambda commit, random: f"{commit}.{random[:16]}", hex_ids, hex_ids)
instants = st.datetimes(timezones=st.just(UTC))
marks = st.builds(StampMark, st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
full_places = st.builds(ManifestPlace, pack_names, st.integers(0, BLOB_BYTES_MAX), st.integers(1, MANIFEST_BYTES_MAX))
moves = st.builds(Move, pack_names, pack_names, st.integers(0, 1 << 30))


@st.composite
def all_homes(draw: st.DrawFn) -> Homes:
    """Draw moves as they can have come about: a pack carries others when it is written, and may be carried later."""
    names = draw(st.lists(pack_names, min_size=1, max_size=4, unique=True))
    into = [draw(st.integers(at + 1, len(names) - 1)) for at in range(len(names) - 1)]
    shifts = [draw(st.integers(0, 1 << 30)) for _ in into]
    order = sorted(range(len(into)), key=into.__getitem__)
    return Homes(Move(names[at], names[into[at]], shifts[at]) for at in order)


manifest_places = full_places | st.builds(replace, full_places, against=st.none() | full_places, moved=all_homes())
pack_uses = st.tuples(pack_names, st.integers(1, U64_MAX), st.booleans() | u64, st.integers(0, BLOB_BYTES_MAX)).map(
    lambda drawn: PackUse(drawn[0], drawn[1], 0 if isinstance(drawn[2], bool) else max(drawn[1], drawn[2]), drawn[3])
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
usages = st.builds(
    TokenUsage,
    **{name: st.integers(0, I64_MAX) | st.just(I64_MAX) for name in TokenUsage.model_fields},
)
ledger_entries = st.builds(TokenLedgerEntry, source=texts, model=texts, usage=usages)
history_rows = st.integers(1, U64_MAX).flatmap(
    lambda revision: st.builds(
        HistoryRow,
        revision=st.just(revision),
        parent=st.integers(0, revision - 1),
        kind=st.sampled_from(sorted(KINDS)),
        commit_id=hex_ids,
        created_at=instants,
        stamp=st.none() | marks,
        node_count=u64,
        usage=st.lists(ledger_entries, max_size=3).map(tuple),
    )
)
policies = st.builds(
    SessionPolicy,
    model=texts,
    provider=st.sampled_from(["unconfigured", "openai", "a.b/c"]),
    max_context_tokens=st.none() | u64,
    model_variant=st.none() | texts,
    autonomous=st.booleans(),
    max_turns=st.none() | u64,
    standard_context_approach=st.none() | st.builds(RollingHistory) | st.builds(ObservationalMemory),
    prompt=st.builds(PromptLayer, template=json_values, slots=st.dictionaries(texts, json_values, max_size=2)),
)
overrides = st.builds(
    Overrides,
    base_ref=refs,
    base_revision=st.integers(1, U64_MAX),
    commit_id=hex_ids,
    created_at=instants,
    plugins=st.sampled_from([INHERIT, FRESH]),
    policy=st.none() | policies,
    policy_session_id=st.just("") | session_ids,
)
place_rows = st.builds(
    PlaceRow,
    st.integers(1, U64_MAX),
    refs,
    manifest_places,
    st.none() | overrides,
    st.lists(pack_uses, max_size=3).map(tuple),
    st.lists(moves, max_size=2).map(tuple),
)
prompt_usages = st.builds(
    PromptUsage, prompt_context_tokens=u64, input_tokens=u64, cached_input_tokens=u64, context_budget_tokens=u64
)
turn_states = st.builds(
    PersistedTurnState,
    turn_index=u64,
    token_usage=usages,
    last_prompt_usage=st.none() | prompt_usages,
    mode_turn_options=st.builds(ModeTurnOptions, mode_id=texts, payload=json_values),
)
small_fields = st.builds(SmallFields, policies, turn_states, st.none() | texts, st.none() | u64, st.none() | u64)
checkpoints = st.builds(
    SessionCheckpoint,
    revision=st.integers(1, U64_MAX),
    small=small_fields,
    graph=log_refs,
    history=log_refs,
    tool_state=st.none() | refs,
    plugin_snapshot=st.none() | refs,
    execution_state=st.none() | st.builds(BlobRef, digests, st.integers(0, EXECUTION_STATE_BYTES_MAX)),
    tombstones=st.none() | refs,
)


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    packs = draw(st.lists(pack_uses, min_size=1, max_size=4, unique_by=lambda use: use.pack))
    extents = st.integers(0, FRAME_BYTES_MAX - 1).flatmap(
        lambda skip: st.builds(
            Extent,
            st.sampled_from([use.pack for use in packs]),
            st.integers(0, BLOB_BYTES_MAX),
            st.integers(1, STORED_BYTES_MAX),
            st.just(skip),
            st.integers(1, FRAME_BYTES_MAX - skip),
        )
    )
    many = st.lists(extents, max_size=3).map(tuple)
    return Placement(draw(st.dictionaries(digests, many, max_size=3)), tuple(packs), draw(log_refs))


stamp_rows = st.builds(StampRow, st.integers(1, U64_MAX), marks)
rings = st.builds(Ring, st.integers(1, U64_MAX), st.lists(hex_ids, max_size=4).map(tuple))
pin_names = st.from_regex(r"[a-z0-9._-]{0,20}[a-z][a-z0-9._-]{0,20}", fullmatch=True)
pins = st.builds(Pin, pin_names, st.integers(1, U64_MAX), st.none() | instants)
relations = st.one_of(
    st.just(ROOT),
    st.builds(ChildRelation, parent_session_id=session_ids, originating_tool_call_id=st.none() | texts),
    st.builds(
        HandoffRelation,
        parent_session_id=session_ids,
        reason=texts,
        metadata=st.dictionaries(texts, json_values, max_size=2),
    ),
)
floors = st.one_of(
    st.tuples(st.integers(1, U64_MAX), st.just(())),
    st.lists(st.integers(1, U64_MAX), min_size=2, max_size=6, unique=True).map(
        lambda drawn: (max(drawn), tuple(sorted(drawn)[:-1]))
    ),
)


def _pinned(pin: Pin, head: Head) -> Pin:
    """Return the pin for a revision that the head can have."""
    return replace(pin, revision=min(pin.revision, head.revision))


_any_head = {
    "session_id": session_ids,
    "tenant": session_ids,
    "write_id": hex_ids,
    "state_id": hex_ids,
    "epoch": u64,
    "fence": u64,
    "holder": st.none() | st.builds(Holder, texts, hex_ids),
    "commits": rings,
    "stamps": st.lists(stamp_rows, max_size=4).map(tuple),
    "floor": st.integers(1, U64_MAX),
    "created_at": instants,
    "updated_at": instants,
    "schema_version": st.sampled_from(STORE_VERSIONS),
    "origin": st.none() | st.builds(Origin, session_ids, st.integers(1, U64_MAX), refs),
    "relation": relations,
}
reads = st.builds(
    Read, pack_names, st.builds(ByteRange, st.integers(0, BLOB_BYTES_MAX), st.integers(1, READ_BYTES_MAX))
)
stretches = st.builds(
    Stretch,
    st.integers(1, U64_MAX),
    st.integers(1, U64_MAX),
    st.integers(0, BLOB_BYTES_MAX),
    st.lists(
        st.builds(
            Extent,
            pack_names,
            st.integers(0, BLOB_BYTES_MAX),
            st.integers(1, STORED_BYTES_MAX),
            st.integers(0, FRAME_BYTES_MAX),
            st.integers(1, FRAME_BYTES_MAX),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
)
_nothing = {"checkpoint_ref": st.none(), "manifest": st.none(), "inline_manifest": st.just(b"")}
unpruned_heads = st.builds(
    Head,
    **_any_head,
    family=session_ids,
    status=st.just(LIVE),
    revision=st.integers(1, U64_MAX),
    commit_id=hex_ids,
    checkpoint_ref=refs,
    manifest=manifest_places,
    inline_manifest=st.binary(max_size=40),
    reads=st.lists(reads, max_size=3).map(tuple),
    stretches=st.lists(stretches, max_size=3).map(tuple),
    tail=st.lists(st.builds(TailPack, pack_names, st.binary(min_size=1, max_size=40)), max_size=3).map(tuple),
    destination=st.just(""),
    pins=st.lists(pins, max_size=3).map(tuple),
)
live_heads = st.tuples(unpruned_heads, floors).map(lambda drawn: replace(drawn[0], floor=drawn[1][0], kept=drawn[1][1]))
live_heads = live_heads.map(lambda one: replace(one, pins=tuple(_pinned(pin, one) for pin in one.pins)))
fork_heads = st.tuples(live_heads, overrides).map(
    lambda drawn: replace(drawn[0], revision=1, pins=(), overrides=drawn[1])
)
reserved_heads = st.builds(
    Head,
    **_any_head,
    **_nothing,
    family=st.just(""),
    status=st.just(RESERVED),
    revision=st.just(0),
    commit_id=st.just(""),
    destination=st.just(""),
)
ended_heads = st.builds(
    Head,
    **_any_head,
    **_nothing,
    family=session_ids,
    status=st.sampled_from([TOMBSTONE, MOVED]),
    revision=st.integers(1, U64_MAX),
    commit_id=hex_ids,
    destination=texts,
)
_lists = st.builds(StagedPacks, session_ids, u64, st.lists(pack_names, min_size=1, max_size=4, unique=True).map(tuple))
staging_heads = st.tuples(reserved_heads, _lists).map(
    lambda drawn: replace(
        drawn[0],
        schema_version=STAGED_SINCE,
        staged=replace(drawn[1], epoch=min(drawn[1].epoch, drawn[0].epoch)),
    )
)
heads = staging_heads | live_heads | fork_heads | reserved_heads | ended_heads
