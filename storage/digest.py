"""Names of bytes: `Digest` and `BlobRef`. Pure; the only importer of blake3.

Rules:
1. A digest is of logical bytes: uncompressed, unencrypted. 2. New digests are `b3:`; `sha256:` is verified on read.
3. A `BlobRef` is identity, equal in every store; it says nothing about place.

    ref = blob_ref(b"hello")
    verify(b"hello", ref, key="packs/…")
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType

from blake3 import blake3

from storage.errors import CorruptObjectError

Buffer = bytes | bytearray | memoryview
Digest = NewType("Digest", str)
_DIGEST = re.compile(r"(?:b3|sha256):[0-9a-f]{64}")
BLOB_BYTES_MAX = 1 << 46  # 64 TiB: more than any object store holds in one object; bounds what a decoder believes


def parse_digest(text: str) -> Digest:
    """Check `<algorithm>:<64 hex>` and return it as a `Digest`.

    Raises:
        ValueError: Another algorithm or form.
    """
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ValueError(f"not a digest: {str(text)[:80]!r} (want b3: or sha256: and 64 hex digits)")
    return Digest(text)


def octets(data: Buffer) -> memoryview:
    """Return the bytes of any buffer, one by one: items of other sizes, rows and strides are laid flat."""
    view = memoryview(data)
    if view.ndim == 1 and view.format == "B" and view.contiguous:
        return view
    return memoryview(view.tobytes())


def digest(data: Buffer) -> Digest:
    """Return the `b3:` digest of `data`."""
    return Digest("b3:" + blake3(octets(data)).hexdigest())


def short_hash(data: Buffer, size_bytes: int = 16) -> bytes:
    """Return the first `size_bytes` of BLAKE3 of `data`: fan-out, checksums, ring entries."""
    return blake3(octets(data)).digest(length=size_bytes)


def short_hash_of(pieces: Iterable[Buffer], size_bytes: int) -> bytes:
    """Return `short_hash` of all pieces, one behind the other; joins none of them."""
    hasher = blake3()
    for piece in pieces:
        hasher.update(octets(piece))
    return hasher.digest(length=size_bytes)


class Hasher:
    """A digest built up piece by piece."""

    def __init__(self) -> None:
        self._hash = blake3()
        self.size_bytes = 0

    def update(self, data: Buffer) -> None:
        """Take the next piece."""
        view = octets(data)
        self._hash.update(view)
        self.size_bytes += view.nbytes

    def copy(self) -> Hasher:
        """Return another one that goes on from here."""
        other = Hasher()
        other._hash, other.size_bytes = self._hash.copy(), self.size_bytes
        return other

    def short(self, size_bytes: int) -> bytes:
        """Return `short_hash` of everything taken so far."""
        return self._hash.digest(length=size_bytes)

    def ref(self) -> BlobRef:
        """Return the `BlobRef` of everything taken so far."""
        return BlobRef(Digest("b3:" + self._hash.hexdigest()), self.size_bytes)


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Immutable bytes, by digest and size. Equal by value; ordered by nothing.

    Attributes:
        digest: `b3:<64 hex>` (or `sha256:…`, read only).
        size_bytes: Length of the logical bytes.
    """

    digest: Digest
    size_bytes: int

    def __post_init__(self) -> None:
        parse_digest(self.digest)
        if isinstance(self.size_bytes, bool) or not isinstance(self.size_bytes, int):
            raise ValueError("size_bytes must be an integer")
        if not 0 <= self.size_bytes <= BLOB_BYTES_MAX:
            raise ValueError(f"size_bytes {self.size_bytes} is outside 0..{BLOB_BYTES_MAX}")

    def __str__(self) -> str:
        return f"{self.digest} ({self.size_bytes} bytes)"


def blob_ref(data: Buffer) -> BlobRef:
    """Return the `BlobRef` of `data`."""
    return BlobRef(digest(data), memoryview(data).nbytes)


class Verifier:
    """Checks bytes that come piece by piece against what a ref names.

    Args:
        ref: What they should be.
    """

    def __init__(self, ref: BlobRef) -> None:
        self._ref = ref
        self._hash = hashlib.sha256() if ref.digest.startswith("sha256:") else blake3()
        self._size_bytes = 0

    def update(self, data: Buffer) -> None:
        """Take the next piece."""
        view = octets(data)
        self._hash.update(view)
        self._size_bytes += view.nbytes

    def finish(self, *, key: str) -> None:
        """Check all that was taken. Raises as `verify`."""
        if self._size_bytes != self._ref.size_bytes:
            raise CorruptObjectError(key, f"{self._size_bytes} bytes where {self._ref} was expected")
        found = f"{self._ref.digest.partition(':')[0]}:{self._hash.hexdigest()}"
        if found != self._ref.digest:
            raise CorruptObjectError(key, f"content is {found}, expected {self._ref.digest}")


def verify(data: Buffer, ref: BlobRef, *, key: str) -> None:
    """Check that `data` is what `ref` names.

    Raises:
        CorruptObjectError: Size or digest differ; `key` is where the bytes came from.
    """
    if (size := memoryview(data).nbytes) != ref.size_bytes:  # before it is hashed
        raise CorruptObjectError(key, f"{size} bytes where {ref} was expected")
    verifier = Verifier(ref)
    verifier.update(data)
    verifier.finish(key=key)
