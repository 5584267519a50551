"""The template deployed, and its roles at work where a server enforces what they may do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest

from infra.permissions import BUCKET, PREFIX, deployed
from infra.policies.evaluator import policy_of
from infra.policies.roles import ROLES
from infra.policies.template import arn_of
from infra.servers.moto import moto_running
from infra.servers.process import LOOPBACK, Command, one_process
from snapshots import SnapshotRepository, store_object
from snapshots.environment import Environment
from snapshots.layout import Layout
from snapshots.maintenance.garbage import plan_collect
from storage.backends.s3 import S3Store
from storage.clock import SystemClock
from storage.errors import PermissionDeniedError
from storage.executor import InlineExecutor
from storage.server import ServerFacts, Verdict, endpoint_of
from storage.store import Create
from storage.wrappers.prefixed import PrefixedStore
from tests.infra.stacks import Clients, clients, documents_of, enforcing, session_with, stack, updated
from tests.integration.builders import new_session

GARBAGE = Layout("default").pack("gone", f"{'a' * 32}.{'b' * 16}")


@pytest.fixture(scope="module")
def endpoint(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: ARG001  for its effect
    """Give the endpoint of a moto of our own: one that enforces policies would disturb others."""
    with moto_running(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def moto(endpoint: str) -> Iterator[Clients]:
    """Give clients of moto, which knows roles and buckets, but no policies of buckets."""
    yield from clients(endpoint)


@pytest.fixture(scope="module")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Give clients of a ministack with the services of a stack, which knows all but its lifecycle and encryption."""

    def command(port: int) -> Command:
        services = {"SERVICES": "s3,iam,sts,cloudformation", "IOT_MTLS_ENABLED": "0", "LOG_LEVEL": "WARNING"}
        return Command(
            [sys.executable, "-m", "ministack"], services | {"BIND_HOST": LOOPBACK, "GATEWAY_PORT": str(port)}
        )

    with one_process("ministack", command, tmp_path_factory.mktemp("ministack")) as endpoint:
        yield from clients(endpoint)


@pytest.mark.parametrize("server", ["moto", "ministack"])
def test_a_stack_is_made_without_versions_and_updated_to_keep_them(server: str, request: pytest.FixtureRequest) -> None:
    aws: Clients = request.getfixturevalue(server)
    bucket = f"{BUCKET}-growing"  # it stays when its stack goes
    with stack(aws, "growing", BucketName=bucket) as outputs:
        assert outputs["StoreUrl"] == f"s3://{bucket}/agents?region=us-east-1"
        assert "Status" not in aws["s3"].get_bucket_versioning(Bucket=bucket)
        assert updated(aws, "growing", BucketName=bucket, Versioning="Enabled") == "UPDATE_COMPLETE"
        if server == "ministack":  # moto takes the update, and does not carry it out
            assert aws["s3"].get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
        assert updated(aws, "growing", BucketName=bucket, Versioning="Suspended") == "UPDATE_COMPLETE"


def test_a_deployed_stack_has_the_policies_that_were_evaluated(ministack: Clients) -> None:
    more = {"Versioning": "Enabled", "CopySourceBucketName": "amzn-s3-demo-source"}
    expected = deployed(**more)
    with stack(ministack, "whole", **more) as outputs:
        arns = {outputs[f"{name}Arn"]: arn_of(name) for name in ROLES.values()}
        found = _renamed(ministack["s3"].get_bucket_policy(Bucket=BUCKET)["Policy"], arns)
        assert policy_of(found) == expected.bucket_policy
        for name in ROLES.values():
            documents = documents_of(ministack, outputs[f"{name}Arn"])
            statements = [one for document in documents for one in policy_of(document)]
            assert sorted(statements, key=str) == sorted(expected.role_policy(name), key=str)
        assert ministack["s3"].get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
        assert all(ministack["s3"].get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values())


def _renamed(text: str, arns: Mapping[str, str]) -> Any:
    for made, expected in arns.items():
        text = text.replace(made, expected)
    return json.loads(text)


@contextmanager
def bucket_of(endpoint: str, bucket: str, session: boto3.session.Session) -> Iterator[PrefixedStore]:
    """Give what lies under the prefix as somebody may see it."""
    with closing(S3Store(bucket, endpoint_url=endpoint, session=session)) as store:
        yield PrefixedStore(store, PREFIX)


@contextmanager
def opened(endpoint: str, bucket: str, session: boto3.session.Session) -> Iterator[SnapshotRepository]:
    """Open the store in a bucket of moto as somebody."""
    with (
        bucket_of(endpoint, bucket, session) as store,
        SnapshotRepository(store, create=False, inline_limit_bytes=0) as repo,
    ):
        yield repo


def make_store(store: PrefixedStore) -> None:
    """Make a store on a server that need not be probed again, with a pack in it that nobody names."""
    with InlineExecutor() as executor:
        environment = Environment(store, Layout("default"), SystemClock(), executor)
        store_object.make(environment, Verdict(endpoint_of(store), datetime.now(UTC), (), ServerFacts()))
    store.put(GARBAGE, b"garbage", Create())


def test_the_roles_work_where_a_server_enforces_their_policies(endpoint: str, moto: Clients) -> None:
    bucket = f"{BUCKET}-working"
    moto["s3"].create_bucket(Bucket=bucket)
    evaluated = deployed(BucketName=bucket)
    sessions = {role: session_with(moto, role, evaluated.role_documents(name)) for role, name in ROLES.items()}
    # Not by the maintainer: moto asks whoever deletes many objects for a right to the bucket, which AWS does not.
    with bucket_of(endpoint, bucket, boto3.session.Session("test", "test")) as store:
        make_store(store)
    with enforcing(endpoint):
        with opened(endpoint, bucket, sessions["writer"]) as repo:
            repo.commit(new_session("kept", "t1", "t2"))
            repo.fork("kept", "fork")
            refused(lambda: plan_collect(repo))
            refused(lambda: repo.environment.store.delete(GARBAGE))
        with opened(endpoint, bucket, sessions["reader"]) as repo:
            assert {one.session_id for one in repo.sessions()} == {"kept", "fork"}
            assert repo.load("kept").head_revision == 1
            refused(lambda: repo.commit(new_session("another", "t1")))
        with opened(endpoint, bucket, sessions["copier"]) as repo:
            refused(lambda: repo.claim_lease("kept", "copier", 1.0))
        with opened(endpoint, bucket, sessions["maintainer"]) as repo:
            assert [one.family for one in plan_collect(repo).families] == ["gone"]
            repo.environment.store.delete(GARBAGE)
            assert plan_collect(repo).families == ()


def refused(work: Callable[[], object]) -> None:
    """Check that somebody may not do something."""
    with pytest.raises(PermissionDeniedError):
        work()
