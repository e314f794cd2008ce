"""Time, injected everywhere so that tests can turn it. Inside: monotonic seconds; outside: wall-clock milliseconds."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def mono(self) -> float:
        """Monotonic seconds."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970, UTC."""

    def sleep(self, seconds: float) -> None:
        """Wait; only callers' threads and the sender do, for repeats of a publish."""


class SystemClock:
    mono = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    @staticmethod
    def wall_ms() -> int:
        return time.time_ns() // 1_000_000
