"""Delayed messages on the embedded log: how late they come, and what a million that are not due cost.

    python benchmarks/log_delay.py [WAITING]

A log of its own, one partition, 200 bytes a message, durability `interval`. Lateness: 200 messages a second, delayed by 1 to 3 s,
for five seconds.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from mqsdk_log.backend import LogBackend
from mqsdk_log.options import Options

from mqsdk.spi import Assigned, Batch, Consumer, NewRecord, Partition, ProducerEvent, Progress, Record, Subscription

WAITING = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
RATE, SECONDS = 200, 5
DAY_MS = 86_400_000
HERE = Partition("orders", 0)
BODY = b"x" * 200
PLENTY = 1 << 30
numbers = count()
chance = random.Random(1)


class Sink:
    def put(self, event: ProducerEvent, /) -> None:
        """Inline: the outcome is not looked at here, the counts at the end show what was stored."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def opened(path: Path) -> LogBackend:
    backend = LogBackend("log", Options(path=str(path), durability="interval"))
    backend.open(time.monotonic() + 60)
    return backend


def record(wait_ms: int | None = None) -> NewRecord:
    number = next(numbers)
    return NewRecord(number, HERE, b"key", BODY, f"{number:032x}", now_ms(), due_ms=None if wait_ms is None else now_ms() + wait_ms)


def publish(backend: LogBackend, batches: Sequence[Sequence[NewRecord]]) -> float:
    """Records a second."""
    producer = backend.producer(Sink())
    began = time.perf_counter()
    for batch in batches:
        producer.publish(batch, time.monotonic() + 60)
    return sum(map(len, batches)) / (time.perf_counter() - began)


def consume(consumer: Consumer, wanted: int, each: Callable[[], float], note: Callable[[Record], None]) -> None:
    """each: what to do before the next poll; returns how long that may take."""
    while wanted:
        for event in consumer.poll(1000, each()):
            if isinstance(event, Assigned):
                consumer.credit(event.partition, PLENTY, PLENTY)
            elif isinstance(event, Batch):
                for found in event.records:
                    note(found)
                wanted -= len(event.records)
                last = event.records[-1].position + 1
                consumer.settle(Progress(event.partition, event.epoch, last, high=last))


def rates(backend: LogBackend, consumer: Consumer) -> str:
    lone = publish(backend, [[record()] for _ in range(20_000)])
    many = publish(backend, [[record() for _ in range(100)] for _ in range(300)])
    began = time.perf_counter()
    consume(consumer, 50_000, lambda: 1.0, lambda found: None)
    return f"publish {lone:,.0f}/s lone, {many:,.0f}/s in hundreds; take {50_000 / (time.perf_counter() - began):,.0f}/s"


def delayed_rates(backend: LogBackend) -> str:
    lone = publish(backend, [[record(DAY_MS + chance.randrange(DAY_MS))] for _ in range(10_000)])
    many = publish(backend, [[record(DAY_MS + chance.randrange(DAY_MS)) for _ in range(100)] for _ in range(200)])
    return f"delayed: publish {lone:,.0f}/s lone, {many:,.0f}/s in hundreds"


def lateness(backend: LogBackend, consumer: Consumer) -> str:
    producer, late = backend.producer(Sink()), list[float]()
    began, sent = time.monotonic(), 0

    def each() -> float:
        nonlocal sent
        while sent < RATE * SECONDS and time.monotonic() - began > sent / RATE:
            producer.publish([record(chance.randrange(1000, 3000))], time.monotonic() + 60)
            sent += 1
        return 0.005 if sent < RATE * SECONDS else 0.5

    consume(consumer, RATE * SECONDS, each, lambda found: late.append(time.time_ns() / 1e6 - (found.due_ms or 0)))
    late.sort()
    return f"late by {late[len(late) // 2]:.1f} ms (p50), {late[len(late) * 99 // 100]:.1f} ms (p99), {late[-1]:.1f} ms at most"


def own_mib() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) >> 10


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        backend = opened(path)
        backend.admin().ensure_topic(HERE.topic, 1)
        backend.admin().ensure_group(HERE.topic, "g")
        consumer = backend.consumer(Subscription((HERE.topic,), "g"))
        print("nothing waits:", rates(backend, consumer), f"{own_mib()} MiB", sep="  ")
        print("nothing waits:", delayed_rates(backend), sep="  ")
        print("nothing waits:", lateness(backend, consumer), sep="  ")
        batches = ([record(DAY_MS + chance.randrange(DAY_MS)) for _ in range(1000)] for _ in range(WAITING // 1000))
        print(f"{WAITING:,} stored, {sum(publish(backend, [batch]) for batch in batches) / (WAITING // 1000):,.0f}/s in thousands")
        print(f"{WAITING:,} wait:", rates(backend, consumer), f"{own_mib()} MiB", sep="  ")
        print(f"{WAITING:,} wait:", delayed_rates(backend), sep="  ")
        print(f"{WAITING:,} wait:", lateness(backend, consumer), sep="  ")
        backend.close(time.monotonic() + 60)
        began = time.perf_counter()
        backend = opened(path)
        publish(backend, [[record()], [record(DAY_MS)]])
        print(f"open and publish, one of them delayed: {(time.perf_counter() - began) * 1000:.1f} ms")
        backend.close(time.monotonic() + 60)


if __name__ == "__main__":
    main()
