"""Delayed messages on Redis: how late they come, and what a million that are not due cost a consumer.

    python benchmarks/redis_delay.py [WAITING]

One server of its own, one partition, 200 bytes a message. Lateness: 200 messages a second, delayed by 1 to 3 s, for ten seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import count

import mqsdk_redis
import redis_streams as bench
from redis_streams import BODY, HERE, LIMIT_S, WINDOW, Sink, server

from mqsdk.spi import Assigned, Backend, Batch, NewRecord, Record, Subscription

WAITING = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
RATE, SECONDS = 200, 10
DAY_MS = 86_400_000
numbers = count()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def delayed(wait_ms: int) -> NewRecord:
    number = next(numbers)
    return NewRecord(number, HERE, None, BODY, f"{number:032x}", now_ms(), due_ms=now_ms() + wait_ms)


def consume(backend: Backend, wanted: int, each: Callable[[], None], note: Callable[[Record], None]) -> None:
    consumer = backend.consumer(Subscription((HERE.topic,), "g"))
    while wanted:
        each()
        for event in consumer.poll(WINDOW, 0.001):
            if isinstance(event, Assigned):
                consumer.credit(HERE, 1 << 30, 1 << 40)
            elif isinstance(event, Batch):
                for record in event.records:
                    note(record)
                wanted -= len(event.records)
    consumer.close(time.monotonic() + LIMIT_S)


def lateness(backend: Backend) -> list[float]:
    """Milliseconds after the due time, sorted."""
    producer, late = backend.producer(Sink()), list[float]()
    began, sent = time.monotonic(), 0

    def publish() -> None:
        nonlocal sent
        while sent < RATE * SECONDS and time.monotonic() - began >= sent / RATE:
            producer.publish([delayed(1000 + sent * 7919 % 2000)], time.monotonic() + LIMIT_S)
            sent += 1

    consume(backend, RATE * SECONDS, publish, lambda record: late.append(time.time() * 1000 - (record.due_ms or 0)))
    return sorted(late)


def main() -> None:
    with server() as port:
        made = mqsdk_redis.mqsdk_backend(kind="redis", name="bench", options={"servers": [f"127.0.0.1:{port}"]})
        assert made is not None
        made.open(time.monotonic() + LIMIT_S)
        made.admin().ensure_topic(HERE.topic, 1)
        made.admin().ensure_group(HERE.topic, "g")
        late = lateness(made)
        print(f"late: p50 {late[len(late) // 2]:.1f} ms   p99 {late[len(late) * 99 // 100]:.1f} ms   longest {late[-1]:.1f} ms")
        rates: dict[str, list[float]] = {"none": [], "many": []}
        for what in rates:
            if what == "many":
                producer, began = made.producer(Sink()), time.perf_counter()
                for first in range(0, WAITING, WINDOW):
                    producer.publish([delayed(DAY_MS + first) for _ in range(WINDOW)], time.monotonic() + LIMIT_S)
                print(f"delaying: {WAITING / (time.perf_counter() - began):,.0f}/s")
            for _ in range(bench.ROUNDS):
                bench.sdk_publish(made, Sink())
                rates[what].append(bench.COUNT / bench.seconds(lambda: bench.sdk_consume(made)))
        none, many = max(rates["none"]), max(rates["many"])
        print(f"consume: {none:,.0f}/s with nothing waiting, {many:,.0f}/s with {WAITING:,} waiting, ratio {many / none:.2f}")
        made.close(time.monotonic() + LIMIT_S)


if __name__ == "__main__":
    main()
