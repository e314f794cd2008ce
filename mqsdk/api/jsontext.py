"""JSON as mqsdk reads it: no NaN, no infinities, no lone surrogates, at most 64 levels; by msgspec where it is installed, else by `json`.

Both are imported on first need only, and both give the same results.
"""

from __future__ import annotations

import json
import math
import re
from functools import cache
from typing import Any

from mqsdk.errors import DecodeError

MAX_DEPTH = 64


def parse_json(raw: bytes) -> Any:
    """Any JSON value. Refused with DecodeError: NaN, infinities, numbers out of range, lone surrogates, more than 64 levels."""
    if too_deep(raw):
        raise deep()
    fast = msgspec_module()
    try:
        return _slow_json(raw) if fast is None else fast.json.decode(raw)
    except Exception as error:
        raise DecodeError(f"the payload is not JSON: {_json_reason(error)}") from None


def _slow_json(raw: bytes) -> Any:
    value = json.loads(raw.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    if b"\\u" in raw:
        json.dumps(value, ensure_ascii=False).encode()  # an escaped lone surrogate fails here
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError("JSON has no NaN and no infinity")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


def as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise DecodeError("the payload is not JSON: a number is out of range") from None


def _json_reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"malformed at character {error.pos}"
    found = re.search(r"\(byte (\d+)\)", str(error))
    return f"malformed at byte {found[1]}" if found else "malformed, cut off, or a number out of range"


_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def too_deep(raw: bytes) -> bool:
    """True when JSON nests deeper than MAX_DEPTH. Two counts decide nearly always; else leaf brackets go, level by level."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", raw).translate(_ONE_KIND, b"").translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    return b"[" in brackets


def deep() -> DecodeError:
    return DecodeError(f"the payload nests deeper than {MAX_DEPTH} levels")


@cache
def msgspec_module() -> Any:
    """The module, or None when the extra `fast` is not installed."""
    try:
        import msgspec
    except ImportError:
        return None
    return msgspec
