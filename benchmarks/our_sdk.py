"""mqsdk as a contender: default settings but for the type of RabbitMQ's queues, which is everybody's; one partition."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from contenders import BODY, IN_FLIGHT, READ
from harness import Counter, rate, timed

from mqsdk import App

CONFIG = """
version: 1
app: bench
clusters: {{main: {{backend: {backend}, servers: ["{address}"]{more}}}}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"*": {{partitions: 1, groups: [g]}}}}
"""


class Sdk:
    """backend: of the one cluster. more: what else stands there."""

    backend = ""
    more = ""
    ordered = False

    def __init__(self, address: str, topic: str) -> None:
        self._topic = topic
        self._file = Path("mqsdk.yaml").absolute()
        self._file.write_text(CONFIG.format(backend=self.backend, address=address, more=self.more))
        self._file.chmod(0o600)

    def _app(self) -> App:
        return App(config=self._file)

    def publish(self, count: int, at_once: int = IN_FLIGHT) -> float:
        with self._app() as app:
            app.publish(self._topic, BODY, key="k0")  # connects, and makes the topic
            items = [BODY] * at_once

            def work() -> None:
                for _ in range(count // at_once):
                    app.publish_many(self._topic, items)

            return timed(work, count)

    def handle(self, count: int) -> float:
        counter = Counter()
        tick = counter.tick
        app = self._app()

        @app.consumer(self._topic, group="g", ordered=self.ordered)
        def noop(payload: bytes) -> None:
            tick()

        return rate_of_run(app, lambda: counter.value, count)

    def batch(self, count: int) -> float:
        sizes: list[int] = []
        app = self._app()

        @app.consumer(self._topic, group="g", ordered=self.ordered, batch=READ)
        def noop(payloads: list[bytes]) -> None:
            sizes.append(len(payloads))

        return rate_of_run(app, lambda: sum(sizes), count)

    def waiting(self) -> int:
        """Messages that the group has not settled."""
        with self._app() as app:
            return app.lag(self._topic, "g").messages

    def pulse(self, stamps: Callable[[], str | None]) -> None:
        with self._app() as app:
            while (stamp := stamps()) is not None:
                app.publish(self._topic, stamp)

    def listen(self, heard: Callable[[str], object]) -> None:
        app = self._app()

        @app.consumer(self._topic, group="g")
        def clock(stamp: str) -> None:
            heard(stamp)

        with app:
            app.start()
            threading.Event().wait()


def rate_of_run(app: App, value: Callable[[], int], count: int) -> float:
    """As `mqsdk run` runs it, until the counter is there."""
    found: list[float] = []

    def watch() -> None:
        try:
            found.append(rate(value, count))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    app.run()
    return found[0]


class Redis(Sdk):
    backend = "redis"


class Rabbit(Sdk):
    backend = "rabbitmq"
    more = ", queues: classic"


class RabbitQuorum(Rabbit):
    more = ", queues: quorum"


class Kafka(Sdk):
    backend = "kafka"


class RedisOrdered(Redis):
    ordered = True


class RabbitOrdered(Rabbit):
    ordered = True


class KafkaOrdered(Kafka):
    ordered = True
