"""What `app.consumers()`, `app.lag()` and `app.health()` return: frozen data."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from mqsdk.core.breaker import BreakerState
from mqsdk.names import RETRIES, composed
from mqsdk.spi import Admin, BackendHealth, PartitionProgress

State = Literal["joining", "running", "draining", "restarting", "stopped"]


class Oldest(NamedTuple):
    """The longest running handler of a consumer: message id, seconds since it started, and code places (no values)."""

    id: str
    age_s: float
    stack: str


class HaltedMessage(NamedTuple):
    """A message that used up its attempts and waits for `mqsdk groups release`.

    scope: what stands still with it, "key" or "partition". key: as text, None for a message without one. id, position: as people see
    them; id is "" and key None while a new owner has not read it yet. redriven: it is a copy in the group's retry topic.
    """

    partition: int
    position: str
    id: str
    key: str | None
    attempts: int
    scope: str
    redriven: bool = False


class ConsumerInfo(NamedTuple):
    """One consumer of this process. in_flight: messages received and not finished. lag: messages of the whole group, None if unknown.

    rate: messages that may start per second, None without a limit. breaker: its state, None without one. halted: what waits for a release.
    """

    topic: str
    group: str
    cluster: str
    state: State
    concurrency: int
    in_flight: int
    partitions: tuple[int, ...]
    lag: int | None
    paused: bool
    last_settled_at: datetime | None
    oldest: Oldest | None
    config: int
    handled: int
    failed: int
    dead_lettered: int
    rate: float | None = None
    breaker: BreakerState | None = None
    halted: tuple[HaltedMessage, ...] = ()


class Lag(NamedTuple):
    """How far a group is behind: messages not settled, seconds since the oldest of them was published (0.0 without any).

    Redriven messages that wait in the group's retry topic are counted in their partition; its positions are the topic's own.
    """

    messages: int
    seconds: float
    partitions: tuple[PartitionProgress, ...]


def progress_of(admin: Admin, topic: str, group: str) -> tuple[PartitionProgress, ...]:
    """The group's progress per partition of the topic, with what waits in its retry topic counted in `messages` and `oldest_ms`."""
    redriven = {one.partition: one for one in admin.progress(composed(topic, group, RETRIES), group)}
    return tuple(_with(one, redriven.get(one.partition)) for one in admin.progress(topic, group))


def _with(progress: PartitionProgress, redriven: PartitionProgress | None) -> PartitionProgress:
    if redriven is None or not redriven.messages:
        return progress
    oldest = min((one for one in (progress.oldest_ms, redriven.oldest_ms) if one is not None), default=None)
    return progress._replace(messages=progress.messages + redriven.messages, oldest_ms=oldest)


class Health(NamedTuple):
    """live: the process makes progress or may still. ready: RUNNING and every consumer joined. problems: sentences for people."""

    live: bool
    ready: bool
    clusters: dict[str, BackendHealth]
    problems: tuple[str, ...] = ()


class StopReport(NamedTuple):
    """How a stop ended. unfinished: handlers cut short by the deadline. clean: every last settle and submitted publish is confirmed."""

    unfinished: int = 0
    clean: bool = True
