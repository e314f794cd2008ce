"""When progress is told to the backend, and what its answers mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mqsdk.core.actions import Job, Settle
from mqsdk.core.desk import Desk
from mqsdk.core.partition import Ownership
from mqsdk.core.suspects import Suspects
from mqsdk.core.watermark import Range
from mqsdk.spi.events import Partition, Settled

# A settle without an answer holds back the next one for so long.
ANSWER_S = 1.0
REPEAT_FIRST_S, REPEAT_LONGEST_S = 0.1, 5.0


class _Sent(NamedTuple):
    """jobs: what it writes down before they start."""

    ownership: Ownership
    done: tuple[Range, ...]
    final: bool
    jobs: list[Job]


class Settling:
    """Settles of one consumer. `stale` is called with an ownership that the backend says is over."""

    def __init__(self, desk: Desk, suspects: Suspects, stale: Callable[[float, Ownership], None]) -> None:
        self._desk = desk
        self._suspects = suspects
        self._stale = stale
        self._sent: dict[int, _Sent] = {}
        self._dirty: dict[Ownership, None] = {}
        self._finals: dict[Ownership, int] = {}
        self.last_stored_at: float | None = None

    def note(self, ownership: Ownership) -> None:
        """Something of it may have been settled."""
        if ownership.dirty:
            self._dirty[ownership] = None

    def unconfirmed(self) -> int:
        """Partitions handed back whose last settle has no answer yet."""
        return len(self._finals)

    def tick(self, now: float) -> None:
        """Settle what is due: at once where nothing else is in flight, else not more often than every `settle_every_s`."""
        for ownership in self._suspects.asking():
            self.note(ownership)
        for ownership in list(self._dirty):
            if ownership.gone or not ownership.dirty:
                del self._dirty[ownership]
            elif self._moment(ownership) <= now:
                del self._dirty[ownership]
                self._send(now, ownership, final=False)

    def next(self) -> float | None:
        """When `tick` has something to do; monotonic seconds."""
        return min((self._moment(ownership) for ownership in self._dirty), default=None)

    def _moment(self, ownership: Ownership) -> float:
        moment = ownership.settle_not_before
        if ownership.unanswered:
            return max(moment, ownership.settled_at + ANSWER_S)
        return moment if ownership.is_quiet or ownership.is_urgent else max(moment, ownership.settled_at + self._desk.spec.settle_every_s)

    def final(self, now: float, ownership: Ownership) -> None:
        """The last settle of an ownership: it is handed back."""
        self._dirty.pop(ownership, None)
        self._send(now, ownership, final=True)

    def last(self, now: float, ownership: Ownership) -> None:
        """What has ended so far, because the process is about to end; the partition is not handed back."""
        self._dirty.pop(ownership, None)
        tells = ownership.dirty or ownership.unanswered != 0
        if ownership.dirty or self._desk.spec.sparse_bytes:  # that it ends in order is worth saying, not worth waiting for
            self._send(now, ownership, final=False, in_order=True)
        if tells:
            self._finals[ownership] = ownership.unanswered

    def _send(self, now: float, ownership: Ownership, final: bool, in_order: bool = False) -> None:
        desk = self._desk
        token = desk.token()
        progress = ownership.progress(token, desk.spec.sparse_bytes, final, in_order)
        self._sent[token] = _Sent(ownership, progress.done, final, self._suspects.announced(ownership))
        ownership.unanswered = token
        ownership.settled_at = now
        ownership.dirty = ownership.is_urgent = False
        if final:
            self._finals[ownership] = token
        desk.actions.append(Settle(progress))

    def answered(self, now: float, event: Settled) -> None:
        """An answer of the backend; one that was not asked for changes nothing."""
        sent = self._sent.pop(event.token, None)
        if sent is None or (sent.ownership.partition, sent.ownership.epoch) != (event.partition, event.epoch):
            return
        ownership = sent.ownership
        if ownership.unanswered == event.token:
            ownership.unanswered = 0
        if event.outcome == "stored":
            ownership.settle_failures = 0
            ownership.stored_token = max(ownership.stored_token, event.token)
            ownership.settle_not_before = float("-inf")
            self.last_stored_at = now
            self._suspects.stored(ownership, sent.jobs)
        elif event.outcome == "failed":
            self._failed(now, ownership, sent)
            return
        elif not ownership.gone:
            self._stale(now, ownership)
        if sent.final:
            self._finals.pop(ownership, None)

    def _failed(self, now: float, ownership: Ownership, sent: _Sent) -> None:
        wait = min(REPEAT_FIRST_S * 2.0 ** min(ownership.settle_failures, 16), REPEAT_LONGEST_S)
        ownership.settle_failures += 1
        ownership.settle_not_before = now + wait
        ownership.fresh = [*sent.done, *ownership.fresh]
        ownership.dirty = True
        ownership.is_urgent = bool(sent.jobs)
        if sent.final:
            self._desk.timers.at(now + wait, self._repeat_final, ownership)
        elif not ownership.gone:
            self._dirty[ownership] = None

    def _repeat_final(self, now: float, ownership: Ownership, _: object) -> None:
        if ownership in self._finals:
            self._send(now, ownership, final=True)

    def lost(self, partition: Partition, epoch: int) -> None:
        """An ownership whose last settle is under way is over: no answer will come."""
        for ownership in [one for one in self._finals if (one.partition, one.epoch) == (partition, epoch)]:
            self.forget(ownership)

    def forget(self, ownership: Ownership) -> None:
        """Lost: nothing of it is settled any more."""
        self._dirty.pop(ownership, None)
        self._finals.pop(ownership, None)
        for token in [token for token, sent in self._sent.items() if sent.ownership is ownership]:
            del self._sent[token]
