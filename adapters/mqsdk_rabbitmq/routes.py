"""Where a record goes: to the exchange of its topic, or to that of what is to be delayed, once they are known to be there."""

from __future__ import annotations

import time

from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.delays import Delays
from mqsdk_rabbitmq.lookup import Found, Lookup, Refused
from mqsdk_rabbitmq.outbox import Entry
from mqsdk_rabbitmq.records import FRAME_OVERHEAD, content_frames, publish_frame
from mqsdk_rabbitmq.session import Dialer
from mqsdk_rabbitmq.wire import Connection, Loop

CHANNEL = 1  # of a publisher's connection


class Routes:
    """found, refused: for entries that had to wait for a look at the server. On the loop's thread."""

    def __init__(self, dialer: Dialer, loop: Loop, found: Found, refused: Refused) -> None:
        self._lookup = Lookup(dialer.cluster, dialer.settings.address, found, refused)
        self._delays = Delays(dialer, loop, found, refused)
        self._heads: dict[tuple[str, int], bytes] = {}  # by exchange and partition

    def frames(self, entry: Entry, connection: Connection) -> tuple[bytes, bytes] | None:
        """What goes over the wire; None where the entry waits. Raises TooLarge, and ValueError for what can never be sent."""
        record = entry.record
        topic, number = record.partition
        route: list[str] = []
        wait_ms = 0 if record.due_ms is None else record.due_ms - time.time_ns() // 1_000_000
        if wait_ms > 0:
            way = self._delays.known.get(topic)
            if way is None:
                self._delays.add(entry)
                return None
            entry.exchange, route = way.exchange, way.keys(wait_ms)
        elif topic in self._lookup.known:
            entry.exchange = names.exchange(topic)
        else:
            self._lookup.add(entry, connection)
            return None
        return self._head(entry.exchange, number), content_frames(CHANNEL, record, connection.params.frame_max - FRAME_OVERHEAD, route)

    def _head(self, exchange: str, number: int) -> bytes:
        head = self._heads.get((exchange, number))
        if head is None:
            head = self._heads[exchange, number] = publish_frame(CHANNEL, exchange, str(number))
        return head

    def waiting(self) -> list[Entry]:
        return [*self._delays.waiting(), *self._lookup.waiting()]

    def take_all(self) -> list[Entry]:
        """The connection is gone, and every answer with it."""
        return [*self._delays.take_all(), *self._lookup.take_all()]

    def clear(self) -> None:
        """What was known may have changed."""
        self._lookup.known.clear()
        self._delays.known.clear()

    def forget(self, topic: str) -> None:
        self._lookup.known.discard(topic)
        self._delays.known.pop(topic, None)
