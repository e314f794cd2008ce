"""Where topics and groups are written down: one message in the queue `mq..catalog`, because AMQP lists nothing.

The queue has a single active consumer, so who receives the message has the catalog to itself; to change it is to put a newer one and to
acknowledge the older. A crash between the two leaves both, and the higher version counts.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.session import PERSISTENT, Session

HOLD_S = 20.0  # how long another one's look at the catalog is waited for: a frozen one is cut off in 15 s


@dataclass(slots=True)
class Topic:
    """mark: names the exchanges of what is delayed for it, "" before anything was."""

    partitions: int
    groups: set[str] = field(default_factory=set)
    mark: str = ""


@dataclass(slots=True)
class Catalog:
    """version: of the last writing. has_ladder: the ladder of delays was made."""

    version: int = 0
    topics: dict[str, Topic] = field(default_factory=dict)
    has_ladder: bool = False

    @classmethod
    def parse(cls, body: bytes) -> Catalog:
        found = json.loads(body)
        topics = {
            name: Topic(int(about["partitions"]), set(about["groups"]), about.get("mark", "")) for name, about in found["topics"].items()
        }
        return cls(int(found["version"]), topics, found.get("has_ladder") is True)

    def encode(self) -> bytes:
        topics = {
            name: {"partitions": about.partitions, "groups": sorted(about.groups), "mark": about.mark}
            for name, about in self.topics.items()
        }
        return json.dumps({"version": self.version, "topics": topics, "has_ladder": self.has_ladder}).encode()


@contextmanager
def held(session: Session, queue_type: str) -> Iterator[Held]:
    """The catalog, for this one alone until the block ends. Raises Unavailable when another one keeps it too long."""
    _ensure(session, queue_type)
    channel = session.connection.channel()
    channel.confirm_delivery()
    holder = Held(session, channel)
    holder.read(time.monotonic() + HOLD_S)
    yield holder
    # Only now may the next one see it: the server puts it back when the channel is gone.
    channel.close()


class Held:
    def __init__(self, session: Session, channel: BlockingChannel) -> None:
        self.catalog = Catalog()
        self._session = session
        self._channel = channel
        self._mark = secrets.token_hex(8).encode()
        self._found: list[tuple[int, bytes]] = []
        self._is_whole = False

    def read(self, deadline: float) -> None:
        what = "the catalog of topics is in use by another process that does not let go"
        self._channel.basic_consume(names.CATALOG, self._received)
        self._session.wait(lambda: bool(self._found), deadline, what)
        # Active now: what follows is seen by this one only. A mark behind everything tells when all of it has come.
        self._channel.basic_publish("", names.CATALOG, self._mark, PERSISTENT, mandatory=True)
        self._session.wait(lambda: self._is_whole, deadline, what)
        self.catalog = max((_parsed(body) for _, body in self._found), key=lambda one: one.version, default=Catalog())

    def save(self) -> None:
        """Write the catalog as it is now."""
        self.catalog.version += 1
        self._channel.basic_publish("", names.CATALOG, self.catalog.encode(), PERSISTENT, mandatory=True)
        last = max(tag for tag, _ in self._found)
        self._channel.basic_ack(last, multiple=True)
        self._found.clear()

    def _received(self, _: Any, method: spec.Basic.Deliver, __: Any, body: bytes) -> None:
        if body == self._mark:
            self._is_whole = True
            self._channel.basic_ack(method.delivery_tag)
        elif not self._is_whole:
            self._found.append((method.delivery_tag, body))


def _parsed(body: bytes) -> Catalog:
    """A mark that a crash has left is no catalog."""
    return Catalog.parse(body) if body.startswith(b"{") else Catalog(-1)


def _ensure(session: Session, queue_type: str) -> None:
    found = session.queue(names.CATALOG)
    if found is None:
        arguments = {"x-queue-type": queue_type, "x-single-active-consumer": True}
        session.channel.queue_declare(names.CATALOG, durable=True, arguments=arguments)
    if found in (None, (0, 0)):
        # Never written, or lost: an empty one of the lowest version harms nobody where another one is there after all.
        session.put(names.CATALOG, Catalog().encode())
