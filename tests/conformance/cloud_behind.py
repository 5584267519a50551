"""What the Azure conformance files share: a store in a fresh container, and a look behind it."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from storage import ObjectStore
from storage.backends.cloud import CloudStore, azure_store
from tests.azurite import signed


def store_at(url: str) -> CloudStore:
    """Open the container of `url` as a whole, without the prefix."""
    parts = urlsplit(url)
    given = parse_qs(parts.query)
    return azure_store(parts.netloc, account=given["account"][0], endpoint_url=given["endpoint_url"][0])


def raw_get(store: ObjectStore, key: str) -> bytes | None:
    """Read a blob with a plain client of its own."""
    assert isinstance(store, CloudStore)
    status, body = signed(store._place, "GET", f"/{store.bucket}/{key}")
    assert status in (200, 404), status
    return body if status == 200 else None
