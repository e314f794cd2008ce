"""Delayed messages on RabbitMQ: how fast they are stored beside others, and how late they come.

    python benchmarks/rabbitmq_delay.py [MESSAGES] [classic|quorum]

One server of its own, one partition, 200 bytes a message, 100 in flight. Lateness: 1,000 messages due 0.5 to 5 s after their publish, which
takes a second; the ladder is there. Publish: all due in an hour, or none; best of three.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import mqsdk_rabbitmq
import rabbitmq as bench
from rabbitmq import BODY, HERE, LIMIT_S, WINDOW, Sink

from mqsdk.spi import Assigned, Backend, Batch, NewRecord, Subscription
from tests.brokers.rabbitmq import RabbitServer

HOUR_MS = 3_600_000
LATE_COUNT, SOONEST_MS, LATEST_MS = 1000, 500, 5000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def delayed(number: int, wait_ms: int | None) -> NewRecord:
    now = now_ms()
    due_ms = None if wait_ms is None else now + wait_ms
    return NewRecord(number, HERE, None, BODY, f"{number:032x}", now, producer="0123456789abcdef", sequence=number, due_ms=due_ms)


def publish(backend: Backend, sink: Sink, waits_ms: Sequence[int | None], pause_s: float = 0.0) -> Iterator[None]:
    """All of them, a part of a window at a time."""
    producer = backend.producer(sink)
    first = 0
    while first < len(waits_ms):
        last = min(len(waits_ms), first + sink.room(WINDOW // 4))
        batch = [delayed(number, waits_ms[number]) for number in range(first, last)]
        sink.add(last - first)
        producer.publish(batch, time.monotonic() + LIMIT_S)
        first = last
        time.sleep(pause_s)
        yield
    sink.room(WINDOW)


def rate(backend: Backend, sink: Sink, wait_ms: int | None, count: int = bench.COUNT) -> float:
    def work() -> None:
        for _ in publish(backend, sink, [wait_ms] * count):
            pass

    return count / bench.seconds(work)


def lateness(backend: Backend, sink: Sink) -> list[float]:
    """Milliseconds after the due time, sorted."""
    consumer = backend.consumer(Subscription((HERE.topic,), "g"))
    waits = [random.Random(1).randrange(SOONEST_MS, LATEST_MS) for _ in range(LATE_COUNT)]
    sending = publish(backend, sink, waits, WINDOW / LATE_COUNT)
    late: list[float] = []
    while len(late) < LATE_COUNT:
        next(sending, None)
        for event in consumer.poll(1000, 0.0005):
            if isinstance(event, Assigned):
                consumer.credit(HERE, 1 << 30, 1 << 40)
            elif isinstance(event, Batch):
                late += [time.time() * 1000 - (record.due_ms or 0) for record in event.records if record.due_ms is not None]
    consumer.close(time.monotonic() + LIMIT_S)
    return sorted(late)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = RabbitServer(Path(folder))
        try:
            made = mqsdk_rabbitmq.mqsdk_backend(
                kind="rabbitmq", name="bench", options={"servers": [server.address], "queues": bench.QUEUES}
            )
            assert made is not None
            made.open(time.monotonic() + LIMIT_S)
            made.admin().ensure_topic(HERE.topic, 1)
            made.admin().ensure_group(HERE.topic, "g")
            sink = Sink()
            rate(made, sink, HOUR_MS, 1)  # makes the ladder
            late = lateness(made, sink)
            print(
                f"late: p50 {late[len(late) // 2]:.0f} ms   p99 {late[len(late) * 99 // 100]:.0f} ms   {late[0]:.0f} to {late[-1]:.0f} ms"
            )
            rates = [(rate(made, sink, None), rate(made, sink, HOUR_MS)) for _ in range(bench.ROUNDS)]
            plain, later = (max(found) for found in zip(*rates, strict=True))
            print(f"publish ({bench.QUEUES}): {plain:,.0f}/s at once, {later:,.0f}/s delayed, ratio {later / plain:.2f}")
            made.close(time.monotonic() + LIMIT_S)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
