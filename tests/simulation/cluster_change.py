"""A topic that goes from one cluster to another while writers and readers do what they like: one seed, one schedule.

Two clusters of three and two partitions, each read by one machine. Writers change at moments of their own and never go back. Handlers fail,
readers crash and begin again at what was settled. Judged: every message is handled, and a writer's messages of a key in their order.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field

from mqsdk.core import actions as act
from mqsdk.core.cut import Cuts
from mqsdk.core.machine import Machine
from mqsdk.core.oldside import OldSide
from mqsdk.core.partitioner import partition_of
from mqsdk.core.retry import Backoff, RetryPolicy
from mqsdk.spi import events as spi
from tests.simulation.broken import Broken

OLD, NEW = 3, 2  # partitions
WRITERS, KEYS, MESSAGES = 3, 4, 10
SETTLE_S = 5.0
TUNING = act.Tuning(concurrency=4, retry=RetryPolicy(attempts=50, backoff=Backoff(0.5, factor=1, jitter=0.0)))
STEP_S = 0.3
LONGEST = 4000  # steps of a schedule, after which it hangs


@dataclass
class Side:
    """One cluster: its records, what is settled of them, and the machine that reads it, if any."""

    partitions: int
    behind: tuple[int, ...]
    logs: dict[int, list[spi.Record]] = field(default_factory=lambda: defaultdict(list))
    settled: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    sparse: dict[int, bytes] = field(default_factory=lambda: defaultdict(bytes))
    epoch: int = 0
    machine: Machine | None = None
    given: dict[int, int] = field(default_factory=dict)

    def progress(self) -> list[spi.PartitionProgress]:
        ends = {number: len(self.logs[number]) for number in range(self.partitions)}
        return [spi.PartitionProgress(number, self.settled[number], end, end - self.settled[number]) for number, end in ends.items()]


class World:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now = 100.0
        self.old, self.new = Side(OLD, ()), Side(NEW, (OLD,))
        self.watch = OldSide(self.now, SETTLE_S)
        self.cuts = Cuts()
        self.asked: list[act.Cut] = []
        self.running: list[tuple[Side, act.Job]] = []
        self.sent: dict[str, list[int]] = defaultdict(list)  # writer/key -> numbers
        self.handled: dict[str, list[int]] = defaultdict(list)
        self.written = [0] * WRITERS
        self.changes = [self.dice.randrange(MESSAGES + 1) for _ in range(WRITERS)]  # before which message
        for side in (self.old, self.new):
            self.begin(side)

    def run(self) -> None:
        steps = [self.write, self.deliver, self.finish, self.look]
        for _ in range(LONGEST):
            self.now += self.dice.random() * STEP_S
            self.dice.choice(steps)()
            if self.dice.random() < 0.01:
                self.crash(self.dice.choice([self.old, self.new]))
            for side in (self.old, self.new):
                self.feed(side)
            if self.is_done():
                return
        raise Broken("STUCK")

    def is_done(self) -> bool:
        left = sum(one.messages for side in (self.old, self.new) for one in side.progress())
        if left or sum(self.written) < WRITERS * MESSAGES or self.running:
            return False
        if dict(self.sent) != dict(self.handled):
            raise Broken("LOST")
        return not self.watch.is_open

    # --- what may happen ------------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        writer = self.dice.randrange(WRITERS)
        number = self.written[writer]
        if number == MESSAGES or self.dice.random() < 0.5:
            return
        self.written[writer] += 1
        side = self.new if number >= self.changes[writer] else self.old
        key = b"%d" % self.dice.randrange(KEYS)
        log = side.logs[partition_of(key, side.partitions)]
        lane = f"{writer}/{key.decode()}"
        log.append(spi.Record(len(log), key, lane.encode(), producer=f"w{writer}", sequence=number))
        self.sent[lane].append(number)

    def deliver(self) -> None:
        side = self.dice.choice([self.old, self.new])
        number = self.dice.randrange(side.partitions)
        if side.machine is None:
            return
        at, log = side.given[number], side.logs[number]
        records = log[at : at + self.dice.randrange(1, 4)]
        if records:
            side.given[number] = at + len(records)
            self.feed(side, spi.Batch(spi.Partition("t", number), side.epoch, records, 10))

    def finish(self) -> None:
        if not self.running:
            return
        side, job = self.running.pop(self.dice.randrange(len(self.running)))
        records, failures = list(job.records), []
        if self.dice.random() < 0.2:
            failures = [(records[0], act.Failure("error", "ValueError: no"))]
            skipped = [one for one in records[1:] if one.key == records[0].key]
            ended = [one for one in records[1:] if one.key != records[0].key]
        else:
            skipped, ended = [], records
        for record in ended:
            self.note(record)
        self.feed(side, act.Finished(job, failures, skipped, 0.001))

    def note(self, record: spi.Record) -> None:
        lane = record.value.decode()
        done, sent = self.handled[lane], self.sent[lane]
        if record.sequence in done:
            return  # again, after a crash
        if record.sequence != sent[len(done)]:
            raise Broken("OVERTAKE")
        done.append(record.sequence)

    def crash(self, side: Side) -> None:
        if side.machine is not None:
            self.running = [(one, job) for one, job in self.running if one is not side]
            if side is self.new:
                self.cuts, self.asked = Cuts(), []
            self.begin(side)

    def look(self) -> None:
        for cut in self.asked:
            self.cuts.ask(*cut)
        self.asked = []
        if self.now < self.watch.due() and not self.cuts.is_open(0):
            return
        progress = self.old.progress()
        view = None if self.old.machine is None else self.old.machine.view()
        verdict = self.watch.looked(self.now, progress, 0 if view is None else view.records + view.waiting)
        if verdict == "close":
            self.old.machine = None
        elif verdict == "open":
            self.begin(self.old)
        for token in self.cuts.looked(0, progress):
            self.feed(self.new, act.CutPassed(token))

    # --- machines -------------------------------------------------------------------------------------------------------------------

    def begin(self, side: Side) -> None:
        side.epoch += 1
        side.machine = Machine(act.Spec("t", "g", "c", ordered=True, sparse_bytes=4000, behind=side.behind), TUNING, self.dice)
        for number in range(side.partitions):
            side.given[number] = side.settled[number]
            assigned = spi.Assigned(spi.Partition("t", number), side.epoch, side.settled[number], side.sparse[number])
            self.feed(side, assigned)

    def feed(self, side: Side, *events: act.CutPassed | act.Finished | spi.ConsumerEvent) -> None:
        if side.machine is None:
            return
        for action in side.machine.feed(self.now, events):
            if isinstance(action, act.Run):
                self.running.append((side, action.job))
            elif isinstance(action, act.Cut):
                self.asked.append(action)
            elif isinstance(action, act.Settle):
                self.settle(side, action.progress)

    def settle(self, side: Side, progress: spi.Progress) -> None:
        number = progress.partition.number
        side.settled[number], side.sparse[number] = progress.watermark, progress.sparse
        self.feed(side, spi.Settled(progress.partition, progress.epoch, progress.token, "stored"))


def run(seed: int) -> None:
    World(seed).run()
