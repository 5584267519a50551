"""Objects, versions, packs: the storage half. It has never heard of a session, and imports no backend."""

from storage.digest import BlobRef, Digest
from storage.store import (
    ByteRange,
    Create,
    ListedObject,
    ObjectMeta,
    ObjectStore,
    Overwrite,
    PutMode,
    Replace,
    StoredObject,
    Version,
)

__all__ = [
    "BlobRef",
    "ByteRange",
    "Create",
    "Digest",
    "ListedObject",
    "ObjectMeta",
    "ObjectStore",
    "Overwrite",
    "PutMode",
    "Replace",
    "StoredObject",
    "Version",
]
