"""What the cluster's settings mean for acknowledged messages: limits at open, findings for `doctor` and the start-up line."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType

from mqsdk.spi import BackendError, BackendHealth, Finding
from mqsdk_kafka import marks
from mqsdk_kafka.client import Client

BROKER_SETTINGS = (
    "offset.metadata.max.bytes", "min.insync.replicas", "unclean.leader.election.enable", "default.replication.factor",
    "auto.create.topics.enable", "offsets.topic.replication.factor", "offsets.retention.minutes",
)  # fmt: skip
SMALL_MARK = 1024
HEALTH_S = 3.0
UNKNOWN = "kafka: what is acknowledged is held by the replicas that were in sync"
SINGLE = "kafka, one broker: what is acknowledged survives kill -9 (page cache); a power loss takes what was not written back"
ONE_COPY = "kafka, one copy: survives kill -9 of a broker; the loss of its disk, or a power loss before write-back, loses messages"
ONE_IN_SYNC = "kafka, replicated, min.insync.replicas 1: an acknowledged message may stand on a single broker when others are away"
REPLICATED = "kafka, replicated: what is acknowledged survives the loss of a broker and a power loss of one host"


def check(client: Client, deadline: float) -> None:
    """Connect and learn the broker's limits. Raises Unavailable, AccessDenied."""
    brokers = client.look(lambda admin: admin.describe_cluster(), deadline)["brokers"]
    client.mark_limit = _number(_settings(client, brokers), "offset.metadata.max.bytes", marks.BROKER_LIMIT)


def health(client: Client) -> BackendHealth:
    """Never raises: what cannot be seen is a finding."""
    began = time.monotonic()
    try:
        found = client.look(lambda admin: admin.describe_cluster(), began + HEALTH_S)
    except BackendError as error:
        return BackendHealth(False, guarantee=UNKNOWN, findings=(Finding("warn", "unreachable", error.what, error.fix),))
    latency_ms = (time.monotonic() - began) * 1000
    brokers = found["brokers"]
    settings = _settings(client, brokers)
    copies = client.settings.own.replication or _number(settings, "default.replication.factor", 1)
    guarantee = _guarantee(len(brokers), copies, _number(settings, "min.insync.replicas", 1))
    version = client.look(lambda admin: ".".join(str(part) for part in admin._manager.broker_version or ()))
    return BackendHealth(True, version, latency_ms, guarantee, tuple(_findings(client, len(brokers), copies, settings)))


def _settings(client: Client, brokers: Any) -> Mapping[str, str]:
    """Settings of one broker; empty where the user may not read them. One that is away (fenced) is listed too, and would not answer."""
    asked = next((broker for broker in brokers if not broker.get("is_fenced")), brokers[0])
    resource = ConfigResource(ConfigResourceType.BROKER, str(asked["broker_id"]), dict.fromkeys(BROKER_SETTINGS))
    try:
        answer = client.look(lambda admin: admin.describe_configs([resource], config_filter="all"))
    except BackendError:
        return {}
    values: Mapping[str, Any] = next(iter(next(iter(answer.values())).values()), {})
    return {name: str(item["value"]) for name, item in values.items() if isinstance(item, dict) and item.get("value") is not None}


def _number(settings: Mapping[str, str], name: str, default: int) -> int:
    text = settings.get(name, "")
    return int(text) if text.isdecimal() else default


def _guarantee(brokers: int, copies: int, in_sync: int) -> str:
    if brokers == 1:
        return SINGLE
    if copies == 1:
        return ONE_COPY
    return REPLICATED if in_sync > 1 else ONE_IN_SYNC


def _findings(client: Client, brokers: int, copies: int, settings: Mapping[str, str]) -> list[Finding]:
    found = [Finding("ok", "brokers", f"{brokers} broker(s), topics are made with {copies} copies")]
    if copies == 1:
        found.append(Finding("warn", "rf1", "a new topic has one copy: a lost disk loses its messages", "set `replication: 3`"))
    elif _number(settings, "min.insync.replicas", 1) < 2:
        what = "an acknowledged message may stand on a single broker"
        found.append(Finding("warn", "min_insync", what, "set min.insync.replicas=2 on the broker or the topics"))
    if settings.get("unclean.leader.election.enable") == "true":
        what = "a broker that lags behind may become leader and lose messages"
        found.append(Finding("warn", "unclean", what, "set unclean.leader.election.enable=false"))
    if client.mark_limit < SMALL_MARK:
        what = f"the broker keeps {client.mark_limit} characters beside an offset: after a crash more messages are handled again"
        found.append(Finding("warn", "metadata", what, f"set offset.metadata.max.bytes={marks.BROKER_LIMIT}"))
    if importlib.util.find_spec("crc32c") is None:
        what = "the package crc32c is missing: the client is several times slower"
        found.append(Finding("warn", "crc32c", what, "pip install 'mqsdk[kafka]'"))
    if not settings:
        found.append(Finding("warn", "settings_unseen", "the user may not read the broker's settings", "allow DESCRIBE_CONFIGS"))
    return found
