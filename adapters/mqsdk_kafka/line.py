"""One producer of the client, used until the first doubt about a record of it; then it is retired and another one takes its place.

Why: an idempotent producer of the client is dead for a partition once a batch that had gone out expires (later sends neither succeed nor
fail), and after an error that changes its epoch it sends what is younger under the new one. Nothing younger may pass a doubtful record, so
what has not gone out is taken back before the client's sender goes on.

Uses parts of the client that it calls private (`_accumulator`, `_sender`, `_add_cb_eb`); its version is pinned for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from kafka import KafkaProducer
from kafka import errors as client

from mqsdk.spi import NewRecord, Unknown
from mqsdk_kafka.errors import refusal
from mqsdk_kafka.records import headers_of

END_S = 2.0
REQUEST_BYTES = 2 << 20  # as large as the topics that are made here take a message
OPTIONS: dict[str, Any] = {
    "enable_idempotence": True,
    "acks": "all",
    "max_in_flight_requests_per_connection": 5,
    "allow_auto_create_topics": False,
    "delivery_timeout_ms": 600_000,  # far beyond every publish deadline: the deadline is kept here
    "max_block_ms": 1000,
    "max_request_size": REQUEST_BYTES,
    "batch_size": 128 << 10,
    "linger_ms": 0,  # a partition has one batch on its way, so a busy one fills the next batch meanwhile
}

Told = Callable[[int, Any], None]  # (token, the client's metadata of the stored record, or an exception), from any thread


class NotSent(Exception):
    """The record never left this process."""


class Line:
    def __init__(self, raw: KafkaProducer, told: Told) -> None:
        self._raw = raw
        self._told = told
        self._guard = threading.Lock()
        self.broken = False

    def knows(self, topic: str) -> bool:
        """Whether the client has the topic's partitions; asks for them, for at most a second. Raises KafkaError."""
        return bool(self._raw._metadata.partitions_for_topic(topic) or self._raw.partitions_for(topic))

    def send(self, record: NewRecord) -> bool:
        """Hand it over without waiting; False when the line is broken. Its topic is known. Raises KafkaError: then it was not sent."""
        topic, number = record.partition
        token = record.token
        # The broker's clock for retention is this time: a message that was delayed is not as old as its publish.
        stamp = record.timestamp_ms if record.due_ms is None else max(record.timestamp_ms, time.time_ns() // 1_000_000)
        with self._guard:
            if self.broken:
                return False
            future = self._raw.send(topic, record.value, record.key, headers_of(record), number, stamp)
        future._add_cb_eb(partial(self._told, token), partial(self._failed, token))
        return True

    def _failed(self, token: int, error: Exception) -> None:
        if not isinstance(error, NotSent) and isinstance(refusal(error), Unknown):
            # On the client's sender, before it takes up the next batch of this partition.
            self.take_back()
        self._told(token, error)

    def take_back(self) -> None:
        """Nothing more is sent; what has not gone out ends as NotSent before this returns."""
        with self._guard:
            self.broken = True
        self._raw._accumulator.abort_undrained_batches(NotSent())

    def end(self, wait: bool) -> None:
        """Close sockets and threads. wait: no longer than END_S, until they are gone."""
        raw = self._raw
        raw._unregister_cleanup()
        raw._closed = True  # else its finalizer would wait for what is lost
        raw._sender.force_close()
        if wait and threading.current_thread() is not raw._sender:
            raw._sender.join(END_S)


UNSENT = (client.KafkaError, ValueError, TypeError)
