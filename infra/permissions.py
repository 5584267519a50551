"""Prints who may do what under the policies of the template: `python -m infra.permissions`.

Rules:
1. Every cell is an evaluation of the template's policies (`infra.policies.evaluator`), for several keys of each kind,
   which must agree; nothing is written by hand.
2. Each role is also asked about with `s3:*` in its own policy, and so is an administrator: what they may not do, the
   bucket forbids. Those that differ are printed.

    python -m infra.permissions            # the tables
    python -m infra.permissions --write    # into infra/PERMISSIONS.md
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from infra.policies.evaluator import AwsRequest, Policy, decide, policy_of
from infra.policies.requests import REQUESTS, action_on, aws_requests
from infra.policies.roles import KINDS, ROLES, Row, keys_of, prefix_of
from infra.policies.template import ACCOUNT, Deployed, Template, arn_of
from infra.tables import replaced, table

HERE = Path(__file__).parent
REQUESTS_TABLE = HERE / "requests.csv"
HEADER = ("operation", "request", "kind")
PERMISSIONS = HERE / "PERMISSIONS.md"
BUCKET, PREFIX, TENANT = "amzn-s3-demo-bucket", "agents", "default"
EVERYTHING = policy_of({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})
ADMINISTRATOR = f"arn:aws:iam::{ACCOUNT}:role/Administrator"
SHOWN = (*ROLES, "writer with s3:*", "maintainer with s3:*", "administrator")
ON_BUCKET = (
    *("s3:DeleteBucket", "s3:DeleteBucketPolicy", "s3:PutBucketPolicy", "s3:PutBucketAcl", "s3:PutBucketVersioning"),
    *("s3:PutLifecycleConfiguration", "s3:PutReplicationConfiguration", "s3:PutEncryptionConfiguration"),
    *("s3:PutBucketPublicAccessBlock", "s3:PutBucketOwnershipControls", "s3:ListBucketVersions"),
)
ON_OBJECTS = (
    *("s3:DeleteObjectVersion", "s3:GetObjectVersion", "s3:PutObjectAcl", "s3:PutObjectTagging", "s3:RestoreObject"),
    *("s3:PutObjectRetention", "s3:BypassGovernanceRetention", "s3:GetObjectAcl", "s3:GetObjectTagging"),
    *("s3:ReplicateObject", "s3:ReplicateDelete"),
)
_ON_KINDS = tuple(request for request in REQUESTS if request != "list-uploads")  # that one is of the bucket
Question = tuple[str, str, str]  # principal, request or action, kind


@dataclass(frozen=True)
class Policies:
    """What is attached to whom.

    Attributes:
        bucket: Statements of the bucket's policy.
        identities: By the principal's name in the tables, its ARN and its own statements.
    """

    bucket: Policy
    identities: Mapping[str, tuple[str, Policy]]

    @classmethod
    def of(cls, deployed: Deployed) -> Policies:
        """Return the policies of a stack; beside its roles, some with every right of S3."""
        own = {role: (arn_of(name), deployed.role_policy(name)) for role, name in ROLES.items()}
        unbounded = {f"{role} with s3:*": (arn_of(name), EVERYTHING) for role, name in ROLES.items()}
        return cls(deployed.bucket_policy, {**own, **unbounded, "administrator": (ADMINISTRATOR, EVERYTHING)})

    def with_bucket(self, bucket: Policy) -> Policies:
        """Return the same with another policy of the bucket."""
        return replace(self, bucket=bucket)

    def with_identity(self, name: str, policy: Policy) -> Policies:
        """Return the same with other statements of one principal."""
        return replace(self, identities={**self.identities, name: (self.identities[name][0], policy)})

    def allow(self, name: str, request: AwsRequest) -> bool:
        """Say whether a request of a principal is allowed."""
        return decide(request, identity=self.identities[name][1], resource=self.bucket).allowed

    def allow_all(self, name: str, request: str, key: str, *, encrypted: bool = True) -> bool:
        """Say whether all actions of one of our requests are."""
        principal = self.identities[name][0]
        actions = aws_requests(request, key, bucket=BUCKET, principal=principal, encrypted=encrypted)
        return all(self.allow(name, one) for one in actions)


class DisagreementError(Exception):
    """Keys of one kind are treated differently: a pattern of the template fits some of them by accident. Mend it."""


@dataclass(frozen=True)
class Permissions:
    """Every question of the tables, and its answer under some policies."""

    policies: Policies

    def questions(self) -> Iterator[Question]:
        """Yield all questions: requests on kinds, in the clear, of others, and actions that are never sent."""
        for name in self.policies.identities:
            for request in _ON_KINDS:
                yield from ((name, request, kind) for kind in KINDS)
                yield from ((name, request, f"{where} {kind}") for where in ELSEWHERE for kind in ("heads", "packs"))
                yield (name, request, "http heads")
            yield from ((name, request, "tenant") for request in ("list", "list-uploads"))
            yield from ((name, action, "bucket") for action in (*ON_BUCKET, "s3:ListBucket"))
            yield from ((name, action, kind) for action in ON_OBJECTS for kind in ("heads", "packs", "quarantine"))
            yield (name, "If-Match: *", "heads")

    def answer(self, question: Question) -> bool:
        """Return whether it is allowed.

        Raises:
            DisagreementError: For some keys of the kind and not for others.
        """
        name, request, kind = question
        answers = {self._allowed(name, request, key, kind) for key in keys_to_try(request, kind)}
        if len(answers) != 1:
            raise DisagreementError(f"{name}: {request} of {kind}")
        return answers.pop()

    @cached_property
    def answers(self) -> dict[Question, bool]:
        """Return all answers."""
        return {question: self.answer(question) for question in self.questions()}

    def _allowed(self, name: str, request: str, key: str, kind: str) -> bool:
        if request in REQUESTS:
            return self.policies.allow_all(name, request, key, encrypted=not kind.startswith("http "))
        principal, arn = self.policies.identities[name][0], f"arn:aws:s3:::{BUCKET}"
        if request == "If-Match: *":
            replacing = aws_requests("put-replace", key, bucket=BUCKET, principal=principal)[0]
            any_version = replace(replacing, context={**replacing.context, "s3:if-match": "*"})
            return self.policies.allow(name, any_version)
        return self.policies.allow(name, action_on(request, f"{arn}/{key}" if key else arn, principal=principal))


ELSEWHERE: Mapping[str, tuple[str, str]] = {
    "another tenant's": (PREFIX, "another"),
    "another store's": ("elsewhere", TENANT),
}


def keys_to_try(request: str, kind: str) -> tuple[str, ...]:
    """Return the keys, or the prefixes of a listing, for which a question is asked."""
    if kind == "bucket":
        return ("",)
    where, _, plain = kind.rpartition(" ")
    prefix, tenant = ELSEWHERE.get(where, (PREFIX, TENANT))
    if request in ("list", "list-uploads"):
        return (prefix_of(plain, prefix=prefix, tenant=tenant),)
    return keys_of(plain, prefix=prefix, tenant=tenant)


def deployed(**parameters: str) -> Deployed:
    """Return the template deployed with the names that the tables use."""
    template = _written()
    who = {name: [f"arn:aws:iam::{ACCOUNT}:role/{name}"] for name in template.document["Parameters"]}
    trusted = {name: arns for name, arns in who.items() if name.endswith("Principals")}
    return template.deployed({"BucketName": BUCKET, **template.defaults, **trusted, **parameters})


@cache
def of_template() -> Permissions:
    """Return what the template's policies allow, its parameters as in the tables."""
    return Permissions(Policies.of(deployed()))


@cache
def _written() -> Template:
    return Template.read()  # a fifth of a second


def sent_rows(path: Path = REQUESTS_TABLE) -> list[Row]:
    """Return what each operation sends, as recorded. Raises ValueError for another header."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    if tuple(header) != HEADER:
        raise ValueError(f"{path}: header {header}")
    return [(operation, request, kind) for operation, request, kind in rows]


def tables(permissions: Permissions) -> str:
    """Return the tables in Markdown."""
    names = SHOWN
    sent = [[kind, *(_marks(permissions, name, _ON_KINDS, kind) for name in names)] for kind in KINDS]
    sent.append(["the bucket", *(_marks(permissions, name, ("list-uploads",), "tenant") for name in names)])
    asked = [(action, "bucket") for action in ON_BUCKET]
    asked += [(action, kind) for action in ON_OBJECTS for kind in ("heads", "packs")]
    never = [
        [f"`{what}`, {kind}", *("yes" if permissions.answers[name, what, kind] else "–" for name in names)]
        for what, kind in asked
    ]
    return f"{table(('', *names), sent)}\n\n{table(('never sent', *names), never)}"


def _marks(permissions: Permissions, name: str, requests: tuple[str, ...], kind: str) -> str:
    allowed = [request for request in requests if permissions.answers[name, request, kind]]
    return ", ".join(allowed).replace("put-create, put-replace", "put-create/replace") or "–"


def main(arguments: list[str]) -> int:
    """Print the tables, or write them into the document."""
    text = tables(of_template())
    if arguments == ["--write"]:
        PERMISSIONS.write_text(replaced(PERMISSIONS.read_text(), "permissions", text))
        return 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
