"""The lag of the consumers of a process, asked for now and then: a scrape must not wait for a backend that does not answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from mqsdk.errors import MqError
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.inspection import Lag

EVERY_S = 5.0
# What is older says nothing about now, so it is not told.
KEPT_S = 60.0

Pair = tuple[str, str]


class Lags:
    """Asks on a thread of its own. ask: the lag of one (topic, group); raises MqError. pairs: which ones, asked for at every round."""

    def __init__(self, ask: Callable[[str, str], Lag], pairs: Callable[[], Sequence[Pair]], clock: Clock) -> None:
        self._ask = ask
        self._pairs = pairs
        self._clock = clock
        self._known: dict[Pair, tuple[float, Lag]] = {}
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="mqsdk-lag", daemon=True).start()

    def close(self) -> None:
        """Ask no more. Does not wait for an answer that is under way."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.refresh()
            self._stop.wait(EVERY_S)

    def refresh(self) -> None:
        """Ask for each pair once; one that cannot be had keeps what was known."""
        for pair in self._pairs():
            try:
                self._known[pair] = (self._clock.mono(), self._ask(*pair))
            except MqError:
                continue

    def get(self, topic: str, group: str) -> Lag | None:
        """What was last heard, None when that is nothing or too old."""
        at, lag = self._known.get((topic, group), (float("-inf"), None))
        return lag if self._clock.mono() - at <= KEPT_S else None
