"""Making a topic as `topics:` wants it; what a publisher knows of one: partitions, the next numbers, and where repeats are under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from mqsdk.config.model import TopicRule
from mqsdk.errors import ConfigError
from mqsdk.names import RETRIES
from mqsdk.runtime.cells import Cells
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.clusters import owner_topic
from mqsdk.spi import Backend, Partition, Rejected

# A keyless stream changes its partition after so many records: long enough to keep a writer on one partition (two writers on one
# partition are 2.4 times slower than on their own), short enough that consumers in several processes share the stream.
STICKY_RECORDS = 512


def check_retention(backend: Backend, cluster: str, topic: str, rule: TopicRule) -> None:
    """ConfigError where a retention is given and the backend goes by its own."""
    if rule.retention_s is not None and not backend.capabilities.retention:
        raise ConfigError(
            f"topics.{rule.pattern!r}.retention: cluster {cluster} ({backend.kind}) cannot be told how long to keep topic {topic}",
            fix="leave it out; the cluster removes messages by its own settings",
        )


def ensure_topic(backend: Backend, cluster: str, topic: str, rule: TopicRule) -> int:
    """Create the topic unless it exists, as `topics:` wants it; its number of partitions. Raises as `check_retention`."""
    check_retention(backend, cluster, topic, rule)
    admin = backend.admin()
    count = admin.ensure_topic(topic, rule.partitions)
    if rule.retention_s is not None:
        admin.keep(topic, rule.retention_s)
    return count


def ensure_with_groups(backend: Backend, cluster: str, name: str, rule: TopicRule) -> int:
    """As `ensure_topic`, with the groups that `topics:` names for it. A group's retry topic is as wide as its topic, because their
    partitions have one owner, and has that group."""
    admin = backend.admin()
    is_retry = name.endswith(RETRIES)
    wanted = admin.partitions(owner_topic(name)) if is_retry else rule.partitions
    count = ensure_topic(backend, cluster, name, replace(rule, partitions=wanted))
    for group in (name.split(".")[-2],) if is_retry else rule.groups:
        admin.ensure_group(name, group)
    return count


class _Repair:
    """Of one partition: how many calls repeat there. `over` is set when none does any more."""

    __slots__ = ("calls", "over")

    def __init__(self) -> None:
        self.calls = 0
        self.over = threading.Event()


class Topic:
    """One topic of one publisher. `sequences` is changed under the publisher's lock; `repairing` is truthy while any call repeats.

    stored, rejected, unknown: how many messages have ended so.
    """

    __slots__ = ("_lock", "_sticky", "_sticky_left", "name", "partitions", "rejected", "repairing", "sequences", "stored", "unknown")

    def __init__(self, name: str, count: int, sticky: int) -> None:
        self.name = name
        self.partitions = [Partition(name, number) for number in range(count)]
        self.sequences = [0] * count
        self.stored, self.rejected, self.unknown = Cells(), Cells(), Cells()
        self.repairing: dict[int, _Repair] = {}
        self._sticky = sticky % count
        self._sticky_left = STICKY_RECORDS
        self._lock = threading.Lock()  # guards numbers only, never a wait

    def sticky_partition(self, records: int) -> int:
        """Where so many keyless records go."""
        with self._lock:
            number = self._sticky
            self._sticky_left -= records
            if self._sticky_left <= 0:
                self._sticky = (number + 1) % len(self.partitions)
                self._sticky_left = STICKY_RECORDS
        return number

    @contextmanager
    def repair(self, number: int) -> Iterator[None]:
        """Around the repeats of one call. Counted: of several calls that repeat in one partition the last one to end lets others go on."""
        with self._lock:
            repair = self.repairing.setdefault(number, _Repair())
            repair.calls += 1
        try:
            yield
        finally:
            with self._lock:
                repair.calls -= 1
                if not repair.calls:
                    del self.repairing[number]
                    repair.over.set()

    def wait_for_repair(self, number: int, deadline: float, clock: Clock) -> Rejected | None:
        """Wait until nobody repeats in this partition; a rejection at the deadline (monotonic seconds)."""
        while (repair := self.repairing.get(number)) is not None:
            if not repair.over.wait(max(0.0, deadline - clock.mono())):
                return Rejected("throttled", "an earlier message of this partition is still being repeated", retryable=True)
        return None
