"""Delay on a backend that only stores: topics of fixed steps, through which a message hops until it is due. Pure.

Each topic `mq.delay.<step>` holds messages for its step. So they leave it in the order in which they came, and whoever moves them looks
at the first one only, however many wait behind it. What remains at the end and is shorter than the smallest step is waited for in the last
topic: its messages then leave up to that much later than their step says, and by so much a mover has to look ahead.
"""

from __future__ import annotations

from typing import NamedTuple

from mqsdk import names
from mqsdk.core import deadletter
from mqsdk.message import Origin
from mqsdk.spi.events import Record

_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
# As in RabbitMQ libraries that do it with queues: a day at most, so that 366 days are 366 hops and a lost clock is noticed the same day.
STEPS = (
    ("1s", _SECOND), ("5s", 5 * _SECOND), ("30s", 30 * _SECOND), ("1m", _MINUTE), ("5m", 5 * _MINUTE), ("30m", 30 * _MINUTE),
    ("1h", _HOUR), ("6h", 6 * _HOUR), ("1d", _DAY),
)  # fmt: skip
SMALLEST_MS = STEPS[0][1]
TOPICS = tuple(names.DELAY_PREFIX + name for name, _ in STEPS)
_STEP_MS = {names.DELAY_PREFIX + name: step_ms for name, step_ms in STEPS}
# Who moves: one group for all topics of a cluster, whichever application runs it.
GROUP = "mover"
# Messages whose target refuses them for good: `<topic>.<group>.dlq` of these two.
DEAD_TOPIC, DEAD_GROUP = "mq", "delay"
DEAD_LETTERS = names.composed(DEAD_TOPIC, DEAD_GROUP)

# On a message that waits: where it goes, in which partition it belongs there if it has no key, and when it leaves this topic.
TARGET, PARTITION, UNTIL = "mq-delay-topic", "mq-delay-partition", "mq-delay-until"
OWN_HEADERS = (TARGET, PARTITION, UNTIL)

Pairs = tuple[tuple[str, str], ...]


class Hop(NamedTuple):
    """topic: where it waits next. until_ms: when it leaves there, wall clock in milliseconds."""

    topic: str
    until_ms: int


class Waiting(NamedTuple):
    """What a waiting message says about itself."""

    topic: str
    partition: int
    due_ms: int
    until_ms: int


def next_hop(now_ms: int, due_ms: int) -> Hop:
    """Where a message that is due then waits next: the longest step that is not too long, the smallest one for anything below it."""
    left_ms = due_ms - now_ms
    at = max((number for number, (_, step_ms) in enumerate(STEPS) if step_ms <= left_ms), default=0)
    until_ms = now_ms + STEPS[at][1]
    return Hop(TOPICS[at], due_ms if due_ms - until_ms < SMALLEST_MS else until_ms)


def hop_again(now_ms: int, failing_s: float) -> Hop:
    """Where a message waits whose target cannot be reached, for so many seconds now.

    The smallest step at first. What waits for a target that is down for long takes longer ones: a million messages that hop every second
    would keep a mover from everything else.
    """
    at = 0 if failing_s < 5 else 1 if failing_s < 60 else 2
    return Hop(TOPICS[at], now_ms + STEPS[at][1])


def headers(extra: Pairs, target: str, partition: int, until_ms: int) -> Pairs:
    """The further `mq-*` headers of a message that waits; `extra`: those it has already, an earlier hop's too."""
    return (*original(extra), (TARGET, target), (PARTITION, str(partition)), (UNTIL, str(until_ms)))


def original(extra: Pairs) -> Pairs:
    """The further `mq-*` headers as they were before the first hop."""
    return tuple(pair for pair in extra if pair[0] not in OWN_HEADERS)


def read(record: Record, topic: str, now_ms: int) -> Waiting | None:
    """What a record of this delay topic says; None when it is none of ours.

    Untrusted, as all headers are; and who wrote it may have another idea of the time: nothing waits longer here than its step and a
    smallest one.
    """
    given = dict(record.extra)
    target, due_ms = given.get(TARGET, ""), record.due_ms
    partition, until_ms = _number(given.get(PARTITION)), _number(given.get(UNTIL))
    if due_ms is None or partition is None or until_ms is None or not is_target(target):
        return None
    longest_ms = _STEP_MS.get(topic, 0) + SMALLEST_MS
    return Waiting(target, partition, due_ms, min(until_ms, now_ms + longest_ms))


def is_target(topic: str) -> bool:
    """A topic of users, or the retry topic of a group; nothing goes round in the delay topics for ever."""
    owner, dot, group = topic.removesuffix(names.RETRIES).rpartition(".")
    if topic.endswith(names.RETRIES):
        return bool(dot) and names.topic_problem(owner, reading=True) is None and names.group_problem(group) is None
    return names.topic_problem(topic) is None


def dead_letter(record: Record, waiting: Waiting | None, origin: Origin, reason: str, what: str, now_ms: int) -> Pairs:
    """Headers of the dead letter of a message that its target refuses, or that names none."""
    said = deadletter.headers(origin, record, attempts=0, reason=reason, error=what, first_at_ms=now_ms, last_at_ms=now_ms)
    target = () if waiting is None else ((TARGET, waiting.topic), (PARTITION, str(waiting.partition)))
    return (*original(record.extra), *target, *said)


def _number(text: str | None) -> int | None:
    if text is None or not 0 < len(text) <= 15 or not text.isascii() or not text.isdecimal():
        return None
    return int(text)
