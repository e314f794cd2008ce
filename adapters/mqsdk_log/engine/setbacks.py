"""What failed lately, and when it is worth another try: one thing that does not work must not stop the others."""

from __future__ import annotations

from collections.abc import Hashable

FIRST_S, LONGEST_S = 1.0, 30.0
FORGET_S = 60.0  # whatever has not failed for so long since its last try begins anew, and is told anew


class Setbacks:
    """Times are monotonic seconds. One thread."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[int, float]] = {}

    def add(self, what: Hashable, now: float) -> bool:
        """Note a failure: the next try after 1 s, 2 s, ... 30 s. True when it is the first one, to be told."""
        count, again_at = self._known.get(what, (0, 0.0))
        if now > again_at + FORGET_S:
            count = 0
        self._known[what] = count + 1, now + min(FIRST_S * 2.0 ** min(count, 10), LONGEST_S)
        return count == 0

    def holds(self, what: Hashable, now: float) -> bool:
        """Whether it is too early for another try."""
        return self.rest_s(what, now) > 0

    def rest_s(self, what: Hashable, now: float) -> float:
        """Seconds until another try; 0 when it may be tried now."""
        known = self._known.get(what)
        return 0.0 if known is None else max(known[1] - now, 0.0)
