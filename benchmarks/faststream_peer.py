"""FastStream as a contender: no log, at least once, the numbers of messages at once that its documentation offers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from contenders import BODY, IN_FLIGHT, READ
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from faststream.redis import RedisBroker, StreamSub
from harness import Counter, rate_async

PREFETCH = 1000
AT_LEAST_ONCE = AckPolicy.NACK_ON_ERROR


class _Peer:
    """broker, subscriber: what differs between the brokers."""

    def __init__(self, address: str, topic: str) -> None:
        self._address, self._topic = address, topic

    def _broker(self) -> Any:
        raise NotImplementedError

    def _subscriber(self, broker: Any, batch: bool) -> Callable[[Any], Any]:
        raise NotImplementedError

    def _send(self, broker: Any, body: bytes | str) -> Awaitable[Any]:
        raise NotImplementedError

    async def _send_all(self, broker: Any, count: int) -> None:
        async def some() -> None:
            for _ in range(count // IN_FLIGHT):
                await self._send(broker, BODY)

        await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))

    def publish(self, count: int) -> float:
        async def main() -> float:
            async with self._broker() as broker:
                await broker.start()
                loop = asyncio.get_running_loop()
                began = loop.time()
                await self._send_all(broker, count)
                return count / (loop.time() - began)

        return asyncio.run(main())

    def _consume(self, count: int, batch: bool) -> float:
        counter, sizes = Counter(), list[int]()

        async def main() -> float:
            broker = self._broker()
            if batch:

                @self._subscriber(broker, True)
                async def many(bodies: list[bytes]) -> None:
                    sizes.append(len(bodies))
            else:

                @self._subscriber(broker, False)
                async def one(body: bytes) -> None:
                    counter.tick()

            async with broker:
                await broker.start()
                return await rate_async(lambda: sum(sizes) if batch else counter.value, count)

        return asyncio.run(main())

    def handle(self, count: int) -> float:
        return self._consume(count, batch=False)

    def batch(self, count: int) -> float:
        return self._consume(count, batch=True)

    def pulse(self, stamps: Callable[[], str | None]) -> None:
        async def main() -> None:
            async with self._broker() as broker:
                await broker.start()
                while (stamp := stamps()) is not None:
                    await self._send(broker, stamp)

        asyncio.run(main())

    def listen(self, heard: Callable[[str], object]) -> None:
        async def main() -> None:
            broker = self._broker()

            @self._subscriber(broker, False)
            async def clock(stamp: str) -> None:
                heard(stamp)

            async with broker:
                await broker.start()
                await asyncio.Event().wait()

        asyncio.run(main())


class Redis(_Peer):
    def _broker(self) -> Any:
        return RedisBroker(f"redis://{self._address}", logger=None)

    def _subscriber(self, broker: Any, batch: bool) -> Callable[[Any], Any]:
        stream = StreamSub(self._topic, group="g", consumer="o", batch=batch, max_records=READ, last_id="0")
        subscriber: Callable[[Any], Any] = broker.subscriber(stream=stream, ack_policy=AT_LEAST_ONCE)
        return subscriber

    def _send(self, broker: Any, body: bytes | str) -> Awaitable[Any]:
        sent: Awaitable[Any] = broker.publish(body, stream=self._topic)
        return sent


class RedisPipelined(Redis):
    """Publishing through a pipeline that the user opens, fills and executes."""

    async def _send_all(self, broker: Any, count: int) -> None:
        for _ in range(count // IN_FLIGHT):
            async with broker.config.broker_config.connection.client.pipeline(transaction=False) as pipe:
                for _ in range(IN_FLIGHT):
                    await broker.publish(BODY, stream=self._topic, pipeline=pipe)
                await pipe.execute()


class Rabbit(_Peer):
    def _broker(self) -> Any:
        return RabbitBroker(f"amqp://guest:guest@{self._address}", logger=None, default_channel=Channel(prefetch_count=PREFETCH))

    def _subscriber(self, broker: Any, batch: bool) -> Callable[[Any], Any]:
        subscriber: Callable[[Any], Any] = broker.subscriber(RabbitQueue(self._topic, durable=True), ack_policy=AT_LEAST_ONCE)
        return subscriber

    def _send(self, broker: Any, body: bytes | str) -> Awaitable[Any]:
        sent: Awaitable[Any] = broker.publish(body, queue=self._topic, persist=True)
        return sent

    def publish(self, count: int) -> float:
        async def declare() -> None:
            async with self._broker() as broker:
                await broker.start()
                await broker.declare_queue(RabbitQueue(self._topic, durable=True))

        asyncio.run(declare())
        return super().publish(count)


class Kafka(_Peer):
    def _broker(self) -> Any:
        return KafkaBroker(self._address, logger=None, acks="all")

    def _subscriber(self, broker: Any, batch: bool) -> Callable[[Any], Any]:
        how: dict[str, Any] = {"batch": True, "max_records": 2000} if batch else {}
        subscriber: Callable[[Any], Any] = broker.subscriber(
            self._topic, group_id="g", auto_offset_reset="earliest", ack_policy=AT_LEAST_ONCE, **how
        )
        return subscriber

    def _send(self, broker: Any, body: bytes | str) -> Awaitable[Any]:
        sent: Awaitable[Any] = broker.publish(body, topic=self._topic)
        return sent
