"""Policies that AWS publishes as examples, and what it says they do; each row with the page that says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.policies.evaluator import Decision

ALICE = "arn:aws:iam::111122223333:user/Alice"
BOB = "arn:aws:iam::111122223333:user/Bob"
BUCKET = "arn:aws:s3:::amzn-s3-demo-bucket1"
OBJECT = f"{BUCKET}/photos/one.jpg"
ALLOWED, EXPLICITLY, IMPLICITLY = Decision.ALLOWED, Decision.DENIED_EXPLICITLY, Decision.DENIED_IMPLICITLY

CONDITIONAL = (
    "Enforce conditional writes on Amazon S3 buckets",
    "https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes-enforce.html",
)
BASICS = (
    "Policy evaluation for requests within a single account",
    "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic_policy-eval-basics.html",
)
DENY_OR_ALLOW = (
    "How AWS enforcement code logic evaluates requests to allow or deny access",
    "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic_policy-eval-denyallow.html",
)
OPERATORS = (
    "IAM JSON policy elements: Condition operators",
    "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html",
)
SEVERAL = (
    "Conditions with multiple context keys or values",
    "https://docs.aws.amazon.com/IAM/latest/UserGuide/conditions-setoperators.html",
)
CONDITION = (
    "IAM JSON policy elements: Condition",
    "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition.html",
)
TLS = (
    "S3 bucket policy for the Config rule s3-bucket-ssl-requests-only",
    "https://repost.aws/knowledge-center/s3-bucket-policy-for-config-rule",
)
FILE_TYPES = (
    "I want only certain file types to be stored on my Amazon S3 bucket",
    "https://repost.aws/knowledge-center/s3-allow-certain-file-types",
)
FOLDERS = (
    "I want to use IAM user policies to restrict access to specific folders within Amazon S3 buckets",
    "https://aws.amazon.com/premiumsupport/knowledge-center/iam-s3-user-specific-folder/",
)
NOT_RESOURCE = (
    "IAM JSON policy elements: NotResource",
    "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_notresource.html",
)
NOT_ACTION = (
    "IAM JSON policy elements: NotAction",
    "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_notaction.html",
)
NOT_PRINCIPAL = (
    "AWS JSON policy elements: NotPrincipal",
    "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_notprincipal.html",
)


@dataclass(frozen=True)
class Example:
    """One request under a published policy.

    Attributes:
        source: Title and address of the page.
        says: What the page says of such a request.
        expected: That, as a decision.
        identity: Statements attached to the principal.
        resource: Statements attached to the resource.
    """

    source: tuple[str, str]
    says: str
    expected: Decision
    action: str
    on: str
    identity: tuple[Mapping[str, Any], ...] = ()
    resource: tuple[Mapping[str, Any], ...] = ()
    context: Mapping[str, str] = field(default_factory=dict)
    principal: str = ALICE


def _allow(action: str | list[str], resource: str | list[str], **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def _for_alice(action: str, condition: Mapping[str, Any] | None = None) -> dict[str, Any]:
    more = {"Condition": condition} if condition else {}
    return _allow(action, f"{BUCKET}/*", Principal={"AWS": ALICE}, **more)


_CREATES = {"s3:ObjectCreationOperation": "true"}
_STEP = {"s3:ObjectCreationOperation": "false"}
_ABSENT, _SAME = {**_CREATES, "s3:if-none-match": "*"}, {**_CREATES, "s3:if-match": "etag"}
_ONLY_ABSENT = (
    _for_alice("s3:PutObject", {"Null": {"s3:if-none-match": "false"}}),
    _for_alice("s3:PutObject", {"Bool": {"s3:ObjectCreationOperation": "false"}}),
)
_ONLY_SAME = (
    _for_alice("s3:PutObject"),
    {
        "Effect": "Deny",
        "Principal": {"AWS": ALICE},
        "Action": "s3:PutObject",
        "Resource": f"{BUCKET}/*",
        "Condition": {"Null": {"s3:if-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}},
    },
    _for_alice("s3:GetObject"),
)
_EITHER = (
    _for_alice("s3:PutObject", {"Null": {"s3:if-none-match": "false"}}),
    _for_alice("s3:PutObject", {"Null": {"s3:if-match": "false"}}),
    _for_alice("s3:PutObject", {"Bool": {"s3:ObjectCreationOperation": "false"}}),
)
_PUT = ("s3:PutObject", OBJECT)
_ENFORCED = (
    Example(CONDITIONAL, "1: if-none-match is there", ALLOWED, *_PUT, (), _ONLY_ABSENT, _ABSENT),
    Example(CONDITIONAL, "1: no header", IMPLICITLY, *_PUT, (), _ONLY_ABSENT, _CREATES),
    Example(CONDITIONAL, "1: if-match instead", IMPLICITLY, *_PUT, (), _ONLY_ABSENT, _SAME),
    Example(CONDITIONAL, "1: CreateMultipartUpload and UploadPart", ALLOWED, *_PUT, (), _ONLY_ABSENT, _STEP),
    Example(CONDITIONAL, "1: somebody else", IMPLICITLY, *_PUT, (), _ONLY_ABSENT, _ABSENT, BOB),
    Example(CONDITIONAL, "2: if-match is there", ALLOWED, *_PUT, (), _ONLY_SAME, _SAME),
    Example(CONDITIONAL, "2: and it takes GetObject", ALLOWED, "s3:GetObject", OBJECT, (), _ONLY_SAME),
    Example(CONDITIONAL, "2: no header", EXPLICITLY, *_PUT, (), _ONLY_SAME, _CREATES),
    Example(CONDITIONAL, "2: if-none-match instead", EXPLICITLY, *_PUT, (), _ONLY_SAME, _ABSENT),
    Example(CONDITIONAL, "2: CreateMultipartUpload and UploadPart", ALLOWED, *_PUT, (), _ONLY_SAME, _STEP),
    Example(CONDITIONAL, "3: if-none-match", ALLOWED, *_PUT, (), _EITHER, _ABSENT),
    Example(CONDITIONAL, "3: if-match", ALLOWED, *_PUT, (), _EITHER, _SAME),
    Example(CONDITIONAL, "3: neither", IMPLICITLY, *_PUT, (), _EITHER, _CREATES),
)

_READ = (_allow("s3:GetObject", f"{BUCKET}/*"),)
_DENY_READ = ({"Effect": "Deny", "Principal": {"AWS": ALICE}, "Action": "s3:*", "Resource": f"{BUCKET}/*"},)
_LOGIC = (
    Example(DENY_OR_ALLOW, "by default all is implicitly denied", IMPLICITLY, "s3:GetObject", OBJECT),
    Example(DENY_OR_ALLOW, "must be explicitly allowed", ALLOWED, "s3:GetObject", OBJECT, _READ),
    Example(DENY_OR_ALLOW, "an explicit deny overrides", EXPLICITLY, "s3:GetObject", OBJECT, _READ, _DENY_READ),
    Example(BASICS, "only the resource's policy allows", ALLOWED, "s3:GetObject", OBJECT, (), _ONLY_SAME),
    Example(BASICS, "neither speaks of it", IMPLICITLY, "s3:DeleteObject", OBJECT, _READ, _ONLY_SAME),
)

_TLS_ONLY = (
    {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [BUCKET, f"{BUCKET}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    },
)
_HTTP, _HTTPS = {"aws:SecureTransport": "false"}, {"aws:SecureTransport": "true"}
_TRANSPORT = (
    Example(TLS, "HTTP is denied", EXPLICITLY, "s3:GetObject", OBJECT, _READ, _TLS_ONLY, _HTTP),
    Example(TLS, "HTTPS is not", ALLOWED, "s3:GetObject", OBJECT, _READ, _TLS_ONLY, _HTTPS),
    Example(TLS, "which alone allows nothing", IMPLICITLY, "s3:GetObject", OBJECT, (), _TLS_ONLY, _HTTPS),
    Example(TLS, "the bucket itself as well", EXPLICITLY, "s3:ListBucket", BUCKET, (), _TLS_ONLY, _HTTP),
)

_TYPES = tuple(f"{BUCKET}/*.{name}" for name in ("jpg", "png", "gif"))
_ONLY_IMAGES = (
    _allow("s3:PutObject", list(_TYPES), Principal={"AWS": ALICE}),
    {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "NotResource": list(_TYPES)},
)
_ALL = (_allow("s3:*", "*"),)
_PAYROLL = ("arn:aws:s3:::HRBucket/Payroll", "arn:aws:s3:::HRBucket/Payroll/*")
_ONLY_PAYROLL = (*_ALL, {"Effect": "Deny", "Action": "s3:*", "NotResource": list(_PAYROLL)})
_NO_BUCKET_DELETED = ({"Effect": "Allow", "NotAction": "s3:DeleteBucket", "Resource": "arn:aws:s3:::*"},)
_ALL_BUT_BOB = ({"Effect": "Deny", "NotPrincipal": {"AWS": BOB}, "Action": "s3:*", "Resource": f"{BUCKET}/*"},)
_OTHERS = (
    Example(FILE_TYPES, "a picture", ALLOWED, *_PUT, (), _ONLY_IMAGES),
    Example(FILE_TYPES, "no picture, full access", EXPLICITLY, "s3:PutObject", f"{BUCKET}/a.txt", _ALL, _ONLY_IMAGES),
    Example(NOT_RESOURCE, "Payroll's folder", ALLOWED, "s3:GetObject", f"{_PAYROLL[0]}/may", _ONLY_PAYROLL),
    Example(NOT_RESOURCE, "other folders", EXPLICITLY, "s3:GetObject", "arn:aws:s3:::HRBucket/a", _ONLY_PAYROLL),
    Example(NOT_ACTION, "all actions of S3", ALLOWED, "s3:CreateBucket", "arn:aws:s3:::new", _NO_BUCKET_DELETED),
    Example(NOT_ACTION, "but deleting", IMPLICITLY, "s3:DeleteBucket", "arn:aws:s3:::new", _NO_BUCKET_DELETED),
    Example(NOT_PRINCIPAL, "the one it names", ALLOWED, "s3:GetObject", OBJECT, _READ, _ALL_BUT_BOB, {}, BOB),
    Example(NOT_PRINCIPAL, "all others", EXPLICITLY, "s3:GetObject", OBJECT, _READ, _ALL_BUT_BOB),
)

_COMPANY = "arn:aws:s3:::my-company"
_DAVID = (
    _allow(
        ["s3:ListBucket"],
        [_COMPANY],
        Condition={"StringEquals": {"s3:prefix": ["", "home/"], "s3:delimiter": ["/"]}},
    ),
    _allow(["s3:ListBucket"], [_COMPANY], Condition={"StringLike": {"s3:prefix": ["home/David/*"]}}),
    _allow(["s3:*"], [f"{_COMPANY}/home/David/*"]),
)
_LIST = ("s3:ListBucket", _COMPANY, _DAVID, ())
_LISTINGS = (
    Example(FOLDERS, "his folder", ALLOWED, *_LIST, {"s3:prefix": "home/David/"}),
    Example(FOLDERS, "below it", ALLOWED, *_LIST, {"s3:prefix": "home/David/a/b"}),
    Example(FOLDERS, "home, by folders", ALLOWED, *_LIST, {"s3:prefix": "home/", "s3:delimiter": "/"}),
    Example(FOLDERS, "home, with all below", IMPLICITLY, *_LIST, {"s3:prefix": "home/"}),
    Example(FOLDERS, "another's", IMPLICITLY, *_LIST, {"s3:prefix": "home/Bob/"}),
    Example(FOLDERS, "no prefix at all", IMPLICITLY, *_LIST),
    Example(FOLDERS, "his object", ALLOWED, "s3:PutObject", f"{_COMPANY}/home/David/x", _DAVID),
    Example(FOLDERS, "another's object", IMPLICITLY, "s3:PutObject", f"{_COMPANY}/home/Bob/x", _DAVID),
)


def _if(condition: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    return (_allow("ec2:*", "*", Condition=condition),)


_RUN = ("ec2:RunInstances", "arn:aws:ec2:us-east-1:111122223333:instance/i")
_TYPED = _if({"StringLikeIfExists": {"ec2:InstanceType": ["t1.*", "t2.*", "m3.*"]}})
_NO_TOKEN = _if({"Null": {"aws:TokenIssueTime": "true"}})
_TWO = _if({"StringEquals": {"aws:a": ["1", "2"], "aws:b": "3"}, "Bool": {"aws:c": "true"}})
_NEITHER = _if({"StringNotEquals": {"aws:a": ["1", "2"]}})
_TOPIC = _if({"ArnLike": {"aws:SourceArn": "arn:aws:sns:us-east-1:*:my-topic"}})
_CONDITIONS = (
    Example(OPERATORS, "IfExists: there and matching", ALLOWED, *_RUN, _TYPED, (), {"ec2:InstanceType": "t2.micro"}),
    Example(OPERATORS, "there and not matching", IMPLICITLY, *_RUN, _TYPED, (), {"ec2:InstanceType": "c5.large"}),
    Example(OPERATORS, "not there", ALLOWED, *_RUN, _TYPED),
    Example(OPERATORS, "Null: not there", ALLOWED, *_RUN, _NO_TOKEN),
    Example(OPERATORS, "Null: there", IMPLICITLY, *_RUN, _NO_TOKEN, (), {"aws:TokenIssueTime": "2026-01-01T00:00:00Z"}),
    Example(OPERATORS, "a key that is absent is false", IMPLICITLY, *_RUN, _if({"StringEquals": {"aws:a": "1"}})),
    Example(OPERATORS, "negated it is true", ALLOWED, *_RUN, _if({"StringNotLike": {"aws:a": "1"}})),
    Example(OPERATORS, "StringEquals minds case", IMPLICITLY, *_RUN, _if({"StringEquals": {"a": "J"}}), (), {"a": "j"}),
    Example(OPERATORS, "Numeric", ALLOWED, *_RUN, _if({"NumericLessThan": {"a": "10"}}), (), {"a": "9"}),
    Example(OPERATORS, "Numeric, not less", IMPLICITLY, *_RUN, _if({"NumericLessThan": {"a": "10"}}), (), {"a": "10"}),
    Example(OPERATORS, "ArnLike", ALLOWED, *_RUN, _TOPIC, (), {"aws:SourceArn": "arn:aws:sns:us-east-1:1:my-topic"}),
    Example(
        *(OPERATORS, "ArnLike: each part for itself", IMPLICITLY, *_RUN, _TOPIC, ()),
        {"aws:SourceArn": "arn:aws:sns:us-east-1:1:2:my-topic"},
    ),
    Example(CONDITION, "names of keys do not mind case", ALLOWED, *_RUN, _NEITHER, (), {"AWS:A": "3"}),
    Example(
        SEVERAL, "all keys, one of the values", ALLOWED, *_RUN, _TWO, (), {"aws:a": "2", "aws:b": "3", "aws:c": "true"}
    ),
    Example(SEVERAL, "one key is wrong", IMPLICITLY, *_RUN, _TWO, (), {"aws:a": "2", "aws:b": "4", "aws:c": "true"}),
    Example(SEVERAL, "one operator is", IMPLICITLY, *_RUN, _TWO, (), {"aws:a": "2", "aws:b": "3", "aws:c": "false"}),
    Example(SEVERAL, "negated: none of the values", ALLOWED, *_RUN, _NEITHER, (), {"aws:a": "3"}),
    Example(SEVERAL, "negated: one of them", IMPLICITLY, *_RUN, _NEITHER, (), {"aws:a": "2"}),
)
EXAMPLES = (*_ENFORCED, *_LOGIC, *_TRANSPORT, *_OTHERS, *_LISTINGS, *_CONDITIONS)
