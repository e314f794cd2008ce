"""Durations, sizes and rates as people write them. A leaf: imports the standard library only.

Raises ValueError with a sentence for the reader; callers add where it happened.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:(?:\d+(?:\.\d+)?)(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SIZES = {"": 1, "B": 1, "kB": 1000, "KB": 1000, "KiB": 1024, "MB": 10**6, "MiB": 1024**2, "GB": 10**9, "GiB": 1024**3}
_SIZE = re.compile(r"(\d+)\s*([A-Za-z]*)", re.ASCII)
_RATE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)/([smh])", re.ASCII)
_MAX_SECONDS = 100 * 366 * 86400.0


def seconds(value: timedelta | float | str) -> float:
    """A duration in seconds, >= 0. Takes a timedelta, a number of seconds, or text such as "250ms", "30s", "1h30m", "7d".

    Refused with ValueError: negative, NaN, infinite, over a hundred years, booleans, and a bare "30" (no unit).
    """
    if isinstance(value, bool):
        raise ValueError("a duration is a timedelta, a number of seconds or text such as '30s', not a boolean")
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, int | float):
        result = _number(value)
    elif isinstance(value, str):
        result = _from_text(value)
    else:
        raise ValueError(f"a duration is a timedelta, a number of seconds or text such as '30s', not {type(value).__name__}")
    if math.isnan(result) or result < 0 or result > _MAX_SECONDS:
        raise ValueError("a duration is between 0 and 100 years")
    return result


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _from_text(text: str) -> float:
    if len(text) > 40 or not _DURATION.fullmatch(text):
        hint = "write a unit, for example '30s'" if text.strip().isdecimal() else "write for example '250ms', '30s', '5m', '1h30m' or '7d'"
        raise ValueError(f"not a duration: {hint}")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def size(value: int | str) -> int:
    """A size in bytes, >= 0, from an int or text such as "64MiB", "500kB". ValueError for anything else."""
    if isinstance(value, bool):
        raise ValueError("a size is a number of bytes or text such as '64MiB', not a boolean")
    if isinstance(value, int):
        if value < 0:
            raise ValueError("a size is not negative")
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) and len(value) <= 40 else None
    if match is None or match[2] not in _SIZES:
        raise ValueError("not a size: write for example 1048576, '64MiB' or '500kB'")
    return int(match[1]) * _SIZES[match[2]]


def per_second(value: str) -> float:
    """A rate in events per second, > 0, from text such as "200/s", "30/m", "5/h". ValueError for anything else."""
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    rate = float(match[1]) / _SECONDS[match[2]] if match is not None else 0.0
    if not rate:
        raise ValueError("not a rate: write for example 100/s, 30/m or 5/h, above 0")
    return rate


def rate_text(value: float) -> str:
    """Events per second as people write them, in the shortest unit that has a whole number: 0.5 -> "30/m"."""
    for unit in ("s", "m", "h"):
        count = value * _SECONDS[unit]
        if abs(count - round(count)) < 1e-6 and count >= 0.5:
            return f"{round(count)}/{unit}"
    return f"{value:.6g}/s"


def duration_text(value: float) -> str:
    """Seconds as people write them: 0.25 -> "250ms", 90 -> "1m30s"; infinity is "none"."""
    if value == math.inf:
        return "none"
    if value < 1:
        return f"{value * 1000:.3g}ms"
    parts, rest = [], value
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, _SECONDS[unit])
        if count:
            parts.append(f"{int(count)}{unit}")
    if rest or not parts:
        parts.append(f"{rest:.3g}s")
    return "".join(parts)
