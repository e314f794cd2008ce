"""Reading one subscription: what layer 2 calls. Everything that talks to the broker is in `reading` and `keeper`, on other threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from mqsdk.spi import Batch, Consumer, ConsumerEvent, Partition, Progress, Renewed, Settled, Subscription
from mqsdk_kafka.admin import KafkaAdmin
from mqsdk_kafka.assignor import Assignor
from mqsdk_kafka.client import Client
from mqsdk_kafka.desk import Desk
from mqsdk_kafka.instance import Instance
from mqsdk_kafka.keeper import Keeper
from mqsdk_kafka.membership import Membership
from mqsdk_kafka.names import group_id
from mqsdk_kafka.reading import BUSY_FETCH_MS, READ_RECORDS, Reading, Standing

CONNECT_S = 10.0
HEARTBEAT_S = 0.5  # a member hears of a change of its group by the next heartbeat
LEAST_CLOSE_S = 1.0  # a close whose deadline has passed still tells the group

# Every setting here is one whose default loses or repeats messages, or waits too long.
READING: Mapping[str, Any] = {
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "isolation_level": "read_committed",
    "fetch_max_wait_ms": BUSY_FETCH_MS,
    "fetch_max_bytes": 8 << 20,
    "max_partition_fetch_bytes": 1 << 20,
    "max_poll_records": READ_RECORDS,
}

Forget = Callable[["KafkaConsumer"], None]


class KafkaConsumer(Consumer):
    """`poll`, `credit` and `settle` by one thread; `wake` and `close` by any."""

    def __init__(self, client: Client, subscription: Subscription, admin: KafkaAdmin, forget: Forget) -> None:
        """Joins the group. Raises BackendError when the cluster cannot be reached or there is no such topic."""
        self._client = client
        self._forget = forget
        self._desk = Desk(subscription.topics, subscription.lease_s)
        self._told_valid = 0.0
        self._standing = self._instance(subscription, admin) if subscription.broadcast else self._membership(subscription, admin)
        self._reading = Reading(self._raw, self._desk, self._standing, client.doors)
        self._thread = threading.Thread(target=self._reading.run, name=f"mqsdk-kafka-{subscription.topics[0]}", daemon=True)
        self._thread.start()

    def _membership(self, subscription: Subscription, admin: KafkaAdmin) -> Standing:
        client, desk = self._client, self._desk
        first = admin.begin(subscription)
        options = {**READING, **_joining(client, subscription, desk)}
        self._raw = client.consumer(time.monotonic() + CONNECT_S, first, **options)
        return Membership(self._raw, desk, Keeper(self._raw, desk, client.mark_limit), admin.existing, first)

    def _instance(self, subscription: Subscription, admin: KafkaAdmin) -> Standing:
        topic = subscription.topics[0]
        begins = admin.ends(topic) | dict(subscription.positions)
        self._raw = self._client.consumer(time.monotonic() + CONNECT_S, [topic], group_id=None, **READING)
        return Instance(self._raw, self._desk, begins, lambda deadline: admin.partitions(topic, deadline))

    def poll(self, max_records: int, timeout_s: float) -> list[ConsumerEvent]:
        self._check_usable()
        give_up = time.monotonic() + timeout_s
        with self._desk as desk:
            desk.is_polling = True
            try:
                while True:
                    events = self._collect(max_records)
                    left_s = give_up - time.monotonic()
                    if events or desk.woken or desk.closing or left_s <= 0:
                        desk.woken = False
                        return events
                    if desk.failure is not None:
                        raise self._client.doors.error(desk.failure) from desk.failure
                    # Not longer than a quarter of the lease: it may have been renewed.
                    desk.wait(min(left_s, desk.lease_s / 4))
            finally:
                desk.is_polling = False
                desk.polled_at = time.monotonic()

    def _collect(self, max_records: int) -> list[ConsumerEvent]:
        desk = self._desk
        events, desk.events = desk.events, []
        budget = max_records
        was_full = False
        for owned in [owned for owned in desk.owned.values() if owned.has_news]:
            if budget <= 0:
                break
            found = owned.deliver(budget)
            budget -= sum(len(event.records) for event in found if isinstance(event, Batch))
            events += found
            was_full |= owned.paused and owned.is_low
            # To the back of the queue, so that none starves.
            desk.owned[owned.partition] = desk.owned.pop(owned.partition)
        if desk.owned and (valid_until := self._standing.valid_until()) > self._told_valid + desk.lease_s / 4:
            self._told_valid = valid_until
            events.append(Renewed(valid_until))
        if was_full:
            desk.tell()
        return events

    def wake(self) -> None:
        if self._client.state != "stale":
            with self._desk as desk:
                desk.woken = True
                desk.tell()

    def credit(self, partition: Partition, records: int, bytes: int) -> None:
        with self._desk as desk:
            owned = desk.owned.get(partition)
            if owned is not None:
                owned.records, owned.bytes = records, bytes

    def settle(self, progress: Progress) -> None:
        """Committed at once, together with what others asked for meanwhile."""
        self._check_stale()
        with self._desk as desk:
            owned = desk.owned.get(progress.partition)
            if desk.closing or owned is None or owned.epoch != progress.epoch:
                desk.tell(Settled(progress.partition, progress.epoch, progress.token, "stale"))
                return
            owned.ending |= progress.final
            desk.settles.append(progress)
        self._standing.nudge()

    def close(self, deadline: float) -> None:
        if self._client.state == "stale":
            return
        with self._desk as desk:
            desk.close_by = min(desk.close_by, deadline)
            desk.closing = True
            desk.tell()
        self._thread.join(max(LEAST_CLOSE_S, deadline - time.monotonic()))
        if self._thread.is_alive():
            self.vanish()  # it waits for a broker that does not answer
        self._forget(self)

    def vanish(self) -> None:
        """Close the sockets and end, without a word to the broker."""
        with self._desk as desk:
            desk.closing = True
            desk.tell()
        with suppress(RuntimeError):  # its own thread has closed it meanwhile
            self._raw._coordinator._close_heartbeat()
            self._raw._client.close()

    def _check_stale(self) -> None:
        if self._client.state == "stale":
            raise self._client.doors.closed("stale")

    def _check_usable(self) -> None:
        self._check_stale()
        if self._desk.closing:
            raise self._client.doors.closed()


def _joining(client: Client, subscription: Subscription, desk: Desk) -> dict[str, Any]:
    lease_s = subscription.lease_s
    return {
        "group_id": group_id(client.settings.own.group_id, subscription.topics[0], subscription.group),
        "partition_assignment_strategy": [Assignor(desk.said, subscription.instance)],
        "session_timeout_ms": int(lease_s * 1000),
        "heartbeat_interval_ms": int(min(HEARTBEAT_S, lease_s / 3) * 1000),
        # How long the broker waits for a member at a rebalance: one that is asked for partitions may take a lease.
        "max_poll_interval_ms": int(max(30.0, 3 * lease_s) * 1000),
    }
