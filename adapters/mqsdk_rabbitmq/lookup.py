"""Which topics may be published to: asked before, because a publish that the server refuses leaves all others of its channel in doubt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mqsdk.spi import Rejected
from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.errors import NOT_FOUND, rejection, translate
from mqsdk_rabbitmq.outbox import Entry
from mqsdk_rabbitmq.wire import Connection

NOWHERE = "mq..look"  # a routing key that is bound to nothing
NO_TOPIC = Rejected("no_route", "there is no such topic", fix="create the topic first")

Found = Callable[[list[Entry]], None]
Refused = Callable[[list[Entry], Rejected], None]


class Lookup:
    """known: topics that this connection may publish to. On the loop's thread."""

    def __init__(self, cluster: str, address: str, found: Found, refused: Refused) -> None:
        self.known: set[str] = set()
        self._cluster = cluster
        self._address = address
        self._found = found
        self._refused = refused
        self._waiting: dict[str, list[Entry]] = {}

    def add(self, entry: Entry, connection: Connection) -> None:
        """The entry comes back by `found`, in order with the others of its topic, or is `refused`."""
        topic = entry.record.partition.topic
        waiting = self._waiting.setdefault(topic, [])
        waiting.append(entry)
        if len(waiting) == 1:
            self._ask(topic, connection)

    def waiting(self) -> list[Entry]:
        return [entry for entries in self._waiting.values() for entry in entries]

    def take_all(self) -> list[Entry]:
        """The connection is gone, and every answer with it."""
        self.known.clear()
        found = self.waiting()
        self._waiting.clear()
        return found

    def _ask(self, topic: str, connection: Connection) -> None:
        exchange = names.exchange(topic)

        def opened(channel: Any) -> None:
            channel.add_on_close_callback(refused)
            channel.exchange_declare(exchange, passive=True, callback=lambda _: there(channel))

        def there(channel: Any) -> None:
            # May this user write there? Asked with a message that no queue takes, so that a refusal leaves nothing in doubt.
            channel.basic_publish(exchange, NOWHERE, b"")
            channel.basic_qos(prefetch_count=1, callback=lambda _: found(channel))

        def found(channel: Any) -> None:
            self.known.add(topic)
            channel.close()
            self._found(self._waiting.pop(topic, []))

        def refused(channel: Any, error: Exception) -> None:
            if topic in self._waiting and topic not in self.known and channel.connection.is_open:
                code = getattr(error, "reply_code", 0)
                outcome = NO_TOPIC if code == NOT_FOUND else rejection(translate(error, self._cluster, self._address))
                self._refused(self._waiting.pop(topic), outcome)

        connection.channel(on_open_callback=opened)
