"""`object_url`: what other programs open to read one object."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.backends import object_url, open_store
from storage.errors import InvalidKeyError
from storage.store import Create

KEY = "default/usage/c4/s%2E1/x.jsonl.zst"


def test_a_file_has_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("file:x y", f"file:{tmp_path}/x y", f"file://{tmp_path}/x y"):
        assert object_url(url, KEY) == os.path.join(tmp_path, "x y", KEY)
    open_store("file:x y").put(KEY, b"one", Create())
    assert Path(object_url("file:x y", KEY)).read_bytes().startswith(b"one")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket", f"s3://bucket/{KEY}"),
        ("s3://bucket/", f"s3://bucket/{KEY}"),
        ("s3://bucket/a/b?endpoint_url=http://127.0.0.1:9&region=eu", f"s3://bucket/a/b/{KEY}"),
        ("gs://bucket/a?endpoint_url=http://127.0.0.1:9", f"gs://bucket/a/{KEY}"),
        ("az://container/a?account=name", f"az://container/a/{KEY}"),
    ],
)
def test_an_object_of_a_bucket_has_its_url_without_parameters(url: str, shown: str) -> None:
    assert object_url(url, KEY) == shown


@pytest.mark.parametrize(
    "url",
    ["memory:", "archive:x", "nonsense", "file:", "file://host/x", "s3://key:secret@bucket", "s3://bucket?what=1"],
)
def test_what_nobody_else_can_read_has_none(url: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        object_url(url, KEY)
    assert "secret" not in str(caught.value)


def test_what_is_no_key_has_none() -> None:
    with pytest.raises(InvalidKeyError):
        object_url("file:x", "../etc")
