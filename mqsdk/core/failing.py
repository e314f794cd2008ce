"""What becomes of messages that failed: a retry after a wait, here or as a delayed copy, a dead letter, or nothing more.

A copy, of either kind, is confirmed before the original is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mqsdk.core import attempts, deadletter
from mqsdk.core.actions import Copy, CopyDone, Failure
from mqsdk.core.attempts import Attempt, DeadLetter, Drop, HaltKey, HaltPartition, RetryAfter
from mqsdk.core.desk import Desk
from mqsdk.core.following import Following
from mqsdk.core.halting import Halting
from mqsdk.core.parking import DEAD_LETTER, DROP, HALTS
from mqsdk.core.partition import Ownership
from mqsdk.events import DeadLetterDelayed, DeadLettered, Dropped, Retried
from mqsdk.spi.events import Outcome, Record, Rejected, Stored

COPY_FIRST_S, COPY_LONGEST_S = 1.0, 30.0
FOLLOWED = "an earlier message of its key is a dead letter"
USED_UP = "attempts used up before this owner took over"
CRASHED = "the process ended {} times while this message ran, the last time alone"


class _Copying:
    """A copy on its way: a dead letter, or, with a due time, a retry. tries: how often storing it was not confirmed."""

    __slots__ = ("attempts", "copy", "error", "ownership", "reason", "tries")

    def __init__(self, ownership: Ownership, copy: Copy, failed: int, reason: str = "", error: str = "") -> None:
        self.ownership = ownership
        self.copy = copy
        self.attempts = failed
        self.reason = reason
        self.error = error
        self.tries = 0


def _error(attempt: Attempt, reason: str = "") -> str:
    if reason == "followed":
        return FOLLOWED
    if attempt.crashes > attempts.CRASHES_ALONE:
        return CRASHED.format(attempt.crashes)
    return attempt.error or USED_UP


def _decided(kind: int, attempt: Attempt) -> DeadLetter | Drop | None:
    """What a release decided of a halted message, if anything."""
    if kind == DEAD_LETTER:
        return DeadLetter("crash_loop" if attempt.crashes > attempts.CRASHES_ALONE else "exhausted")
    return Drop() if kind == DROP else None


class Failing:
    """Retries and dead letters of one consumer. `changed(now, ownership)` is called when records became ready or settled."""

    def __init__(self, desk: Desk, halting: Halting, following: Following, changed: Callable[[float, Ownership], None]) -> None:
        self._desk = desk
        self._halting = halting
        self._following = following
        self._changed = changed
        self._copies: dict[int, _Copying] = {}

    # --- failed attempts --------------------------------------------------------------------------------------------------------

    def failed(self, now: float, ownership: Ownership, number: int, failures: Sequence[tuple[Record, Failure]]) -> None:
        """Attempt `number` of these records failed. Of a key that fails more than once, later records wait behind the first."""
        unfinished: set[bytes | None] = set()
        waiting: list[Record] = []
        behind: list[Record] = []
        for record, failure in sorted(failures, key=lambda pair: pair[0].position):
            if self._fail(now, ownership, record, number, failure):
                (behind if self._desk.spec.ordered and record.key in unfinished else waiting).append(record)
            if record.position in ownership.attempts:
                unfinished.add(record.key)
        if behind:
            ownership.queue.back(behind)  # first, so that they are parked with what they wait for
        for record in waiting:
            self.wait(now, ownership, record)
        if behind:
            self.take_due(now, ownership)

    def _fail(self, now: float, ownership: Ownership, record: Record, number: int, failure: Failure) -> bool:
        """Note the failure; True when the record has not ended."""
        desk = self._desk
        desk.counters.failed += 1
        ownership.dirty |= desk.spec.sparse_bytes > 0  # the count is saved beside the watermark
        attempt = ownership.attempts.setdefault(record.position, Attempt(0))
        attempt.fail(now, number, failure.error, failure.place)
        verdict = attempts.decide(desk.tuning.retry, number, failure, desk.rng.random())
        if isinstance(verdict, DeadLetter | Drop):
            self._finish(now, ownership, record, verdict)
            return False
        if not isinstance(verdict, RetryAfter):
            return True  # halted when it comes to its turn
        attempt.retry_at = now + verdict.delay_s
        desk.counters.retried += 1
        names = deadletter.names(ownership.origin, record)
        desk.report(Retried(*names, number, verdict.delay_s, failure.error, failure.place))
        if desk.spec.longest_wait_s is None or verdict.delay_s <= desk.spec.longest_wait_s or ownership.fenced:
            return True
        self._retry_elsewhere(now, ownership, record, attempt)
        return False

    def _retry_elsewhere(self, now: float, ownership: Ownership, record: Record, attempt: Attempt) -> None:
        """As a copy that is due then, so that nothing is kept here meanwhile."""
        desk = self._desk
        assert desk.spec.retry is not None
        assert attempt.retry_at is not None
        extra, due_ms = deadletter.origin_of(ownership.origin, record), desk.wall_ms(attempt.retry_at)
        self._park(now, ownership, record)
        ownership.copying += 1
        copy = Copy(0, desk.spec.retry, record, ownership.origin, extra, attempt.failed + 1, due_ms)
        self._copy(_Copying(ownership, copy, attempt.failed))

    def take_due(self, now: float, ownership: Ownership) -> None:
        """Records with failed attempts whose turn in the queue has come."""
        due = ownership.queue.due
        while due:
            self.wait(now, ownership, due.pop(0))

    def wait(self, now: float, ownership: Ownership, record: Record) -> None:
        """Run it again at its time, not earlier, or end it if its attempts are used up or somebody has decided so."""
        if ownership.fenced:
            return
        attempt = ownership.attempts[record.position]
        policy = self._desk.tuning.retry
        kind = ownership.parked.kind(record.position)
        if kind in HALTS:
            self._halting.hold(now, ownership, record, kind)
            return
        ended = _decided(kind, attempt) or attempts.ended(policy, attempt)
        if kind == 0 and self._following.follows(ownership, record):
            ended = DeadLetter("followed")
        if isinstance(ended, HaltKey | HaltPartition):
            self._halting.halt(now, ownership, record, attempt, ended, _error(attempt))
            return
        if ended is not None:
            self._finish(now, ownership, record, ended)
            return
        if attempt.retry_at is None:
            attempt.retry_at = now + policy.backoff.delay_s(attempt.failed, self._desk.rng.random())
        if attempt.retry_at <= now:
            ownership.queue.again.append(record)
            self._changed(now, ownership)
            return
        self._park(now, ownership, record)
        self._desk.timers.at(attempt.retry_at, self._retry_due, ownership, record)

    def _retry_due(self, now: float, ownership: Ownership, record: Record) -> None:
        if not ownership.gone:
            self.wait(now, ownership, record)

    def _park(self, now: float, ownership: Ownership, record: Record) -> None:
        ownership.park([record, *ownership.queue.block(record.key)], now)

    # --- the end of a message ---------------------------------------------------------------------------------------------------

    def _finish(self, now: float, ownership: Ownership, record: Record, verdict: DeadLetter | Drop) -> None:
        attempt = ownership.attempts[record.position]
        if isinstance(verdict, Drop):
            self._desk.counters.dropped += 1
            self._desk.report(Dropped(*deadletter.names(ownership.origin, record), attempt.failed, _error(attempt), attempt.place))
            self._settle(now, ownership, record)
            return
        if not ownership.fenced:
            self._park(now, ownership, record)
        ownership.copying += 1
        self._copy(_Copying(ownership, self._letter(now, ownership, record, attempt, verdict.reason), *self._why(attempt, verdict)))

    @staticmethod
    def _why(attempt: Attempt, verdict: DeadLetter) -> tuple[int, str, str]:
        return attempt.failed, verdict.reason, _error(attempt, verdict.reason)

    def _letter(self, now: float, ownership: Ownership, record: Record, attempt: Attempt, reason: str) -> Copy:
        desk = self._desk
        first = now if attempt.first_at is None else attempt.first_at
        last = now if attempt.last_at is None else attempt.last_at
        extra = deadletter.headers(
            ownership.origin,
            record,
            attempts=attempt.failed,
            reason=reason,
            error=_error(attempt, reason),
            first_at_ms=desk.wall_ms(first),
            last_at_ms=desk.wall_ms(last),
        )
        return Copy(0, deadletter.topic(desk.spec), record, ownership.origin, extra)

    def _settle(self, now: float, ownership: Ownership, record: Record) -> None:
        ownership.end([record])
        self._changed(now, ownership)
        if not ownership.fenced:
            self.take_due(now, ownership)

    # --- copies -----------------------------------------------------------------------------------------------------------------

    def _copy(self, copying: _Copying) -> None:
        token = self._desk.token()
        self._copies[token] = copying
        self._desk.actions.append(copying.copy._replace(token=token))

    def copied(self, now: float, event: CopyDone) -> None:
        """The result of a Copy; only `Stored` settles the original."""
        copying = self._copies.pop(event.token, None)
        if copying is None:  # of an ownership that was lost meanwhile
            if isinstance(event.outcome, Stored):
                self._following.stored_elsewhere()
            return
        ownership, record = copying.ownership, copying.copy.record
        if copying.copy.due_ms is not None:
            ownership.copying -= 1
            if isinstance(event.outcome, Stored):
                self._settle(now, ownership, record)
            else:
                self.wait(now, ownership, record)  # it is still here
        elif isinstance(event.outcome, Stored):
            ownership.copying -= 1
            self._desk.counters.dead_lettered += 1
            names = deadletter.names(ownership.origin, record)
            place = ownership.attempts[record.position].place if record.position in ownership.attempts else ""
            self._desk.report(DeadLettered(*names, copying.attempts, copying.reason, copying.error, place))
            self._following.stored(now, ownership, record)
            self._settle(now, ownership, record)
        else:
            self._delay(now, copying, event.outcome)

    def _delay(self, now: float, copying: _Copying, outcome: Outcome) -> None:
        """Not stored for certain: try again, a second copy of one origin does no harm, a lost one would."""
        wait = min(COPY_FIRST_S * 2.0 ** min(copying.tries, 16), COPY_LONGEST_S)
        copying.tries += 1
        if copying.tries == 1:
            what = f"{outcome.code}: {outcome.what}" if isinstance(outcome, Rejected) else getattr(outcome, "what", "")
            names = deadletter.names(copying.ownership.origin, copying.copy.record)
            self._desk.report(DeadLetterDelayed(*names, deadletter.clean(what)))
        self._desk.timers.at(now + wait, self._copy_again, copying.ownership, copying)

    def _copy_again(self, now: float, ownership: Ownership, copying: _Copying) -> None:
        if not ownership.gone:
            self._copy(copying)

    def forget(self, ownership: Ownership) -> None:
        """The ownership is over: its copies may still be stored, nobody waits for them."""
        for token in [token for token, copying in self._copies.items() if copying.ownership is ownership]:
            del self._copies[token]
