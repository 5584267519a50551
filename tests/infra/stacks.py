"""Stacks of the template on servers that know CloudFormation, and sessions of those who have their roles' policies.

with stack(clients, "name", BucketName="b") as outputs:
    documents_of(clients, outputs["ReaderRoleArn"])
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from urllib.request import Request, urlopen

import boto3

from infra.permissions import BUCKET
from infra.policies.roles import ROLES
from infra.policies.template import ACCOUNT, TEMPLATE
from infra.servers.process import CREDENTIALS

Clients = Mapping[str, Any]
"""By the names of the services that a stack uses."""


def clients(endpoint: str) -> Iterator[Clients]:
    """Give clients of the services that a stack uses."""
    session = boto3.session.Session(
        CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1"
    )

    def client(service: Any) -> Any:
        return session.client(service, endpoint_url=endpoint)

    with ExitStack() as open_ones:
        yield {name: open_ones.enter_context(closing(client(name))) for name in ("cloudformation", "s3", "iam")}


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


@contextmanager
def enforcing(moto_endpoint: str) -> Iterator[None]:
    """Let moto evaluate the policies of whoever asks, of identities alone, and without their conditions.

    Source: "Non-implemented features / IAM-like Access Control", https://docs.getmoto.org/en/latest/docs/iam.html
    """
    _without_authentication(moto_endpoint, "0")
    try:
        yield
    finally:
        _without_authentication(moto_endpoint, "inf")


def _without_authentication(endpoint: str, requests: str) -> None:
    body, plain = requests.encode(), {"Content-Type": "text/plain"}  # as a form it would not be seen
    with urlopen(Request(f"{endpoint}/moto-api/reset-auth", data=body, headers=plain, method="POST")):
        pass


def session_with(aws: Clients, user: str, documents: Iterable[Any]) -> boto3.session.Session:
    """Return a session of a new user who has these policies inline.

    A session of the role itself would not do: moto 5.2 fails on the managed policy of a role that was assumed.
    """
    aws["iam"].create_user(UserName=user)
    for number, document in enumerate(documents):
        aws["iam"].put_user_policy(UserName=user, PolicyName=f"p{number}", PolicyDocument=json.dumps(document))
    made = aws["iam"].create_access_key(UserName=user)["AccessKey"]
    return boto3.session.Session(made["AccessKeyId"], made["SecretAccessKey"], region_name="us-east-1")


def documents_of(aws: Clients, role_arn: str) -> Iterator[Any]:
    """Yield the policies of a role, inline and attached."""
    iam, role = aws["iam"], role_arn.rpartition("/")[2]
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        yield iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    for attached in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        policy = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]
        version = iam.get_policy_version(PolicyArn=policy["Arn"], VersionId=policy["DefaultVersionId"])
        yield version["PolicyVersion"]["Document"]
