"""A clock that stands still until it is told to move."""

from __future__ import annotations

import math

from mqsdk import units
from mqsdk.errors import Duration

# 2026-01-01T00:00:00Z. Any fixed instant would do; a fixed one makes timestamps in failing tests comparable between runs.
EPOCH_MS = 1_767_225_600_000


class VirtualClock:
    """`mqsdk.runtime.clock.Clock` whose time moves by `advance` and `sleep` only.

    Kept in whole nanoseconds, so that ten advances of 100 ms are one of a second. Not thread-safe: one thread moves it, others may read it.
    """

    def __init__(self, mono_s: float = 1000.0, wall_ms: int = EPOCH_MS) -> None:
        self._start_ns = self._now_ns = round(mono_s * 1e9)
        self._wall_ms = wall_ms

    def mono(self) -> float:
        return self._now_ns / 1e9

    def wall_ms(self) -> int:
        return self._wall_ms + (self._now_ns - self._start_ns) // 1_000_000

    def sleep(self, seconds: float) -> None:
        """A wait of the code under test passes at once, and time with it."""
        self._now_ns += max(0, round(seconds * 1e9))

    def advance(self, duration: Duration) -> None:
        """Move both times forward. ValueError for what is not a duration; see `mqsdk.units.seconds`."""
        self.sleep(units.seconds(duration))

    def advance_to(self, mono_s: float) -> None:
        """Move to this monotonic time or the next nanosecond after it; a time that has passed changes nothing."""
        target = math.ceil(mono_s * 1e9)
        while target / 1e9 < mono_s:  # the product may have rounded down
            target += 1
        self._now_ns = max(self._now_ns, target)
