"""Kinds of values in the file: each a function that pydantic runs before its own check, with a text for the reader and no value in it.

pydantic alone would take `true` for 1 and "3.0" for 3, and its texts speak of schemas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BeforeValidator

from mqsdk import units
from mqsdk.config import requirement
from mqsdk.config.listening import address_of
from mqsdk.config.secret import Secret
from mqsdk.config.variables import Written


def _plain(value: object) -> object:
    # A text that came through ${...} is wrapped so that it is never shown; here it is only read.
    return Written(value.reveal()) if isinstance(value, Secret) else value


def _kind(check: Callable[[Any], Any]) -> BeforeValidator:
    return BeforeValidator(lambda value: check(_plain(value)))


_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", re.ASCII)
_FLAG = re.compile(r"true|false")


def _unquoted(value: object, shape: re.Pattern[str]) -> str:
    """What to add for a text that would be right as it stands, but for its quotes."""
    return ", without quotes" if isinstance(value, str) and shape.fullmatch(value) else ""


def whole(low: int, high: int) -> BeforeValidator:
    """An int within the bounds; decimal text counts as one where it comes from a variable or a reference."""

    def check(value: Any) -> int:
        if isinstance(value, Written) and _WHOLE.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low:,} to {high:,}{_unquoted(value, _WHOLE)}")
        return value

    return _kind(check)


def number(low: float, high: float) -> BeforeValidator:
    """A finite number within the bounds; decimal text counts as one where it comes from a variable or a reference."""

    def check(value: Any) -> float:
        if isinstance(value, Written) and _NUMBER.fullmatch(value):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}{_unquoted(value, _NUMBER)}")
        return float(value)

    return _kind(check)


def flag() -> BeforeValidator:
    """true or false, nothing else: `yes`, `on` and 1 are texts and numbers."""

    def check(value: Any) -> bool:
        if isinstance(value, Written) and value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false{_unquoted(value, _FLAG)}")
        return value

    return _kind(check)


def duration(low: float, high: float, *, none: bool = False) -> BeforeValidator:
    """Seconds from a duration within the bounds. none: `none` and `null` mean no limit."""

    def check(value: Any) -> float | None:
        if none and value in (None, "none"):
            return None
        seconds = units.seconds(value) if value is not None else math.nan
        if not low <= seconds <= high:
            raise ValueError(f"must be a duration from {units.duration_text(low)} to {units.duration_text(high)}")
        return seconds

    return _kind(check)


def endless(low: float, high: float) -> BeforeValidator:
    """Seconds from a duration within the bounds; `none` is for ever, infinity. What is not given stays None."""

    def check(value: Any) -> float | None:
        if value in ("none", math.inf):
            return math.inf
        seconds = units.seconds(value) if value is not None else math.nan
        if not low <= seconds <= high:
            raise ValueError(f"must be none or a duration from {units.duration_text(low)} to {units.duration_text(high)}")
        return seconds

    return _kind(check)


def rate(high: float) -> BeforeValidator:
    """Events per second up to `high`, from a text such as `200/s`. `none` and `null` mean no limit."""

    def check(value: Any) -> float | None:
        if value in (None, "none"):
            return None
        found = units.per_second(value)
        if found > high:
            raise ValueError(f"must be a rate of at most {high:,.0f}/s")
        return found

    return _kind(check)


def optional_block() -> BeforeValidator:
    """`none` in place of a mapping: what a weaker place gives does not hold here."""
    return _kind(lambda value: None if value == "none" else value)


def size(low: int, high: int) -> BeforeValidator:
    """Bytes within the bounds."""

    def check(value: Any) -> int:
        found = units.size(value)
        if not low <= found <= high:
            raise ValueError(f"must be a size from {low:,} to {high:,} bytes")
        return found

    return _kind(check)


def text(pattern: str, wanted: str, *, hidden: bool = False) -> BeforeValidator:
    """Text of one shape. wanted: what to write, for the reader. hidden: what came by reference stays a Secret."""
    shape = re.compile(pattern, re.ASCII)

    def check(value: Any) -> str:
        if not isinstance(value, str) or not shape.fullmatch(value):
            raise ValueError(f"must be {wanted}")
        return str(value)

    def check_hidden(value: Any) -> str | Secret:
        checked = check(_plain(value))
        return value if isinstance(value, Secret) else checked

    return BeforeValidator(check_hidden) if hidden else _kind(check)


def address() -> BeforeValidator:
    """`host:port`."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("must be host:port, for example 127.0.0.1:9464")
        address_of(value)
        return value

    return _kind(check)


def choice(*names: str) -> BeforeValidator:
    """One of the names; case does not matter, the name as listed is the value."""
    listed = {name.lower(): name for name in names}

    def check(value: Any) -> str:
        found = listed.get(value.lower()) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"must be one of {', '.join(names)}")
        return found

    return _kind(check)


def versions(inside: str = "") -> BeforeValidator:
    """Versions of mqsdk as `requires` names them. inside: the key of a mapping whose short form they are; a mapping is left as it is."""

    def check(value: Any) -> Any:
        if inside and isinstance(value, Mapping):
            return value
        if not isinstance(value, str):
            raise ValueError(f"must be {requirement.WANTED}")
        requirement.clauses(value)
        return {inside: str(value)} if inside else str(value)

    return _kind(check)
