"""`open_store`: from a URL to a store, importing only what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage import Create
from storage.backends import open_store
from storage.backends.archive import ArchiveStore, ArchiveWriter
from storage.backends.cloud import CloudStore
from storage.backends.local import LocalStore
from storage.backends.memory import MemoryStore
from storage.backends.s3 import S3Store
from storage.errors import InvalidKeyError, NotFoundError
from storage.server import allows_one_writer
from storage.wrappers.prefixed import PrefixedStore


def test_memory_is_new_each_time() -> None:
    store = open_store("memory:")
    assert isinstance(store, MemoryStore)
    store.put("a", b"", Create())
    assert list(open_store("memory:").list("")) == []


def test_a_path_is_taken_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = {
        "file:x": tmp_path / "x",
        "file:x/y%20z?q": tmp_path / "x/y%20z?q",
        f"file:{tmp_path}/abs": tmp_path / "abs",
        f"file://{tmp_path}/abs": tmp_path / "abs",
    }
    for url, root in expected.items():
        store = open_store(url)
        assert isinstance(store, LocalStore)
        assert store.root == root
    assert list(tmp_path.iterdir()) == []


def test_an_archive_is_opened_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ArchiveWriter(tmp_path / "x y%20z?q") as writer:
        writer.put("a", b"one", Create())
    for url in ("archive:x y%20z?q", f"archive:{tmp_path}/x y%20z?q", f"archive://{tmp_path}/x y%20z?q"):
        store = open_store(url)
        assert isinstance(store, ArchiveStore)
        assert store.get("a").data == b"one"
    for url in ("archive:none", "archive:none/x"):
        with pytest.raises(NotFoundError, match=str(tmp_path / "none")):
            open_store(url)
    with pytest.raises(InvalidKeyError, match="directory"):
        open_store("archive:.")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_store_keeps_its_directory_when_the_process_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("file:x")
    monkeypatch.chdir("/")
    store.put("a", b"", Create())
    assert (tmp_path / "x" / "a").exists()


def test_a_bucket_is_opened_with_prefix_and_parameters(ministack_url: str) -> None:
    store = open_store(ministack_url)
    assert isinstance(store, PrefixedStore)
    store.put("a/b", b"one", Create())
    whole = open_store(ministack_url.replace("/agents?", "?"))
    assert isinstance(whole, S3Store)
    assert whole.get("agents/a/b").data == b"one"


@pytest.mark.usefixtures("s3_credentials")
@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3://bucket?region=eu-central-1"])
def test_a_bucket_may_be_named_alone(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, S3Store)
    assert store._once.meta.region_name == ("eu-central-1" if "eu" in url else "us-east-1")


@pytest.mark.usefixtures("s3_credentials")
@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/a/b", "gs://bucket", "az://container?account=name"])
def test_one_writer_at_a_time_is_a_matter_of_the_url(url: str) -> None:
    assert not allows_one_writer(open_store(url))
    assert allows_one_writer(open_store(url + ("&" if "?" in url else "?") + "one_writer=yes"))


@pytest.mark.usefixtures("s3_credentials")
def test_a_region_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    store = open_store("s3://bucket")
    assert isinstance(store, S3Store)
    assert store._retrying.meta.region_name == "us-east-1"


def test_a_container_is_opened_with_prefix_and_parameters(azurite_url: str) -> None:
    store = open_store(azurite_url)
    assert isinstance(store, PrefixedStore)
    store.put("a/b", b"one", Create())
    whole = open_store(azurite_url.replace("/agents?", "?"))
    assert isinstance(whole, CloudStore)
    assert whole.get("agents/a/b").data == b"one"


@pytest.mark.parametrize(
    "url", ["gs://bucket", "gs://bucket/?endpoint_url=https://host", "az://container?account=name"]
)
def test_a_bucket_of_other_clouds_may_be_named_alone(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, CloudStore)
    assert store.bucket == ("bucket" if url.startswith("gs") else "container")
    assert store._token == ("version" if url.startswith("gs") else "e_tag")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "known are memory:"),
        ("memory", "known are memory:"),
        ("memory:x", "known are memory:"),
        ("file:", "known are memory:"),
        ("file", "known are memory:"),
        ("ftp://x", "known are memory:"),
        ("/some/path", "known are memory:"),
        ("file://host/path", "names a host"),
        ("file:a\x00b", "NUL"),
        ("archive:", "known are memory:, file:PATH, archive:PATH, s3:"),
        ("archive", "known are memory:"),
        ("archive://host/path", "want archive:PATH or archive:///PATH"),
        ("archive:a\x00b", "NUL"),
        ("s3:bucket", "BUCKET"),
        ("s3://", "bucket name"),
        ("s3://bucket#part", "BUCKET"),
        ("s3://bucket/a//b", "not a key"),
        ("s3://bucket/Großes", "not a key"),
        ("s3://bucket?endpoint=x", "unknown parameter 'endpoint'"),
        ("s3://bucket?region=a&region=b", "twice"),
        ("s3://bucket?region=", "empty"),
        ("s3://bucket?region", "name=value"),
        ("s3://bucket?one_writer=no", "one_writer is yes, or left out"),
        ("s3://bucket?endpoint_url=nonsense", "not an endpoint"),
        ("s3://bucket?account=name", "unknown parameter 'account'"),
        ("gs:bucket", "BUCKET"),
        ("gs://", "name of a bucket"),
        ("gs://bucket/a//b", "not a key"),
        ("gs://bucket?region=eu", "unknown parameter 'region'"),
        ("gs://bucket?account=name", "unknown parameter 'account'"),
        ("gs://bucket?endpoint_url=nonsense", "not an endpoint"),
        ("az:container", "CONTAINER"),
        ("az://", "bucket or container"),
        ("az://container?region=eu", "unknown parameter 'region'"),
        ("az://container?account=", "empty"),
        ("az://container?account=No", "not a storage account"),
    ],
)
@pytest.mark.usefixtures("s3_credentials")
def test_what_is_not_understood_is_refused(url: str, reason: str) -> None:
    with pytest.raises(InvalidKeyError, match=reason):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        *("s3://key:secret@bucket/p", "ftp://key:secret@host", "s3://b?endpoint_url=http://k:secret@h"),
        *("gs://key:secret@bucket/p", "gs://bucket?endpoint_url=http://k:secret@h"),
        *("az://key:secret@container/p", "az://container?account=a&endpoint_url=http://host?sig=secret"),
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_a_missing_library_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "storage.backends.s3", raising=False)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ImportError, match=r"pip install 'session-snapshots\[s3\]'"):
        open_store("s3://bucket")


@pytest.mark.parametrize("url", ["gs://bucket", "az://container?account=name"])
def test_a_missing_library_of_other_clouds_is_named_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "storage.backends.cloud", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ImportError, match=r"pip install 'session-snapshots\[cloud\]'"):
        open_store(url)


def test_a_backend_is_imported_when_asked_for() -> None:
    program = (
        "import sys; from storage.backends import open_store; open_store('file:x'); open_store('memory:');"
        "print([name for name in ('boto3', 'botocore', 'obstore', 'storage.backends.s3') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize("endpoint", ["https://host/?token=abc", "https://user:word@host", "https://host/%23part"])
def test_an_endpoint_holds_no_credentials(endpoint: str) -> None:
    with pytest.raises(InvalidKeyError, match="endpoint_url") as refused:
        open_store(f"s3://bucket/x?endpoint_url={endpoint}")
    assert "abc" not in str(refused.value)
    assert "word" not in str(refused.value)
