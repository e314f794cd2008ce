"""Looking into payload annotations without importing pydantic or msgspec: which kinds of types are inside."""

from __future__ import annotations

import dataclasses
import sys
import typing
from typing import Any


def is_model(kind: Any) -> bool:
    """A pydantic model or pydantic dataclass. A class of a library that was never imported cannot exist, so sys.modules is enough."""
    if not isinstance(kind, type) or "pydantic" not in sys.modules:
        return False
    return hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_dump_json")


def is_struct(kind: Any) -> bool:
    module = sys.modules.get("msgspec")
    return module is not None and isinstance(kind, type) and issubclass(kind, module.Struct)


def kinds_in(annotation: Any) -> frozenset[str]:
    """Which of "model", "struct", "bytes" occur anywhere in the annotation, fields of dataclasses and TypedDicts included."""
    found: set[str] = set()
    seen: list[Any] = []
    stack = [annotation]
    while stack:
        item = stack.pop()
        if any(item is other for other in seen):
            continue
        seen.append(item)
        stack += typing.get_args(item)
        if not isinstance(item, type):
            continue
        if hasattr(item, "__pydantic_validator__"):
            found.add("model")  # pydantic knows what is inside
        elif is_struct(item):
            found.add("struct")
        elif item in (bytes, bytearray, memoryview):
            found.add("bytes")
        elif dataclasses.is_dataclass(item) or typing.is_typeddict(item) or hasattr(item, "_fields"):
            stack += _hints(item).values()
    return frozenset(found)


def is_foreign(annotation: Any) -> bool:
    """Whether msgspec takes a class in it as opaque: it would only find out at the first message that it cannot make one."""
    from msgspec import inspect

    for leaf in typing.get_args(annotation) or (annotation,):
        try:
            if isinstance(leaf, type) and isinstance(inspect.type_info(leaf), inspect.CustomType):
                return True
        except Exception:  # what msgspec cannot describe it cannot read either
            return True
    return False


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except (NameError, AttributeError, TypeError):  # the codec says it better, with the name of the type
        return {}


def portable(annotation: Any) -> Any:
    """The annotation as pydantic takes it: before Python 3.12 it refuses `typing.TypedDict` and wants typing_extensions' own."""
    if sys.version_info >= (3, 12):
        return annotation
    if typing.is_typeddict(annotation) and type(annotation).__module__ == "typing":
        return _portable_typed_dict(annotation)
    arguments = typing.get_args(annotation)
    if not arguments or typing.get_origin(annotation) in (typing.Literal, typing.Annotated):
        return annotation
    converted = tuple(portable(item) for item in arguments)
    if all(new is old for new, old in zip(converted, arguments, strict=True)):
        return annotation
    origin = typing.get_origin(annotation)
    return typing.Union[converted] if _is_union(origin) else origin[converted]  # noqa: UP007


def _portable_typed_dict(kind: Any) -> Any:
    import typing_extensions

    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {}
    for name, hint in hints.items():
        marked = typing.get_origin(hint)
        inner = typing.get_args(hint)[0] if marked in (typing.Required, typing.NotRequired) else hint
        # Python 3.11 does not see the mark in `__required_keys__` when annotations are text.
        optional = marked is typing.NotRequired or (marked is None and name not in kind.__required_keys__)
        wrapper = typing_extensions.NotRequired if optional else typing_extensions.Required
        fields[name] = wrapper[portable(inner)]
    return typing_extensions.TypedDict(kind.__name__, fields)  # type: ignore[operator]


def _is_union(origin: Any) -> bool:
    import types

    return origin is typing.Union or origin is types.UnionType


def shown(annotation: Any) -> str:
    """The annotation as people wrote it, at most 80 characters."""
    text = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    return text.replace("typing.", "")[:80]
