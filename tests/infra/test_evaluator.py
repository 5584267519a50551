from __future__ import annotations

from typing import Any

import pytest

from infra.policies.evaluator import AwsRequest, Decision, Policy, PolicyNotUnderstoodError, decide, policy_of
from tests.infra.examples import EXAMPLES, Example

GOOD = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}


def policy(*statements: Any) -> Policy:
    return policy_of({"Version": "2012-10-17", "Statement": list(statements)})


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: f"{one.source[0]}: {one.says}")
def test_published_examples_do_what_their_page_says(example: Example) -> None:
    request = AwsRequest(example.action, example.on, example.principal, example.context)
    decided = decide(request, identity=policy(*example.identity), resource=policy(*example.resource))
    assert decided is example.expected


@pytest.mark.parametrize(
    "statement",
    [
        GOOD | {"Effect": "Permit"},
        GOOD | {"Conditions": {}},
        GOOD | {"NotAction": "s3:PutObject"},
        GOOD | {"NotResource": "*"},
        GOOD | {"Action": 7},
        GOOD | {"Resource": "arn:aws:s3:::bucket/${aws:username}/*"},
        GOOD | {"Condition": {"StringLike": {"s3:prefix": "${aws:username}/*"}}},
        GOOD | {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
        GOOD | {"Condition": {"ForAllValues:StringEquals": {"aws:TagKeys": "a"}}},
        GOOD | {"Condition": {"StringEquals": {"aws:a": []}}},
        GOOD | {"Principal": {"Service": "s3.amazonaws.com"}},
        GOOD | {"Principal": {"AWS": "111122223333"}},
        GOOD | {"Principal": {"AWS": "arn:aws:iam::111122223333:root"}},
        GOOD | {"NotPrincipal": {"AWS": "arn:aws:iam::111122223333:user/Bob"}},
        {"Effect": "Allow", "Action": "s3:GetObject"},
        {"Effect": "Allow", "Resource": "*"},
    ],
    ids=str,
)
def test_what_is_not_modelled_is_refused(statement: dict[str, Any]) -> None:
    with pytest.raises(PolicyNotUnderstoodError):
        policy(statement)


@pytest.mark.parametrize("document", [{"Statement": [GOOD]}, {"Version": "2008-10-17", "Statement": [GOOD]}], ids=str)
def test_a_policy_of_another_version_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(PolicyNotUnderstoodError):
        policy_of(document)


def test_a_denied_account_is_everybody_in_it() -> None:
    denied = policy(GOOD | {"Effect": "Deny", "Principal": {"AWS": "111122223333"}})
    allowed = policy(GOOD)
    for account, expected in (("111122223333", Decision.DENIED_EXPLICITLY), ("444455556666", Decision.ALLOWED)):
        request = AwsRequest("s3:GetObject", "arn:aws:s3:::b/k", f"arn:aws:iam::{account}:role/r")
        assert decide(request, identity=allowed, resource=denied) is expected


def test_identities_name_no_principals_and_resources_do() -> None:
    request = AwsRequest("s3:GetObject", "arn:aws:s3:::b/k", "arn:aws:iam::111122223333:role/r")
    with pytest.raises(PolicyNotUnderstoodError):
        decide(request, identity=policy(GOOD | {"Principal": "*"}))
    with pytest.raises(PolicyNotUnderstoodError):
        decide(request, resource=policy(GOOD))
