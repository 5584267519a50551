"""Fixtures that every part of the suite may use: real S3 servers, started when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import CREDENTIALS, NOT_FOR_TESTS, ministack_running, moto_running, new_bucket_url


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


@pytest.fixture
def moto_url(moto_endpoint: str) -> str:
    """Give the URL of a store in a fresh bucket on moto, which carries out one request at a time."""
    return new_bucket_url(moto_endpoint)


@pytest.fixture
def ministack_url(ministack_endpoint: str) -> str:
    """Give the URL of a store in a fresh bucket on ministack, which carries out one request at a time."""
    return new_bucket_url(ministack_endpoint)
