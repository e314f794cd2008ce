"""What an App calls beside handlers: start-up and shutdown hooks, middleware, observers."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from mqsdk.api import middleware, signature
from mqsdk.api.state import INSIDE
from mqsdk.errors import DeclarationError

if TYPE_CHECKING:
    from mqsdk.events import Event

LOG = logging.getLogger("mqsdk.app")

Function = TypeVar("Function", bound=Callable[..., Any])


class Hooks:
    """Recorded in the order of declaration; nothing is called before the App starts."""

    def __init__(self) -> None:
        self._startup: list[Callable[[], Any]] = []
        self._shutdown: list[Callable[[], Any]] = []
        self._middleware: list[Callable[..., Any]] = []
        self._observers: list[Callable[[Event], Any]] = []
        self._mark = f"observers of {id(self)}"

    def on_startup(self, function: Function) -> Function:
        """Run before the first delivery; sync or async, no arguments. What it raises ends the start."""
        self._startup.append(_hook(function, "on_startup"))
        return function

    def on_shutdown(self, function: Function) -> Function:
        """Run after the last settle; sync or async, no arguments. What it raises is logged."""
        self._shutdown.append(_hook(function, "on_shutdown"))
        return function

    def middleware(self, function: Function) -> Function:
        """A generator function `(message)` with one `yield` around every handler; declared first = outermost."""
        self._middleware.append(middleware.check(function))
        return function

    def observe(self, function: Function) -> Function:
        """A function `(event)` that is told every event of `mqsdk.events`, on the SDK's own threads: it must not block."""
        self._observers.append(_observer(function))
        return function

    def _notify(self, also: Callable[[Event], Any], event: Event) -> None:
        """Log and tell the observers; what they raise is logged and changes nothing."""
        from mqsdk.api import verdict
        from mqsdk.runtime import observe

        token = INSIDE.set(self._mark)
        for observer in (observe.log, *self._observers, also):
            try:
                observer(event)
            except BaseException as error:  # SystemExit too: this is the thread that keeps the leases alive
                with suppress(Exception):  # a filter or handler of the application may raise in logging itself
                    name = getattr(observer, "__qualname__", type(observer).__qualname__)
                    LOG.error("observer %s failed with %s at %s", name, type(error).__name__, verdict.place(error) or "its call")
        INSIDE.reset(token)


def _observer(function: Function) -> Function:
    """The function, if it can be told an event and be done when it returns. DeclarationError otherwise."""
    where = signature.place_of(function)
    kind, fix = "an observer is a plain function of one event", "def watch(event): ..."
    if not callable(function) or isinstance(function, type):
        raise DeclarationError(kind, where=where, fix=fix)
    target = signature.underlying(function)
    if inspect.iscoroutinefunction(target) or inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise DeclarationError(f"{kind}, neither async nor a generator, whose body would never run", where=where, fix=fix)
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise DeclarationError(kind, where=where, fix=fix) from None
    except ValueError:  # a built-in that does not tell its parameters
        return function
    return function


def _hook(function: Callable[..., Any], name: str) -> Callable[[], Any]:
    where = signature.place_of(function)
    if not callable(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(f"`{name}` takes a plain or async function", where=where)
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        raise DeclarationError(f"an `{name}` function takes no arguments", where=where) from None
    return function
