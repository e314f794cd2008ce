"""Checking a cluster's own keys: what every adapter does with the block that it is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from mqsdk.errors import Problem

_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\]]+)(?::(?P<port>\d{1,5}))?", re.ASCII)


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


def checked_servers(value: Any, default_port: int, example: str) -> tuple[tuple[str, int], ...]:
    """The key `servers` as (host, port). default_port: where an address has none. example: one address, for the error. ValueError."""
    if isinstance(value, str) or not isinstance(value, list | tuple) or not value:
        raise ValueError(f"a list of addresses, for example [{example}]")
    return tuple(_server(item, default_port) for item in value)


def _server(value: Any, default_port: int) -> tuple[str, int]:
    match = _SERVER.fullmatch(value) if isinstance(value, str) else None
    if match is None or (match["port"] and not 0 < int(match["port"]) < 65536):
        raise ValueError("an address is host:port")
    return match["host"].strip("[]"), int(match["port"] or default_port)


def checked_texts(value: Any, names: str) -> dict[str, str]:
    """The texts of a mapping such as `auth`, without those that are not given. names: what it takes, for the error. ValueError."""
    if not isinstance(value, Mapping) or any(not isinstance(item, str) for item in value.values() if item is not None):
        raise ValueError(f"a mapping with {names}")
    return {key: item for key, item in value.items() if item is not None}


def no_client_options(value: Any) -> None:
    """The key `options` of an adapter that opens none of its client's. ValueError for any."""
    if not isinstance(value, Mapping) or value:
        raise ValueError("no option of the client is open: each would weaken what this adapter promises")
