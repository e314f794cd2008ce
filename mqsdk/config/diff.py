"""What differs between two configurations, and whether a running process may take it. Nothing is opened.

`mqsdk check --diff` prints it, `App.reload` decides by it. The table of what is live is the contract's; a test holds the model to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mqsdk import units
from mqsdk.config.model import Cluster, Configuration, MoveRule, Route
from mqsdk.config.secret import MASK, is_secret_name

Applies = Literal["live", "restart"]
Names = tuple[str, ...]

_LIVE_SECTIONS = frozenset(
    {"defaults", "consumers", "routes", "publish", "limits", "drain", "watchdog", "reload", "observability", "requires"}
)
_LIVE_CLUSTER_KEYS = frozenset({"servers", "tls", "auth", "options"})
_FILE_NAMES: Mapping[str, Names] = {
    "timeout_s": ("timeout",),
    "in_flight_records": ("in_flight", "records"),
    "in_flight_bytes": ("in_flight", "bytes"),
    "base_s": ("base",),
    "max_s": ("max",),
    "rate_per_s": ("rate",),
    "minimum": ("min",),
    "window_s": ("window",),
    "probe_s": ("probe",),
    "ttl_s": ("ttl",),
}
_SECONDS = frozenset({"timeout_s", "base_s", "max_s", "window_s", "probe_s", "ttl_s"})


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. old, new: as people write them, secrets as `***`, None where the key is absent."""

    key: str
    old: Any
    new: Any
    applies: Applies

    def __str__(self) -> str:
        return f"{self.key}: {_text(self.old)} -> {_text(self.new)}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return "(not set)" if value is None else str(value)


def changes(old: Configuration, new: Configuration) -> list[Change]:
    """Every difference but version and source, in the order of the file's sections."""
    before, after = dict(_flat(old)), dict(_flat(new))
    hidden = old.masked | new.masked
    found = list(_cluster_changes(old, new))
    for path in dict.fromkeys((*before, *after)):
        if before.get(path) != after.get(path) and not _is_of_new_or_gone_cluster(path, old, new):
            shown = [_shown(values.get(path), path, hidden) for values in (before, after)]
            found.append(Change(_dotted(path), shown[0], shown[1], applies(path, in_use=_in_use(path, old))))
    return [*found, *_route_changes(old.routes, new.routes)]


def applies(path: Names, *, in_use: bool = True) -> Applies:
    """Whether a running process takes a change of this key. in_use: a route leads to the cluster of the path."""
    if path[0] in _LIVE_SECTIONS and path != ("observability", "listen"):
        return "restart" if "inbox" in path[1:3] else "live"
    if path[0] == "clusters" and len(path) > 2 and (path[2] in _LIVE_CLUSTER_KEYS or (path[2] == "backend" and not in_use)):
        return "live"
    return "restart"


def _in_use(path: Names, configuration: Configuration) -> bool:
    return path[0] == "clusters" and any(path[1] in route.clusters for route in configuration.routes)


def _is_of_new_or_gone_cluster(path: Names, old: Configuration, new: Configuration) -> bool:
    return path[0] == "clusters" and (path[1] not in old.clusters or path[1] not in new.clusters)


def _cluster_changes(old: Configuration, new: Configuration) -> Iterator[Change]:
    for name in dict.fromkeys((*old.clusters, *new.clusters)):
        if name not in old.clusters:
            yield Change(f"clusters.{name}", None, new.clusters[name].backend, "live")
        elif name not in new.clusters:
            yield Change(f"clusters.{name}", old.clusters[name].backend, None, "restart")


def _route_changes(old: tuple[Route, ...], new: tuple[Route, ...]) -> Iterator[Change]:
    """Key by key where the patterns are the same, else the whole list: a route's place decides what it matches."""
    if [route.topics for route in old] == [route.topics for route in new]:
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            if before.cluster != after.cluster:
                yield Change(f"routes[{number}].cluster", before.cluster, after.cluster, "live")
            if before.move != after.move:
                yield Change(f"routes[{number}].move", _move(before.move), _move(after.move), "live")
    else:
        yield Change("routes", [_route(route) for route in old], [_route(route) for route in new], "live")


def _route(route: Route) -> str:
    moving = "" if route.move is None else f" ({_move(route.move)})"
    return f"{' '.join(route.topics)} -> {route.cluster}{moving}"


def _move(move: MoveRule | None) -> str | None:
    return None if move is None else f"to {move.to}, {move.stage}{', now' if move.now else ''}, epoch {move.epoch}"


def _flat(configuration: Configuration) -> Iterator[tuple[Names, Any]]:
    """(key path as in the file, value) of everything but routes; absent keys of consumers are absent here."""
    yield ("app",), configuration.app
    yield ("environment",), configuration.environment
    yield ("requires",), configuration.requires
    for name, cluster in configuration.clusters.items():
        yield from _flat_cluster(("clusters", name), cluster)
    for rule in configuration.topics:
        yield ("topics", rule.pattern, "partitions"), rule.partitions
        yield ("topics", rule.pattern, "retention"), None if rule.retention_s is None else units.duration_text(rule.retention_s)
        yield ("topics", rule.pattern, "groups"), list(rule.groups) or None
    yield from _flat_values(("defaults",), configuration.defaults)
    for entry in configuration.consumers:
        yield from _flat_values(("consumers", entry.pattern), entry.values)
    yield ("publish", "timeout"), units.duration_text(configuration.publish.timeout_s)
    yield ("publish", "window", "records"), configuration.publish.window_records
    yield ("publish", "window", "bytes"), configuration.publish.window_bytes
    yield ("limits", "payload"), configuration.payload_limit
    yield ("drain", "timeout"), units.duration_text(configuration.drain_timeout_s)
    yield ("watchdog", "no_progress"), units.duration_text(configuration.no_progress_s)
    yield ("reload", "watch"), configuration.reload.watch
    yield ("reload", "every"), units.duration_text(configuration.reload.every_s)
    yield ("reload", "settle"), units.duration_text(configuration.reload.settle_s)
    yield ("observability", "log_level"), configuration.observability.log_level
    yield ("observability", "listen"), configuration.observability.listen
    yield ("observability", "token"), configuration.observability.token or None


def _effective(cluster: Cluster) -> Mapping[str, Any]:
    """The cluster's options as they work: a default that somebody writes out is no change."""
    from mqsdk.config import backends

    options = backends.effective(cluster.backend, cluster.name, cluster.options)
    tls = options.get("tls")
    return {**options, "tls": {"verify": True, **tls}} if isinstance(tls, Mapping) else options


def _flat_cluster(path: Names, cluster: Cluster) -> Iterator[tuple[Names, Any]]:
    yield (*path, "backend"), cluster.backend
    yield (*path, "create"), cluster.create
    yield (*path, "lease"), units.duration_text(cluster.lease_s)
    yield (*path, "accept"), list(cluster.accept) or None
    yield from _flat_options(path, _effective(cluster))


def _flat_options(path: Names, values: Mapping[str, Any]) -> Iterator[tuple[Names, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat_options((*path, name), value)
        else:
            yield (*path, name), value


def _flat_values(path: Names, values: Mapping[str, Any]) -> Iterator[tuple[Names, Any]]:
    for name, value in values.items():
        inner = (*path, *_FILE_NAMES.get(name, (name,)))
        if name in ("breaker", "inbox"):
            yield from _flat_block(inner, value)
        elif isinstance(value, Mapping):
            yield from _flat_values(inner, value)
        elif name in _SECONDS:
            yield inner, "none" if value is None else units.duration_text(value)
        elif name == "rate_per_s":
            yield inner, "none" if value is None else units.rate_text(value)
        else:
            yield inner, value


def _flat_block(path: Names, values: Mapping[str, Any] | None) -> Iterator[tuple[Names, Any]]:
    """`breaker: {}` has no key, and yet it is not the same as none."""
    yield path, "none" if values is None else "set"
    yield from _flat_values(path, values or {})


def _dotted(path: Names) -> str:
    from mqsdk.config.problems import dotted

    return dotted(path)


def _shown(value: Any, path: Names, hidden: frozenset[str]) -> Any:
    if value is None:
        return None
    key = _dotted(path)
    covered = any(key == other or other.startswith(f"{key}[") or key.startswith(f"{other}.") for other in hidden)
    return MASK if covered or any(is_secret_name(part) for part in path) else value
