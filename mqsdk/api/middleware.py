"""Middleware: generator functions with one `yield` around the handler, put together once at start into plain nested calls."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from mqsdk.api.signature import place_of, underlying
from mqsdk.api.verdict import MiddlewareError
from mqsdk.errors import DeclarationError

if TYPE_CHECKING:
    from mqsdk.api.verdict import Verdicts

Run = Callable[[Any, tuple[Any, ...]], Any]
RunAsync = Callable[[Any, tuple[Any, ...]], Awaitable[Any]]


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse with DeclarationError what is not a generator function of one argument."""
    if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        raise DeclarationError(
            "a middleware is a generator function with one `yield` around the handler",
            where=place_of(function),
            fix="def m(message): yield",
        )
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise DeclarationError("a middleware takes one argument, the message", where=place_of(function)) from None
    return function


class Chain:
    """The middleware of an App in the order of declaration, the first outermost. False when empty."""

    def __init__(self, functions: Sequence[Callable[..., Any]] = ()) -> None:
        self._functions = tuple(functions)

    def __bool__(self) -> bool:
        return bool(self._functions)

    def refuse_async_around(self, consumer: str, where: str) -> None:
        """An async middleware cannot run around a sync handler, which has no event loop. Raises DeclarationError."""
        names = [function.__name__ for function in self._functions if inspect.isasyncgenfunction(function)]
        if names:
            raise DeclarationError(
                f"async middleware `{', '.join(names)}` cannot run around the sync handler of {consumer}",
                where=where,
                fix="make the middleware a plain generator, or the handler `async def`",
            )

    def around(self, function: Callable[..., Any], verdicts: Verdicts) -> Run:
        """The call of a sync handler: (message or list of messages, arguments) -> what it returned."""
        if not self._functions:
            return lambda subject, arguments: function(*arguments)
        run = _innermost(function, verdicts)
        for layer in reversed(self._functions):
            run = _layer(layer, run)
        return run

    def around_async(self, function: Callable[..., Any], verdicts: Verdicts) -> RunAsync:
        """The call of an async handler; sync and async middleware may be mixed."""
        if not self._functions:
            return lambda subject, arguments: function(*arguments)
        run = _innermost_async(function, verdicts)
        for layer in reversed(self._functions):
            run = _async_layer(layer, run) if inspect.isasyncgenfunction(layer) else _mixed_layer(layer, run)
        return run


def _innermost(function: Callable[..., Any], verdicts: Verdicts) -> Run:
    """A returned verdict is raised here already, so that every middleware sees the failure."""

    def run(subject: Any, arguments: tuple[Any, ...]) -> None:
        _judge(function(*arguments), verdicts)

    return run


def _innermost_async(function: Callable[..., Any], verdicts: Verdicts) -> RunAsync:
    async def run(subject: Any, arguments: tuple[Any, ...]) -> None:
        _judge(await function(*arguments), verdicts)

    return run


def _judge(value: Any, verdicts: Verdicts) -> None:
    if value is None:
        return
    verdicts.raise_returned(value)


def _layer(layer: Callable[..., Any], inner: Run) -> Run:
    manager = contextmanager(layer)

    def run(subject: Any, arguments: tuple[Any, ...]) -> None:
        try:
            with manager(subject):
                inner(subject, arguments)
        except RuntimeError as error:
            _name_misuse(error, layer)
            raise

    return run


def _mixed_layer(layer: Callable[..., Any], inner: RunAsync) -> RunAsync:
    manager = contextmanager(layer)

    async def run(subject: Any, arguments: tuple[Any, ...]) -> None:
        try:
            with manager(subject):
                await inner(subject, arguments)
        except RuntimeError as error:
            _name_misuse(error, layer)
            raise

    return run


def _async_layer(layer: Callable[..., Any], inner: RunAsync) -> RunAsync:
    manager = asynccontextmanager(layer)

    async def run(subject: Any, arguments: tuple[Any, ...]) -> None:
        try:
            async with manager(subject):
                await inner(subject, arguments)
        except RuntimeError as error:
            _name_misuse(error, layer)
            raise

    return run


def _name_misuse(error: RuntimeError, layer: Callable[..., Any]) -> None:
    """Raise MiddlewareError when contextlib itself raised this, in the frame below ours: the generator did not yield exactly once."""
    trace = error.__traceback__
    raised = trace.tb_next if trace is not None else None
    if raised is None or raised.tb_next is not None or raised.tb_frame.f_code.co_filename != contextmanager.__code__.co_filename:
        return
    what = "did not end after its `yield`" if "didn't stop" in str(error) else "ended without its `yield`, so the handler was not called"
    name, code = getattr(layer, "__name__", "middleware"), getattr(underlying(layer), "__code__", None)
    place = name if code is None else f"{os.path.basename(code.co_filename)}:{code.co_firstlineno} in {name}"
    raise MiddlewareError(f"the middleware `{name}` {what}", place) from None
