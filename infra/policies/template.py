"""Reads the CloudFormation template and fills its parameters in: the policies as AWS would store them.

Rules:
1. Only what the template uses of CloudFormation is understood: Ref, GetAtt, Sub, If, Not, Equals. Anything else is a
   `TemplateNotUnderstoodError`, never left as it stands.
   Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html
2. What only AWS knows (the ARN of a role that it will name) is made up, in one place: `arn_of`.

    template = Template.read()
    template.deployed({"BucketName": "agents", **template.defaults}).bucket_policy
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are not a package of ours, and only two names are used

from infra.policies.evaluator import Policy, policy_of

TEMPLATE = Path(__file__).parents[1] / "template.yaml"
ACCOUNT = "111122223333"  # the account of AWS's own examples
PSEUDO = {"AWS::Partition": "aws", "AWS::Region": "eu-central-1", "AWS::AccountId": ACCOUNT}
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_NOTHING = object()  # what AWS::NoValue stands for: leaves no trace


class TemplateNotUnderstoodError(ValueError):
    """The template uses what is not modelled here. Teach `template.py`, or write the template without it."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # untyped, as its package is
    """Reads the short forms (`!Ref x`) as the long ones (`{"Ref": "x"}`)."""


def _long_form(loader: Any, suffix: str, node: Any) -> dict[str, Any]:
    construct = {"scalar": loader.construct_scalar, "sequence": loader.construct_sequence}
    value = construct[node.id](node) if node.id == "scalar" else construct[node.id](node, deep=True)
    if suffix == "GetAtt":
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _long_form)


@dataclass(frozen=True)
class Template:
    """A template as written, its functions in their long form."""

    document: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path = TEMPLATE) -> Template:
        """Return the template at `path`. Raises yaml.YAMLError where it is not YAML."""
        loader = _Loader(path.read_text())
        try:
            return cls(loader.get_single_data())
        finally:
            loader.dispose()

    @property
    def defaults(self) -> dict[str, str]:
        """Return the parameters that have a default, and it."""
        described = self.document["Parameters"].items()
        return {name: str(facts["Default"]) for name, facts in described if "Default" in facts}

    def deployed(self, parameters: Mapping[str, str | list[str]]) -> Deployed:
        """Return what a stack of these parameters has.

        Raises:
            TemplateNotUnderstoodError: A parameter is missing or unknown.
        """
        if parameters.keys() != self.document["Parameters"].keys():
            different = sorted(parameters.keys() ^ self.document["Parameters"].keys())
            raise TemplateNotUnderstoodError(f"missing or unknown parameters: {different}")
        return Deployed(self.document, dict(parameters))


@dataclass(frozen=True)
class Deployed:
    """A template with its parameters."""

    document: Mapping[str, Any]
    parameters: Mapping[str, str | list[str]]

    @cached_property
    def resources(self) -> dict[str, dict[str, Any]]:
        """Return the resources whose condition holds, by name, their functions resolved."""
        return {
            name: self._resolved(facts)
            for name, facts in self.document["Resources"].items()
            if "Condition" not in facts or self._condition(facts["Condition"])
        }

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Return the outputs, by name."""
        return {name: self._resolved(facts)["Value"] for name, facts in self.document["Outputs"].items()}

    @cached_property
    def bucket_policy(self) -> Policy:
        """Return the statements of the bucket's policy."""
        return policy_of(self.resources["BucketPolicy"]["Properties"]["PolicyDocument"])

    def role_documents(self, role: str) -> list[dict[str, Any]]:
        """Return all policy documents of a role, by its logical name: its own, and those that are attached."""
        properties = self.resources[role]["Properties"]
        documents = [one["PolicyDocument"] for one in properties.get("Policies", ())]
        for name, facts in self.resources.items():
            is_managed = facts["Type"] == "AWS::IAM::ManagedPolicy" and name in properties.get("ManagedPolicyArns", ())
            if is_managed or role in facts["Properties"].get("Roles", ()):
                documents.append(facts["Properties"]["PolicyDocument"])
        return documents

    def role_policy(self, role: str) -> Policy:
        """Return the statements of all policies of a role, by its logical name."""
        return tuple(statement for document in self.role_documents(role) for statement in policy_of(document))

    def trust_policy(self, role: str) -> Policy:
        """Return the statements that say who may assume a role."""
        return policy_of(self.resources[role]["Properties"]["AssumeRolePolicyDocument"])

    def _condition(self, name: str) -> bool:
        return bool(self._resolved(self.document["Conditions"][name]))

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, list):
            found = (self._resolved(one) for one in value)
            return [one for one in found if one is not _NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref" or name.startswith("Fn::"):
                return self._function(name, argument)
        pairs = {key: self._resolved(one) for key, one in value.items()}
        return {key: one for key, one in pairs.items() if one is not _NOTHING}

    def _function(self, name: str, argument: Any) -> Any:
        if name == "Ref":
            return self._ref(argument)
        if name == "Fn::GetAtt":
            return self._attribute(*argument)
        if name == "Fn::Sub" and isinstance(argument, str):
            return _VARIABLE.sub(lambda match: self._variable(match[1]), argument)
        if name == "Fn::If":
            chosen, otherwise = argument[1:]
            return self._resolved(chosen if self._condition(argument[0]) else otherwise)
        if name == "Fn::Not":
            return not self._resolved(argument[0])
        if name == "Fn::Equals":
            return self._resolved(argument[0]) == self._resolved(argument[1])
        raise TemplateNotUnderstoodError(f"{name} of {argument!r}")

    def _variable(self, name: str) -> str:
        found = self._attribute(*name.split(".", 1)) if "." in name else self._ref(name)
        if not isinstance(found, str):
            raise TemplateNotUnderstoodError(f"${{{name}}} is no text")
        return found

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _NOTHING
        if name in self.parameters:
            return self.parameters[name]
        if name in PSEUDO:
            return PSEUDO[name]
        if name == "Bucket":
            return self.parameters["BucketName"]
        if name in self.document["Resources"]:
            return name
        raise TemplateNotUnderstoodError(f"nothing is called {name}")

    def _attribute(self, name: str, attribute: str) -> str:
        if attribute != "Arn" or name not in self.document["Resources"]:
            raise TemplateNotUnderstoodError(f"{name}.{attribute}")
        return arn_of(name) if name != "Bucket" else f"arn:aws:s3:::{self.parameters['BucketName']}"


def arn_of(role: str) -> str:
    """Return the ARN that a role of the template has in these evaluations."""
    return f"arn:aws:iam::{ACCOUNT}:role/{role}"
