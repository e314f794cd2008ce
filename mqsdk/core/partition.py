"""State of one ownership of one partition: what was received, what is settled, what waits. Decides nothing about time or retries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mqsdk.core import sparse
from mqsdk.core.attempts import Attempt
from mqsdk.core.copies import Copies
from mqsdk.core.credit import Account
from mqsdk.core.lanes import Fifo, Lanes, Queue
from mqsdk.core.parking import Parking
from mqsdk.core.watermark import Range, Watermark
from mqsdk.message import Origin
from mqsdk.spi.events import Assigned, Partition, Progress, Record


def size_of(records: Sequence[Record]) -> int:
    """Sum of `Record.size`, spelled out: the property costs twice as much, and this is paid per record."""
    return sum([len(record.value) + (0 if record.key is None else len(record.key)) for record in records])


class Ownership:
    """One (partition, epoch). Changed by the machine only; `gone` ones are kept by running jobs alone.

    expected: position after the last one received. attempts: what has failed and is not settled. repeats: records received more than
    once. running: jobs out. copying: dead letters under way. fenced: nothing starts any more. fresh: ranges settled since the last
    Progress. parked: what waits behind a failure or a halt. awaits_letters: see `core.following`. inherited: what the last owner suspected;
    suspect_until: see `core.suspects`; started: positions of running records, kept while it matters. is_urgent: somebody waits for the next
    settle. stored_token: of the newest settle that is stored.
    """

    __slots__ = (
        "_rising", "account", "age_watched", "attempts", "awaits_letters", "copies", "copying", "deadline", "dirty", "epoch", "expected",
        "fenced", "fill_at",
        "fresh", "gone", "inherited", "is_urgent", "listed", "origin", "parked", "partition", "queue", "repeats",
        "restored_until", "running", "settle_failures", "settle_not_before", "settled_at", "spanned", "started", "stored_token",
        "suspect_until", "unanswered", "valid_until", "watermark",
    )  # fmt: skip

    def __init__(self, assigned: Assigned, origin: Origin, account: Account, ordered: bool, batch: bool) -> None:
        self.partition: Partition = assigned.partition
        self.epoch = assigned.epoch
        self.origin = origin
        self.account = account
        self.expected = assigned.position
        self.valid_until = assigned.valid_until
        self.watermark = Watermark(assigned.position)
        self.attempts: dict[int, Attempt] = {}
        self.queue: Queue = Lanes(self.attempts) if ordered else Fifo(self.attempts, spans_chunks=batch)
        self._rising = not ordered and not batch
        self.restored_until = assigned.position
        self.suspect_until = 0
        self.started: set[int] = set()
        saved = sparse.decode(assigned.sparse, assigned.position)
        self.inherited = saved.suspicion
        self.parked = Parking(ordered, saved.halts)
        self.copies = Copies()
        self._restore(saved)
        self.running = 0
        self.repeats = 0
        self.copying = 0
        self.listed = self.fenced = self.gone = self.spanned = self.dirty = self.age_watched = self.is_urgent = False
        self.awaits_letters = False
        self.deadline: float | None = None
        self.fill_at: float | None = None
        self.fresh: list[Range] = []
        self.settled_at = float("-inf")
        self.settle_not_before = float("-inf")
        self.settle_failures = 0
        self.unanswered = self.stored_token = 0

    def _restore(self, saved: sparse.Saved) -> None:
        for start, stop in saved.ranges:
            self.watermark.add(start, stop)
            self.restored_until = stop
        for position, failed in saved.attempts.items():
            self.attempts[position] = Attempt(failed)
        for position in saved.halts:
            self.attempts.setdefault(position, Attempt(0))

    @property
    def is_suspect(self) -> bool:
        """What starts is written down first."""
        if self.watermark.low < self.suspect_until and self.parked.halts and not self._may_hold_a_suspect():
            self.suspect_until = self.watermark.low
        return self.watermark.low < self.suspect_until

    def _may_hold_a_suspect(self) -> bool:
        """What waits for a release did not run: else one halt would keep a partition under suspicion for as long as it stands."""
        waiting, until = self.parked.held(), self.suspect_until
        return any(position not in waiting for left, right in self.watermark.missing(0, until) for position in range(left, right))

    def may_start(self, now: float) -> bool:
        """Workers would refuse to start anything otherwise, and hand it back at once; of a halted partition nothing starts at all."""
        return not self.fenced and now < self.valid_until and not (self.parked.is_stopped or self.awaits_letters)

    def open_account(self, is_stopped: bool) -> None:
        """Whether more of it may be delivered. is_stopped: nothing may, from any partition.

        Of a halted partition what an earlier owner halted is read still, so that a release finds it.
        """
        is_full = self.parked.is_stopped and not self.parked.unread
        self.account.is_open = not (is_stopped or self.fenced or self.spanned or is_full or self.awaits_letters)
        self.account.touched = True

    # --- in ---------------------------------------------------------------------------------------------------------------------

    def receive(self, records: Sequence[Record], size: int) -> Sequence[Record]:
        """Take a batch in. Returns what is to run: without repeats and without what an earlier owner settled.

        Positions between those received that never come (compaction, transaction markers) are settled at once.
        """
        first, last = records[0].position, records[-1].position
        if first != self.expected or last - first + 1 != len(records) or first < self.restored_until:
            records = self._receive_with_holes(records)
            size = size_of(records)
        self.expected = max(self.expected, last + 1)
        if first < self.suspect_until:
            for record in records:
                record.redelivered |= record.position < self.suspect_until
        for record in [record for record in records if record.attempt > 1]:
            self._counted_elsewhere(record)
        self.account.receive(len(records), size)
        return records

    def take_repeats(self) -> int:
        """How many repeats there were since the last call."""
        count, self.repeats = self.repeats, 0
        return count

    def _receive_with_holes(self, records: Sequence[Record]) -> list[Record]:
        kept: list[Record] = []
        unsettled = self.watermark.missing(records[0].position, records[-1].position + 1) if self.expected < self.restored_until else None
        at = 0
        for record in records:
            position = record.position
            if position < self.expected:
                self.repeats += 1
                continue
            if position > self.expected:
                self.skip(self.expected, position)
            self.expected = position + 1
            if unsettled is not None:
                while at < len(unsettled) and unsettled[at][1] <= position:
                    at += 1
                if at == len(unsettled) or position < unsettled[at][0]:
                    continue
            kept.append(record)
        return kept

    def _counted_elsewhere(self, record: Record) -> None:
        known = self.attempts.get(record.position)
        if known is None:
            self.attempts[record.position] = Attempt(record.attempt - 1, retry_at=float("-inf"))
        else:
            known.failed = max(known.failed, record.attempt - 1)

    def skip(self, start: int, stop: int) -> int:
        """These positions hold nothing that can be read: settled. Returns how many of them were not settled before."""
        count = 0
        for left, right in self.watermark.missing(start, stop):
            self.mark(left, right)
            count += right - left
        for position in [one for one in self.attempts if start <= one < stop]:
            del self.attempts[position]  # an earlier owner saw it fail; now it is gone
            self.parked.remove(position)
        return count

    def discard(self, records: Sequence[Record], dropped: Sequence[Record]) -> Sequence[Record]:
        """Settle those received records that no handler is to see; the rest, which is to run."""
        if not dropped:
            return records
        self.account.end(len(dropped), size_of(dropped))
        self._mark_each(dropped)
        for record in dropped:
            self.attempts.pop(record.position, None)
            self.parked.remove(record.position)  # an earlier owner that did not know may have halted it
        gone = set(dropped)
        return [record for record in records if record not in gone]

    # --- out --------------------------------------------------------------------------------------------------------------------

    def end(self, records: Sequence[Record]) -> None:
        """These records have a final outcome: settle them and let the next of their keys go on."""
        if not records:
            return
        if self.attempts or self.parked:
            self._end_each(records)
        else:
            self.account.end(len(records), size_of(records))
        first, count = records[0].position, len(records)
        if self._rising and records[-1].position - first + 1 == count:
            self.mark(first, first + count)
        else:
            self._mark_each(records)
        if not self.fenced:
            self.queue.end(records)

    def _end_each(self, records: Sequence[Record]) -> None:
        for record in records:
            self.attempts.pop(record.position, None)
            if not self.parked.remove(record.position):
                self.account.end(1, record.size)

    def _mark_each(self, records: Sequence[Record]) -> None:
        positions = sorted([record.position for record in records])
        start = positions[0]
        if positions[-1] - start + 1 == len(positions):
            self.mark(start, positions[-1] + 1)
            return
        stop = start
        for position in positions:
            if position != stop:
                self.mark(start, stop)
                start = position
            stop = position + 1
        self.mark(start, stop)

    def mark(self, start: int, stop: int) -> None:
        """Positions start to stop (excluded) are settled; none of them was before."""
        self.watermark.add(start, stop)
        self.dirty = True
        fresh = self.fresh
        if fresh and fresh[-1][1] == start:
            fresh[-1] = (fresh[-1][0], stop)
        else:
            fresh.append((start, stop))

    def park(self, records: Iterable[Record], now: float) -> None:
        """Count these records to the span instead of to what is in flight, until they are settled."""
        for record in self.parked.add(records, now):
            self.account.end(1, record.size)

    def take_back(self, records: Sequence[Record], now: float) -> None:
        """Records of a job that have not started."""
        if not self.fenced:
            self.queue.back(records)
            if self.parked.is_stopped:
                self.park(records, now)

    # --- progress ---------------------------------------------------------------------------------------------------------------

    @property
    def is_quiet(self) -> bool:
        """Nothing runs or is ready; only what waits for a retry or a copy may be left."""
        return not self.running and not self.account.records

    @property
    def span(self) -> int:
        """Positions between the watermark and the last one received."""
        return self.expected - self.watermark.low

    def progress(self, token: int, sparse_bytes: int, final: bool, in_order: bool = False) -> Progress:
        """What is settled by now; the ranges in `done` are not told again unless they are put back into `fresh`.

        in_order: the owner ends, with handlers cut short: what they leave unfinished is not held against them.
        """
        mark = self.watermark
        done, self.fresh = merged(self.fresh), []
        blob = b""
        if sparse_bytes:
            failed = {position: attempt.failed for position, attempt in self.attempts.items() if attempt.failed}
            blob = sparse.encode(mark.low, mark.ranges(), failed, sparse_bytes, self._suspicion(in_order), self.parked.numbers())
        return Progress(self.partition, self.epoch, mark.low, done, mark.high, blob, token, final)

    def _suspicion(self, in_order: bool) -> sparse.Suspicion | None:
        crashes = {position: attempt.crashes for position, attempt in self.attempts.items() if attempt.crashes}
        if not (crashes or in_order or self.is_suspect):
            return None
        started = tuple(sparse.joined(sorted(self.started)))
        return sparse.Suspicion(self.suspect_until, crashes, started, in_order)


def merged(ranges: Sequence[Range]) -> tuple[Range, ...]:
    """The same positions as rising ranges that do not touch."""
    if len(ranges) < 2:
        return tuple(ranges)
    out: list[Range] = []
    for start, stop in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(stop, out[-1][1]))
        else:
            out.append((start, stop))
    return tuple(out)
