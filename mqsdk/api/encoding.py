"""Payloads to the wire. The work is done by msgspec where it is installed, else by `json`; results are the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from mqsdk.api import jsontext, kinds
from mqsdk.api.jsontext import MAX_DEPTH

BINARY, TEXT, JSON = "application/octet-stream", "text/plain; charset=utf-8", "application/json"


class NotEncodable(ValueError):
    """A payload that has no form on the wire. The text names types, never values."""


def encode(payload: Any) -> tuple[bytes, str]:
    """(bytes, content type). `bytes` as they are, `str` as UTF-8, everything else as JSON. Raises NotEncodable.

    Not checked here: None and the size, which publish refuses under their own names.
    """
    kind = type(payload)
    if kind is bytes:
        return payload, BINARY
    if kind is str:
        try:
            return payload.encode(), TEXT
        except UnicodeEncodeError:
            raise NotEncodable("the text has characters that UTF-8 cannot carry (lone surrogates)") from None
    if kind is not dict and kind is not list:
        if isinstance(payload, (bytes, bytearray, memoryview)):
            return bytes(payload), BINARY
        if isinstance(payload, str) and not _is_enum(payload):
            return encode(str.__str__(payload))
    raw = _to_json(payload)
    if jsontext.too_deep(raw):
        raise NotEncodable(f"JSON nests deeper than {MAX_DEPTH} levels")
    return raw, JSON


def _is_enum(value: object) -> bool:
    from enum import Enum

    return isinstance(value, Enum)


def _to_json(payload: Any) -> bytes:
    fast = jsontext.msgspec_module()
    kind = type(payload)
    if kind is not dict and kind is not list and kinds.is_model(kind):
        raw = _model_to_json(payload)
    elif fast is not None:
        raw = _fast_to_json(fast, payload)
    else:
        raw = _plain_to_json(payload)
    # msgspec and pydantic write NaN and the infinities as null, as keys "nan" and "inf", in silence.
    if (b"null" in raw or b'nan"' in raw or b'inf"' in raw) and _holds_nan(payload):
        raise NotEncodable("JSON has no NaN and no infinity")
    return raw


def _fast_to_json(fast: Any, payload: Any) -> bytes:
    try:
        raw: bytes = fast.json.encode(payload, enc_hook=_plain)
    except Exception as error:
        if kinds.is_struct(type(payload)):
            raise NotEncodable(f"{type(payload).__name__} cannot be written as JSON: {type(error).__name__}") from None
        return _plain_to_json(payload)  # what one path cannot do, the other one judges: same outcome with and without msgspec
    return raw


def _model_to_json(payload: Any) -> bytes:
    try:
        text: str = payload.model_dump_json()
        return text.encode()
    except Exception as error:
        raise NotEncodable(f"{type(payload).__name__} cannot be written as JSON: {type(error).__name__}") from None


def _plain_to_json(payload: Any) -> bytes:
    try:
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain).encode()
    except RecursionError:
        raise NotEncodable(f"JSON nests deeper than {MAX_DEPTH} levels") from None
    except NotEncodable:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise NotEncodable(f"{type(payload).__name__} cannot be written as JSON: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = str(error)
    if "Out of range float" in text:
        return "JSON has no NaN and no infinity"
    if "Circular reference" in text:
        return "it contains itself"
    if "integer string conversion" in text:
        return "an integer has more than 4,300 digits"
    if "keys must be" in text:
        return "keys are text or numbers"
    return "it holds a type that JSON has no form for" if isinstance(error, TypeError) else type(error).__name__


def _plain(value: Any) -> Any:
    """What `json` does not know, written as msgspec writes it."""
    from dataclasses import fields, is_dataclass

    if kinds.is_model(type(value)):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if kinds.is_struct(type(value)):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    for writer in (_plain_time, _plain_value):
        found = writer(value)
        if found is not None:
            return found
    raise NotEncodable(f"JSON has no form for {type(value).__name__}")


def _plain_time(value: Any) -> Any:
    from datetime import date, datetime, time, timedelta

    if isinstance(value, datetime | time):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _iso_duration(value)
    return None


def _iso_duration(value: Any) -> str:
    sign, value = ("-", -value) if value.days < 0 else ("", value)
    seconds = f"{value.seconds}.{value.microseconds:06}".rstrip("0") if value.microseconds else str(value.seconds)
    days = f"{value.days}D" if value.days or seconds == "0" else ""
    clock = f"T{seconds}S" if seconds != "0" else ""
    return f"{sign}P{days}{clock}"


def _plain_value(value: Any) -> Any:
    from base64 import b64encode
    from decimal import Decimal
    from enum import Enum
    from uuid import UUID

    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UUID | Decimal):
        return str(value)
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode()
    return None


def _holds_nan(payload: Any) -> bool:
    """True when a float in it is NaN or infinite. Runs only where the JSON looks like it."""
    seen, stack = 0, [payload]
    while stack:
        value = stack.pop()
        seen += 1
        if isinstance(value, float):
            if not math.isfinite(value):
                return True
        elif not isinstance(value, str | bytes | int):
            stack.extend(_parts(value))
    return False


def _parts(value: Any) -> Iterable[Any]:
    from dataclasses import fields, is_dataclass

    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if kinds.is_model(type(value)):
        return [*vars(value).values(), *(value.model_extra or {}).values()]
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in fields(value)]
    return [getattr(value, name) for name in getattr(value, "__struct_fields__", ())]
