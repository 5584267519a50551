from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from infra.permissions import (
    BUCKET,
    ON_BUCKET,
    ON_OBJECTS,
    PERMISSIONS,
    PREFIX,
    TENANT,
    DisagreementError,
    Permissions,
    Policies,
    deployed,
    keys_to_try,
    main,
    of_template,
    sent_rows,
    tables,
)
from infra.policies.evaluator import AwsRequest, Decision, Policy, decide, policy_of
from infra.policies.requests import REQUESTS, aws_requests
from infra.policies.roles import (
    BEYOND,
    KINDS,
    LEAVES,
    OPERATIONS,
    REGISTERS,
    REMOVABLE,
    ROLES,
    UNRECORDED,
    implied_by,
    needed_by,
    sent_by_all,
)
from infra.policies.template import ACCOUNT, arn_of
from infra.tables import between_markers
from tests.infra.mutations import mutations

SOURCE = {"CopySourceBucketName": "amzn-s3-demo-source", "CopySourcePrefix": "old", "CopySourceTenant": "team"}
UNBOUNDED = (*(f"{role} with s3:*" for role in ROLES), "administrator")
ON_KINDS = tuple(request for request in REQUESTS if request != "list-uploads")


def test_every_operation_has_a_role_and_every_role_operations_of_its_own() -> None:
    assert {operation for operation, _, _ in sent_by_all(sent_rows())} == OPERATIONS.keys()
    assert {roles for roles in OPERATIONS.values() if len(roles) == 1} == {
        (role,) for role in ROLES if role != "reader"
    }


def test_what_is_said_not_to_be_recorded_is_not() -> None:
    assert sorted(UNRECORDED.intersection(sent_rows())) == []


def test_every_request_is_one_that_is_understood() -> None:
    rows = sent_by_all(sent_rows())
    assert {request for _, request, _ in rows} <= set(REQUESTS)
    assert {kind for _, _, kind in rows} <= {*KINDS, "tenant"}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_allowed_what_its_operations_send_and_nothing_else(role: str) -> None:
    beyond = {(request, kind) for who, request, kind in BEYOND if who == role}
    needed = needed_by(role, sent_rows())
    allowed = {
        (asked, kind) for (name, asked, kind), answer in of_template().answers.items() if answer and name == role
    }
    assert beyond.isdisjoint(needed), "a reason for what needs none"
    assert allowed == needed | beyond


def test_what_is_denied_was_asked() -> None:
    asked = {(request, kind) for _, request, kind in of_template().questions()}
    assert asked >= {(request, kind) for request in ON_KINDS for kind in KINDS}
    assert asked >= {(action, "bucket") for action in ON_BUCKET} | {(action, "heads") for action in ON_OBJECTS}
    assert asked >= {("get", f"another {what}") for what in ("tenant's heads", "store's packs")} | {
        ("get", "http heads")
    }
    assert asked >= {("put-overwrite", kind) for kind in KINDS} | {("If-Match: *", "heads")}


def expected_with_every_right(name: str, request: str, kind: str) -> bool:
    """Say what the bucket leaves to somebody whose own policy allows all of S3: the protocol, in a few lines."""
    if request == "put-overwrite":
        return False
    if request == "put-replace":
        return kind in REGISTERS
    if request == "delete":
        return kind == "quarantine" or (kind in REMOVABLE and name == "maintainer with s3:*")
    return True


@pytest.mark.parametrize("name", UNBOUNDED)
def test_the_bucket_keeps_the_protocol_against_whoever_has_every_right(name: str) -> None:
    answers = of_template().answers
    for request in ON_KINDS:
        for kind in KINDS:
            assert answers[name, request, kind] == expected_with_every_right(name, request, kind), (request, kind)


@pytest.mark.parametrize("name", UNBOUNDED)
def test_nobody_writes_without_a_condition_deletes_a_head_or_sends_in_the_clear(name: str) -> None:
    answers = of_template().answers
    unconditional = [answers[name, "put-overwrite", kind] for kind in KINDS] + [answers[name, "If-Match: *", "heads"]]
    kept = [answers[name, "delete", kind] for kind in ("heads", "store", "epoch")]
    versions = [answers[name, "s3:DeleteObjectVersion", "heads"]]
    in_the_clear = [answers[name, request, "http heads"] for request in ON_KINDS]
    assert not any([*unconditional, *kept, *versions, *in_the_clear])


def test_with_every_right_the_roles_that_delete_nothing_are_alike() -> None:
    by_role = [
        {
            question[1:]: answer
            for question, answer in of_template().answers.items()
            if question[0] == f"{role} with s3:*"
        }
        for role in ("reader", "writer", "copier")
    ]
    assert by_role[0] == by_role[1] == by_role[2]


@pytest.mark.parametrize("name", UNBOUNDED[:-1])
def test_no_program_administers_the_bucket(name: str) -> None:
    answers = of_template().answers
    assert not any(answers[name, action, "bucket"] for action in ON_BUCKET)
    assert not any(answers[name, action, kind] for action in ON_OBJECTS for kind in ("heads", "packs", "quarantine"))


def test_an_administrator_can_undelete_a_pack_and_mend_the_bucket() -> None:
    answers = of_template().answers
    assert answers["administrator", "s3:DeleteObjectVersion", "packs"]  # of a marker, and the pack is there again
    assert all(answers["administrator", action, "bucket"] for action in ON_BUCKET)


def assumes(trust: Policy, principal: str) -> bool:
    request = AwsRequest("sts:AssumeRole", "", principal)
    allowed = [one for one in trust if not one.denies and one.matches(request)]
    return bool(allowed) and not any(one.denies and one.matches(request) for one in trust)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_assumed_only_by_those_named_for_it(role: str) -> None:
    stack = deployed()
    named = {name: f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in stack.parameters if name.endswith("Principals")}
    trusted = {name for name, arn in named.items() if assumes(stack.trust_policy(ROLES[role]), arn)}
    assert trusted == {f"{role.capitalize()}Principals"}


@cache
def at_the_source() -> Policy:
    """Return the policy of the bucket there, which has a stack of its own."""
    return deployed(BucketName="amzn-s3-demo-source", Prefix="old", Tenant="team").bucket_policy


def sends_to_the_source(request: str, kind: str, policy: Policy) -> bool:
    keys = keys_to_try(request, kind)
    swapped = [key.replace(f"{PREFIX}/", "old/", 1).replace(f"old/{TENANT}/", "old/team/", 1) for key in keys]
    requests = [
        aws_requests(request, key, bucket="amzn-s3-demo-source", principal=arn_of("CopierRole")) for key in swapped
    ]
    decided = (
        all(decide(one, identity=policy, resource=at_the_source()).allowed for one in actions) for actions in requests
    )
    answers = set(decided)
    assert len(answers) == 1
    return answers.pop()


def test_a_copier_reads_its_source_and_leaves_its_address_there() -> None:
    with_source, without = (deployed(**more).role_policy("CopierRole") for more in (SOURCE, {}))
    questions = [(request, kind) for request in ON_KINDS for kind in KINDS]
    reads = {sent for sent in needed_by("reader", sent_rows()) if sent[1] != "tenant"}
    migrates = LEAVES
    allowed = {sent for sent in questions if sends_to_the_source(*sent, with_source)}
    assert allowed == reads | migrates | implied_by(LEAVES)
    assert not any(sends_to_the_source(*sent, without) for sent in questions)


def differs(changed: Policies, of: tuple[str, ...]) -> bool:
    """Say whether any answer to a question about these principals changes."""
    before, now = of_template().answers, Permissions(changed)
    try:
        return any(now.answer(question) != before[question] for question in before if question[0] in of)
    except DisagreementError:  # keys of one kind are treated differently now
        return True


def unnoticed() -> Iterator[str]:
    """Yield what can be taken from a policy without a change of any answer."""
    policies = of_template().policies
    for what, bucket in mutations(policies.bucket):
        if not differs(policies.with_bucket(bucket), UNBOUNDED):
            yield f"bucket: {what}"
    for role in ROLES:
        for what, identity in mutations(policies.identities[role][1]):
            if not differs(policies.with_identity(role, identity), (role,)):
                yield f"{role}: {what}"


def unnoticed_at_the_source() -> Iterator[str]:
    """Yield what can be taken from a copier's policy for its source without a change of what it may do there."""
    stack = deployed(**SOURCE)
    own = policy_of(stack.resources["CopySourcePolicy"]["Properties"]["PolicyDocument"])
    sent = [(request, kind) for request in ON_KINDS for kind in KINDS]
    before = [sends_to_the_source(*one, own) for one in sent]
    for what, policy in mutations(own):
        if [sends_to_the_source(*one, policy) for one in sent] == before:
            yield what


@pytest.mark.aside
def test_nothing_can_be_taken_from_a_policy_without_a_change_of_the_tables() -> None:
    assert [*unnoticed(), *unnoticed_at_the_source()] == []


def test_the_document_has_the_tables_of_the_template() -> None:
    assert between_markers(PERMISSIONS.read_text(), "permissions") == tables(of_template())


def test_the_program_prints_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == tables(of_template()) + "\n"
    assert main(["--unknown"]) == 2


def test_a_pattern_that_fits_some_keys_of_a_kind_only_is_found() -> None:
    loose = policy_of(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": "s3:*", "Resource": f"arn:aws:s3:::{BUCKET}/{PREFIX}/*/heads/*"}
            ],
        }
    )
    asked = {
        key: decide(aws_requests("delete", key, bucket=BUCKET, principal=arn_of("ReaderRole"))[0], identity=loose)
        for key in keys_to_try("delete", "packs")
    }
    assert set(asked.values()) == {Decision.ALLOWED, Decision.DENIED_IMPLICITLY}
