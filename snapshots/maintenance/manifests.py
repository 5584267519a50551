"""Reading the manifests of one family, one revision after another.

Rules:
1. A manifest that others were compressed against is read once, as long as it is remembered.

    manifests = Manifests(environment, head.family, memory)
    raw = manifests.opened(row.manifest, manifests.stored(row.manifest))
"""

from __future__ import annotations

from dataclasses import replace

from snapshots.environment import Environment
from snapshots.maintenance.memory import Memory, named
from snapshots.placement import ManifestPlace, unseal_manifest
from storage.store import ByteRange


class Manifests:
    """The manifests of one family.

    Args:
        environment: Where they lie.
        family: Whose.
        memory: Remembers those that others were compressed against.
    """

    def __init__(self, environment: Environment, family: str, memory: Memory) -> None:
        self._environment = environment
        self._family = family
        self._memory = memory

    def read(self, place: ManifestPlace) -> bytes:
        """Return the bytes of the manifest that lies there.

        Raises:
            NotFoundError: Its pack is missing, or that of the one that it was compressed against.
            CorruptObjectError: One of them is not what was written.
            UnavailableError: The store did not answer.
        """
        return self.opened(place, self.stored(place))

    def stored(self, place: ManifestPlace) -> bytes:
        """Return what lies there. Raises as `read`."""
        return self._environment.store.get(self._key(place), ByteRange(place.offset, place.stored_bytes)).data

    def opened(self, place: ManifestPlace, stored: bytes) -> bytes:
        """Return the bytes of the manifest whose stored form was read there. Raises as `read`."""
        if place.against is None:
            return unseal_manifest(stored, key=self._key(place))
        return unseal_manifest(stored, key=self._key(place), against=self.full(place.against))

    def full(self, place: ManifestPlace) -> bytes:
        """Return the bytes of a manifest that stands in full there (rule 1). Raises as `read`."""
        name = named("manifest", self._family, place.pack, place.offset, place.stored_bytes)
        raw = self._memory.manifests.find(name)
        if raw is None:
            raw = self.read(replace(place, against=None))
            self._memory.manifests.keep(name, raw, len(raw))
        return raw

    def _key(self, place: ManifestPlace) -> str:
        return self._environment.layout.pack(self._family, place.pack)
