"""Which backends can be named in `backend:`, and which keys each takes. Read when a file is loaded, never at import."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mqsdk.config.problems import suggestion
from mqsdk.errors import ConfigError

GROUP = "mqsdk"
EMBEDDED = "log"
SHIPPED = {EMBEDDED: "mqsdk_log", "kafka": "mqsdk_kafka", "rabbitmq": "mqsdk_rabbitmq", "redis": "mqsdk_redis"}
COMMON_KEYS = frozenset({"servers", "tls", "auth", "options"})


@cache
def installed() -> dict[str, EntryPoint]:
    """Entry points by backend name. Those that ship in this distribution are always among them."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {**{name: EntryPoint(name, module, GROUP) for name, module in SHIPPED.items()}, **found}


def refusal(name: str) -> tuple[str, str] | None:
    """(what, fix) when no such backend can be opened here."""
    known = sorted(installed())
    if name in known:
        return None
    return "there is no such backend", suggestion(name, known)


@cache
def options_of(name: str) -> Any:
    """The `Options` of an adapter, a dataclass with the keys of its own; None when it has none or cannot be imported."""
    entry = installed().get(name)
    try:
        options = getattr(entry.load(), "Options", None) if entry else None
    except Exception:
        # An adapter that cannot be imported is reported where it is opened, with its own reason.
        return None
    return options if isinstance(options, type) and dataclasses.is_dataclass(options) else None


def keys_of(name: str) -> Collection[str] | None:
    """Keys that a cluster of this kind takes beside those of every cluster; None when the adapter does not say."""
    options = options_of(name)
    if options is None:
        return None
    own = {field.name for field in dataclasses.fields(options)}
    # The embedded log has no address, no encryption and no client.
    return frozenset(own if name == EMBEDDED else own | COMMON_KEYS)


def value_problems(name: str, cluster: str, values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, what, fix) of every value that the adapter refuses, if its Options can be asked: `Options.parse(values, cluster)`."""
    options = options_of(name)
    parse = getattr(options, "parse", None)
    if options is None or parse is None:
        return []
    known = {field.name for field in dataclasses.fields(options)}
    try:
        parse({key: value for key, value in values.items() if key in known}, cluster)
    except ConfigError as error:
        return [(problem.key.removeprefix(f"clusters.{cluster}."), problem.what, problem.fix) for problem in error.problems]
    return []


def effective(name: str, cluster: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A cluster's options with the defaults of the adapter's own keys; a given value that means the default is shown as the default."""
    options = options_of(name)
    parse = getattr(options, "parse", None)
    if options is None or parse is None:
        return values
    defaults = {field.name: field.default for field in dataclasses.fields(options) if field.default is not dataclasses.MISSING}
    try:
        parsed = parse({key: value for key, value in values.items() if key in defaults}, cluster)
    except ConfigError:  # reported where it is loaded
        return values
    other = {key: value for key, value in values.items() if key not in defaults or getattr(parsed, key) != defaults[key]}
    return {**defaults, **other}
