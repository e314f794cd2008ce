"""One log line per observer event. Never a payload, key, header value or the text of an exception: only its class."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from mqsdk import events
from mqsdk.core.stages import has_shadows, view
from mqsdk.events import Event

if TYPE_CHECKING:
    from mqsdk.core.stages import Stage

CONSUMER, APP, WATCHDOG, MOVE = (logging.getLogger(f"mqsdk.{name}") for name in ("consumer", "app", "watchdog", "move"))


def log(event: Event) -> None:
    """Write the line of one event; events without a line (reloads are logged where they happen) write nothing."""
    write = _WRITERS.get(type(event))
    if write is not None:
        write(event)


def _about(event: Any) -> dict[str, Any]:
    found = {"mq_topic": "topic", "mq_group": "group", "mq_cluster": "cluster", "mq_id": "message_id", "mq_attempt": "attempt"}
    return {name: getattr(event, attribute) for name, attribute in found.items() if hasattr(event, attribute)}


def _kind(error: str) -> str:
    """The class of an exception from `Type: text`."""
    return error.split(":", 1)[0][:80] or "failure"


def _place(event: Any) -> str:
    place = getattr(event, "place", "")
    return f" at {place}" if place else ""


def _retried(event: events.Retried) -> None:
    CONSUMER.warning(
        "%s/%s: message %s failed with %s%s; attempt %d follows in %.3g s",
        event.topic, event.group, event.message_id, _kind(event.error), _place(event), event.attempt + 1, event.delay_s,
        extra=_about(event),
    )  # fmt: skip


def _dead_lettered(event: events.DeadLettered) -> None:
    CONSUMER.error(
        "%s/%s: message %s is dead-lettered (%s) after %d attempts: %s%s",
        event.topic, event.group, event.message_id, event.reason, event.attempts, _kind(event.error), _place(event), extra=_about(event),
    )  # fmt: skip


def _dropped(event: events.Dropped) -> None:
    CONSUMER.error(
        "%s/%s: message %s is dropped after %d attempts: %s%s",
        event.topic, event.group, event.message_id, event.attempts, _kind(event.error), _place(event), extra=_about(event),
    )  # fmt: skip


def _halted(event: events.Halted) -> None:
    CONSUMER.error(
        "%s/%s: message %s is halted after %d attempts: %s%s; its %s stands still until `mqsdk groups release`",
        event.topic, event.group, event.message_id, event.attempts, _kind(event.error), _place(event), event.scope, extra=_about(event),
    )  # fmt: skip


def _freed(event: events.Freed) -> None:
    CONSUMER.warning(
        "%s/%s: message %s at position %d of partition %d is released: %s",
        event.topic, event.group, event.message_id or "(not read yet)", event.position, event.partition, event.outcome, extra=_about(event),
    )  # fmt: skip


def _delayed(event: events.DeadLetterDelayed) -> None:
    CONSUMER.error(
        "%s/%s: the dead letter of message %s could not be stored (%s); it is tried again and the message stays unsettled",
        event.topic, event.group, event.message_id, _kind(event.error), extra=_about(event),
    )  # fmt: skip


def _gap(event: events.GapSeen) -> None:
    CONSUMER.error(
        "%s/%s: messages %d to %d of partition %d are gone unread (%s)",
        event.topic, event.group, event.start, event.stop - 1, event.partition, event.reason, extra=_about(event),
    )  # fmt: skip


def _stuck(event: events.Stuck) -> None:
    WATCHDOG.error(
        "%s/%s: the handler of message %s has been running for %.3g s; it stands at\n%s",
        event.topic, event.group, event.message_id, event.age_s, event.stack, extra=_about(event),
    )  # fmt: skip


def _span(event: events.SpanExceeded) -> None:
    CONSUMER.error(
        "%s/%s: partition %d is paused, too much waits behind blocked keys: %d messages, %d bytes, oldest %.3g s",
        event.topic, event.group, event.partition, event.records, event.bytes, event.age_s, extra=_about(event),
    )  # fmt: skip


def _stalled(event: events.Stalled) -> None:
    WATCHDOG.error("%s/%s: backlog waits and nothing was settled for %.3g s", event.topic, event.group, event.seconds, extra=_about(event))


def _breaker(event: events.BreakerChanged) -> None:
    name = f"{event.topic}/{event.group}"
    if event.state == "open":
        CONSUMER.error(
            "%s: the breaker is open, nothing starts: %d of %d attempts failed; one message is tried in %.3g s",
            name, event.failed, event.attempts, event.probe_s, extra=_about(event),
        )  # fmt: skip
    else:
        what = "tries one message" if event.state == "probing" else "is closed, messages start again"
        CONSUMER.warning("%s: the breaker %s", name, what, extra=_about(event))


def log_ownership(changes: Sequence[events.OwnershipChanged]) -> None:
    """One line for all that came together, per topic and kind of change: `orders/billing: partitions 0-3,7 assigned`."""
    together: dict[tuple[str, str, str], list[int]] = {}
    for one in changes:
        together.setdefault((one.topic, one.group, one.change), []).append(one.partition)
    for (topic, group, change), numbers in together.items():
        word = "partition" if len(numbers) == 1 else "partitions"
        CONSUMER.info("%s/%s: %s %s %s", topic, group, word, runs_text(numbers), change, extra={"mq_topic": topic, "mq_group": group})


def runs_text(numbers: Iterable[int]) -> str:
    """Numbers in order, runs joined: `0-3,7`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _ownership(event: events.OwnershipChanged) -> None:
    """At DEBUG, with the epoch; people read the line of `log_ownership`."""
    CONSUMER.debug(
        "%s/%s: partition %d %s, epoch %d", event.topic, event.group, event.partition, event.change, event.epoch, extra=_about(event)
    )


def _link(event: events.LinkChanged) -> None:
    level = logging.INFO if event.up else logging.ERROR
    APP.log(level, "cluster %s is %s", event.cluster, "connected" if event.up else "not connected", extra=_about(event))


def _flow(event: events.FlowChanged) -> None:
    if event.blocked:
        APP.warning("cluster %s takes no publishes: %s", event.cluster, event.reason, extra=_about(event))
    else:
        APP.info("cluster %s takes publishes again", event.cluster, extra=_about(event))


_STEPS = {
    "writing": "publishes go to cluster {target} from now on, cluster {source} has answered all before",
    "reading": "reads cluster {source} and cluster {target}",
    "closed": "nothing is left on cluster {source}, it is watched for a day",
    "reopened": "cluster {source} has messages again and is read again",
    "over": "cluster {source} is not watched any more",
}


def _cluster_changed(event: events.ClusterChanged) -> None:
    name = f"{event.topic}/{event.group}" if event.group else event.topic
    level = logging.WARNING if event.step == "reopened" else logging.INFO
    MOVE.log(level, "%s: %s", name, _STEPS[event.step].format(**event._asdict()), extra=_about(event))


def _move_advanced(event: events.MoveAdvanced) -> None:
    seen = view(cast("Stage", event.stage), event.source, event.target)
    text = "%s: move from cluster %s to cluster %s, stage %s: publishes go to %s, consumers read %s"
    read = " and ".join(seen.reads)
    written = f"{seen.writes}, their shadows to {event.target}" if has_shadows(cast("Stage", event.stage)) else seen.writes
    MOVE.info(text, event.topic, event.source, event.target, event.stage, written, read, extra=_about(event))


_WRITERS: dict[type[Event], Any] = {
    events.MoveAdvanced: _move_advanced,
    events.Retried: _retried,
    events.DeadLettered: _dead_lettered,
    events.Dropped: _dropped,
    events.Halted: _halted,
    events.Freed: _freed,
    events.DeadLetterDelayed: _delayed,
    events.GapSeen: _gap,
    events.Stuck: _stuck,
    events.SpanExceeded: _span,
    events.Stalled: _stalled,
    events.BreakerChanged: _breaker,
    events.OwnershipChanged: _ownership,
    events.LinkChanged: _link,
    events.FlowChanged: _flow,
    events.ClusterChanged: _cluster_changed,
}
