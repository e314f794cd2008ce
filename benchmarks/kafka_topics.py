"""mqsdk on Kafka beside the best loops of plain kafka-python, on one broker of its own: messages a second, and the ratio.

    PYTHONPATH=. python benchmarks/kafka_topics.py [MESSAGES]

200 bytes a message, 8 partitions, one process, default settings. Every figure of mqsdk stands between two of the plain client, in the same
round and of the same topic, and is divided by their mean; printed are the median ratio of five rounds, the lowest and the highest.
Consuming is timed from before the client begins to read (raw), or before it connects and joins the group (mqsdk), to the last message.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Counter
from kafka import KafkaConsumer, TopicPartition

from mqsdk import App
from tests.brokers.kafka import FAST, KafkaBroker

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
BODY = b"x" * 200
IN_FLIGHT = 100
ROUNDS = 5
LIMIT_S = 120.0
PARTITIONS = 8
CONFIG = """
version: 1
app: bench
clusters: {{main: {{backend: kafka, servers: ["{address}"]}}}}
routes: [{{topics: ["*"], cluster: main}}]
"""
GOALS = {"publish": 0.6, "per message": 0.4, "per batch": 0.8}


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Bench:
    def __init__(self, broker: KafkaBroker, folder: Path) -> None:
        self._broker = broker
        self._folder = folder
        self._round = 0
        (folder / "mqsdk.yaml").write_text(CONFIG.format(address=broker.address))
        (folder / "mqsdk.yaml").chmod(0o600)

    def topic(self) -> str:
        self._round += 1
        name = f"bench-{self._round}"
        with self._broker.admin() as admin:
            admin.create_topics({name: {"num_partitions": PARTITIONS, "replication_factor": 1}}, wait_for_metadata=True)
        return name

    def app(self) -> App:
        return App(config=self._folder / "mqsdk.yaml")

    def one_round(self) -> dict[str, tuple[float, float]]:
        """(plain client, mqsdk), messages a second."""
        published = [self.raw_publish(self.topic()), self.our_publish(self.topic()), self.raw_publish(self.topic())]
        topic = self.fill()
        first = self.raw_consume(topic)
        batches = self.our_consume(topic, 1000)
        second = self.raw_consume(topic)
        singly = self.our_consume(topic, None)
        third = self.raw_consume(topic)
        return {
            "publish": ((published[0] + published[2]) / 2, published[1]),
            "per message": ((second + third) / 2, singly),
            "per batch": ((first + second) / 2, batches),
        }

    # --- publish with 100 in flight ------------------------------------------------------------------------------------------------------

    def raw_publish(self, topic: str) -> float:
        producer = self._broker.producer(metrics_enabled=False)
        producer.send(topic, BODY, partition=0).get(LIMIT_S)

        def work() -> None:
            flying: deque[Any] = deque()
            for number in range(COUNT):
                if len(flying) == IN_FLIGHT:
                    flying.popleft().get(LIMIT_S)
                flying.append(producer.send(topic, BODY, partition=number // 50 % PARTITIONS))
            for future in flying:
                future.get(LIMIT_S)

        found = COUNT / seconds(work)
        producer.close()
        return found

    def our_publish(self, topic: str) -> float:
        with self.app() as app:
            app.publish(topic, BODY)
            items = [BODY] * IN_FLIGHT

            def work() -> None:
                for _ in range(COUNT // IN_FLIGHT):
                    app.publish_many(topic, items)

            return COUNT / seconds(work)

    # --- consume a backlog ---------------------------------------------------------------------------------------------------------------

    def fill(self) -> str:
        topic = self.topic()
        producer = self._broker.producer(metrics_enabled=False, linger_ms=20, batch_size=128 << 10)
        for number in range(COUNT):
            producer.send(topic, BODY, partition=number % PARTITIONS)
        producer.flush()
        producer.close()
        return topic

    def raw_consume(self, topic: str) -> float:
        consumer = KafkaConsumer(
            bootstrap_servers=[self._broker.address], group_id=topic, enable_auto_commit=False, metrics_enabled=False, max_poll_records=5000
        )
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)

        def work() -> None:
            left = COUNT
            while left:
                found = consumer.poll(1000)
                left -= sum(len(records) for records in found.values())
                consumer.commit_async()

        found = COUNT / seconds(work)
        consumer.close()
        return found

    def our_consume(self, topic: str, batch: int | None) -> float:
        counter, sizes = Counter(), list[int]()
        tick = counter.tick
        app = self.app()
        if batch is None:

            @app.consumer(topic, group="singly")
            def noop(payload: bytes) -> None:
                tick()
        else:

            @app.consumer(topic, group="batches", batch=batch)
            def noops(payloads: list[bytes]) -> None:
                sizes.append(len(payloads))

        def value() -> int:
            return counter.value if batch is None else sum(sizes)

        with app:
            began = time.perf_counter()
            app.start()
            give_up = time.monotonic() + LIMIT_S
            while value() < COUNT:
                assert time.monotonic() < give_up, f"{value()} of {COUNT}"
                time.sleep(0.001)
            return COUNT / (time.perf_counter() - began)


def main() -> None:
    rounds: list[dict[str, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "broker").mkdir()
        broker = KafkaBroker(folder / "broker", jvm=FAST)
        try:
            bench = Bench(broker, folder)
            bench.one_round()  # what is loaded and compiled for the first time counts for nobody
            rounds += [bench.one_round() for _ in range(ROUNDS)]
        finally:
            broker.stop()
    for what, goal in GOALS.items():
        raw, ours = (statistics.median(one[what][side] for one in rounds) for side in (0, 1))
        ratios = sorted(one[what][1] / one[what][0] for one in rounds)
        told = f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, must {goal})"
        print(f"{what:12} raw kafka-python {raw:9,.0f}/s   mqsdk {ours:9,.0f}/s   {told}")


if __name__ == "__main__":
    main()
