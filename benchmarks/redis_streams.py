"""The Redis adapter at the seam beside plain redis-py, on one server of its own: messages a second, and the ratio.

    python benchmarks/redis_streams.py [MESSAGES]

200 bytes a message, one partition, AOF everysec. Best of three, each alternating with the other.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mqsdk_redis
import redis
from mqsdk_redis import names

from mqsdk.spi import Assigned, Backend, Batch, NewRecord, Partition, ProducerEvent, Progress, Published, Stored, Subscription

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
BODY = b"x" * 200
WINDOW = 500
ROUNDS = 3
LIMIT_S = 60.0
HERE = Partition("bench", 0)


class Sink:
    def __init__(self) -> None:
        self.stored = 0

    def put(self, event: ProducerEvent, /) -> None:
        assert isinstance(event, Published)
        assert isinstance(event.outcome, Stored)
        self.stored += event.length


@contextmanager
def server() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "yes"]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log)
        try:
            with redis.Redis(port=port) as client:
                deadline = time.monotonic() + LIMIT_S
                while True:
                    try:
                        client.ping()
                        break
                    except redis.exceptions.ConnectionError:
                        assert time.monotonic() < deadline
            yield port
        finally:
            process.terminate()
            process.wait(LIMIT_S)


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def raw_publish(client: redis.Redis) -> None:
    stream = names.stream(HERE)
    for _ in range(COUNT // WINDOW):
        pipe = client.pipeline(transaction=False)
        for _ in range(WINDOW):
            pipe.xadd(stream, {b"body": BODY})
        pipe.execute()


def raw_consume(client: redis.Redis) -> None:
    stream, left = names.stream(HERE), COUNT
    while left:
        found: Any = client.xreadgroup("g", "o", {stream: ">"}, count=WINDOW)
        ((_, entries),) = found.items() if isinstance(found, dict) else found
        client.xack(stream, "g", *(entry[0] for entry in entries))
        left -= len(entries)


def sdk_publish(backend: Backend, sink: Sink) -> None:
    producer = backend.producer(sink)
    for first in range(0, COUNT, WINDOW):
        batch = [
            NewRecord(n, HERE, None, BODY, f"{n:032x}", 1_700_000_000_000, None, (), "0123456789abcdef", n)
            for n in range(first, first + WINDOW)
        ]
        producer.publish(batch, time.monotonic() + LIMIT_S)


def sdk_consume(backend: Backend) -> None:
    consumer = backend.consumer(Subscription((HERE.topic,), "g"))
    left, epoch, token = COUNT, 0, 0
    while left:
        for event in consumer.poll(WINDOW, 1.0):
            if isinstance(event, Assigned):
                epoch = event.epoch
                consumer.credit(HERE, 1 << 30, 1 << 40)
            elif isinstance(event, Batch):
                left -= len(event.records)
                first, stop = event.records[0].position, event.records[-1].position + 1
                token += 1
                consumer.settle(Progress(HERE, epoch, stop, ((first, stop),), stop, token=token))
    consumer.close(time.monotonic() + LIMIT_S)


def main() -> None:
    figures: dict[str, list[float]] = {"publish raw": [], "publish mqsdk": [], "consume raw": [], "consume mqsdk": []}
    with server() as port, redis.Redis(port=port) as client:
        made = mqsdk_redis.mqsdk_backend(kind="redis", name="bench", options={"servers": [f"127.0.0.1:{port}"]})
        assert made is not None
        made.open(time.monotonic() + LIMIT_S)
        sink = Sink()
        for _ in range(ROUNDS):
            for kind, publish, consume in (
                ("raw", lambda: raw_publish(client), lambda: raw_consume(client)),
                ("mqsdk", lambda: sdk_publish(made, sink), lambda: sdk_consume(made)),
            ):
                client.flushall()
                made.admin().ensure_topic(HERE.topic, 1)
                made.admin().ensure_group(HERE.topic, "g")
                figures[f"publish {kind}"].append(COUNT / seconds(publish))
                figures[f"consume {kind}"].append(COUNT / seconds(consume))
        made.close(time.monotonic() + LIMIT_S)
    best = {name: max(found) for name, found in figures.items()}
    for what in ("publish", "consume"):
        raw, ours = best[f"{what} raw"], best[f"{what} mqsdk"]
        print(f"{what}: raw redis-py {raw:9,.0f}/s   mqsdk at the seam {ours:9,.0f}/s   ratio {ours / raw:.2f}")


if __name__ == "__main__":
    main()
