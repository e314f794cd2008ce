"""Progress of one ownership: which positions are settled, and below which one all of them are.

Knows nothing of messages. Idea: contiguous commit with a set above it, as in Confluent's Parallel Consumer.
"""

from __future__ import annotations

Range = tuple[int, int]


class Watermark:
    """Settled positions as merged ranges above `low`.

    low: every position below it is settled; never falls. high: highest settled position + 1, `low` at first.
    Two dicts find a range by either end, so that adding costs O(1) whatever order completions come in.
    """

    __slots__ = ("_start_of", "_stop_of", "high", "low")

    def __init__(self, low: int) -> None:
        self.low = low
        self.high = low
        self._stop_of: dict[int, int] = {}
        self._start_of: dict[int, int] = {}

    def add(self, start: int, stop: int) -> None:
        """Mark start (included) to stop (excluded) settled. No position of it may have been added before (see `missing`)."""
        if stop > self.high:
            self.high = stop
        stop_of, start_of = self._stop_of, self._start_of
        if start == self.low:
            following = stop_of.pop(stop, None)
            if following is None:
                self.low = stop
            else:
                del start_of[following]
                self.low = following
            return
        left = start_of.pop(start, start)
        right = stop_of.pop(stop, stop)
        stop_of[left] = right
        start_of[right] = left

    def ranges(self) -> list[Range]:
        """Settled ranges above `low`, rising; no two of them touch."""
        return sorted(self._stop_of.items())

    def missing(self, start: int, stop: int) -> list[Range]:
        """What of start..stop (excluded) is not settled, as rising ranges. O(ranges): for gaps and restored sets, not for every record."""
        found: list[Range] = []
        at = max(start, self.low)
        for left, right in self.ranges():
            if right <= at:
                continue
            if left >= stop:
                break
            if left > at:
                found.append((at, left))
            at = right
        if at < stop:
            found.append((at, stop))
        return found
