"""A clock that stands still until it is told to move."""

from __future__ import annotations

from mqsdk import units
from mqsdk.errors import Duration

# 2026-01-01T00:00:00Z. Any fixed instant would do; a fixed one makes timestamps in failing tests comparable between runs.
EPOCH_MS = 1_767_225_600_000


class VirtualClock:
    """`mqsdk.runtime.clock.Clock` whose time moves by `advance` only.

    Not thread-safe by lock: one thread moves it, others may read it (a single attribute).
    """

    def __init__(self, mono_s: float = 1000.0, wall_ms: int = EPOCH_MS) -> None:
        self._start_s = mono_s
        self._mono_s = mono_s
        self._wall_ms = wall_ms

    def mono(self) -> float:
        return self._mono_s

    def wall_ms(self) -> int:
        return self._wall_ms + round((self._mono_s - self._start_s) * 1000)

    def sleep(self, seconds: float) -> None:
        """A wait of the code under test passes at once, and time with it."""
        self._mono_s += seconds

    def advance(self, duration: Duration) -> None:
        """Move both times forward. ValueError for what is not a duration; see `mqsdk.units.seconds`."""
        self._mono_s += units.seconds(duration)

    def advance_to(self, mono_s: float) -> None:
        """Move to this monotonic time; a time that has passed changes nothing, because time never runs back."""
        self._mono_s = max(self._mono_s, mono_s)
