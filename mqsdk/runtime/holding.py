"""Publishes that wait while their topic is given another cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Hold:
    """Covers the topics whose cluster changes. Nothing of them goes to the new one before the hold is released."""

    __slots__ = ("_released", "covers")

    def __init__(self, covers: Callable[[str], bool]) -> None:
        self.covers = covers
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    def wait(self, timeout_s: float) -> bool:
        """Until it is released; False at the timeout."""
        return self._released.wait(timeout_s)
