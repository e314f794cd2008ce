"""Topics of the group's own that are read beside the topic: finding out in which of them the group has begun."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from mqsdk.spi import BackendError
from mqsdk_rabbitmq.catalog import held
from mqsdk_rabbitmq.session import Dialer
from mqsdk_rabbitmq.wire import Loop

LOOK_S = 10.0
AGAIN_S = 1.0


class Companions:
    """Looks into the catalog, on a thread of its own: it waits for answers. Everything else happens on the loop's thread.

    A look follows each connect, when members can be told already, and each note that the group begins somewhere: so none is missed.
    found: called with what is not known yet, topic -> number of partitions; False where there is no connection to read it over.
    """

    def __init__(self, dialer: Dialer, loop: Loop, group: str, topics: Iterable[str], found: Callable[[Mapping[str, int]], bool]) -> None:
        self._dialer = dialer
        self._loop = loop
        self._group = group
        self._topics = tuple(topics)
        self._found = found
        self._known: set[str] = set()
        self._is_looking = self._is_told = False

    def forget(self) -> None:
        """The connection is gone; a topic may be deleted before there is another."""
        self._known.clear()

    def look(self) -> None:
        missing = [topic for topic in self._topics if topic not in self._known]
        if self._is_looking or not missing:
            self._is_told = self._is_looking
            return
        self._is_looking, self._is_told = True, False
        threading.Thread(target=self._ask, args=(missing,), name="mqsdk-rabbitmq-look", daemon=True).start()

    def _ask(self, missing: list[str]) -> None:
        found: dict[str, int] | None = None
        try:
            with self._dialer.session(time.monotonic() + LOOK_S) as session, held(session, self._dialer.settings.own.queues) as holder:
                topics = holder.catalog.topics
            found = {name: topics[name].partitions for name in missing if name in topics and self._group in topics[name].groups}
        except BackendError:
            pass  # there is a next time
        self._loop.call(lambda: self._answered(found))

    def _answered(self, found: dict[str, int] | None) -> None:
        self._is_looking = False
        if found is None:
            self._loop.later(AGAIN_S, self.look)
            return
        new = {topic: count for topic, count in found.items() if topic not in self._known}
        if new and self._found(new):
            self._known.update(new)
        if self._is_told:
            self.look()
