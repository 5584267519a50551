from __future__ import annotations

import json
from typing import Any

import pytest
from cfnlint.api import ManualArgs, lint  # type: ignore[import-untyped]  # it has no types

from infra.permissions import deployed
from infra.policies.roles import ROLES
from infra.policies.template import TEMPLATE, Deployed, Template, TemplateNotUnderstoodError

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
