"""The steps from one schema version to the next: what changes of a record, and that nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snapshots import codec
from snapshots.errors import UnsupportedSchemaError
from snapshots.fields import NEWEST_VERSION, STORE_VERSIONS
from snapshots.head import Head
from snapshots.layout import STORE_KEY
from snapshots.store_object import facts_in
from snapshots.upgrades import STEPS, upgraded
from tests.compat.archives import bytes_in, tarball, unpack

RECORDS = ("store", "head")


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the objects of the golden store of version 1."""
    root: Path = tmp_path_factory.mktemp("v1") / "store"
    unpack(tarball("v1"), root)
    return {key: data[:-24] for key, data in bytes_in(root).items()}  # a local store's version ends each file


def heads(golden: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    return ((key, data) for key, data in golden.items() if "/heads/" in key)


def test_there_is_a_step_from_every_version_but_the_newest() -> None:
    assert tuple(STEPS) == STORE_VERSIONS[:-1]
    for version, steps in STEPS.items():
        assert set(steps) == set(RECORDS)
        for step in steps.values():
            before = {"schema_version": version, "other": 1}
            assert step(before)["schema_version"] == version + 1
            assert before == {"schema_version": version, "other": 1}


def test_a_head_of_version_1_changes_in_nothing_but_its_version(golden: dict[str, bytes]) -> None:
    found = 0
    for key, data in heads(golden):
        before = codec.decode(codec.unguarded(data, key=key), key=key)
        after = upgraded("head", before)
        assert after == {**before, "schema_version": NEWEST_VERSION}
        assert before["schema_version"] == 1
        head = Head.decode(codec.guarded(codec.encode(after)), key=key)
        assert head.schema_version == NEWEST_VERSION
        assert head.staged is None
        found += 1
    assert found > 10


def test_a_store_object_of_version_1_keeps_its_id(golden: dict[str, bytes]) -> None:
    before = facts_in(golden[STORE_KEY])
    after = facts_in(codec.encode(upgraded("store", codec.decode(golden[STORE_KEY], key=STORE_KEY))))
    assert (before.schema_version, after.schema_version) == (1, NEWEST_VERSION)
    assert after.store_id == before.store_id


@pytest.mark.parametrize("record", RECORDS)
def test_the_newest_version_stays_as_it_is(record: str) -> None:
    plain = {"schema_version": NEWEST_VERSION, "other": [1]}
    assert upgraded(record, plain) == plain


@pytest.mark.parametrize("found", [NEWEST_VERSION + 1, 0, None, "1", True, 1.0])
def test_a_version_that_nobody_knows_is_refused(found: Any) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        upgraded("head", {"schema_version": found})
    assert (caught.value.found, caught.value.supported) == (found, STORE_VERSIONS)


def test_nothing_becomes_older() -> None:
    assert upgraded("head", {"schema_version": 1}, to=1) == {"schema_version": 1}
    with pytest.raises(UnsupportedSchemaError) as caught:
        upgraded("head", {"schema_version": 2}, to=1)
    assert caught.value.supported == (1,)
