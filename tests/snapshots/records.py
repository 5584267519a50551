"""Short ways to build records, and a session that is committed without a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from snapshots.base import Base
from snapshots.content import Content, content_of
from snapshots.head import INLINE_MANIFEST_BYTES_MAX, LIVE, RESERVED, Head, Ring, stamps_appended
from snapshots.layout import pack_name
from snapshots.logs import entries_of
from snapshots.placement import ManifestPlace, PackUse, PlaceRow
from snapshots.stamps import StampMark
from snapshots.staging import Identity, Staged, stage
from snapshots.state import CommitResult, PersistedSessionState
from storage.digest import BlobRef, blob_ref
from storage.store import Version

AT = datetime(2026, 1, 1, tzinfo=UTC)
ID = "0123456789abcdef" * 2
PACK = f"{ID}.0123456789abcdef"


def ref(text: str) -> BlobRef:
    return blob_ref(text.encode())


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


@dataclass
class StagedSession:
    """A session whose commits are staged and taken as published: no store, no head object.

    Attributes:
        state: The state.
        base: What it stands on.
        needed: By revision, the packs that its own placement uses, worked out from its extents.
        manifests: By revision, where its manifest lies.
        packs: Every pack, by name.
    """

    state: PersistedSessionState
    base: Base
    needed: dict[int, frozenset[str]]
    manifests: dict[int, ManifestPlace]
    packs: dict[str, bytes]

    @classmethod
    def new(cls, session_id: str = "s1") -> StagedSession:
        state = PersistedSessionState(session_id=session_id)
        base = Base(home=None, head=reserved_head(session_id=session_id), version=Version("v0"))
        return cls(state, base, {}, {}, {})

    def content(self, execution_state: bytes | None = None, *, replaces: bool = False) -> Content:
        """Return what a commit would store."""
        base = self.base
        return content_of(
            self.state, base.checkpoint, base.ledger, execution_state=execution_state, replaces=replaces
        )

    def commit(self, execution_state: bytes | None = None, *, replaces: bool = False) -> Staged:
        """Stage the state and stand on the new revision."""
        content = self.content(execution_state, replaces=replaces)
        number = self.base.revision + 1
        identity = Identity(f"{number:032x}", AT, StampMark(number.to_bytes(16, "big"), b"c" * 16))
        staged = stage(content, self.base, identity, pack_name(identity.commit_id, "f" * 16))
        self._stand_on(staged, content, identity)
        return staged

    def _stand_on(self, staged: Staged, content: Content, identity: Identity) -> None:
        revision = staged.checkpoint.revision
        inline = staged.manifest_run if len(staged.manifest_run) <= INLINE_MANIFEST_BYTES_MAX else b""
        old = self.base.head
        new = replace(
            old,
            family=old.family or old.session_id,
            status=LIVE,
            revision=revision,
            commit_id=identity.commit_id,
            checkpoint_ref=staged.checkpoint_ref,
            manifest=staged.manifest,
            inline_manifest=inline,
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
            history=staged.history,
            places=staged.places,
            ledger=content.ledger,
        )
        self.needed[revision] = packs_used(staged)
        self.manifests[revision] = staged.manifest
        self.packs[staged.name] = staged.data
        self.state.apply_persisted_commit_result(
            CommitResult(
                head_revision=revision,
                checkpoint_ref=staged.checkpoint_ref,
                manifest=staged.checkpoint.manifest(),
                commit_id=identity.commit_id,
            )
        )


def packs_used(staged: Staged) -> frozenset[str]:
    """Return the packs of a revision: those of its extents, and that of its manifest."""
    used = {extent.pack for many in staged.placement.extents.values() for extent in many}
    return frozenset({*used, staged.manifest.pack})


def uses_named(session: StagedSession) -> Mapping[str, list[PackUse]]:
    """Return what head, manifest and the log of places say of every pack."""
    rows: list[PlaceRow] = entries_of(session.base.places)
    uses: dict[str, list[PackUse]] = {}
    for use in (*(use for row in rows for use in row.ended), *session.base.placement.packs):
        uses.setdefault(use.pack, []).append(use)
    return uses
