"""A consumer's part in moving what is delayed: it looks after the partitions that it owns, and knows when to look again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from mqsdk.spi import Partition
from mqsdk_log.engine.errors import DiskFull, LockTimeout, WriteFailed, reason
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.engine.setbacks import Setbacks
from mqsdk_log.owned import FAILURES, Owned, is_alone

PATIENCE_S = 0.005  # for another mover or a writer, by a thread that has leases to renew
FIRST_REST_S, LONGEST_REST_S = 0.01, 0.25  # after waiting in vain: whoever holds the lock is moving, or was stopped
LOOK_S = 5.0  # who wants to know the end waits so long for what is due before it


class Mover:
    """One thread."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._setbacks = Setbacks()
        self._rests: dict[Partition, tuple[float, float]] = {}  # partition: (for how long, until)

    def move(self, owned: Iterable[Owned]) -> None:
        """Give what is due its place; a chunk of each partition. A handle that is dead raises; other failures are told once."""
        now_ms = time.time_ns() // 1_000_000
        for one in owned:
            if one.log.due_ms <= now_ms and self._may(one.partition, time.monotonic()):
                self._move(one, now_ms)

    def wait_s(self, owned: Iterable[Owned]) -> float:
        """Seconds until something is due, and worth a look."""
        now_ms, now = time.time_ns() / 1_000_000, time.monotonic()
        return min((max((one.log.due_ms - now_ms) / 1000, self._rest_s(one.partition, now)) for one in owned), default=float("inf"))

    def _move(self, one: Owned, now_ms: int) -> None:
        try:
            one.log.move(now_ms, time.monotonic() + PATIENCE_S)
        except LockTimeout:
            last_s = self._rests.get(one.partition, (0.0, 0.0))[0]
            rest_s = min(max(2 * last_s, FIRST_REST_S), LONGEST_REST_S)
            self._rests[one.partition] = rest_s, time.monotonic() + rest_s
        except FAILURES as error:
            if not is_alone(error):
                raise
            if self._setbacks.add(one.partition, time.monotonic()):
                where = f"{one.partition.topic}/{one.partition.number}"
                self._report(f"{where}: what is delayed cannot be moved ({reason(error)}); tried again until it succeeds")
        else:
            self._rests.pop(one.partition, None)

    def _may(self, partition: Partition, now: float) -> bool:
        return self._rest_s(partition, now) <= 0

    def _rest_s(self, partition: Partition, now: float) -> float:
        return max(self._rests.get(partition, (0.0, 0.0))[1] - now, self._setbacks.rest_s(partition, now))


def end_of_now(log: PartitionLog) -> int:
    """The end, behind what is due by now. What cannot be moved, on a full disk for example, is not counted."""
    now_ms, deadline = time.time_ns() // 1_000_000, time.monotonic() + LOOK_S
    with suppress(LockTimeout, DiskFull, WriteFailed):
        while log.move(now_ms, deadline) and time.monotonic() < deadline:
            continue
    return log.end()
