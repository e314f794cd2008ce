"""The immutable snapshot that everything reads. Standard library only, so that a process without a file never loads pydantic (100 ms).

`mqsdk.config.load` builds it, from nothing (`Configuration()`), or from a validated file and the environment (`mqsdk.config.settings`).
All times are seconds, all sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from mqsdk.core.actions import Tuning
from mqsdk.core.stages import FENCE_S, Stage, View, has_shadows, view
from mqsdk.names import RESERVED_SUFFIXES

LIVE = {"reload": "live"}
RESTART = {"reload": "restart"}


def _frozen(value: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    return MappingProxyType(dict(value or {}))


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One configured backend. options: the whole block as the adapter gets it, secrets revealed, without the keys named here."""

    name: str
    backend: str
    options: Mapping[str, Any] = field(default_factory=_frozen, repr=False)
    create: bool = True
    lease_s: float = 10.0
    accept: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MoveRule:
    """A move that is under way: to which cluster, how far, the number of the step, and the fence time in seconds.

    now: writers may go back before what was published last is handled, whatever that does to its order.
    """

    to: str
    stage: Stage = "source"
    epoch: int = 1
    now: bool = False
    fence_s: float = FENCE_S


@dataclass(frozen=True, kw_only=True)
class Route:
    """Topic patterns -> cluster; the first route that matches wins. file, line: where it stands; line 0: nowhere."""

    topics: tuple[str, ...]
    cluster: str
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)
    move: MoveRule | None = None

    @cached_property
    def view(self) -> View:
        """Where a process writes and what it reads; the cluster alone unless the topics move."""
        if self.move is None:
            return View(self.cluster, (self.cluster,))
        return view(self.move.stage, self.cluster, self.move.to)

    @property
    def shadows(self) -> str:
        """The cluster that gets a shadow of what is written, "" for none."""
        return self.move.to if self.move is not None and has_shadows(self.move.stage) else ""

    @property
    def clusters(self) -> tuple[str, ...]:
        """Every cluster that it names."""
        return (self.cluster,) if self.move is None else (self.cluster, self.move.to)


@dataclass(frozen=True, kw_only=True)
class TopicRule:
    """What must exist for the topics that match `pattern`. retention_s: infinity: for ever; None: not told."""

    pattern: str
    partitions: int | None = None
    retention_s: float | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ConsumerRule:
    """Overrides for "topic/group" pairs. values: the keys that the file gives, as written in the file, converted to units."""

    pattern: str
    values: Mapping[str, Any] = field(default_factory=_frozen)


@dataclass(frozen=True, kw_only=True)
class InboxRule:
    """path: as in the file, relative to the working directory. ttl_s: how long an id is remembered."""

    path: str
    ttl_s: float


@dataclass(frozen=True, kw_only=True)
class PublishLimits:
    timeout_s: float = 10.0
    window_records: int = 10_000
    window_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Reload:
    watch: bool = True
    every_s: float = 1.0
    settle_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Observability:
    """listen: `host:port` of the pages, None = none. token: what a caller must show, "" = nothing."""

    log_level: str = "INFO"
    listen: str | None = None
    token: str = field(default="", repr=False)


DEFAULT_CLUSTERS: Mapping[str, Cluster] = MappingProxyType(
    {"local": Cluster(name="local", backend="log", options=_frozen({"path": "./.mqsdk", "durability": "interval"}))}
)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One whole, validated configuration. `version` counts the configurations of this process, from 1. `source`: file path, "" without.

    masked: dotted keys whose value came through `${...}` and is never shown. requires: as the file gives it.
    notices: what to warn of where this configuration is taken. cached: the last good one of a source that is down.
    """

    app: str = "app"
    environment: str = ""
    version: int = 1
    source: str = ""
    clusters: Mapping[str, Cluster] = field(default_factory=lambda: DEFAULT_CLUSTERS)
    routes: tuple[Route, ...] = (Route(topics=("*",), cluster="local"),)
    topics: tuple[TopicRule, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=_frozen)
    consumers: tuple[ConsumerRule, ...] = ()
    publish: PublishLimits = PublishLimits()
    payload_limit: int = 1024 * 1024
    drain_timeout_s: float = 30.0
    no_progress_s: float = 120.0
    reload: Reload = Reload()
    observability: Observability = Observability()
    masked: frozenset[str] = frozenset()
    requires: str | None = None
    notices: tuple[str, ...] = ()
    cached: bool = False

    def route(self, topic: str) -> Route | None:
        """The route of a topic, None when no pattern matches. `.retry` and `.dlq` topics: ask for the topic they belong to."""
        for route, patterns in self._compiled_routes:
            if any(pattern.fullmatch(topic) for pattern in patterns):
                return route
        return None

    def topic_rule(self, topic: str) -> TopicRule:
        """What `topics:` says for this topic: the matching entry with most literal characters, else an empty rule.

        A pattern with `*` means topics of the user: of the SDK's own (`.dlq`, `.retry`) nobody but an entry of that very name speaks, else
        `groups` would be made on them that no consumer ever reads.
        """
        own = topic.endswith(RESERVED_SUFFIXES)
        matching = [rule for rule in self.topics if (rule.pattern == topic if own else pattern(rule.pattern).fullmatch(topic))]
        return max(matching, key=lambda rule: literal_length(rule.pattern), default=TopicRule(pattern=topic))

    def tuning(self, topic: str, group: str, declared: Mapping[str, Any]) -> Tuning:
        """Tuning of one consumer, strongest first: `consumers.<topic/group>`, decorator, `defaults`, built in.

        declared: the decorator's explicit values by the names of Tuning; `retry` is a RetryPolicy.
        """
        from mqsdk.config.tuning import resolve

        return resolve(self, topic, group, declared)

    def inbox(self, topic: str, group: str) -> InboxRule | None:
        """The inbox of one consumer, None for none: `consumers.<topic/group>`, else `defaults`; a block counts as given whole."""
        from mqsdk.config.tuning import rule_values

        values = rule_values(self, f"{topic}/{group}")
        found = values["inbox"] if "inbox" in values else self.defaults.get("inbox")
        return None if found is None else InboxRule(**found)

    def with_version(self, version: int) -> Configuration:
        return replace(self, version=version)

    @cached_property
    def _compiled_routes(self) -> tuple[tuple[Route, tuple[Any, ...]], ...]:
        return tuple((route, tuple(pattern(text) for text in route.topics)) for route in self.routes)


def pattern(text: str) -> Any:
    """A compiled pattern in which `*` is any run of characters, dots too."""
    import re

    return re.compile(".*".join(re.escape(part) for part in text.split("*")), re.DOTALL)


def literal_length(text: str) -> int:
    return len(text.replace("*", ""))
