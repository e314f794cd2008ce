"""What a handler's signature says: which arguments it takes and what the payload is. Nothing here calls the function."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from mqsdk.errors import DeclarationError
from mqsdk.message import Message

Passes = Literal["payload", "both", "message"]


@dataclass(frozen=True, slots=True)
class Shape:
    """How to call a handler. annotation: of one payload (of one item with `batch`), Any without one."""

    passes: Passes
    annotation: Any


@dataclass(frozen=True, slots=True)
class Signature:
    """A function that passed the checks which need no annotations. `taken`: its first one or two parameters."""

    function: Callable[..., Any]
    where: str
    is_async: bool
    batch: bool
    taken: tuple[inspect.Parameter, ...]


def place_of(function: object) -> str:
    """`file:line in name` of a function, for error texts; the bare name where there is no code."""
    code = getattr(inspect.unwrap(underlying(function)), "__code__", None)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{code.co_filename}:{code.co_firstlineno} in {name}" if code is not None else name


def check(function: Callable[..., Any], *, batch: bool) -> Signature:
    """Check what can be seen without annotations: kind and arity. Raises DeclarationError."""
    if not callable(function):
        raise DeclarationError(
            f"@consumer decorates a function, not {type(function).__name__}", fix='write @app.consumer("topic", group="group")'
        )
    if isinstance(function, type):
        raise DeclarationError(f"@consumer decorates a function, not the class `{function.__qualname__}`", where=place_of(function))
    where, target = place_of(function), underlying(function)
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise DeclarationError("a handler is a plain function or `async def`, not a generator", where=where, fix="remove the `yield`")
    is_async = inspect.iscoroutinefunction(target)
    return Signature(function, where, is_async, batch, _taken(function, where))


def _taken(function: Callable[..., Any], where: str) -> tuple[inspect.Parameter, ...]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError) as error:
        raise DeclarationError("the signature of the handler cannot be read", where=where, fix="wrap it in a function") from error
    kinds = inspect.Parameter
    if any(parameter.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD) for parameter in parameters):
        raise DeclarationError(
            "a handler takes no *args and no **kwargs", where=where, fix="name the payload, and `message: Message` if you need it"
        )
    positional = [parameter for parameter in parameters if parameter.kind is not kinds.KEYWORD_ONLY]
    if not positional:
        raise DeclarationError("a handler takes the payload as its first parameter", where=where)
    if positional[0].name in ("self", "cls") and not inspect.ismethod(function):
        raise DeclarationError(
            "the handler is a method without its object",
            where=where,
            fix='register the bound one: app.consumer("t", group="g")(it.method)',
        )
    beyond = [*positional[2:], *(parameter for parameter in parameters if parameter.kind is kinds.KEYWORD_ONLY)]
    without = [parameter.name for parameter in beyond if parameter.default is kinds.empty]
    if without:
        raise DeclarationError(
            f"a handler takes the payload and the Message; {', '.join(f'`{name}`' for name in without)} has no default",
            where=where,
            fix="give further parameters a default",
        )
    return tuple(positional[:2])


def shape(signature: Signature, namespace: Mapping[str, Any] | None = None) -> Shape:
    """Read the annotations. namespace: local names at the decorator, for classes that are defined inside a function.

    Raises DeclarationError for a form that no handler has, NameError or AttributeError for an annotation that cannot be resolved yet.
    """
    hints = [_hint(signature, parameter, namespace or {}) for parameter in signature.taken]
    return _batch_shape(signature, hints) if signature.batch else _single_shape(signature, hints)


def _hint(signature: Signature, parameter: inspect.Parameter, namespace: Mapping[str, Any]) -> Any:
    if parameter.annotation is inspect.Parameter.empty:
        return Any
    target = inspect.unwrap(underlying(signature.function))
    target = getattr(target, "__func__", target)
    # One parameter at a time: an unresolvable return annotation or third parameter is none of our business.
    holder = types.SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        hints = typing.get_type_hints(holder, getattr(target, "__globals__", {}), {**_closure(target), **namespace}, include_extras=True)
    except (NameError, AttributeError):
        raise
    except Exception as error:
        raise DeclarationError(f"the annotation of `{parameter.name}` is not a type", where=signature.where) from error
    return Any if isinstance(hints["it"], typing.TypeVar) or hints["it"] is object else hints["it"]


def _closure(target: Any) -> dict[str, Any]:
    names = getattr(getattr(target, "__code__", None), "co_freevars", ())
    found = {}
    for name, cell in zip(names, getattr(target, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet: the function refers to itself or to something defined below it
            continue
    return found


def _single_shape(signature: Signature, hints: list[Any]) -> Shape:
    first, second = hints[0], signature.taken[1:2]
    if is_message(first):
        if second and second[0].default is inspect.Parameter.empty:
            raise DeclarationError(f"a handler of `Message` takes nothing else; `{second[0].name}` has no default", where=signature.where)
        return Shape("message", _payload_of(first))
    if typing.get_origin(first) is list and any(is_message(item) for item in typing.get_args(first)):
        raise DeclarationError("`list[Message]` needs `batch=`", where=signature.where)
    return Shape(_passes(signature, hints, is_message, "Message"), first)


def _batch_shape(signature: Signature, hints: list[Any]) -> Shape:
    items = typing.get_args(hints[0]) if typing.get_origin(hints[0]) is list else ()
    if not items:
        raise DeclarationError(
            f"with `batch=` the first parameter `{signature.taken[0].name}` is annotated list[...]",
            where=signature.where,
            fix="for example `orders: list[Order]`",
        )
    if is_message(items[0]):
        if len(hints) > 1 and signature.taken[1].default is inspect.Parameter.empty:
            raise DeclarationError("a batch handler of `list[Message]` takes nothing else", where=signature.where)
        return Shape("message", _payload_of(items[0]))
    item = Any if isinstance(items[0], typing.TypeVar) else items[0]
    return Shape(_passes(signature, hints, _is_message_list, "list[Message]"), item)


def _passes(signature: Signature, hints: list[Any], fits: Callable[[Any], bool], wanted: str) -> Passes:
    """Whether the second parameter gets the delivery: it has no default, or it is annotated as one."""
    if len(hints) < 2:
        return "payload"
    parameter, hint = signature.taken[1], _without_none(hints[1])
    if fits(hint):
        return "both"
    if parameter.default is not inspect.Parameter.empty:
        return "payload"
    if hint is Any:
        return "both"
    raise DeclarationError(
        f"the second parameter of a handler is the delivery: `{parameter.name}` is not annotated {wanted}",
        where=signature.where,
        fix=f"annotate it {wanted}, or give it a default",
    )


def is_message(annotation: Any) -> bool:
    return annotation is Message or typing.get_origin(annotation) is Message


def _is_message_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is list and all(is_message(item) for item in typing.get_args(annotation))


def _payload_of(annotation: Any) -> Any:
    arguments = typing.get_args(annotation)
    return Any if not arguments or isinstance(arguments[0], typing.TypeVar) else arguments[0]


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [item for item in typing.get_args(annotation) if item is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def underlying(function: Any) -> Any:
    """The function that holds code and annotations, behind partial objects and callable instances."""
    while isinstance(function, partial):
        function = function.func
    if inspect.isroutine(function) or isinstance(function, type):
        return function
    return type(function).__call__ if callable(function) else function
