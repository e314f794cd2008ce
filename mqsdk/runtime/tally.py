"""What is counted by events: they are rare, so a lock does no harm."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from mqsdk.events import DeadLettered, Event, LinkChanged, Reloaded


class Tally:
    """dead_letters: by (topic, group, cluster, reason). reloads: by outcome. links: whether each cluster was connected, as last heard."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.dead_letters: Counter[tuple[str, str, str, str]] = Counter()
        self.reloads: Counter[str] = Counter()
        self.links: dict[str, bool] = {}

    def before(self, observe: Callable[[Event], None]) -> Callable[[Event], None]:
        """`observe`, with every event counted before it is told."""

        def counted(event: Event) -> None:
            self._count(event)
            observe(event)

        return counted

    def _count(self, event: Event) -> None:
        with self._lock:
            if type(event) is DeadLettered:
                self.dead_letters[event.topic, event.group, event.cluster, event.reason] += 1
            elif type(event) is Reloaded:
                self.reloads[event.outcome] += 1
            elif type(event) is LinkChanged:
                self.links[event.cluster] = event.up

    def dead_lettered(self) -> list[tuple[tuple[str, str, str, str], int]]:
        with self._lock:
            return list(self.dead_letters.items())

    def reloaded(self) -> list[tuple[str, int]]:
        with self._lock:
            return list(self.reloads.items())

    def linked(self) -> dict[str, bool]:
        with self._lock:
            return dict(self.links)
