"""`isolation="process"`: what a worker process is told to make the handler, and the worker process itself (`python -m mqsdk.api.isolated`).

Functions and classes go by module and name, never as objects: the process imports the application as the parent did.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mqsdk.api import handler, signature
from mqsdk.api.handler import Parts
from mqsdk.api.masking import mask_of, secrets_of
from mqsdk.api.middleware import Chain
from mqsdk.api.naming import name_of, named
from mqsdk.api.payload import Limits, decoder
from mqsdk.api.verdict import Verdicts
from mqsdk.errors import DeclarationError, MqError
from mqsdk.runtime import serving
from mqsdk.runtime.isolation import FAILED, READY, Channel, Isolation
from mqsdk.runtime.serving import Serving

if TYPE_CHECKING:
    from mqsdk.api.app import App
    from mqsdk.api.consumer import ConsumerDeclaration
    from mqsdk.config.model import Configuration

COMMAND = (sys.executable, "-m", "mqsdk.api.isolated")


# --- in the consumer's process ----------------------------------------------------------------------------------------------------


def isolation_of(
    one: ConsumerDeclaration, middleware: Sequence[Callable[..., Any]], configuration: Configuration, limits: Limits, app: App | None
) -> Isolation:
    """How the worker processes of one consumer are made. app: whose handler it is; its configuration is used there too.

    Raises DeclarationError for a handler, a middleware or a class of `reject_on` that another process does not find by its name.
    """
    where = one.signature.where
    recipe = {
        "path": [entry for entry in sys.path if isinstance(entry, str)],
        "consumer": one.name,
        "handler": _reference(one.signature.function, "the handler", one.name, where),
        "batch": one.batch is not None,
        "middleware": [_reference(layer, "a middleware", one.name, where) for layer in middleware],
        "reject_on": [_reference(kind, "a class of `reject_on`", one.name, where) for kind in one.reject_on],
        "secrets": secrets_of(configuration),
        "app": _app_reference(app),
    }
    return Isolation(COMMAND, recipe, partial(_live, limits))


def _reference(thing: Any, what: str, consumer: str, where: str) -> tuple[str, str]:
    found = name_of(thing)
    if found is None or named(found) is not thing:
        raise DeclarationError(
            f'{what} of {consumer} cannot be imported by name, which isolation="process" needs: {signature.place_of(thing)}',
            where=where,
            fix="define it at module level under its own name, decorated by nothing outside of `@app.consumer`",
        )
    return found


def _app_reference(app: App | None) -> tuple[str, str, str | None, str | None] | None:
    """(module, name, configuration, environment) of an App that a module holds; without one its handlers publish as the module says."""
    if app is None:
        return None
    config = None if app._config is None else os.fspath(app._config) if isinstance(app._config, str | os.PathLike) else ""
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()) if module is not None else ():
            reference = name_of(value, module.__name__, name) if value is app else None
            if reference is not None:
                return *reference, config, app._environment_name
    return None


def _live(limits: Limits) -> tuple[int, int, int]:
    return limits.payload, logging.getLogger().getEffectiveLevel(), logging.getLogger("mqsdk").getEffectiveLevel()


# --- in the worker process --------------------------------------------------------------------------------------------------------


def main(calls_at: int, control_at: int, life: int) -> None:
    """Serve until the parent closes the line."""
    os.set_inheritable(life, False)
    serving.end_with(life)
    serving.ignore_stop_signals()
    calls, control = Channel(calls_at), Channel(control_at)
    parent = os.getppid()
    recipe = calls.receive()
    sys.path[:] = recipe["path"]
    limits = Limits(0)
    try:
        made = _made(recipe, limits)
    except (Exception, SystemExit) as error:
        traceback.print_exception(error)
        calls.send((FAILED, f"{type(error).__name__}{': ' + error.what if isinstance(error, MqError) else ''}"))
        return
    forwards = not logging.getLogger().handlers  # an application that configured logging at import keeps its own
    if forwards:
        logging.getLogger().addHandler(serving.Forward(calls))
    server = Serving(calls, made, partial(_apply, limits, forwards), recipe["consumer"])
    listener = (control, server, parent, serving.end_group)
    threading.Thread(target=serving.listen, args=listener, name="mqsdk-parent", daemon=True).start()
    calls.send((READY,))
    server.run()


def _apply(limits: Limits, forwards: bool, live: tuple[int, int, int]) -> None:
    limits.payload = live[0]
    if forwards:
        logging.getLogger().setLevel(live[1])
        logging.getLogger("mqsdk").setLevel(live[2])


def _made(recipe: dict[str, Any], limits: Limits) -> handler.UserHandler:
    function = named(recipe["handler"])
    _take_configuration(recipe["app"])
    signed = signature.check(function, batch=recipe["batch"])
    shape = signature.shape(signed)
    reject_on = tuple(named(reference) for reference in recipe["reject_on"])
    parts = Parts(
        function=function,
        shape=shape,
        decode=decoder(shape.annotation, limits, signed.where),
        verdicts=Verdicts(recipe["consumer"], reject_on, mask_of(recipe["secrets"])),
        chain=Chain([named(reference) for reference in recipe["middleware"]]),
    )
    return handler.make(parts, is_async=signed.is_async, batch=signed.batch)


def _take_configuration(reference: tuple[str, str, str | None, str | None] | None) -> None:
    """What a handler publishes goes where the parent's would: the parent may have been given another configuration than its code says."""
    if reference is None:
        return
    module, name, config, environment = reference
    app = named((module, name))
    if config != "":  # "": a Settings object, which the application makes here as it did there
        app._config = config
    app._environment_name = environment


if __name__ == "__main__":
    # The module under its own name, so that `named` and the application see the same classes.
    importlib.import_module("mqsdk.api.isolated").main(*map(int, sys.argv[1:4]))
