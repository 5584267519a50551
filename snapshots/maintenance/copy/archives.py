"""Archives: whole sessions in one file, with all their revisions; a store that is only read.

Rules:
1. An archive is what a copy into a new store is, in one file: it is listed, loaded from, verified and copied from like
   any store, where it lies.
2. It has its name when all of it is there. Where a session could not be copied, the others are in it, and it is named.

    with export_of(repo, Path("monday.snapshots")) as archive:
        report = execute(plan_copy(repo, archive))
    with open_export(Path("monday.snapshots")) as archive:
        archive.load("s1")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snapshots import codec
from snapshots.errors import StoreNotFoundError
from snapshots.fields import Fields
from snapshots.layout import says_tenant
from snapshots.repository import SnapshotRepository
from storage.backends.archive import ArchiveStore, ArchiveWriter
from storage.store import ObjectStore


@contextmanager
def export_of(repo: SnapshotRepository, path: Path) -> Iterator[SnapshotRepository]:
    """Give the repository of a new archive, to be copied into; the file is there when the block ends.

    Args:
        repo: Where the sessions will come from: the archive has its tenant.
        path: The file. One that is there is replaced, when the block ends and not before.

    Raises:
        As `storage.backends.archive.ArchiveWriter`.
    """
    clock = repo.environment.clock
    with (
        ArchiveWriter(path, clock=clock) as store,
        SnapshotRepository(store, tenant=repo.tenant, clock=clock) as archive,
    ):
        yield archive


@contextmanager
def open_export(path: Path) -> Iterator[SnapshotRepository]:
    """Give the repository of an archive; it can only be read.

    Raises:
        StoreNotFoundError: There are no sessions in it.
        CorruptObjectError: It is no archive, or was truncated or altered: says where.
        NotFoundError: There is no such file.
    """
    with ArchiveStore(path) as store:
        tenant = _tenant(store, path)
        with SnapshotRepository(store, tenant=tenant, create=False, url=f"archive:{path}") as archive:
            yield archive


def _tenant(store: ObjectStore, path: Path) -> str:
    """Return whose sessions are in an archive: those of its first record are those of all."""
    for row in store.list(""):
        if says_tenant(row.key):
            record = codec.decode(codec.unguarded(store.get(row.key).data, key=row.key), key=row.key)
            return Fields(record, key=row.key, record="record").text("tenant")
    raise StoreNotFoundError(f"archive:{path}", "there are no sessions in it", remedy="check the file")
