"""Every way to take something away from a policy, or to turn a condition round: each must be noticed somewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from infra.policies.evaluator import Condition, Policy, Statement

Mutation = tuple[str, Policy]  # what was done, and the policy afterwards
_LISTS = ("principals", "actions", "other_actions", "resources", "other_resources")


def mutations(policy: Policy) -> Iterator[Mutation]:
    """Yield each statement away; each entry of each list away; each condition away, and with another value."""
    for index, one in enumerate(policy):
        yield f"{one.sid} away", (*policy[:index], *policy[index + 1 :])
        for what, changed in _changed(one):
            yield f"{one.sid}: {what}", (*policy[:index], changed, *policy[index + 1 :])


def _changed(one: Statement) -> Iterator[tuple[str, Statement]]:
    assert {field.name for field in fields(one)} >= set(_LISTS), "the lists are the statement's own"
    for name in _LISTS:
        entries = getattr(one, name)
        for entry in entries if len(entries) > 1 else ():
            fewer: Any = {name: tuple(other for other in entries if other != entry)}
            yield f"{entry} away", replace(one, **fewer)
    for condition in one.conditions:
        others = tuple(other for other in one.conditions if other is not condition)
        yield f"{condition.operator} of {condition.key} away", replace(one, conditions=others)
        for value in condition.values:
            yield f"{condition.key} no longer {value}", replace(one, conditions=(*others, _without(condition, value)))


def _without(condition: Condition, value: str) -> Condition:
    turned = {"true": "false", "false": "true"}.get(value, "arn:aws:iam::444455556666:role/another")
    return replace(condition, values=(*(other for other in condition.values if other != value), turned))
