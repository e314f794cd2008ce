"""How far a partition may run ahead of what is stuck in it; over the bound it is paused and an alarm says so."""

from __future__ import annotations

from collections.abc import Callable

from mqsdk.core.desk import Desk
from mqsdk.core.partition import Ownership
from mqsdk.events import SpanExceeded

# Between the watermark and the last position received, ordered only: the settled set above the watermark must fit the smallest metadata.
SPAN_POSITIONS = 12_000
# Reading goes on when everything is below this part of its bound, so that a partition at the bound does not alarm with each record.
RESUME = 0.75


class SpanGuard:
    """Watches what waits behind failures. `changed(now, ownership)` is called when time alone brought a partition over its bound."""

    def __init__(self, desk: Desk, changed: Callable[[float, Ownership], None]) -> None:
        self._desk = desk
        self._changed = changed

    def check(self, now: float, ownership: Ownership) -> None:
        """Pause or resume reading of this partition. Handlers go on: they are what brings the span down."""
        account = ownership.account
        if self._desk.spec.ordered:
            account.room = SPAN_POSITIONS - ownership.span
        if not ownership.spanned:
            if not ownership.parked and account.room > 0:
                return
            if self._is_over(now, ownership, 1.0):
                self._exceeded(now, ownership)
            self._watch_age(ownership)
        elif not self._is_over(now, ownership, RESUME):
            ownership.spanned = False
            ownership.open_account(self._desk.is_stopped)

    def _is_over(self, now: float, ownership: Ownership, part: float) -> bool:
        tuning, ordered = self._desk.tuning, self._desk.spec.ordered
        return (
            len(ownership.parked) > tuning.span_records * part
            or ownership.parked.bytes > tuning.span_bytes * part
            or (ordered and ownership.span >= SPAN_POSITIONS * part)
            or (ordered and self._age_s(now, ownership) >= tuning.span_age_s)
        )

    def _exceeded(self, now: float, ownership: Ownership) -> None:
        ownership.spanned = True
        ownership.open_account(self._desk.is_stopped)
        origin = ownership.origin
        where = (origin.topic, origin.group, origin.cluster, origin.partition)
        waiting = max(len(ownership.parked), ownership.span if self._desk.spec.ordered else 0)
        self._desk.report(SpanExceeded(*where, waiting, ownership.parked.bytes, self._age_s(now, ownership)))

    @staticmethod
    def _age_s(now: float, ownership: Ownership) -> float:
        since = ownership.parked.since()
        return 0.0 if since is None else now - since

    def _watch_age(self, ownership: Ownership) -> None:
        since = ownership.parked.since()
        if since is not None and self._desk.spec.ordered and not ownership.age_watched and not ownership.spanned:
            ownership.age_watched = True
            self._desk.timers.at(since + self._desk.tuning.span_age_s, self._age_due, ownership)

    def _age_due(self, now: float, ownership: Ownership, _: object) -> None:
        ownership.age_watched = False
        if not ownership.gone:
            self._changed(now, ownership)
