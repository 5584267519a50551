from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import boto3
import pytest
from cfnlint.api import ManualArgs, lint  # type: ignore[import-untyped]  # it has no types

from infra.permissions import BUCKET, deployed
from infra.policies.evaluator import policy_of
from infra.policies.roles import ROLES
from infra.policies.template import ACCOUNT, TEMPLATE, Deployed, Template, TemplateNotUnderstoodError, arn_of
from infra.servers.process import CREDENTIALS, LOOPBACK, Command, one_process

MANAGED_BYTES_MAX, INLINE_BYTES_MAX, BUCKET_POLICY_BYTES_MAX = 6_144, 10_240, 20 * 1024
"""Source: "IAM and AWS STS quotas", https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html; "Bucket
policies", https://docs.aws.amazon.com/AmazonS3/latest/userguide/add-bucket-policy.html."""
LONGEST = {
    "BucketName": "b" * 63,
    "Prefix": "p" * 64,
    "Tenant": "t" * 150,
    "CopySourceBucketName": "s" * 63,
    "CopySourcePrefix": "q" * 64,
    "CopySourceTenant": "u" * 150,
}


@pytest.mark.aside
def test_the_template_is_clean_for_its_linter() -> None:
    found = lint(TEMPLATE.read_text(), config=ManualArgs(regions=["us-east-1", "eu-central-1"]))
    assert [str(match) for match in found] == []


Clients = Mapping[str, Any]
"""By the names of the services that a stack uses."""


def clients(endpoint: str) -> Iterator[Clients]:
    """Give clients of the services that a stack uses."""
    session = boto3.session.Session(
        CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1"
    )

    def client(service: Any) -> Any:
        return session.client(service, endpoint_url=endpoint)

    with closing(client("cloudformation")) as stacks, closing(client("s3")) as s3, closing(client("iam")) as iam:
        yield {"cloudformation": stacks, "s3": s3, "iam": iam}


@pytest.fixture(scope="module")
def moto(moto_endpoint: str) -> Iterator[Clients]:
    """Give clients of moto, which knows roles and buckets, but no policies of buckets."""
    yield from clients(moto_endpoint)


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


@contextmanager
def stack(aws: Clients, name: str, **parameters: str) -> Iterator[dict[str, str]]:
    """Deploy the template, yield the stack's outputs, and remove it."""
    chosen = _parameters(**{"BucketName": BUCKET, **parameters})
    made = {"StackName": name, "TemplateBody": TEMPLATE.read_text(), "Capabilities": ["CAPABILITY_IAM"]}
    aws["cloudformation"].create_stack(**made, Parameters=chosen)
    try:
        assert status_of(aws, name) == "CREATE_COMPLETE"
        (described,) = aws["cloudformation"].describe_stacks(StackName=name)["Stacks"]
        yield {row["OutputKey"]: row["OutputValue"] for row in described["Outputs"]}
    finally:
        aws["cloudformation"].delete_stack(StackName=name)


def _parameters(**chosen: str) -> list[dict[str, str]]:
    trusted = {f"{role.capitalize()}Principals": f"arn:aws:iam::{ACCOUNT}:role/{role}" for role in ROLES}
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in {**trusted, **chosen}.items()]


def updated(aws: Clients, name: str, **parameters: str) -> str:
    """Update a stack; return its status."""
    aws["cloudformation"].update_stack(
        StackName=name,
        TemplateBody=TEMPLATE.read_text(),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=_parameters(**parameters),
    )
    return status_of(aws, name)


def status_of(aws: Clients, name: str) -> str:
    """Return the status of a stack when it rests."""
    while True:
        (described,) = aws["cloudformation"].describe_stacks(StackName=name)["Stacks"]
        if not described["StackStatus"].endswith("_IN_PROGRESS"):
            return str(described["StackStatus"])


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
            role = outputs[f"{name}Arn"].rpartition("/")[2]
            statements = [one for document in _documents(ministack["iam"], role) for one in policy_of(document)]
            assert sorted(statements, key=str) == sorted(expected.role_policy(name), key=str)
        assert ministack["s3"].get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
        assert all(ministack["s3"].get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values())


@pytest.mark.parametrize(
    ("status", "configuration", "rules"),
    [
        ("Unversioned", None, ["UnfinishedUploads"]),
        ("Enabled", {"Status": "Enabled"}, ["UnfinishedUploads", "OldVersions", "MarkersOfNothing"]),
        ("Suspended", {"Status": "Suspended"}, ["UnfinishedUploads", "OldVersions", "MarkersOfNothing"]),
    ],
)
def test_old_versions_go_where_there_are_any(status: str, configuration: object, rules: list[str]) -> None:
    properties = deployed(Versioning=status).resources["Bucket"]["Properties"]
    assert properties.get("VersioningConfiguration") == configuration
    assert [rule["Id"] for rule in properties["LifecycleConfiguration"]["Rules"]] == rules


def _renamed(text: str, arns: Mapping[str, str]) -> Any:
    for made, expected in arns.items():
        text = text.replace(made, expected)
    return json.loads(text)


def _documents(iam: Any, role: str) -> Iterator[Any]:
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        yield iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    for attached in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        policy = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]
        version = iam.get_policy_version(PolicyArn=policy["Arn"], VersionId=policy["DefaultVersionId"])
        yield version["PolicyVersion"]["Document"]


def test_a_deleted_stack_leaves_the_bucket_and_its_policy() -> None:
    resources = Template.read().document["Resources"]
    for name in ("Bucket", "BucketPolicy"):
        assert resources[name]["DeletionPolicy"] == resources[name]["UpdateReplacePolicy"] == "Retain"


def _bytes(document: Any) -> int:
    return len(json.dumps(document, separators=(",", ":")))


def _inline(stack: Deployed, role: str) -> int:
    properties = stack.resources[role]["Properties"]
    attached = [one["Properties"] for one in stack.resources.values() if role in one["Properties"].get("Roles", ())]
    return sum(_bytes(one["PolicyDocument"]) for one in (*properties.get("Policies", ()), *attached))


def test_the_longest_names_leave_policies_within_the_limits_of_aws() -> None:
    longest = deployed(**LONGEST)
    properties = {name: one["Properties"] for name, one in longest.resources.items()}
    assert _bytes(properties["ReadPolicy"]["PolicyDocument"]) <= MANAGED_BYTES_MAX
    assert max(_inline(longest, role) for role in ROLES.values()) <= INLINE_BYTES_MAX
    assert _bytes(properties["BucketPolicy"]["PolicyDocument"]) <= BUCKET_POLICY_BYTES_MAX


@pytest.mark.parametrize(
    "value",
    [
        {"Fn::Join": ["", ["a", "b"]]},
        {"Fn::Sub": ["${a}", {"a": "b"}]},
        {"Ref": "Nobody"},
        {"Fn::GetAtt": ["Bucket", "DomainName"]},
        {"Fn::Sub": "${ReaderPrincipals}"},
    ],
    ids=str,
)
def test_a_function_that_is_not_modelled_is_refused(value: dict[str, Any]) -> None:
    written = Template.read()
    changed = {**written.document, "Resources": {**written.document["Resources"], "Odd": {"Properties": value}}}
    stack = Template(changed).deployed(deployed().parameters)
    with pytest.raises(TemplateNotUnderstoodError):
        _ = stack.resources


def test_a_missing_or_unknown_parameter_is_refused() -> None:
    for parameters in ({}, {**deployed().parameters, "Unknown": "x"}):
        with pytest.raises(TemplateNotUnderstoodError):
            Template.read().deployed(parameters)
