"""Evaluates IAM policies as AWS documents it: one request, one identity's policy, the policy of one resource. Pure.

Rules:
1. An explicit deny wins over every allow, and what nobody allows is denied.
   Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic_policy-eval-denyallow.html
2. Inside one account an allow in either policy is enough.
   Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic_policy-eval-basics.html
3. A condition on a key that the request lacks is false; a negated one is true; with `IfExists` either is true; `Null`
   asks for nothing else.
   Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
4. What it does not understand it refuses with `PolicyNotUnderstoodError`, also where the answer might not depend on it.

    policy = policy_of({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})
    decide(AwsRequest("s3:GetObject", "arn:aws:s3:::b/k", "arn:aws:iam::1:role/r"), identity=policy).allowed
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any

VERSION = "2012-10-17"  # the older one has no policy variables
_ELEMENTS = frozenset(
    ("Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition")
)
_ACCOUNT = re.compile(r"\d{12}|arn:aws:iam::\d{12}:root")
_ARN_PARTS = 6


class PolicyNotUnderstoodError(ValueError):
    """A policy has something that the evaluator does not model. Teach the evaluator, or write the policy without it."""


class Decision(Enum):
    """What becomes of a request."""

    ALLOWED = "allowed"
    DENIED_EXPLICITLY = "denied explicitly"
    DENIED_IMPLICITLY = "denied implicitly"

    @property
    def allowed(self) -> bool:
        """Say whether the request is carried out."""
        return self is Decision.ALLOWED


@dataclass(frozen=True, slots=True)
class AwsRequest:
    """One action on one resource by one principal.

    Attributes:
        action: As in `s3:GetObject`.
        resource: The ARN of an object or a bucket, or of whatever the action works on.
        principal: The ARN of a role or user; of a role also for its sessions, as in `aws:PrincipalArn`.
        context: Condition keys, in any case, and the one value that each has in this request.
    """

    action: str
    resource: str
    principal: str
    context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "context", {key.lower(): value for key, value in self.context.items()})


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key: `values` of the policy, of which one must match."""

    operator: str
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, its elements as tuples; an element that is absent is empty.

    Attributes:
        sid: Its name, "" where it has none.
        denies: Whether its effect is Deny.
    """

    sid: str
    denies: bool
    principals: tuple[str, ...]
    other_principals: tuple[str, ...]
    actions: tuple[str, ...]
    other_actions: tuple[str, ...]
    resources: tuple[str, ...]
    other_resources: tuple[str, ...]
    conditions: tuple[Condition, ...]

    @property
    def of_a_resource(self) -> bool:
        """Say whether it says for whom it stands, as statements of resources do."""
        return bool(self.principals or self.other_principals)

    def matches(self, request: AwsRequest) -> bool:
        """Say whether the statement speaks of this request."""
        return (
            _chosen(request.action.lower(), _lower(self.actions), _lower(self.other_actions))
            and self._speaks_of_principal(request.principal)
            and _chosen(request.resource, self.resources, self.other_resources)
            and all(_holds(condition, request) for condition in self.conditions)
        )

    def _speaks_of_principal(self, principal: str) -> bool:
        if self.other_principals:
            return not any(_is_principal(name, principal) for name in self.other_principals)
        return not self.principals or any(_is_principal(name, principal) for name in self.principals)


Policy = tuple[Statement, ...]


def decide(request: AwsRequest, *, identity: Policy = (), resource: Policy = ()) -> Decision:
    """Return what becomes of a request inside one account.

    Args:
        request: What is asked for; its context holds `aws:PrincipalArn` for a signed request.
        identity: Statements of the principal's own policies.
        resource: Statements of the resource's policy.

    Raises:
        PolicyNotUnderstoodError: A statement stands where it cannot.
    """
    if any(one.of_a_resource for one in identity) or not all(one.of_a_resource for one in resource):
        raise PolicyNotUnderstoodError("the policy of a resource names principals, that of an identity does not")
    effects = {one.denies for one in (*identity, *resource) if one.matches(request)}
    if True in effects:
        return Decision.DENIED_EXPLICITLY
    return Decision.ALLOWED if effects else Decision.DENIED_IMPLICITLY


def policy_of(document: Mapping[str, Any]) -> Policy:
    """Return the statements of a policy document, all functions of a template resolved.

    Raises:
        PolicyNotUnderstoodError: It has what is not modelled here.
    """
    if document.keys() - {"Version", "Id", "Statement"} or document.get("Version") != VERSION:
        raise PolicyNotUnderstoodError(f"want Version {VERSION}, Id and Statement, found {sorted(document)}")
    statements = document["Statement"]
    return tuple(_statement(one) for one in (statements if isinstance(statements, list) else [statements]))


def _statement(plain: Mapping[str, Any]) -> Statement:
    if unknown := plain.keys() - _ELEMENTS:
        raise PolicyNotUnderstoodError(f"a statement has {sorted(unknown)}")
    if plain.get("Effect") not in ("Allow", "Deny"):
        raise PolicyNotUnderstoodError(f"an effect is {plain.get('Effect')!r}")
    made = Statement(
        sid=plain.get("Sid", ""),
        denies=plain["Effect"] == "Deny",
        principals=_principals(plain.get("Principal")),
        other_principals=_principals(plain.get("NotPrincipal")),
        actions=_texts(plain.get("Action", ())),
        other_actions=_texts(plain.get("NotAction", ())),
        resources=_texts(plain.get("Resource", ())),
        other_resources=_texts(plain.get("NotResource", ())),
        conditions=tuple(_conditions(plain.get("Condition", {}))),
    )
    _check(made)
    return made


def _check(one: Statement) -> None:
    if bool(one.actions) == bool(one.other_actions) or (one.principals and one.other_principals):
        raise PolicyNotUnderstoodError(f"{one.sid}: want Action or NotAction, and one kind of principal at most")
    if bool(one.resources) == bool(one.other_resources) and (one.resources or not one.principals):
        raise PolicyNotUnderstoodError(f"{one.sid}: want Resource or NotResource")  # a trust policy has neither
    if not one.denies and one.other_principals:
        raise PolicyNotUnderstoodError(f"{one.sid}: NotPrincipal stands with Deny only")
    if not one.denies and any(_ACCOUNT.fullmatch(name) for name in one.principals):
        raise PolicyNotUnderstoodError(f"{one.sid}: an account that hands its right on is not modelled")
    for text in (*one.actions, *one.other_actions, *one.resources, *one.other_resources):
        _check_text(text)


def _check_text(text: str) -> None:
    if "${" in text:
        raise PolicyNotUnderstoodError(f"policy variables are not modelled: {text}")


def _principals(plain: object) -> tuple[str, ...]:
    if plain is None:
        return ()
    if plain == "*":
        return ("*",)
    if isinstance(plain, Mapping) and plain.keys() == {"AWS"}:
        return _texts(plain["AWS"])
    raise PolicyNotUnderstoodError(f"a principal is {plain!r}")


def _texts(plain: object) -> tuple[str, ...]:
    found = (plain,) if isinstance(plain, str) else plain
    if not isinstance(found, Sequence) or not all(isinstance(text, str) for text in found):
        raise PolicyNotUnderstoodError(f"want text or a list of texts, found {plain!r}")
    return tuple(found)


def _conditions(plain: Mapping[str, Mapping[str, object]]) -> Iterable[Condition]:
    for operator, keys in plain.items():
        if operator.removesuffix("IfExists") not in OPERATORS and operator != "Null":
            raise PolicyNotUnderstoodError(f"the operator {operator} is not modelled")
        for key, values in keys.items():
            found = _texts(values)
            if not found:
                raise PolicyNotUnderstoodError(f"{operator} on {key} has no value")
            for text in found:
                _check_text(text)
            yield Condition(operator, key.lower(), found)


def _chosen(value: str, chosen: tuple[str, ...], others: tuple[str, ...]) -> bool:
    if others:
        return not any(_like(pattern, value) for pattern in others)
    return not chosen or any(_like(pattern, value) for pattern in chosen)


def _is_principal(name: str, principal: str) -> bool:
    if _ACCOUNT.fullmatch(name):
        return principal.split(":")[4] == re.sub(r"\D", "", name)
    return name in ("*", principal)  # no other wildcards: a part of an ARN cannot be left open here


def _holds(condition: Condition, request: AwsRequest) -> bool:
    found = request.context.get(condition.key)
    if condition.operator == "Null":
        return str(found is None).lower() in condition.values
    operator = condition.operator.removesuffix("IfExists")
    negated = "Not" in operator
    if found is None:
        return negated or operator != condition.operator
    matches = OPERATORS[operator.replace("Not", "")]
    return negated != any(matches(wanted, found) for wanted in condition.values)


@lru_cache(maxsize=4096)
def _lower(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.lower() for text in texts)


@lru_cache(maxsize=1 << 16)  # the same few patterns meet the same few keys again and again
def _like(pattern: str, value: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), value, re.DOTALL) is not None


def _arn_like(pattern: str, value: str) -> bool:
    wanted, found = pattern.split(":", _ARN_PARTS - 1), value.split(":", _ARN_PARTS - 1)
    return len(wanted) == len(found) == _ARN_PARTS and all(map(_like, wanted, found))


def _equal(wanted: str, found: str) -> bool:
    return wanted == found


def _same_truth(wanted: str, found: str) -> bool:
    return wanted.lower() == found.lower()


# `ArnEquals` and `ArnLike` are the same: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
_POSITIVE: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": _equal,
    "StringLike": _like,
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
    "NumericLessThan": lambda wanted, found: float(found) < float(wanted),
    "Bool": _same_truth,
}
_NEGATED = {f"{kind}Not{how}" for kind in ("String", "Arn") for how in ("Equals", "Like")}
OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    **_POSITIVE,
    **{name: _POSITIVE[name.replace("Not", "")] for name in _NEGATED},
}
