"""The options of a cluster of kind `log`, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from mqsdk.spi import ConfigError
from mqsdk.spi.options import checked_options

Durability = Literal["none", "interval", "always"]
LONGEST_INTERVAL_S = 60.0
_TEXT = re.compile(r"(\d+(?:\.\d+)?)(ms|s)", re.ASCII)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)", re.ASCII)
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)(KiB|MiB|GiB|TiB|kB|MB|GB|TB)", re.ASCII)
_MULTIPLES = {"K": 1, "M": 2, "G": 3, "T": 4}
NONE = float("inf")


@dataclass(frozen=True, slots=True)
class Options:
    """path: directory of the log, relative to the working directory at open. durability: what a publish waits for.

    interval: seconds between syncs with durability "interval". any_filesystem: allow network file systems, whose locks and flushes are
    weaker than what the log relies on.
    keep: seconds for which a message stays that no group waits for; infinity: for ever. A topic may be told another time.
    keep_size: bytes of one topic above which its oldest messages go, also those that a group still waits for; infinity: no limit.
    """

    path: str = "./.mqsdk"
    durability: Durability = "interval"
    interval: float = 0.010
    any_filesystem: bool = False
    keep: float = 7 * 86400.0
    keep_size: float = 10 * 2.0**30

    @classmethod
    def parse(cls, given: Mapping[str, Any], cluster: str) -> Options:
        """Raises ConfigError that lists every unknown key and every value that cannot be used."""
        known = {field.name: _CHECKS[field.name] for field in fields(cls)}
        values, problems = checked_options(given, known, cluster, "the embedded log")
        if problems:
            raise ConfigError.of(problems)
        return cls(**values)


def _path(value: Any) -> str:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError("a path is text")
    return str(value)


def _durability(value: Any) -> Durability:
    if value not in get_args(Durability):
        raise ValueError(f"one of {', '.join(get_args(Durability))}")
    found: Durability = value
    return found


def _interval(value: Any) -> float:
    if isinstance(value, str) and (match := _TEXT.fullmatch(value)) is not None:
        value = float(match[1]) / (1000 if match[2] == "ms" else 1)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.001 <= value <= LONGEST_INTERVAL_S:
        raise ValueError("a duration from 1ms to 60s, for example '10ms'")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _keep(value: Any) -> float:
    if value in (None, "none"):
        return NONE
    if isinstance(value, str) and (match := _SPAN.fullmatch(value)) is not None:
        value = float(match[1]) * _SPANS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or not (1 <= value <= 3650 * 86400 or value == NONE):
        raise ValueError("a duration from 1s to 3650d, for example '7d', or none")
    return float(value)


def _keep_size(value: Any) -> float:
    if value in (None, "none"):
        return NONE
    if isinstance(value, str) and (match := _BYTES.fullmatch(value)) is not None:
        value = float(match[1]) * (1024 if match[2][1] == "i" else 1000) ** _MULTIPLES[match[2][0].upper()]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 << 20:
        raise ValueError("a size of at least 1MiB, for example '10GiB', or none")
    return float(value)


_CHECKS = {
    "path": _path, "durability": _durability, "interval": _interval, "any_filesystem": _flag, "keep": _keep, "keep_size": _keep_size,
}  # fmt: skip
