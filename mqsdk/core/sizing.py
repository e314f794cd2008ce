"""How many records one job gets."""

from __future__ import annotations

# A hand-over between threads costs 10 to 20 us; a millisecond of work hides it and still spreads well over workers.
WORK_S = 0.001
LARGEST = 128
FIRST = 8
# Below this a sync handler is all interpreter: parallel workers gain nothing, so jobs need not be spread over them.
CHEAP_S = 0.00002
# Records of one job run one after another; an async handler that really waits must have a job to itself.
WAITS_S = 0.0002


class JobSize:
    """Follows the measured time per record: at once down, slowly up (a descheduled worker looks slow)."""

    __slots__ = ("_cost_s", "_is_async")

    def __init__(self, is_async: bool) -> None:
        self._is_async = is_async
        self._cost_s: float | None = None

    def observe(self, records: int, elapsed_s: float) -> None:
        """A job took so long for so many records that really ran."""
        if records <= 0:
            return
        cost, known = elapsed_s / records, self._cost_s
        if known is None:
            self._cost_s = cost
        else:
            self._cost_s = known + (cost - known) * (0.5 if cost < known else 0.1)

    def next(self, ready: int, workers: int) -> tuple[int, int]:
        """(size, starts) of the next job: at most so many records, of which so many could as well start elsewhere at the same time.

        ready: records (ordered: keys) that could start now. workers: how many could run at once.
        """
        cost = self._cost_s
        if cost is None:
            size = 1 if self._is_async else FIRST
        elif self._is_async and cost > WAITS_S:
            return 1, 1
        else:
            size = LARGEST if cost * LARGEST <= WORK_S else max(1, int(WORK_S / cost))
            if cost < CHEAP_S:
                return size, size
        return size, max(1, min(size, -(-ready // workers)))
