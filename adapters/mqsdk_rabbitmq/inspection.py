"""Looking at the server: may it be used, how well, and what its settings mean for what was confirmed."""

from __future__ import annotations

import time
from typing import Any

from mqsdk.spi import BackendError, BackendHealth, Finding, UnsupportedFormat
from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.errors import KIND
from mqsdk_rabbitmq.session import Dialer, Session

OLDEST = (3, 8)  # single active consumers and quorum queues
HEALTH_S = 5.0
GUARANTEES = {
    "quorum": "rabbitmq, quorum queues: confirmed messages survive the loss of a minority of the nodes that hold the queue",
    "classic": "rabbitmq, classic queues: confirmed messages survive a restart of the queue's node, not its loss",
}


def check(dialer: Dialer, deadline: float) -> None:
    """Raises Unavailable, AccessDenied or UnsupportedFormat."""
    with dialer.session(deadline) as session:
        version = version_of(session)
        if numbers_of(version) < OLDEST:
            raise UnsupportedFormat(
                f"the server is RabbitMQ {version}",
                found=version,
                supported=f"{OLDEST[0]}.{OLDEST[1]} and newer",
                cluster=dialer.cluster,
                backend=KIND,
            )


def health(dialer: Dialer) -> BackendHealth:
    guarantee = GUARANTEES[dialer.settings.own.queues]
    began = time.monotonic()
    try:
        with dialer.session(began + HEALTH_S) as session:
            version = version_of(session)
            sent = time.monotonic()
            dead = session.queue(names.DEAD)
            latency_ms = (time.monotonic() - sent) * 1000
    except BackendError as error:
        return BackendHealth(False, guarantee=guarantee, findings=(Finding("warn", "unavailable", error.what, error.fix),))
    findings = [
        Finding(
            "info",
            "consumer_timeout",
            "the server ends a channel that holds a delivery unsettled for its `consumer_timeout`, 30 minutes by default",
            "keep handlers, with their retries, under half of it, or raise it on the server",
        )
    ]
    if dialer.settings.own.queues == "classic":
        findings.append(
            Finding("warn", "classic_queues", "queues are on one node each", "set `queues: quorum` on a cluster of three nodes")
        )
    if dead is not None and dead[0] > 0:
        what = f"{dead[0]} messages are in the queue `{names.DEAD}`: the server gave them up, or nobody was there when their delay was over"
        fix = "their headers `x-death` say whence they come; look for a policy with a delivery limit or a length, and move them back"
        findings.append(Finding("warn", "dead", what, fix))
    return BackendHealth(True, version, latency_ms, guarantee, tuple(findings))


def version_of(session: Session) -> str:
    implementation: Any = session.connection._impl
    properties = implementation.server_properties or {}
    found = properties.get("version", "")
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)


def numbers_of(version: str) -> tuple[int, ...]:
    """Of the first two parts; a server that does not tell is taken."""
    parts = version.split(".")[:2]
    return tuple(int(part) for part in parts) if len(parts) == 2 and all(part.isdecimal() for part in parts) else OLDEST
