"""Finding adapters: exactly one entry point of the group `mqsdk` is loaded, by the name that a cluster's `backend:` gives.

Loading all of them would let one plugin that cannot be imported abort the start of an application that does not use it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mqsdk.config.model import Cluster
from mqsdk.errors import ConfigError, MissingExtra
from mqsdk.spi import Backend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from pluggy import PluginManager

    from mqsdk.spi.tools import Toolbox

GROUP = "mqsdk"


def known_backends() -> dict[str, list[EntryPoint]]:
    """Entry points by name; a name with two different values is claimed by two distributions."""
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        same = found.setdefault(point.name, [])
        if point.value not in [other.value for other in same]:
            same.append(point)
    return found


def make_backend(cluster: Cluster, environ: Mapping[str, str] = os.environ) -> Backend:
    """Make the backend of one cluster; connects nothing.

    Raises ConfigError for a backend that no installed distribution offers, that two offer, that MQSDK_DISABLE_PLUGINS names, or that
    refuses its options; MissingExtra when its client library is not installed.
    """
    point = _entry_point(cluster.backend, environ, where=f"clusters.{cluster.name}.backend")
    hook = _loaded(point).hook
    backend = hook.mqsdk_backend(kind=cluster.backend, name=cluster.name, options=cluster.options)
    if not isinstance(backend, Backend):
        raise ConfigError(f"plugin `{point.value}` made no backend of kind `{cluster.backend}`", where=f"cluster {cluster.name}")
    return backend


def tools_of(kind: str, environ: Mapping[str, str] = os.environ) -> Toolbox | None:
    """What the adapter of this kind brings along for the command line, None when it is nothing. Raises as `make_backend`."""
    box: Toolbox | None = _loaded(_entry_point(kind, environ)).hook.mqsdk_tools(kind=kind)
    return box


def _loaded(point: EntryPoint) -> PluginManager:
    """A manager with this one plugin."""
    from pluggy import PluginManager

    from mqsdk.spi import hooks

    manager = PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    try:
        manager.register(point.load(), name=point.name)
    except ImportError as error:
        raise MissingExtra(point.name, what=f"backend `{point.name}` cannot be imported: {error.name or error}") from error
    manager.check_pending()
    return manager


def _entry_point(kind: str, environ: Mapping[str, str], where: str = "") -> EntryPoint:
    known = known_backends()
    blocked = {name.strip() for name in environ.get("MQSDK_DISABLE_PLUGINS", "").split(",") if name.strip()}
    if kind in blocked:
        raise ConfigError(f"backend `{kind}` is disabled by MQSDK_DISABLE_PLUGINS", where=where)
    points = known.get(kind, [])
    if not points:
        names = ", ".join(sorted(set(known) - blocked)) or "none"
        raise ConfigError(f"no installed backend is named `{kind}`", where=where, fix=f"installed: {names}")
    if len(points) > 1:
        claims = " and ".join(f"{point.value} ({point.dist.name if point.dist else 'unknown distribution'})" for point in points)
        raise ConfigError(f"backend `{kind}` is claimed by {claims}", where=where, fix="uninstall one of them")
    return points[0]
