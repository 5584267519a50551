"""Fixtures that every part of the suite may use: real S3 servers, started when first asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.ceph import CephMissingError, ceph_running, check_installed
from tests.servers import CREDENTIALS, NOT_FOR_TESTS, ministack_running, moto_running, new_bucket_url

ALL_SERVERS = os.environ.get("SNAPSHOTS_ALL_SERVERS") == "1"  # a server that is missing is then a failure


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """Test credentials, and nothing of the machine's own configuration."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NOT_FOR_TESTS:
            patch.delenv(name, raising=False)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def moto_endpoint(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: ARG001  for its effect
    """Give the endpoint of a moto server, one for the whole session."""
    with moto_running(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ministack_endpoint(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: ARG001  for its effect
    """Give the endpoint of a ministack server, one for the whole session."""
    with ministack_running(tmp_path_factory.mktemp("ministack")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ceph_installed() -> None:
    """Skip what needs Ceph where it is not installed."""
    try:
        check_installed()
    except CephMissingError as error:
        if ALL_SERVERS:
            raise
        pytest.skip(str(error))  # on a machine without Ceph; CI sets ALL_SERVERS


@pytest.fixture(scope="session")
def ceph_endpoint(
    ceph_installed: None,  # noqa: ARG001  for its effect
    s3_credentials: None,  # noqa: ARG001  for its effect
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Give the endpoint of a Ceph node, one for the whole session."""
    with ceph_running(tmp_path_factory.mktemp("ceph")) as endpoint:
        yield endpoint


@pytest.fixture
def moto_url(moto_endpoint: str) -> str:
    """Give the URL of a store in a fresh bucket on moto, which carries out one request at a time."""
    return new_bucket_url(moto_endpoint)


@pytest.fixture
def ministack_url(ministack_endpoint: str) -> str:
    """Give the URL of a store in a fresh bucket on ministack, which carries out one request at a time."""
    return new_bucket_url(ministack_endpoint)


@pytest.fixture
def ceph_url(ceph_endpoint: str) -> str:
    """Give the URL of a store in a fresh bucket on Ceph, which carries out many requests at once."""
    return new_bucket_url(ceph_endpoint)
