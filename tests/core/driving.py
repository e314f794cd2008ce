"""Drives a machine by hand: a clock that the test moves, records by position, and the actions of the last feed by kind."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, TypeVar

from mqsdk.core import actions as act
from mqsdk.core.machine import Machine
from mqsdk.core.retry import Backoff, RetryPolicy
from mqsdk.events import Event
from mqsdk.spi import events as spi

T = TypeVar("T")
P0 = spi.Partition("orders", 0)
POLICY = RetryPolicy(attempts=3, backoff=Backoff(1, factor=2, max=60, jitter=0.0))
# With one worker, records that come together make one job.
ONE_WORKER = act.Tuning(concurrency=1, retry=POLICY)


def record(position: int, key: str | None = None, size: int = 10, **fields: Any) -> spi.Record:
    """A record whose key and value are `size` bytes together."""
    raw = None if key is None else key.encode()
    return spi.Record(position, raw, b"x" * (size - len(raw or b"")), **fields)


def failure(kind: act.FailureKind = "error", after_s: float | None = None, error: str = "ValueError: no") -> act.Failure:
    return act.Failure(kind, error, after_s)


class Driver:
    """A machine that owns partition 0 from position 0 on, unless `assign` is False."""

    def __init__(self, *, ordered: bool = False, assign: bool = True, tuning: act.Tuning = ONE_WORKER, **spec: Any) -> None:
        self.now = 100.0
        self.tuning = tuning
        self.machine = Machine(act.Spec("orders", "billing", "main", ordered=ordered, **spec), self.tuning, Random(0), 1_000_000.0)
        self.actions: list[act.Action] = []
        self.log: list[act.Action] = []
        if assign:
            self.assign()

    def feed(self, *events: Any, after: float = 0.0) -> list[act.Action]:
        self.now += after
        self.actions = self.machine.feed(self.now, events)
        self.log += self.actions
        return self.actions

    def assign(self, position: int = 0, epoch: int = 1, partition: spi.Partition = P0, **fields: Any) -> None:
        self.feed(spi.Assigned(partition, epoch, position, **fields))

    def batch(self, *records: spi.Record, epoch: int = 1, partition: spi.Partition = P0) -> spi.Batch:
        return spi.Batch(partition, epoch, records, sum(one.size for one in records))

    def deliver(self, *records: spi.Record, epoch: int = 1, partition: spi.Partition = P0) -> list[act.Job]:
        """Feed one batch; the jobs that it started."""
        self.feed(self.batch(*records, epoch=epoch, partition=partition))
        return self.jobs()

    def finish(
        self, job: act.Job, *failures: tuple[spi.Record, act.Failure], skipped: Sequence[spi.Record] = (), after: float = 0.0
    ) -> None:
        self.feed(act.Finished(job, failures, skipped, 0.00005 * len(job.records)), after=after)

    def of(self, kind: type[T]) -> list[T]:
        """Actions of the last feed of this kind."""
        return [action for action in self.actions if isinstance(action, kind)]

    def jobs(self) -> list[act.Job]:
        return [action.job for action in self.of(act.Run)]

    def started(self) -> list[int]:
        """Positions that the last feed started."""
        return [one.position for job in self.jobs() for one in job.records]

    def reported(self, kind: type[Event]) -> list[Any]:
        """Events of this kind since the beginning."""
        return [action.event for action in self.log if isinstance(action, act.Report) and isinstance(action.event, kind)]

    def settles(self) -> list[spi.Progress]:
        """Progress told since the beginning."""
        return [action.progress for action in self.log if isinstance(action, act.Settle)]

    def settled(self, outcome: Any = "stored") -> None:
        """Answer the last settle."""
        last = self.settles()[-1]
        self.feed(spi.Settled(last.partition, last.epoch, last.token, outcome))

    def copies(self) -> list[act.Copy]:
        """Dead letters asked for since the beginning."""
        return [action for action in self.log if isinstance(action, act.Copy)]
