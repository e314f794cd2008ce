"""The RabbitMQ adapter at the seam beside pika's own best loops, on one server of its own: messages a second, and the ratio.

    python benchmarks/rabbitmq.py [MESSAGES] [classic|quorum]

200 bytes a message, persistent, one partition. Publish: SelectConnection, confirmations, 100 in flight; consume: prefetch 1000, one
acknowledgement for 50. Best of three, each alternating with the other.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mqsdk_rabbitmq
from mqsdk_rabbitmq import names, topology
from plain_clients import Pika

from mqsdk.spi import Assigned, Backend, Batch, Flow, Link, NewRecord, Partition, ProducerEvent, Progress, Published, Stored, Subscription
from tests.brokers.rabbitmq import RabbitServer

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
QUEUES = sys.argv[2] if len(sys.argv) > 2 else "classic"
BODY = b"x" * 200
WINDOW = 100
ROUNDS = 3
LIMIT_S = 60.0
HERE = Partition("bench", 0)


class Sink:
    """Lets at most WINDOW messages be unconfirmed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.flying = 0

    def put(self, event: ProducerEvent, /) -> None:
        if isinstance(event, Flow | Link):
            return
        assert isinstance(event, Published)
        assert isinstance(event.outcome, Stored), event
        with self._changed:
            self.flying -= event.length
            self._changed.notify()

    def room(self, least: int) -> int:
        with self._changed:
            assert self._changed.wait_for(lambda: WINDOW - self.flying >= least, LIMIT_S)
            return WINDOW - self.flying

    def add(self, count: int) -> None:
        with self._changed:
            self.flying += count


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def sdk_publish(backend: Backend, sink: Sink) -> None:
    producer = backend.producer(sink)
    first = 0
    while first < COUNT:
        last = min(COUNT, first + sink.room(WINDOW // 4))
        batch = [
            NewRecord(n, HERE, None, BODY, f"{n:032x}", 1_700_000_000_000, None, (), "0123456789abcdef", n) for n in range(first, last)
        ]
        sink.add(last - first)
        producer.publish(batch, time.monotonic() + LIMIT_S)
        first = last
    sink.room(WINDOW)


def sdk_consume(backend: Backend) -> None:
    """Every record is looked at one by one, as a handler per message does; settles go out every 10 ms at most, as layer 2 tells them."""
    consumer = backend.consumer(Subscription((HERE.topic,), "g"))
    left, epoch, token, settled_at = COUNT, 0, 0, 0.0
    while left:
        for event in consumer.poll(1000, 1.0):
            if isinstance(event, Assigned):
                epoch = event.epoch
                consumer.credit(HERE, 1 << 30, 1 << 40)
            elif isinstance(event, Batch):
                for record in event.records:
                    assert len(record.value) == 200
                    assert record.attempt == 1
                left -= len(event.records)
                stop = event.records[-1].position + 1
                now = time.monotonic()
                if now - settled_at > 0.01 or not left:
                    settled_at = now
                    token += 1
                    consumer.settle(Progress(HERE, epoch, stop, (), stop, token=token))
    consumer.close(time.monotonic() + LIMIT_S)


def main() -> None:
    figures: dict[str, list[float]] = {"publish raw": [], "publish mqsdk": [], "consume raw": [], "consume mqsdk": []}
    with tempfile.TemporaryDirectory() as folder:
        server = RabbitServer(Path(folder))
        try:
            made = mqsdk_rabbitmq.mqsdk_backend(kind="rabbitmq", name="bench", options={"servers": [server.address], "queues": QUEUES})
            assert made is not None
            made.open(time.monotonic() + LIMIT_S)
            sink = Sink()
            made.admin().ensure_topic(HERE.topic, 1)
            made.admin().ensure_group(HERE.topic, "g")
            raw = Pika(server.address, "raw", topology.queue_arguments(QUEUES))
            for _ in range(ROUNDS):
                figures["publish raw"].append(raw.publish(COUNT))
                figures["consume raw"].append(raw.batch(COUNT))
                figures["publish mqsdk"].append(COUNT / seconds(lambda: sdk_publish(made, sink)))
                figures["consume mqsdk"].append(COUNT / seconds(lambda: sdk_consume(made)))
                with server.channel() as channel:
                    assert channel.queue_declare(names.queue(HERE, "g"), passive=True).method.message_count == 0
            made.close(time.monotonic() + LIMIT_S)
        finally:
            server.stop()
    best = {name: max(found) for name, found in figures.items()}
    for what in ("publish", "consume"):
        plain, ours = best[f"{what} raw"], best[f"{what} mqsdk"]
        print(f"{what} ({QUEUES}): raw pika {plain:9,.0f}/s   mqsdk at the seam {ours:9,.0f}/s   ratio {ours / plain:.2f}")


if __name__ == "__main__":
    main()
