"""`requires`: the versions of mqsdk that may start with a configuration. A few operators, read here: `packaging` is no dependency."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from mqsdk.config.problems import Finding
from mqsdk.config.references import revealed

WANTED = 'one or more of >= > == != <= < with a version, commas between, for example ">=0.1" or ">=0.1, <2"'
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {">=": ge, "<=": le, "==": eq, "!=": ne, ">": gt, "<": lt}
_CLAUSE = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([0-9]{1,9}(?:\.[0-9]{1,9}){0,4})\s*", re.ASCII)
# The public part of a version of ours as PEP 440 writes it; what stands after `+` says nothing about age.
_VERSION = re.compile(r"([0-9]+(?:\.[0-9]+)*)(?:(a|b|rc)([0-9]+))?(?:\.post([0-9]+))?(?:\.dev([0-9]+))?(?:\+.*)?", re.ASCII)
_STAGES: Mapping[str | None, int] = {"a": -3, "b": -2, "rc": -1, None: 0}

Age = tuple[tuple[int, ...], int, int, int, int]


@dataclass(frozen=True)
class Requirement:
    """specifier: as the file gives it. warns: a version that does not fit is told, not refused."""

    specifier: str
    warns: bool = False

    def __str__(self) -> str:
        return f"{self.specifier}{' (warn)' if self.warns else ''}"

    def unmet(self, version: str) -> str:
        """What to tell when this version of mqsdk does not fit; "" when it does."""
        if not version:
            return f"needs mqsdk {self.specifier}, and the version of this one is not known: it is not installed as a package"
        age = _age(version)
        if all(_OPERATORS[operator](age, _age(bound)) for operator, bound in clauses(self.specifier)):
            return ""
        return f"needs mqsdk {self.specifier}, this is {version}"


def sdk_version() -> str:
    """The version of the installed distribution, "" when mqsdk is not installed as one."""
    try:
        return installed("mqsdk")
    except PackageNotFoundError:
        return ""


def clauses(specifier: str) -> list[tuple[str, str]]:
    """(operator, version) of each part. Raises ValueError for any other form."""
    found = [_CLAUSE.fullmatch(part) for part in specifier.split(",")]
    if len(found) > 10 or None in found:
        raise ValueError(f"must be {WANTED}")
    return [(match[1], match[2]) for match in found if match is not None]


def _age(version: str) -> Age:
    """What makes one version older than another: 1.4.dev1 < 1.4a1 < 1.4rc1 < 1.4 = 1.4.0 < 1.4.post1. Oldest of all: what is no version."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return ((), 0, 0, 0, 0)
    numbers = [int(part) for part in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    before_all = match[5] is not None and match[2] is None and match[4] is None
    stage = -4 if before_all else _STAGES[match[2]]
    finished = 1 if match[5] is None else 0
    return (tuple(numbers), stage, int(match[3] or 0), int(match[4]) + 1 if match[4] else 0, finished)


def parsed(value: object) -> Requirement | None:
    """The requirement of the key's value in merged data, None when it is absent or wrong; what is wrong the model says."""
    value = revealed(value)
    specifier, action = (value.get("version"), value.get("action", "refuse")) if isinstance(value, Mapping) else (value, "refuse")
    if not isinstance(specifier, str) or not isinstance(action, str):
        return None
    try:
        clauses(specifier)
    except ValueError:
        return None
    return Requirement(specifier, action.lower() == "warn")


def refusal(data: Mapping[str, Any]) -> Finding | None:
    """Why this mqsdk may not start with the merged data."""
    wanted = parsed(data.get("requires"))
    if wanted is None or wanted.warns:
        return None
    what = wanted.unmet(sdk_version())
    return Finding(("requires",), what, f"pip install 'mqsdk{wanted.specifier.replace(' ', '')}'") if what else None
