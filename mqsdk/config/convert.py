"""From `Settings` (pydantic, keys as in the file) to `Configuration` (plain data, units in the names)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from mqsdk.config import model, requirement, rules
from mqsdk.config.problems import Finding, dotted
from mqsdk.config.references import revealed
from mqsdk.config.settings import BreakerKeys, ClusterKeys, ConsumerKeys, MoveKeys, RetryKeys, Settings
from mqsdk.config.sources import Session

if TYPE_CHECKING:
    from mqsdk.core.stages import Stage


def configuration_of(settings: Settings, session: Session) -> model.Configuration:
    """The snapshot of these settings. session: the load that made them, for lines and for what must not be shown."""
    wanted = requirement.parsed(session.data.get("requires"))
    unmet = "" if wanted is None else wanted.unmet(requirement.sdk_version())
    return model.Configuration(
        app=settings.app,
        environment=settings.environment,
        source=session.document.file if session.document is not None else "",
        clusters=MappingProxyType({name: _cluster(name, block) for name, block in settings.clusters.items()}),
        routes=tuple(
            model.Route(topics=tuple(route.topics), cluster=route.cluster, move=_move(route.move), **_place(session, number))
            for number, route in enumerate(settings.routes)
        ),
        topics=tuple(
            model.TopicRule(pattern=pattern, partitions=topic.partitions, retention_s=topic.retention, groups=tuple(topic.groups))
            for pattern, topic in settings.topics.items()
        ),
        defaults=_consumer(settings.defaults),
        consumers=tuple(model.ConsumerRule(pattern=pattern, values=_consumer(block)) for pattern, block in settings.consumers.items()),
        publish=model.PublishLimits(
            timeout_s=settings.publish.timeout,
            window_records=settings.publish.window.records,
            window_bytes=settings.publish.window.bytes,
        ),
        payload_limit=settings.limits.payload,
        drain_timeout_s=settings.drain.timeout,
        no_progress_s=settings.watchdog.no_progress,
        reload=model.Reload(watch=settings.reload.watch, every_s=settings.reload.every, settle_s=settings.reload.settle),
        observability=model.Observability(
            log_level=settings.observability.log_level,
            listen=settings.observability.listen,
            token=revealed(settings.observability.token) or "",
        ),
        masked=frozenset(dotted(path) for path in session.masked),
        requires=None if wanted is None else str(wanted),
        notices=(*session.notices, *([f"{session.located(Finding(('requires',), unmet))}"] if unmet else [])),
        cached=session.cached,
    )


def _move(block: MoveKeys | None) -> model.MoveRule | None:
    if block is None:
        return None
    return model.MoveRule(to=block.to, stage=cast("Stage", block.stage), epoch=block.epoch, now=block.now, fence_s=block.fence)


def _place(session: Session, number: int) -> dict[str, Any]:
    """File and line of a route, nothing when it does not stand in a file."""
    if session.document is None:
        return {}
    for prefix in (("profiles", session.environment), ()):
        path = (*prefix, "routes", number)
        if session.document.has(path):
            place = session.document.place(path)
            return {"file": place.file, "line": place.line}
    return {}


def _cluster(name: str, block: ClusterKeys) -> model.Cluster:
    given = {key: value for key, value in _given(block).items() if key not in rules.CLUSTER_KEYS}
    return model.Cluster(
        name=name,
        backend=block.backend,
        options=MappingProxyType(revealed(given)),
        create=block.create,
        lease_s=block.lease,
        accept=tuple(block.accept),
    )


def _given(block: BaseModel) -> dict[str, Any]:
    """The keys that were given, further blocks as mappings."""
    values = {name: getattr(block, name) for name in block.model_fields_set}
    return {name: _given(value) if isinstance(value, BaseModel) else value for name, value in values.items() if value is not None}


_CONSUMER_NAMES: Mapping[str, str] = {"timeout": "timeout_s", "rate": "rate_per_s"}
_BREAKER_NAMES: Mapping[str, str] = {"min": "minimum", "window": "window_s", "probe": "probe_s"}
_BACKOFF_NAMES: Mapping[str, str] = {"base": "base_s", "max": "max_s"}


def _consumer(block: ConsumerKeys) -> Mapping[str, Any]:
    """The given keys by the names of Tuning; `retry` and `breaker` stay mappings of their given sub-keys."""
    values: dict[str, Any] = {}
    for name in sorted(block.model_fields_set):
        value = getattr(block, name)
        if name == "retry":
            values["retry"] = _retry(value)
        elif name == "breaker":
            values["breaker"] = value if value is None else _breaker(value)
        elif name == "inbox":
            values["inbox"] = value if value is None else MappingProxyType({"path": value.path, "ttl_s": value.ttl})
        elif name == "in_flight":
            values |= {f"in_flight_{part}": getattr(value, part) for part in sorted(value.model_fields_set)}
        else:
            values[_CONSUMER_NAMES.get(name, name)] = value
    return MappingProxyType(values)


def _breaker(block: BreakerKeys) -> Mapping[str, Any]:
    return MappingProxyType({_BREAKER_NAMES.get(name, name): getattr(block, name) for name in sorted(block.model_fields_set)})


def _retry(block: RetryKeys) -> Mapping[str, Any]:
    values = {name: getattr(block, name) for name in sorted(block.model_fields_set)}
    if "backoff" in values:
        backoff = values["backoff"]
        given = sorted(backoff.model_fields_set)
        values["backoff"] = MappingProxyType({_BACKOFF_NAMES.get(name, name): getattr(backoff, name) for name in given})
    return MappingProxyType(values)
