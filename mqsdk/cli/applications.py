"""The user's application: found by `module:app`, and an App of our own for commands that only publish."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mqsdk.cli.exits import NotFound
from mqsdk.errors import DeclarationError, MqError

if TYPE_CHECKING:
    from mqsdk.api.app import App
    from mqsdk.cli.session import Session
    from mqsdk.runtime.environment import Environment


def load_app(session: Session, target: str) -> App:
    """Import `module:app` with the working directory importable, under the session's options. Connects nothing.

    Raises NotFound, or DeclarationError when importing fails; the application's own traceback goes to stderr then.
    """
    from mqsdk.api.app import App

    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise _misnamed(module_name)
    if "/" in module_name or module_name.endswith(".py"):
        raise _misnamed(module_name, attribute)
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    found: object = _import(module_name, folder)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise NotFound(f"module {module_name} has no `{attribute}`", fix=_apps_of(module_name))
        found = getattr(found, part)
    if not isinstance(found, App):
        raise NotFound(f"{target} is not an App, but of type {type(found).__name__}", fix=_apps_of(module_name))
    if session.config is not None:
        found._config = session.config
    found._environment_name = session.environment or found._environment_name
    return found


def _misnamed(module: str, attribute: str = "app") -> click.BadParameter:
    """A module is named as in an import, `shop.main`, not as the file that it is in."""
    dotted = ".".join(part for part in module.removesuffix(".py").split("/") if part not in ("", "."))
    return click.BadParameter(f"an application is named module:app; write {dotted or 'hello'}:{attribute}", param_hint="MODULE:APP")


def _import(module_name: str, folder: str) -> object:
    from importlib import import_module

    try:
        return import_module(module_name)
    except MqError:
        raise  # a wrong declaration says itself what is wrong
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise NotFound(f"there is no module {module_name}", where=folder, fix="run it where the module is") from error
        raise _broken(module_name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(module_name, error) from error


def _broken(module_name: str, error: BaseException) -> DeclarationError:
    import traceback

    traceback.print_exception(error)
    return DeclarationError(f"importing {module_name} failed with {type(error).__name__}", fix="the traceback on stderr shows where")


def _apps_of(module_name: str) -> str:
    from mqsdk.api.app import App

    names = [name for name, value in vars(sys.modules[module_name]).items() if isinstance(value, App)]
    return f"did you mean {module_name}:{names[0]}?" if names else "make one with `app = App()`"


def named_hook(hook: Callable[[], Any]) -> Callable[[], Any]:
    """The hook, whose failure is its own and not one of mqsdk: its traceback goes to stderr and a DeclarationError names it."""

    def call() -> Any:
        try:
            result = hook()
        except MqError:
            raise  # says itself what is wrong
        except Exception as error:
            raise _failed_hook(hook, error) from error
        return awaited(result) if inspect.isawaitable(result) else result

    async def awaited(result: Awaitable[Any]) -> Any:
        try:
            return await result
        except MqError:
            raise
        except Exception as error:
            raise _failed_hook(hook, error) from error

    return call


def _failed_hook(hook: Callable[[], Any], error: Exception) -> DeclarationError:
    import traceback

    from mqsdk.api.signature import place_of

    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None  # the first one is ours
    traceback.print_exception(type(error), error, frames)
    name = getattr(hook, "__qualname__", type(hook).__name__)
    return DeclarationError(
        f"on_startup hook `{name}` failed with {type(error).__name__}", where=place_of(hook), fix="the traceback on stderr shows where"
    )


@contextmanager
def publishing_app(session: Session) -> Iterator[App]:
    """An App without consumers under the session's configuration, closed after the block."""
    from mqsdk.api.app import App

    app = App()
    app._open(configuration=session.configuration(), environment=environment(session))
    try:
        yield app
    finally:
        app.close()


def environment(session: Session) -> Environment:
    from mqsdk.runtime.environment import Environment

    return Environment() if session.make_backend is None else Environment(make_backend=session.make_backend)
