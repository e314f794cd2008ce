"""The older cluster of a topic that was given another one: when a consumer may stop reading it, and when it has to read there again.

A process that follows the change later still writes to the old cluster. So it is read until it has been empty and silent for a while, and
then watched for a day without a consumer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mqsdk.spi.events import PartitionProgress

WATCH_EVERY_S = 30.0
WATCH_S = 24 * 3600.0
LOOK_LONGEST_S, LOOK_SHORTEST_S = 1.0, 0.02

Verdict = Literal["open", "close", "over"]


class OldSide:
    """Of one consumer. Times are monotonic seconds, `settle_s` how long it must be empty and silent. closes: False = read it for the day.
    is_held: it is read until somebody says otherwise.

    patience_s: how long what appears on a closed one is left alone: it may be of somebody who has followed a change back to this cluster,
    before this consumer has heard of it. Read at once it would overtake what is left on the newer one.
    is_open: a consumer reads it. is_quiet: nothing was left there when it was looked at last. until: when the watch ends.
    """

    def __init__(self, now: float, settle_s: float, *, closes: bool = True, patience_s: float = 0.0, is_held: bool = False) -> None:
        self.settle_s = settle_s
        self.patience_s = patience_s
        self.is_held = is_held
        self.is_open = True
        self.until = now + WATCH_S
        self._closes = closes
        self._quiet_since: float | None = None
        self._found_at: float | None = None
        self._ends: tuple[int, ...] = ()
        self._next = now

    @property
    def is_quiet(self) -> bool:
        return self._quiet_since is not None

    def due(self) -> float:
        """When to look again."""
        return self._next

    def looked(self, now: float, progress: Sequence[PartitionProgress], held: int) -> Verdict | None:
        """progress: of the group there, what waits in its retry topic included. held: messages in flight or waiting in this process."""
        left = sum(one.messages + one.delayed for one in progress) + held
        ends = tuple(one.end for one in progress)
        is_still, self._ends = ends == self._ends, ends
        if left or not is_still:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        self._next = now + (self._every_s() if self.is_open and (self._closes or self.is_held) else WATCH_EVERY_S)
        return self._verdict(now, left)

    def _every_s(self) -> float:
        return max(LOOK_SHORTEST_S, min(LOOK_LONGEST_S, self.settle_s / 4))

    def _verdict(self, now: float, left: int) -> Verdict | None:
        if self.is_held:
            return None
        if left and not self.is_open:
            return self._found(now)
        self._found_at = None
        if now >= self.until and not left:
            return "over"
        if self.is_open and self._closes and self._quiet_since is not None and now - self._quiet_since >= self.settle_s:
            self.is_open = False
            self.until = now + WATCH_S
            self._next = now + WATCH_EVERY_S
            return "close"
        return None

    def _found(self, now: float) -> Verdict | None:
        self._found_at = now if self._found_at is None else self._found_at
        if now - self._found_at >= self.patience_s:
            return self.reopened(now)
        self._next = min(self._next, self._found_at + self.patience_s)
        return None

    def reopened(self, now: float) -> Verdict:
        """Something is there again: the day begins anew."""
        self.is_open = True
        self.until = now + WATCH_S
        self._quiet_since = self._found_at = None
        self._next = now
        return "open"

    def failed(self, now: float) -> None:
        """The cluster did not answer: nothing is known, so it is not quiet."""
        self._quiet_since = None
        self._next = now + (LOOK_LONGEST_S if self.is_open else WATCH_EVERY_S)
