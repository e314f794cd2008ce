"""Payloads from the wire: one decoder per handler, made from the annotation.

The annotation decides how bytes are read, never the content type (a foreign producer may set it as it likes). Dataclasses, TypedDicts,
structs and plain containers are read by msgspec where it is installed, else by `json` and pydantic; results are the same.
"""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Callable
from typing import Any

from mqsdk.api import jsontext, kinds
from mqsdk.api.encoding import JSON
from mqsdk.errors import DeclarationError, DecodeError
from mqsdk.message import Stored

Decoder = Callable[[Stored], Any]
Parser = Callable[[bytes], Any]


class Limits:
    """What may change while handlers run; one attribute load per message. payload: bytes."""

    __slots__ = ("payload",)

    def __init__(self, payload: int) -> None:
        self.payload = payload


def decoder(annotation: Any, limits: Limits, where: str = "") -> Decoder:
    """The function that reads a stored record for a handler with this payload annotation. It raises DecodeError, without content.

    Raises DeclarationError when no codec can read the annotation.
    """
    if annotation is Any or annotation is None:
        return _checked(limits, _by_content_type)
    bare = typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation
    if bare is bytes and bare is annotation:
        return _bytes_decoder(limits)
    if bare is str and bare is annotation:
        return _text_decoder(limits)
    if bare in (bytes, str, bytearray, memoryview):
        raise DeclarationError(f"`{kinds.shown(annotation)}` is not a payload", where=where, fix="annotate the payload `bytes` or `str`")
    parse = json_parser(annotation, where)
    return _checked(limits, lambda record: parse(record.value))


def _bytes_decoder(limits: Limits) -> Decoder:
    def decode(record: Stored) -> bytes:
        value = record.value
        if len(value) > limits.payload:
            raise _too_large(value, limits)
        return value

    return decode


def _text_decoder(limits: Limits) -> Decoder:
    def decode(record: Stored) -> str:
        value = record.value
        if len(value) > limits.payload:
            raise _too_large(value, limits)
        try:
            return value.decode()
        except UnicodeDecodeError:
            return _text(record)

    return decode


def _checked(limits: Limits, read: Decoder) -> Decoder:
    """The size is compared before anything is parsed."""

    def decode(record: Stored) -> Any:
        if len(record.value) > limits.payload:
            raise _too_large(record.value, limits)
        return read(record)

    return decode


def _too_large(value: bytes, limits: Limits) -> DecodeError:
    return DecodeError(f"the payload has {len(value)} bytes, limits.payload is {limits.payload}")


def _text(record: Stored) -> str:
    try:
        return record.value.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"the payload is not UTF-8: byte {error.start} of {len(record.value)}") from None


def _by_content_type(record: Stored) -> Any:
    kind = (record.content_type or "").split(";", 1)[0].strip().lower()
    if kind == JSON or kind.endswith("+json"):
        return jsontext.parse_json(record.value)
    return _text(record) if kind.startswith("text/") else record.value


def json_parser(annotation: Any, where: str = "") -> Parser:
    """bytes -> validated object, for an annotation that is neither bytes nor str. Raises DeclarationError."""
    inside = kinds.kinds_in(annotation)
    if "struct" in inside and "model" in inside:
        raise DeclarationError("a payload mixes pydantic models and msgspec structs", where=where, fix="use one of the two")
    fast = sys.modules["msgspec"] if "struct" in inside else jsontext.msgspec_module()
    if "model" not in inside and fast is not None and not kinds.is_foreign(annotation):
        try:
            return _fast_parser(fast.json.Decoder(annotation).decode, annotation)
        except TypeError as error:  # a union of two dict-like types and the like: pydantic tells them apart
            if "struct" in inside:
                raise DeclarationError(f"`{kinds.shown(annotation)}` cannot be read: {error}", where=where) from None
    if annotation in (dict, list, int, float, bool):
        return _bare_parser(annotation)
    if "bytes" in inside and "model" not in inside:
        raise DeclarationError(
            f"`{kinds.shown(annotation)}` holds bytes, which JSON carries as base64", where=where, fix="pip install 'mqsdk[fast]'"
        )
    return _model_parser(annotation, where, strict="model" not in inside)


def _fast_parser(decode: Parser, annotation: Any) -> Parser:
    name = kinds.shown(annotation)

    def parse(raw: bytes) -> Any:
        if jsontext.too_deep(raw):
            raise jsontext.deep()
        try:
            return decode(raw)
        except Exception as error:  # ValidationError, DecodeError, UnicodeDecodeError, RecursionError, and what __post_init__ raises
            raise _misfit(name, _fast_reason(error)) from None

    return parse


def _bare_parser(kind: type) -> Parser:
    def parse(raw: bytes) -> Any:
        value = jsontext.parse_json(raw)
        if type(value) is int and kind is float:
            return jsontext.as_float(value)
        if type(value) is not kind:
            raise _misfit(kind.__name__, f"it is {type(value).__name__}")
        return value

    return parse


def _model_parser(annotation: Any, where: str, *, strict: bool) -> Parser:
    """strict: as msgspec, no number from text; a pydantic model brings its own rules and is left to them."""
    from pydantic import TypeAdapter, ValidationError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kinds.portable(annotation))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeclarationError(f"`{kinds.shown(annotation)}` cannot be read as a payload: {reason}", where=where) from error
    name = kinds.shown(annotation)
    option = True if strict else None

    def parse(raw: bytes) -> Any:
        jsontext.parse_json(raw)  # pydantic's parser takes NaN, 1e999 and any depth
        try:
            return adapter.validate_json(raw, strict=option)
        except ValidationError as error:
            raise _misfit(name, _model_reason(error, annotation)) from None
        except Exception as error:  # a validator of the user's may raise anything
            raise _misfit(name, type(error).__name__) from None

    return parse


def _misfit(name: str, reason: str) -> DecodeError:
    return DecodeError(f"the payload does not fit `{name}`{': ' + reason if reason else ''}")


# Texts of msgspec that name types and declared fields only; "Invalid enum value 'x'" and the like show content.
_SAFE_REASON = re.compile(r"(Expected `[^`]*`(?:, got `[a-z]+`)?|Object missing required field `[^`]*`)(?: - at `(\$[^`]*)`)?")


def _fast_reason(error: Exception) -> str:
    text = str(error)
    found = _SAFE_REASON.fullmatch(text)
    if found is None:
        return "it is not JSON" if "malformed" in text or "truncated" in text else type(error).__name__
    return f"{found[1]} at `{found[2]}`" if found[2] else found[1]


def _model_reason(error: Any, annotation: Any) -> str:
    """The first problem: its kind, and its field where the model declares a field of that name."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = problems[0]
    field = first["loc"][0] if first["loc"] else None
    declared = getattr(annotation, "model_fields", None) or getattr(annotation, "__annotations__", {})
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{first['type']}{f' at `{field}`' if field in declared else ''}{more}"
