"""What a machine shows of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mqsdk.core.breaker import BreakerState
from mqsdk.core.desk import Counters
from mqsdk.core.parking import HALTS, PARTITION
from mqsdk.core.partition import Ownership
from mqsdk.message import Origin
from mqsdk.spi.events import Partition, Record


class PartitionView(NamedTuple):
    """One owned partition. watermark: every position below it is settled. received: position after the last one received.

    records, bytes: in flight. waiting: records behind a failure (retry, dead letter under way, blocked key). paused: over its span, halted,
    or its dead letters are not read yet.
    """

    partition: Partition
    epoch: int
    watermark: int
    received: int
    records: int
    bytes: int
    waiting: int
    paused: bool


class HaltView(NamedTuple):
    """A message that waits for a release. record: None while its owner has not read it. redriven: it is in the group's retry topic."""

    origin: Origin
    position: int
    scope: str
    attempts: int
    redriven: bool
    record: Record | None


class MachineView(NamedTuple):
    """One consumer at one moment.

    records, bytes: in flight in all partitions. waiting: as in PartitionView, summed. paused: by the configuration or `app.pause`.
    held: what is ready waits for a moment: of the rate, of the breaker, or for its batch to fill.
    breaker: its state, None without one. stalled: something is in flight, and nothing has ended for `no_progress`.
    last_settled_at: monotonic seconds of the last settle that the backend confirmed, None before. unstored: one is due, or not answered.
    halted: what waits for a release, by place.
    The rest counts messages since the start: handled; failed attempts and those of them that are retried; dead-lettered, dropped;
    redelivered = repeats within one ownership, repeated = copies that a publisher made in doubt, shadows = copies that `dual_write` of a
    move makes: none of them is handled;
    orphaned = handled under an ownership that was over; gap = lost to a Gap. durations, duration_sum_s: of the calls of the handler, as in
    `Durations`.
    """

    partitions: tuple[PartitionView, ...]
    records: int
    bytes: int
    waiting: int
    paused: bool
    stalled: bool
    held: bool
    breaker: BreakerState | None
    last_settled_at: float | None
    unstored: bool
    handled: int
    failed: int
    retried: int
    dead_lettered: int
    dropped: int
    redelivered: int
    repeated: int
    shadows: int
    orphaned: int
    gap: int
    durations: tuple[int, ...]
    duration_sum_s: float
    halted: tuple[HaltView, ...] = ()


def view_of(
    owned: Sequence[Ownership],
    counters: Counters,
    last_settled_at: float | None,
    paused: bool,
    stalled: bool,
    held: bool,
    breaker: BreakerState | None,
) -> MachineView:
    """The view of these ownerships."""
    partitions = tuple(sorted((_partition(ownership) for ownership in owned), key=lambda one: one.partition))
    return MachineView(
        partitions=partitions,
        records=sum(one.records for one in partitions),
        bytes=sum(one.bytes for one in partitions),
        waiting=sum(one.waiting for one in partitions),
        paused=paused,
        stalled=stalled,
        held=held,
        breaker=breaker,
        last_settled_at=last_settled_at,
        unstored=any(ownership.dirty or ownership.unanswered for ownership in owned),
        handled=counters.handled,
        failed=counters.failed,
        retried=counters.retried,
        dead_lettered=counters.dead_lettered,
        dropped=counters.dropped,
        redelivered=counters.redelivered,
        repeated=counters.repeated,
        shadows=counters.shadows,
        orphaned=counters.orphaned,
        gap=counters.gap,
        durations=tuple(counters.durations.counts),
        duration_sum_s=counters.durations.sum_s,
        halted=tuple(halt for ownership in owned for halt in _halts(ownership)),
    )


def _halts(ownership: Ownership) -> list[HaltView]:
    origin = ownership.origin
    is_copy = ownership.partition.topic != origin.topic
    # A copy of the dict: the machine's own thread may change it meanwhile.
    return [
        HaltView(
            origin,
            position,
            "partition" if halt.kind == PARTITION else "key",
            attempt.failed if (attempt := ownership.attempts.get(position)) is not None else 0,
            is_copy,
            halt.record,
        )
        for position, halt in sorted(ownership.parked.halts.copy().items())
        if halt.kind in HALTS
    ]


def _partition(ownership: Ownership) -> PartitionView:
    account = ownership.account
    return PartitionView(
        partition=ownership.partition,
        epoch=ownership.epoch,
        watermark=ownership.watermark.low,
        received=ownership.expected,
        records=account.records,
        bytes=account.bytes,
        waiting=len(ownership.parked),
        paused=ownership.spanned or ownership.parked.is_stopped or ownership.awaits_letters,
    )
