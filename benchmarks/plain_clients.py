"""The best loops of the plain clients: nothing but the library, one acknowledgement or commit for what one read has brought."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pika
import redis
from contenders import BODY, IN_FLIGHT, LIMIT_S, READ
from harness import timed
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

PREFETCH, ACK_EVERY = 1000, 50


class Redis:
    def __init__(self, address: str, topic: str) -> None:
        self._client = redis.Redis.from_url(f"redis://{address}")
        self._stream = topic
        with suppress(redis.exceptions.ResponseError):  # the other process was faster
            self._client.xgroup_create(topic, "g", "0", mkstream=True)

    def publish(self, count: int) -> float:
        def work() -> None:
            for _ in range(count // IN_FLIGHT):
                pipe = self._client.pipeline(transaction=False)
                for _ in range(IN_FLIGHT):
                    pipe.xadd(self._stream, {b"body": BODY})
                pipe.execute()

        return timed(work, count)

    def _read(self, block_ms: int | None = None) -> list[Any]:
        found: Any = self._client.xreadgroup("g", "o", {self._stream: ">"}, count=READ, block=block_ms)
        ((_, entries),) = (found.items() if isinstance(found, dict) else found) or ((None, []),)
        return list(entries)

    def batch(self, count: int) -> float:
        def work() -> None:
            left = count
            while left:
                entries = self._read()
                self._client.xack(self._stream, "g", *(entry[0] for entry in entries))
                left -= len(entries)

        return timed(work, count)

    def handle(self, count: int) -> float:
        raise NotImplementedError("its best loop is that of `batch`")

    def pulse(self, stamps: Callable[[], str | None]) -> None:
        while (stamp := stamps()) is not None:
            self._client.xadd(self._stream, {b"body": stamp})

    def listen(self, heard: Callable[[str], object]) -> None:
        while True:
            for entry_id, fields in self._read(1000):
                heard(fields[b"body"].decode())
                self._client.xack(self._stream, "g", entry_id)


class Pika:
    """arguments: of its queue."""

    def __init__(self, address: str, topic: str, arguments: dict[str, Any] | None = None) -> None:
        self._host, port = address.split(":")
        self._port, self._queue = int(port), topic
        with pika.BlockingConnection(pika.ConnectionParameters(self._host, self._port)) as connection:
            connection.channel().queue_declare(topic, durable=True, arguments=arguments)

    def _looped(self, begin: Callable[[Any, Callable[[], None]], None]) -> None:
        """Run pika's loop until `begin`'s second argument is called."""

        def opened(connection: Any) -> None:
            connection.channel(on_open_callback=lambda channel: begin(channel, connection.close))

        parameters = pika.ConnectionParameters(self._host, self._port)
        connection = pika.SelectConnection(parameters, opened, on_close_callback=lambda found, _: found.ioloop.stop())
        connection.ioloop.start()

    def publish(self, count: int) -> float:
        def begin(channel: Any, end: Callable[[], None]) -> None:
            sent = confirmed = 0
            persistent = pika.BasicProperties(delivery_mode=2)

            def answered(frame: Any) -> None:
                nonlocal confirmed
                tag = frame.method.delivery_tag
                confirmed = max(confirmed, tag) if frame.method.multiple else confirmed + 1
                fill()

            def fill() -> None:
                nonlocal sent
                while sent < count and sent - confirmed < IN_FLIGHT:
                    channel.basic_publish("", self._queue, BODY, persistent, mandatory=True)
                    sent += 1
                if confirmed >= count:
                    end()

            channel.confirm_delivery(answered, callback=lambda _: fill())

        return timed(lambda: self._looped(begin), count)

    def batch(self, count: int) -> float:
        def begin(channel: Any, end: Callable[[], None]) -> None:
            came = 0

            def one(_: Any, method: Any, __: Any, ___: bytes) -> None:
                nonlocal came
                came += 1
                if came % ACK_EVERY == 0 or came == count:
                    channel.basic_ack(method.delivery_tag, multiple=True)
                if came == count:
                    end()

            channel.basic_qos(prefetch_count=PREFETCH)
            channel.basic_consume(self._queue, one)

        return timed(lambda: self._looped(begin), count)

    def handle(self, count: int) -> float:
        raise NotImplementedError("its best loop is that of `batch`")

    def pulse(self, stamps: Callable[[], str | None]) -> None:
        with pika.BlockingConnection(pika.ConnectionParameters(self._host, self._port)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            persistent = pika.BasicProperties(delivery_mode=2)
            while (stamp := stamps()) is not None:
                channel.basic_publish("", self._queue, stamp, persistent, mandatory=True)

    def listen(self, heard: Callable[[str], object]) -> None:
        def begin(channel: Any, end: Callable[[], None]) -> None:
            def one(_: Any, method: Any, __: Any, body: bytes) -> None:
                heard(body.decode())
                channel.basic_ack(method.delivery_tag)

            channel.basic_qos(prefetch_count=PREFETCH)
            channel.basic_consume(self._queue, one)

        self._looped(begin)


class PikaQuorum(Pika):
    def __init__(self, address: str, topic: str) -> None:
        super().__init__(address, topic, {"x-queue-type": "quorum"})


class Kafka:
    def __init__(self, address: str, topic: str) -> None:
        self._address, self._place = address, TopicPartition(topic, 0)

    def _producer(self) -> Any:
        return KafkaProducer(bootstrap_servers=[self._address], acks="all", metrics_enabled=False)

    def publish(self, count: int) -> float:
        producer = self._producer()

        def work() -> None:
            flying: deque[Any] = deque()
            for _ in range(count):
                if len(flying) == IN_FLIGHT:
                    flying.popleft().get(LIMIT_S)
                flying.append(producer.send(self._place.topic, BODY, partition=0))
            for future in flying:
                future.get(LIMIT_S)

        found = timed(work, count)
        producer.close()
        return found

    def _consumer(self) -> Any:
        consumer = KafkaConsumer(
            bootstrap_servers=[self._address], group_id="g", enable_auto_commit=False, metrics_enabled=False, max_poll_records=2000
        )
        consumer.assign([self._place])
        consumer.seek_to_beginning(self._place)
        return consumer

    def batch(self, count: int) -> float:
        consumer = self._consumer()

        def work() -> None:
            left = count
            while left:
                found = consumer.poll(1000)
                left -= sum(len(records) for records in found.values())
                consumer.commit_async()

        found = timed(work, count)
        consumer.close()
        return found

    def handle(self, count: int) -> float:
        raise NotImplementedError("its best loop is that of `batch`")

    def pulse(self, stamps: Callable[[], str | None]) -> None:
        producer = self._producer()
        while (stamp := stamps()) is not None:
            producer.send(self._place.topic, stamp.encode(), partition=0).get(LIMIT_S)
        producer.close()

    def listen(self, heard: Callable[[str], object]) -> None:
        consumer = self._consumer()
        committed = time.monotonic()
        while True:
            for records in consumer.poll(1000).values():
                for record in records:
                    heard(record.value.decode())
            if time.monotonic() - committed > 0.01:
                consumer.commit_async()
                committed = time.monotonic()
