"""Checking a cluster's own keys: what every adapter does with the block that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from mqsdk.errors import Problem


def checked_options(
    given: Mapping[str, Any], checks: Mapping[str, Callable[[Any], Any]], cluster: str, kind: str
) -> tuple[dict[str, Any], list[Problem]]:
    """(values that passed their check, everything that is wrong). A check returns the value to use or raises ValueError with a sentence.

    kind: what people call the backend, in "unknown key of ...".
    """
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for key, value in given.items():
        where = f"clusters.{cluster}.{key}"
        if key not in checks:
            close = get_close_matches(key, checks, 1)
            fix = f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(checks)}"
            problems.append(Problem(where, f"unknown key of {kind}", fix))
            continue
        try:
            values[key] = checks[key](value)
        except ValueError as error:
            problems.append(Problem(where, str(error)))
    return values, problems
