"""What a model of single keys cannot say: keys that depend on each other, keys of a later version, two patterns that tie.

Works on merged data that may still be wrong in other places, so that every problem is reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations
from typing import Any

from mqsdk.config import backends
from mqsdk.config.listening import address_of, is_loopback
from mqsdk.config.problems import Finding, Path, near, suggestion
from mqsdk.config.references import revealed

_CLUSTER_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TOPIC_PATTERN = re.compile(r"[A-Za-z0-9*][A-Za-z0-9._*-]{0,119}")
_CONSUMER_PATTERN = re.compile(r"[A-Za-z0-9*][A-Za-z0-9._*-]{0,119}/[A-Za-z0-9*][A-Za-z0-9_*-]{0,119}")
_USER_INFO = re.compile(r"(?:[a-z][a-z0-9+.-]*://|^)[^/@\s]*@", re.IGNORECASE)

CLUSTER_KEYS = ("backend", "create", "lease", "accept")
_LATER_KEYS = frozenset({"span"})
_CODE_KEYS = frozenset({"topic", "group", "ordered", "batch", "broadcast", "isolation", "dead_letter", "from", "from_"})
_NOT_BUILT = "is not built in this version of mqsdk"


def refined(finding: Finding) -> Finding:
    """An unknown key that is known to the documentation says why it is refused."""
    if finding.what != "unknown key":
        return finding
    path, name = finding.path, str(finding.path[-1])
    top = path[0]
    if len(path) == 1 and misplaced(name):
        return Finding(path, "unknown key", misplaced(name))
    if top == "observability":
        return finding if finding.fix.startswith("did") else Finding(path, _NOT_BUILT, "remove it")
    if top == "defaults" or (top == "consumers" and len(path) == 3):
        if name in _LATER_KEYS:
            return Finding(path, _NOT_BUILT, "remove it")
        if name in _CODE_KEYS:
            return Finding(path, "is set in the code, not in the file", "give it to the decorator")
    return finding


def findings(data: Mapping[str, Any], *, lenient: bool = False) -> list[Finding]:
    """Everything wrong between the keys of merged data. lenient: values that are absent are not missed."""
    return [
        *_clusters(_mapping(data, "clusters")),
        *_routes(data, lenient),
        *_listening(_mapping(data, "observability")),
        *_patterns(data, "topics", _TOPIC_PATTERN, "a topic name, `*` for any run of characters"),
        *_patterns(data, "consumers", _CONSUMER_PATTERN, "topic/group, `*` for any run of characters"),
    ]


def _mapping(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, Mapping) else {}


def _listening(block: Mapping[str, Any]) -> Iterator[Finding]:
    """Pages that another machine can ask for are for those who know the token."""
    listen = revealed(block.get("listen"))
    try:
        host = address_of(listen)[0] if isinstance(listen, str) else ""
    except ValueError:
        return  # said by the key itself
    if host and not is_loopback(host) and not block.get("token"):
        fix = "add `token: ${file:/run/secrets/token}`, or listen at 127.0.0.1"
        yield Finding(("observability", "listen"), "can be asked from other machines, and has no token", fix)


def _clusters(clusters: Mapping[str, Any]) -> Iterator[Finding]:
    for name, block in clusters.items():
        path: Path = ("clusters", name)
        if not _CLUSTER_NAME.fullmatch(name):
            yield Finding(path, "is no name for a cluster", "use lower-case letters, digits and `_`, a letter first")
        if isinstance(block, Mapping):
            yield from _cluster(block, path)


def _cluster(block: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    yield from _credentials(block.get("servers"), (*path, "servers"))
    backend = revealed(block.get("backend"))
    if not isinstance(backend, str):
        return
    refusal = backends.refusal(backend)
    if refusal is not None:
        yield Finding((*path, "backend"), *refusal)
        return
    known = backends.keys_of(backend)
    for key in block:
        if known is not None and key not in CLUSTER_KEYS and key not in known:
            yield Finding((*path, key), f"the backend `{backend}` has no such key", suggestion(key, [*CLUSTER_KEYS, *known]))
    for key, what, fix in backends.value_problems(backend, str(path[-1]), revealed(block)):
        yield Finding((*path, *key.split(".")), what, fix)


def _credentials(value: Any, path: Path) -> Iterator[Finding]:
    """User and password in an address end in logs and process lists: they have keys of their own."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _credentials(item, (*path, number))
    elif isinstance(revealed(value), str) and _USER_INFO.search(revealed(value)):
        yield Finding(path, "holds a user name or password", "use auth: {user: ..., password: ...}")


def _routes(data: Mapping[str, Any], lenient: bool) -> Iterator[Finding]:
    clusters, routes = _mapping(data, "clusters"), data.get("routes")
    if not clusters and isinstance(data.get("clusters"), Mapping) and not lenient:
        yield Finding(("clusters",), "has no cluster", "add one, for example local: {backend: log, path: ./.mqsdk}")
    if routes is None and len(clusters) > 1:
        yield Finding(
            ("clusters",), "several clusters and no `routes`", f'add routes: [{{topics: ["*"], cluster: {next(iter(clusters))}}}]'
        )
    for number, route in enumerate(routes if isinstance(routes, list) else []):
        cluster = revealed(route.get("cluster")) if isinstance(route, Mapping) else None
        if isinstance(cluster, str) and cluster not in clusters:
            yield Finding(("routes", number, "cluster"), "there is no such cluster", suggestion(cluster, list(clusters)))
        yield from _move(route.get("move") if isinstance(route, Mapping) else None, cluster, clusters, ("routes", number, "move", "to"))


def _move(move: Any, cluster: Any, clusters: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    to = revealed(move.get("to")) if isinstance(move, Mapping) else None
    if isinstance(to, str) and to not in clusters:
        yield Finding(path, "there is no such cluster", suggestion(to, list(clusters)))
    elif isinstance(to, str) and to == cluster:
        yield Finding(path, "is where the topics are already", "name another cluster, or remove `move`")


def _patterns(data: Mapping[str, Any], section: str, shape: re.Pattern[str], wanted: str) -> Iterator[Finding]:
    patterns = list(_mapping(data, section))
    for pattern in patterns:
        if not shape.fullmatch(pattern):
            yield Finding((section, pattern), f"must be {wanted}", "")
    for first, second in combinations((pattern for pattern in patterns if shape.fullmatch(pattern)), 2):
        if _literals(first) == _literals(second) and overlap(first, second):
            what = f"ties with `{first}`: both match some names and have equally many literal characters"
            yield Finding((section, second), what, "make one of the two more specific")


def _literals(pattern: str) -> int:
    return len(pattern.replace("*", ""))


def overlap(first: str, second: str) -> bool:
    """Whether some name matches both patterns. At most 120 x 120 steps, each pair of places once."""

    @cache
    def meet(left: int, right: int) -> bool:
        a, b = first[left : left + 1], second[right : right + 1]
        if not a and not b:
            return True
        if a == "*":
            return meet(left + 1, right) or (bool(b) and meet(left, right + 1))
        if b == "*":
            return meet(left, right + 1) or (bool(a) and meet(left + 1, right))
        return bool(a) and a == b and meet(left + 1, right + 1)

    return meet(0, 0)


def misplaced(name: str) -> str:
    """A hint for a top-level key that belongs into a block."""
    homes = {"timeout": "defaults", "concurrency": "defaults", "retry": "defaults", "log_level": "observability", "payload": "limits"}
    meant = near(name, homes)
    return f"write {homes[meant]}: {{{meant}: ...}}" if meant else ""
