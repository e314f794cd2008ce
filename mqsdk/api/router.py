"""Declaring consumers: what App and Router share, and the Router for modules that have no App."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from mqsdk.api import consumer
from mqsdk.api.consumer import ConsumerDeclaration, ConsumerOptions
from mqsdk.api.publishing import PublishMethods
from mqsdk.errors import DeclarationError, StateError

if TYPE_CHECKING:
    from mqsdk.api.app import App
    from mqsdk.api.outlet import Outlet

Function = TypeVar("Function", bound=Callable[..., Any])

# So that its absence is a DeclarationError with a place and a fix, as every other mistake in a declaration.
_NO_TOPIC: str = "(no topic)"


class Declarations:
    """The consumers that an App or Router recorded. Declaring is pure: no file, socket or environment variable is touched."""

    def __init__(self) -> None:
        self._declared: dict[tuple[str, str], ConsumerDeclaration] = {}

    def consumer(self, topic: str = _NO_TOPIC, **options: Unpack[ConsumerOptions]) -> Callable[[Function], Function]:
        """Declare a handler for a topic and group; the function is returned unchanged.

        topic is required. Arguments and defaults: `ConsumerOptions` and docs/api.md. Raises DeclarationError for anything that cannot
        work.
        """
        caller = sys._getframe(1)
        where = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        if topic is _NO_TOPIC:
            raise consumer.no_topic(where)
        checked = consumer.check_options(topic, options, where)

        def decorate(function: Function) -> Function:
            # Local names, so that annotations may name classes which are defined inside a function.
            self._add([consumer.declare(checked, options, function, sys._getframe(1).f_locals)])
            return function

        return decorate

    def _add(self, declarations: Sequence[ConsumerDeclaration]) -> None:
        """Record all or none. Raises DeclarationError for a pair that is declared already."""
        self._refuse_duplicates(declarations)
        for one in declarations:
            self._declared[one.topic, one.group] = one

    def _refuse_duplicates(self, declarations: Sequence[ConsumerDeclaration]) -> None:
        seen = dict(self._declared)
        for one in declarations:
            earlier = seen.get((one.topic, one.group))
            if earlier is not None:
                raise DeclarationError(
                    f"consumer {one.name} is declared twice: one pair of topic and group has one handler in an App",
                    where=f"{one.signature.where}, first {earlier.signature.where}",
                    fix="use another group, or one handler",
                )
            seen[one.topic, one.group] = one


class Router(Declarations, PublishMethods):
    """Declares consumers in a module without an App; `app.include_router(router)` takes them in. `publish*` forward to that App."""

    def __init__(self) -> None:
        super().__init__()
        self._app: App | None = None

    def _add(self, declarations: Sequence[ConsumerDeclaration]) -> None:
        self._refuse_duplicates(declarations)
        if self._app is not None:
            self._app._add(declarations)
        super()._add(declarations)

    def _include_in(self, app: App) -> None:
        if self._app is not None:
            raise DeclarationError(f"the router is already included in {'this' if self._app is app else 'another'} App")
        app._add(list(self._declared.values()))
        self._app = app

    def _outlet(self) -> Outlet:
        if self._app is None:
            raise StateError("the router is not included in an App yet", fix="app.include_router(router)", state="NEW")
        return self._app._outlet()

    async def _outlet_async(self) -> Outlet:
        if self._app is None:
            return self._outlet()
        return await self._app._outlet_async()
