"""Whether a consumer that has work gets any of it done. Overdue handlers are told one by one; this sees a consumer that stands still."""

from __future__ import annotations

from collections.abc import Iterable

from mqsdk.core.desk import Desk
from mqsdk.core.partition import Ownership
from mqsdk.events import Stalled


class StallGuard:
    """Reports a stall once; the next one only after something has ended in between."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._ended = 0
        self._since: float | None = None  # nothing has ended since, although something is in flight
        self._reported = False

    @property
    def is_stalled(self) -> bool:
        return self._reported

    def check(self, now: float, owned: Iterable[Ownership], is_held: bool) -> None:
        """Called with every feed. is_held: nothing runs, because a limit says wait."""
        counters = self._desk.counters
        ended = counters.handled + counters.dead_lettered + counters.dropped + counters.failed
        if ended != self._ended or self._desk.is_stopped or is_held or not any(ownership.account.records for ownership in owned):
            self._ended, self._since, self._reported = ended, None, False
        elif self._since is None:
            self._since = now
        elif not self._reported and now - self._since >= self._desk.tuning.stuck_after_s:
            self._reported = True
            spec = self._desk.spec
            self._desk.report(Stalled(spec.topic, spec.group, spec.cluster, now - self._since))

    def next(self) -> float | None:
        """When `check` may have something to report; monotonic seconds."""
        return None if self._since is None or self._reported else self._since + self._desk.tuning.stuck_after_s
