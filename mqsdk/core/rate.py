"""How many messages may start by now under a rate: a token bucket, kept as the one moment at which it is full again. Pure.

In any span of t seconds at most `burst + rate x t` messages start. A batch is never cut: it starts with as many tokens as it has messages,
or with a full bucket, and what it took beyond is waited for afterwards.
"""

from __future__ import annotations

import math

# What was not used is kept for so long: enough to hide the grain of timers and polls, too little to be a burst for what stands behind.
BURST_S = 0.1
# A consumer that waits for tokens alone is woken for so much of them at once, so that a high rate costs no wake-up per message.
STEP_S = 0.01
# A token that is there but for the rounding of floats is there.
ROUNDING = 1e-7


class Bucket:
    """Full at first. Moments are monotonic seconds. burst: what may start at once after an idle time, at least 1."""

    __slots__ = ("_full_at", "_gap_s", "burst", "step")

    def __init__(self, per_second: float) -> None:
        self._gap_s = 1 / per_second
        self._full_at = -math.inf
        self.burst = max(1, int(per_second * BURST_S))
        self.step = max(1, int(per_second * STEP_S))

    def retuned(self, now: float, per_second: float) -> Bucket:
        """A bucket of another rate in which as much is missing, at most all of it: a wait by the old rate does not outlast it."""
        bucket = Bucket(per_second)
        missing = max(0.0, self._full_at - now) / self._gap_s
        bucket._full_at = now + min(missing, bucket.burst) * bucket._gap_s
        return bucket

    def moment(self, count: int) -> float:
        """From when on `count` messages may start together."""
        return self._full_at - (self.burst - min(count, self.burst) + ROUNDING) * self._gap_s

    def available(self, now: float) -> int:
        """How many messages may start now, 0 before `moment(1)` and only then: who waits for a moment is not sent away again."""
        if now < self.moment(1):
            return 0
        missing = max(0.0, self._full_at - now) / self._gap_s
        return max(1, self.burst - math.ceil(missing - ROUNDING))

    def take(self, now: float, count: int) -> None:
        self._full_at = max(self._full_at, now) + count * self._gap_s

    def give_back(self, count: int) -> None:
        """So many that were taken did not start."""
        self._full_at -= count * self._gap_s
