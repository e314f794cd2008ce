"""Small messages of the group's members (tokens, notes) over a connection beside the one that consumes.

A server that is short of memory or disk stops reading from every connection that publishes: on one of its own that delays who owns what,
and never an acknowledgement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pika
from pika import spec

from mqsdk.spi import BackendError
from mqsdk_rabbitmq.options import Settings
from mqsdk_rabbitmq.wire import Connection, Loop, Wire, Work

PERSISTENT, TRANSIENT = pika.BasicProperties(delivery_mode=2), pika.BasicProperties(delivery_mode=1)
Told = Callable[[str], None]  # "stored", "returned" (no such queue) or "failed" (in doubt)


class Teller:
    """On the loop of the consumer that it works for."""

    def __init__(self, loop: Loop, cluster: str, settings: Settings, targets: Sequence[pika.ConnectionParameters]) -> None:
        self._wire = Wire(loop, cluster, settings, targets, self._connected, self._went_down)
        self._channel: Any = None
        self._waiting: list[tuple[str, str, bytes, bool, Told]] = []
        self._sent: dict[int, tuple[str, Told]] = {}
        self._returned: set[str] = set()
        self._tag = 0

    def open(self) -> None:
        self._wire.open()

    def tell(self, exchange: str, key: str, body: bytes, told: Told, *, durable: bool = False) -> None:
        """Waits for the connection where it is down. `told` is called once."""
        if self._channel is None:
            self._waiting.append((exchange, key, body, durable, told))
            return
        self._tag += 1
        self._sent[self._tag] = (key, told)
        self._channel.basic_publish(exchange, key, body, PERSISTENT if durable else TRANSIENT, mandatory=not exchange)

    def close(self, done: Work | None = None) -> None:
        self._fail()
        self._wire.close(done)

    def cut(self, error: Exception) -> None:
        self._wire.cut(error)

    def vanish(self) -> None:
        self._wire.vanish()

    def _connected(self, connection: Connection) -> None:
        def opened(channel: Any) -> None:
            channel.add_on_close_callback(lambda *_: self._ended(connection))
            channel.add_on_return_callback(lambda _, method, __, ___: self._returned.add(method.routing_key))
            channel.confirm_delivery(self._confirmed, callback=lambda _: ready(channel))

        def ready(channel: Any) -> None:
            self._channel, self._tag = channel, 0
            waiting, self._waiting = self._waiting, []
            for exchange, key, body, durable, told in waiting:
                self.tell(exchange, key, body, told, durable=durable)

        connection.channel(on_open_callback=opened)

    def _ended(self, connection: Connection) -> None:
        """An exchange is not there (any more): the connection is of no use without its channel."""
        self._fail()
        if connection.is_open:
            connection.cut(ConnectionError("the channel has ended"))

    def _went_down(self, _: BackendError, __: bool) -> None:
        self._fail()

    def _fail(self) -> None:
        self._channel = None
        sent, self._sent = self._sent, {}
        self._returned.clear()
        for _, told in sent.values():
            told("failed")

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        tags = [tag for tag in self._sent if tag <= method.delivery_tag] if method.multiple else [method.delivery_tag]
        for tag in tags:
            key, told = self._sent.pop(tag, ("", None))
            if told is None:
                continue
            if key in self._returned:
                self._returned.discard(key)
                told("returned")
            else:
                told("stored" if isinstance(method, spec.Basic.Ack) else "failed")
