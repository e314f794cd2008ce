"""The delay topics of one cluster: made with the first message that is to wait, and the way of a publish into them.

For backends that claim `delay="ladder"`. See `core.delay` for the steps, `mover` for the way out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from mqsdk.config.model import Cluster
from mqsdk.core import delay
from mqsdk.errors import PublishRejected
from mqsdk.runtime.clock import Clock
from mqsdk.spi import Admin, NewRecord, Partition

# How many processes can share the moving of one cluster. Each partition that is not empty costs its owner what the client reads ahead.
PARTITIONS = 4


def partitions_of(admin: Admin, create: bool, cluster: str) -> dict[str, int]:
    """Partitions of each delay topic, made where missing. Raises PublishRejected where that is not allowed, and BackendError.

    The smallest step last: where it is, all are. The group of movers begins with them, for a broker may keep nothing that came before it.
    """
    found = {topic: admin.partitions(topic) for topic in reversed(delay.TOPICS)}
    missing = [topic for topic, count in found.items() if count is None]
    if missing and not create:
        raise PublishRejected(
            f"cluster {cluster} cannot delay yet: {len(missing)} of its delay topics do not exist and `create` is false",
            code="unsupported",
            where=f"cluster {cluster}",
            fix=f"create {', '.join(sorted(missing))}, without retention by time or size, or set create: true",
        )
    for topic in missing:
        found[topic] = admin.ensure_topic(topic, PARTITIONS)
        admin.ensure_group(topic, delay.GROUP)
    return {topic: count for topic, count in found.items() if count is not None}


def exists(admin: Admin) -> bool:
    return admin.partitions(delay.TOPICS[0]) is not None


class Ladder:
    """Where a publisher's delayed messages go. Any thread."""

    def __init__(self, cluster: Cluster, admin: Callable[[], Admin], clock: Clock, opened: Callable[[], None]) -> None:
        """opened: called when the delay topics are known to exist."""
        self._cluster = cluster
        self._admin = admin
        self._clock = clock
        self._opened = opened
        self._lock = threading.Lock()
        self._partitions: dict[str, int] = {}

    def prepare(self) -> None:
        """Make the topics. Blocks at the first call. Raises as `partitions_of`."""
        if self._partitions:
            return
        with self._lock:
            if not self._partitions:
                self._partitions = partitions_of(self._admin(), self._cluster.create, self._cluster.name)
        self._opened()

    def turned(self, records: Sequence[NewRecord]) -> list[NewRecord]:
        """The same records, those that are to wait on their way into a delay topic."""
        now_ms = self._clock.wall_ms()
        return [record if record.due_ms is None else self._turn(record, now_ms, record.due_ms) for record in records]

    def _turn(self, record: NewRecord, now_ms: int, due_ms: int) -> NewRecord:
        hop = delay.next_hop(now_ms, due_ms)
        target, number = record.partition
        place = Partition(hop.topic, number % self._partitions[hop.topic])
        return record._replace(partition=place, extra=delay.headers(record.extra, target, number, hop.until_ms))
