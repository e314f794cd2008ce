"""How long calls took, as a histogram: counted per job, so that a quick handler does not pay for it."""

from __future__ import annotations

from bisect import bisect_left

# From what a no-op takes to the default timeout, about five apart: a change of the order of things is seen, and nine series are cheap.
BOUNDS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0)


class Durations:
    """counts: calls by the first bound that they do not exceed, those beyond the last bound at the end. sum_s: seconds of all."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float, calls: int) -> None:
        """So many calls took so long each: the mean of a job, which is the time of the call where calls are slow enough to matter."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += calls
        self.sum_s += seconds * calls
