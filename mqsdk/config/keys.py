"""Every key of the file, read from the model: for near names, for variables, for the reference and for the table of live keys."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mqsdk.config.settings import Settings

Names = tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """One key. path: names in lower case, `*` for a name that the user chooses, `[]` for the items of a list.

    reload: "live" or "restart", "" for a block. default: in the units of the model, None when there is none.
    """

    path: Names
    meaning: str
    reload: str = ""
    unit: str = ""
    default: Any = None
    required: bool = False
    is_list: bool = False
    model: type[BaseModel] | None = None


@cache
def all_keys() -> tuple[Key, ...]:
    """Blocks and leaves in the order of the model, each block before its keys."""
    return tuple(_walk(Settings, ()))


def _walk(model: type[BaseModel], path: Names) -> Iterator[Key]:
    for name, info in model.model_fields.items():
        key = _key((*path, name), info)
        yield key
        if key.model is not None:
            yield from _walk(key.model, key.path)


def _key(path: Names, info: FieldInfo) -> Key:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    model, steps, is_list = _content(info.annotation)
    meaning = info.description or ((model.__doc__ or "").strip().splitlines()[0] if model else "")
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    return Key(
        path=(*path, *steps),
        meaning=meaning,
        reload=str(extra.get("reload", "")),
        unit=str(extra.get("unit", "")),
        default=default,
        required=info.is_required(),
        is_list=is_list,
        model=model,
    )


def _content(annotation: Any) -> tuple[type[BaseModel] | None, Names, bool]:
    """(the model inside, the steps to it, whether the value is a list) of an annotation."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        model = _model(arguments[1])
        return model, ("*",) if model else (), False
    if origin is list:
        model = _model(arguments[0])
        return model, ("[]",) if model else (), True
    for part in arguments:
        if typing.get_origin(part) is list:
            return None, (), True
        if _model(part) is not None:
            return _model(part), (), False
    return _model(annotation), (), False


def _model(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _matches(path: Names, parts: tuple[str | int, ...]) -> bool:
    return len(path) == len(parts) and all(
        step == part or step == "*" or (step == "[]" and isinstance(part, int)) for step, part in zip(path, parts, strict=True)
    )


def find(parts: tuple[str | int, ...]) -> Key | None:
    """The key of a concrete path, None when the model has none."""
    return next((key for key in all_keys() if _matches(key.path, parts)), None)


def known_at(parts: tuple[str | int, ...]) -> list[str]:
    """Names of the keys directly inside this path, `()` for the top."""
    inner = [key.path for key in all_keys() if len(key.path) > len(parts) and _matches(key.path[: len(parts)], parts)]
    names = [path[len(parts)] for path in inner]
    return [name for name in dict.fromkeys(names) if name not in ("*", "[]")] + (["profiles"] if not parts else [])


def is_known(parts: Names) -> bool:
    """Whether a leaf of the model has this path."""
    key = find(parts)
    return key is not None and key.model is None


def is_block(parts: Names) -> bool:
    """Whether this path holds further keys, not a value."""
    key = find(parts)
    return (key is not None and key.model is not None) or any(
        len(other.path) > len(parts) and _matches(other.path[: len(parts)], parts) for other in all_keys()
    )


def is_list(parts: Names) -> bool:
    key = find(parts)
    return key is not None and key.is_list


def names() -> list[Names]:
    """Paths of all leaves."""
    return [key.path for key in all_keys() if key.model is None]
