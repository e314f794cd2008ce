"""What the server's settings mean: refused at open where they could delete messages, reported by health where they could lose some."""

from __future__ import annotations

import time
from typing import Any

from mqsdk.spi import BackendHealth, Finding, UnsafeBackend, UnsupportedFormat
from mqsdk_redis.client import Client
from mqsdk_redis.errors import KIND, code_of
from mqsdk_redis.wire import FAILURES, facts_of

OLDEST = (7, 0)
SETTINGS = ("maxmemory-policy", "appendonly", "appendfsync", "maxmemory", "min-replicas-to-write")
GUARANTEES = {
    "always": "redis, AOF `always`: what is acknowledged survives kill -9 and power loss; a failover takes what was not replicated",
    "everysec": "redis, AOF `everysec`: survives kill -9; a power loss takes the last second, a failover what was not replicated",
    "no": "redis, AOF without sync: survives kill -9; a power loss takes what the kernel had not written back (about 30 s)",
    "off": "redis without AOF: a stop or kill of the server takes everything since its last snapshot",
    "": "redis: the user may not read the server's settings, so what survives its end is not known",
}


def check(client: Client, deadline: float) -> None:
    """Raises Unavailable, AccessDenied, UnsupportedFormat for a server before 7.0, UnsafeBackend for one that evicts keys."""
    wire = client.borrow(deadline)
    try:
        facts, settings = _look(client, wire, max(0.05, deadline - time.monotonic()))
    except BaseException:
        wire.abort()
        raise
    client.give_back(wire)
    version = facts.get("redis_version", "")
    if version and _version(version) < OLDEST:
        raise UnsupportedFormat(
            f"the server is Redis {version}",
            found=version,
            supported="7.0 and newer",
            cluster=client.cluster,
            backend=KIND,
            fix="upgrade it",
        )
    policy = settings.get("maxmemory-policy")
    if policy is None and not client.settings.own.noeviction:
        raise UnsafeBackend(
            "whether the server evicts keys cannot be seen: the user may not read its settings",
            finding="eviction",
            cluster=client.cluster,
            backend=KIND,
            fix="allow `CONFIG GET`, or make sure that maxmemory-policy is noeviction and say so: noeviction: true",
        )
    if policy not in (None, "noeviction"):
        raise UnsafeBackend(
            f"the server's maxmemory-policy is {policy}: it deletes whole streams when memory is short",
            finding="eviction",
            cluster=client.cluster,
            backend=KIND,
            fix="CONFIG SET maxmemory-policy noeviction",
        )


def health(client: Client) -> BackendHealth:
    """Never raises for a server that does not answer: that is what it reports."""
    began = time.monotonic()
    try:
        wire = client.dialer.once(2.0)
    except FAILURES as error:
        found = client.dialer.error(error)
        return BackendHealth(False, guarantee=GUARANTEES[""], findings=(Finding("warn", "unreachable", found.what, found.fix),))
    try:
        began = time.monotonic()
        wire.call("PING")
        latency_ms = (time.monotonic() - began) * 1000
        facts, settings = _look(client, wire, 5.0)
    except FAILURES as error:
        found = client.dialer.error(error)
        return BackendHealth(False, guarantee=GUARANTEES[""], findings=(Finding("warn", "unreachable", found.what, found.fix),))
    finally:
        wire.abort()
    mode = _mode(settings)
    version = facts.get("redis_version", "")
    return BackendHealth(True, version, latency_ms, GUARANTEES[mode], tuple(_findings(mode, settings, facts)))


def _look(client: Client, wire: Any, timeout_s: float) -> tuple[dict[str, str], dict[str, str]]:
    """(INFO, settings); what the user may not ask for is left out."""
    info, found = wire.exchange([("INFO",), ("CONFIG", "GET", *SETTINGS)], timeout_s)
    for reply in (info, found):
        if isinstance(reply, Exception) and code_of(reply) not in ("NOPERM", "ERR"):
            raise client.dialer.error(reply) from reply
    facts = {} if isinstance(info, Exception) else facts_of(info)
    if isinstance(found, Exception):
        return facts, {}
    texts = [item.decode() for item in found]
    return facts, dict(zip(texts[::2], texts[1::2], strict=True))


def _mode(settings: dict[str, str]) -> str:
    if "appendonly" not in settings:
        return ""
    return settings.get("appendfsync", "") if settings["appendonly"] == "yes" else "off"


def _findings(mode: str, settings: dict[str, str], facts: dict[str, str]) -> list[Finding]:
    found = [Finding("info" if mode in ("always", "everysec") else "warn", f"aof_{mode or 'unknown'}", GUARANTEES[mode], _fix(mode))]
    if not settings:
        found.append(Finding("warn", "settings_unseen", "the user may not read the server's settings", "allow CONFIG GET"))
    if settings.get("maxmemory") == "0":
        found.append(Finding("info", "maxmemory", "the server has no memory limit: a backlog may take all of the host's", "set maxmemory"))
    if int(facts.get("connected_slaves", "0") or 0) and settings.get("min-replicas-to-write") == "0":
        what = "it is acknowledged before a replica has it: a failover loses the newest messages"
        found.append(Finding("warn", "replicas", what, "set min-replicas-to-write 1"))
    return found


def _fix(mode: str) -> str:
    return "" if mode == "always" else "CONFIG SET appendonly yes, appendfsync always"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
