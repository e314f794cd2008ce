"""One ownership of one partition of a delay topic: what of it is held, what has moved, and how much more of it is wanted. Pure."""

from __future__ import annotations

from mqsdk.core import delay, sparse
from mqsdk.core.partition import merged
from mqsdk.core.watermark import Range, Watermark
from mqsdk.spi.events import Assigned, Batch, Outcome, Partition, Progress, Record

# What is not due within this time is left to the backend. Two smallest steps: those that come behind a record leave at most one earlier.
AHEAD_MS = 2 * delay.SMALLEST_MS
# Records asked for at once: so many may be held of a partition although they are not due for long.
CHUNK_RECORDS, CHUNK_BYTES = 256, 1 << 20
# Held of a partition at most. All of a smallest step is held, so this by the second is what a partition carries.
MOST_RECORDS, MOST_BYTES = 8_000, 32 << 20


class Held:
    """A record that waits for its time here, unsettled.

    waiting: None when it is none of ours. refusal: what its target answered. goes_around: through a step once more, whoever it is for.
    is_in_doubt: whether a copy of it has been stored somewhere is not known.
    """

    __slots__ = ("goes_around", "is_in_doubt", "record", "refusal", "shelf", "until_ms", "waiting")

    def __init__(self, shelf: Shelf, record: Record, waiting: delay.Waiting | None, until_ms: int) -> None:
        self.shelf = shelf
        self.record = record
        self.waiting = waiting
        self.until_ms = until_ms
        self.refusal: Outcome | None = None
        self.goes_around = self.is_in_doubt = False


class Shelf:
    """held: records that have not moved. flying: those of them that are being published. ending: it is to be handed back; nothing more
    of it is published. deadline: of that, monotonic seconds. gone: not owned any more."""

    __slots__ = (
        "_bytes", "_credit_is_used", "_done", "_expected", "_granted", "_mark", "_newest_ms", "deadline", "ending", "epoch",
        "flying", "gone", "held", "is_dirty", "partition", "settle_not_before",
    )  # fmt: skip

    def __init__(self, assigned: Assigned) -> None:
        self.partition: Partition = assigned.partition
        self.epoch = assigned.epoch
        self.held = self.flying = 0
        self.ending = self.gone = self.is_dirty = False
        self.deadline: float | None = None
        self.settle_not_before = float("-inf")
        self._mark = Watermark(assigned.position)
        self._expected = assigned.position
        self._bytes = 0
        self._newest_ms = 0
        self._granted = 0
        self._credit_is_used = False
        self._done: list[Range] = []
        for start, stop in sparse.decode(assigned.sparse, assigned.position).ranges:
            self._mark.add(start, stop)

    # --- in ---------------------------------------------------------------------------------------------------------------------

    def take(self, batch: Batch, now_ms: int) -> list[Held]:
        """What of a batch is to be moved: nothing twice, and nothing that an earlier owner has moved."""
        self._granted = max(0, self._granted - len(batch.records))
        self._credit_is_used = True
        restored = self._mark.high
        taken: list[Held] = []
        for record in batch.records:
            if record.position < self._expected:
                continue
            if record.position > self._expected:
                self.skip(self._expected, record.position)  # they hold nothing that can be read
            self._expected = record.position + 1
            if record.position < restored and not self._mark.missing(record.position, record.position + 1):
                continue
            taken.append(self._hold(record, now_ms))
        return taken

    def _hold(self, record: Record, now_ms: int) -> Held:
        waiting = delay.read(record, self.partition.topic, now_ms)
        held = Held(self, record, waiting, now_ms if waiting is None else waiting.until_ms)
        self.held += 1
        self._bytes += record.size
        self._newest_ms = held.until_ms
        return held

    def skip(self, start: int, stop: int) -> None:
        """Positions that are gone unread."""
        for left, right in self._mark.missing(max(start, self._expected), stop):
            self._mark_moved(left, right)
        self._expected = max(self._expected, stop)

    # --- out --------------------------------------------------------------------------------------------------------------------

    def moved(self, held: Held) -> None:
        """A copy of it is stored where it goes next."""
        self.held -= 1
        self._bytes -= held.record.size
        self._mark_moved(held.record.position, held.record.position + 1)

    def _mark_moved(self, start: int, stop: int) -> None:
        self._mark.add(start, stop)
        self._done.append((start, stop))
        self.is_dirty = True

    # --- what is asked of the backend -------------------------------------------------------------------------------------------

    def credit(self, now_ms: int) -> int | None:
        """How many records may come now; None when that is what the backend knows already."""
        wanted = self._wanted(now_ms)
        if wanted == self._granted and not (wanted and self._credit_is_used):
            return None
        self._granted, self._credit_is_used = wanted, False
        return wanted

    def _wanted(self, now_ms: int) -> int:
        if self.ending or self.held >= MOST_RECORDS or self._bytes >= MOST_BYTES:
            return 0
        if self.held and self._newest_ms > now_ms + AHEAD_MS:
            return 0
        return min(CHUNK_RECORDS, MOST_RECORDS - self.held)

    def looks_again_ms(self, now_ms: int) -> int | None:
        """When time alone makes more wanted, wall clock in milliseconds; None: it does not."""
        at_ms = self._newest_ms - AHEAD_MS
        return at_ms if self.held and not self.ending and at_ms > now_ms else None

    def progress(self, token: int, sparse_bytes: int, final: bool = False) -> Progress:
        """What has moved by now; `again` when it could not be stored."""
        mark = self._mark
        done, self._done, self.is_dirty = merged(self._done), [], False
        blob = sparse.encode(mark.low, mark.ranges(), {}, sparse_bytes)
        return Progress(self.partition, self.epoch, mark.low, done, mark.high, blob, token, final)

    def again(self, progress: Progress) -> None:
        """This progress was not stored."""
        self._done = [*progress.done, *self._done]
        self.is_dirty = True
