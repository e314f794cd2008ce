"""What is done about a consumer that stands still: it is restarted once, and given up when that did not help."""

from __future__ import annotations

from typing import Literal, NamedTuple

Remedy = Literal["restart", "give_up"]


class Sight(NamedTuple):
    """One consumer as it is seen at one moment.

    ended: attempts that ended, well or not. stored_at: when the backend last confirmed a settle. unstored: what ended is not confirmed.
    waits: there is work that could run and does not. away: it has no partitions to work on now, or is being restarted anyway.
    """

    ended: int
    stored_at: float | None
    unstored: bool
    waits: bool
    away: bool


class Watchdog:
    """Judges one consumer by sights in the order of their times. One restart for each stretch without a confirmed settle or an end."""

    def __init__(self) -> None:
        self._last: Sight | None = None
        self._since: float | None = None  # it has been standing still
        self._restarted = False

    def judge(self, now: float, sight: Sight, patience_s: float) -> Remedy | None:
        """now: monotonic seconds. patience_s: how long it may stand still, before the restart and again after it."""
        last, self._last = self._last, sight
        stored = last is None or sight.stored_at != last.stored_at
        ended = last is None or sight.ended != last.ended
        if stored or (ended and not sight.unstored):
            self._restarted = False
        if stored or sight.away or not (sight.unstored or (sight.waits and not ended)):
            self._since = None
            return None
        if self._since is None:
            self._since = now
        if now - self._since < patience_s:
            return None
        self._since = None
        if self._restarted:
            return "give_up"
        self._restarted = True
        return "restart"

    def still_for(self, now: float) -> float:
        """Seconds that it has been standing still, as far as was seen; 0.0 when it is not."""
        return 0.0 if self._since is None else now - self._since
