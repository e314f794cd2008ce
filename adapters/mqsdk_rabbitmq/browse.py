"""Looking at dead letters without taking them: receive from the head of their queue, then end the channel; that puts them back in order.

The position of a letter is its place in the queue, counted from its head. It stays what it is as long as nobody consumes the letters.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from pika import exceptions as client

from mqsdk.spi import Partition, Record
from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.records import RabbitRecord
from mqsdk_rabbitmq.session import FAILURES, Session
from mqsdk_rabbitmq.slot import NO_SUCH_TAG

BROWSE_S = 10.0
BACK_S, PAUSE_S = 2.0, 0.002  # fewer are back for good where somebody has removed some meanwhile
MAX_WINDOW = 65_535


def browse(session: Session, partition: Partition, group: str, position: int, limit: int) -> list[Record]:
    """Up to `limit` letters from this place on. Raises Unavailable where a consumer has the queue to itself."""
    queue = names.queue(partition, group)
    ready, _ = session.queue(queue) or (0, 0)
    wanted = min(ready, position + limit, MAX_WINDOW)
    if wanted <= position:
        return []
    got: list[Record] = []
    count = 0

    def came(_: Any, method: Any, properties: Any, body: bytes) -> None:
        nonlocal count
        if position <= count < wanted:
            got.append(RabbitRecord(count, method.redelivered, b"".join(properties.encode()), body))
        count += 1

    channel = session.connection.channel()
    channel.basic_qos(prefetch_count=wanted)
    channel.basic_consume(queue, came)
    session.wait(lambda: count >= wanted, time.monotonic() + BROWSE_S, "the dead letters are being consumed by somebody")
    # Closed in order, the channel would put them back in another order.
    channel.basic_ack(NO_SUCH_TAG)
    with suppress(client.AMQPChannelError, *FAILURES):
        channel.basic_qos(prefetch_count=wanted)
    _wait_until_back(session, queue, ready)
    return got


def _wait_until_back(session: Session, queue: str, ready: int) -> None:
    """The server puts them back behind the channel's back: who counts what is there before that, finds too few."""
    deadline = time.monotonic() + BACK_S
    while (session.queue(queue) or (ready, 0))[0] < ready and time.monotonic() < deadline:
        session.connection.sleep(PAUSE_S)
