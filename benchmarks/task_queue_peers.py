"""Dramatiq and Celery as contenders: at least once, no log, no results. Neither has batch handlers, or publishes with many in flight."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import celery
import dramatiq
from celery.worker import WorkController
from contenders import TEXT
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from harness import Counter, rate, timed

PREFETCH = 100  # Celery's, four times what it has by default; more did not help


class _Peer:
    """_work: what the one task does. _send: publishes a call of it."""

    def __init__(self, address: str, topic: str) -> None:
        self._address, self._topic = address, topic
        logging.disable(logging.ERROR)
        self._work: Callable[[str], object] = lambda _: None

        def task(text: str) -> None:
            self._work(text)

        self._send = self._declared(task)

    def _declared(self, task: Callable[[str], None]) -> Callable[[str], Any]:
        raise NotImplementedError

    def _start(self) -> None:
        raise NotImplementedError

    def publish(self, count: int) -> float:
        self._send(TEXT)  # connects

        def work() -> None:
            for _ in range(count):
                self._send(TEXT)

        return timed(work, count)

    def handle(self, count: int) -> float:
        counter = Counter()
        self._work = lambda _: counter.tick()
        self._start()
        return rate(lambda: counter.value, count)

    def batch(self, count: int) -> float:
        raise NotImplementedError("it has no batch handlers")

    def pulse(self, stamps: Callable[[], str | None]) -> None:
        while (stamp := stamps()) is not None:
            self._send(stamp)

    def listen(self, heard: Callable[[str], object]) -> None:
        self._work = heard
        self._start()


class _Dramatiq(_Peer):
    def _broker(self) -> Any:
        raise NotImplementedError

    def _declared(self, task: Callable[[str], None]) -> Callable[[str], Any]:
        dramatiq.set_broker(self._broker())
        send: Callable[[str], Any] = dramatiq.actor(task, queue_name=self._topic).send
        return send

    def _start(self) -> None:
        dramatiq.Worker(dramatiq.get_broker()).start()


class DramatiqRedis(_Dramatiq):
    def _broker(self) -> Any:
        return RedisBroker(url=f"redis://{self._address}")


class DramatiqRabbit(_Dramatiq):
    def _broker(self) -> Any:
        return RabbitmqBroker(url=f"amqp://guest:guest@{self._address}", confirm_delivery=True)


class _Celery(_Peer):
    url = ""
    transport: dict[str, Any] = {}  # noqa: RUF012  # a constant of each class

    def _declared(self, task: Callable[[str], None]) -> Callable[[str], Any]:
        self._app = celery.Celery(broker=f"{self.url}{self._address}//")
        self._app.conf.update(
            task_default_queue=self._topic, task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=PREFETCH,
            worker_enable_remote_control=False, broker_transport_options=self.transport, broker_connection_retry_on_startup=True,
        )  # fmt: skip
        send: Callable[[str], Any] = self._app.task(name="task")(task).delay
        return send

    def _start(self) -> None:
        worker = WorkController(app=self._app, pool_cls="solo", concurrency=1, without_gossip=True, without_mingle=True)
        threading.Thread(target=worker.start, daemon=True).start()


class CeleryRedis(_Celery):
    url = "redis://"


class CeleryRabbit(_Celery):
    url = "amqp://guest:guest@"
    transport = {"confirm_publish": True}  # noqa: RUF012  # as above
