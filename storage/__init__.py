"""Objects, versions, packs: the storage half. It has never heard of a session, and imports no backend.

Rules:
1. Importing this loads nothing else; a public name brings its module with it when it is first asked for.

from storage import Create, ObjectStore
"""

TYPE_CHECKING = False  # what checkers take for typing's own, which would load as much as all the rest here
if TYPE_CHECKING:
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

_HOMES = {
    "BlobRef": "storage.digest",
    "ByteRange": "storage.store",
    "Create": "storage.store",
    "Digest": "storage.digest",
    "ListedObject": "storage.store",
    "ObjectMeta": "storage.store",
    "ObjectStore": "storage.store",
    "Overwrite": "storage.store",
    "PutMode": "storage.store",
    "Replace": "storage.store",
    "StoredObject": "storage.store",
    "Version": "storage.store",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _public(name: str) -> object:
    """Return a public name, and keep it (rule 1, PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


if not TYPE_CHECKING:  # a checker would take it for a promise that there is every name
    __getattr__ = _public
