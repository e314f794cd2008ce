"""Clients of a cluster that were replaced by others while running: closed when nothing uses them any more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from mqsdk.runtime.clock import Clock
from mqsdk.spi import Backend

log = logging.getLogger("mqsdk.app")

CLOSE_S = 5.0


class Reader(Protocol):
    """A consumer loop, or a mover."""

    def exchange(self, deadline: float, done: Callable[[], None], /) -> None: ...


class Retired:
    """One client on its way out: its consumers hand back, calls that began before have until their deadline, then it closes."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._left = threading.Condition()
        self._consumers = 0
        self._hurried = False
        self._thread: threading.Thread | None = None

    def begin(self, loops: Sequence[Reader], handed_back_by: float, calls_s: float) -> None:
        """handed_back_by: monotonic seconds. calls_s: how long a publish that has begun may still take."""
        self._consumers = len(loops)
        for loop in loops:
            loop.exchange(handed_back_by, self._one_left)
        self._thread = threading.Thread(target=self._run, args=(calls_s,), name=f"mqsdk-retire-{self._backend.name}", daemon=True)
        self._thread.start()

    def _one_left(self) -> None:
        with self._left:
            self._consumers -= 1
            self._left.notify_all()

    def _run(self, calls_s: float) -> None:
        with self._left:
            self._left.wait_for(lambda: self._hurried or not self._consumers)
            self._left.wait_for(lambda: self._hurried, calls_s)
        try:
            self._backend.close(self._clock.mono() + CLOSE_S)
        except Exception as error:
            log.warning("cluster %s: closing the client that was replaced failed: %s", self._backend.name, type(error).__name__)

    def close(self, deadline: float) -> None:
        """Close it now; its consumers have been stopped. deadline: monotonic seconds."""
        with self._left:
            self._hurried = True
            self._left.notify_all()
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - self._clock.mono()))
