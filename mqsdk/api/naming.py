"""Names by which another process finds a function, class or object: module and path within it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

WORKER = "mqsdk.api.isolated"


def name_of(thing: Any, module: str | None = None, name: str | None = None) -> tuple[str, str] | None:
    """(module, name) of what is defined at module level, None for what no other process can find. Imports nothing.

    module, name: where it is found, for an object that does not know it. Whether the name leads to this very object `named` tells, once
    its module has been imported.
    """
    module = getattr(thing, "__module__", None) if module is None else module
    name = getattr(thing, "__qualname__", None) if name is None else name
    if not isinstance(module, str) or not isinstance(name, str) or not name or "<" in name:
        return None
    if module == "__main__":
        module = _name_of_main() or ""
    return (module, name) if module else None


def _name_of_main() -> str | None:
    """The name under which the script or module that was started can be imported, without importing it a second time here."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if file is None:  # an interactive interpreter, or -c
        return None
    name = os.path.splitext(os.path.basename(file))[0]
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return name if found is not None and found.origin is not None and os.path.realpath(found.origin) == os.path.realpath(file) else None


def named(reference: tuple[str, str]) -> Any:
    """What a module holds under this name; None without such a name. The program that runs is not imported a second time.

    Raises whatever importing the module raises.
    """
    module, name = reference
    found: Any = sys.modules["__main__"] if module == _name_of_main() else importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def in_worker() -> bool:
    """Whether this process is a worker of `isolation="process"`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == WORKER
