"""How long something has stood still, on the observer's own monotonic clock. Times of two processes are never compared."""

from __future__ import annotations

from collections.abc import Hashable


class Observation:
    """Remembers since when each watched value has been the same. One thread."""

    def __init__(self, interval_s: float, tolerance_s: float) -> None:
        """interval_s: how often the observer looks. tolerance_s: an observer later than that begins all counts anew: it may have been
        stopped together with what it watches, and would take a neighbour for dead that had no chance to move."""
        self.interval_s = interval_s
        self._latest_s = interval_s + tolerance_s
        self._looked = float("-inf")
        self._seen: dict[Hashable, tuple[int, float]] = {}

    def begin(self, now: float) -> None:
        """Call once per look, before any `quiet_s`."""
        if now - self._looked > self._latest_s:
            self._seen.clear()
        self._looked = now

    def quiet_s(self, what: Hashable, value: int, now: float) -> float:
        """Seconds for which `value` has been seen unchanged."""
        known = self._seen.get(what)
        if known is None or known[0] != value:
            self._seen[what] = (value, now)
            return 0.0
        return now - known[1]
