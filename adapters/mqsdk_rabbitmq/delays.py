"""By which way a topic's delayed messages go: asked for, and made, before the first of them is published over a connection."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from mqsdk.spi import BackendError, Rejected
from mqsdk_rabbitmq import ladder, names, topology
from mqsdk_rabbitmq.catalog import held
from mqsdk_rabbitmq.errors import rejection
from mqsdk_rabbitmq.inspection import numbers_of, version_of
from mqsdk_rabbitmq.lookup import NO_TOPIC, Found, Refused
from mqsdk_rabbitmq.outbox import Entry
from mqsdk_rabbitmq.session import Dialer, Session
from mqsdk_rabbitmq.wire import Loop

MAKE_S = 30.0
_OLDEST = ".".join(map(str, ladder.OLDEST))
_TOO_OLD = Rejected("unsupported", f"servers before RabbitMQ {_OLDEST} cannot delay safely", fix=f"use RabbitMQ {_OLDEST} or newer")


class Way(NamedTuple):
    """exchange: where to publish. mark: the last of the routing keys."""

    exchange: str
    mark: str

    def keys(self, wait_ms: int) -> list[str]:
        """Routing keys of a message beside the number of its partition. Raises ValueError for a wait that is too long."""
        return [*ladder.keys(wait_ms), self.mark]


class Delays:
    """known: of topics. On the loop's thread, but for asking, which waits for answers: at most one thread does, for all topics in turn."""

    def __init__(self, dialer: Dialer, loop: Loop, found: Found, refused: Refused) -> None:
        self.known: dict[str, Way] = {}
        self._dialer = dialer
        self._loop = loop
        self._found = found
        self._refused = refused
        self._waiting: dict[str, list[Entry]] = {}
        self._is_asking = False
        self._is_checked = False  # the ladder is as it has to be

    def add(self, entry: Entry) -> None:
        """The entry comes back by `found`, in order with the others of its topic, or is `refused`."""
        self._waiting.setdefault(entry.record.partition.topic, []).append(entry)
        self._ask()

    def waiting(self) -> list[Entry]:
        return [entry for entries in self._waiting.values() for entry in entries]

    def take_all(self) -> list[Entry]:
        self.known.clear()
        self._is_checked = False
        found = self.waiting()
        self._waiting.clear()
        return found

    def _ask(self) -> None:
        if not self._is_asking and self._waiting:
            self._is_asking = True
            topics = list(self._waiting)
            threading.Thread(target=self._make, args=(topics,), name="mqsdk-rabbitmq-delays", daemon=True).start()

    def _make(self, topics: list[str]) -> None:
        answers: dict[str, Way | Rejected] = {}
        try:
            with self._dialer.session(time.monotonic() + MAKE_S) as session:
                for topic in topics:
                    answers[topic] = way_of(session, topic, self._is_checked)
                    self._is_checked = self._is_checked or isinstance(answers[topic], Way)
        except BackendError as error:
            answers = {topic: answers.get(topic, rejection(error)) for topic in topics}
        self._loop.call(lambda: self._answered(answers))

    def _answered(self, answers: dict[str, Way | Rejected]) -> None:
        self._is_asking = False
        for topic, answer in answers.items():
            entries = self._waiting.pop(topic, [])
            if isinstance(answer, Way):
                self.known[topic] = answer
                self._found(entries)
            else:
                self._refused(entries, answer)
        self._ask()


def can_delay(session: Session) -> bool:
    return numbers_of(version_of(session)) >= ladder.OLDEST


def way_of(session: Session, topic: str, is_checked: bool) -> Way | Rejected:
    """Make what is not there of a topic's way to the ladder and back, and of the ladder. Raises UnsafeBackend.

    is_checked: the ladder needs no look.
    """
    if not can_delay(session):
        return _TOO_OLD
    queue_type = session.dialer.settings.own.queues
    with held(session, queue_type) as holder:
        about = holder.catalog.topics.get(topic)
        if about is None:
            return NO_TOPIC
        is_checked = is_checked or not holder.catalog.has_ladder
        if not about.mark:
            topology.make_delays(session, holder.catalog, topic, queue_type)
            holder.save()
    if not is_checked:
        ladder.check(session)
    return Way(names.delayed(topic, about.mark), about.mark)
