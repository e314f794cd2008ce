"""A fleet on a route that two operators move back and forth: one seed, one schedule.

Two clusters of one partition. Each process writes messages of one key of its own and reads what it is given; it looks at the route at
moments of its own, freezes, dies and comes again. Reports are lost or late. An operator steps when the gates of `mqsdk.core.move` hold for
what he has heard. Judged: a key's messages start in order, each is handled once, and in the end nothing is left anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from mqsdk.core import move as core
from mqsdk.core.move import Backlog, Facts, Instance, Move
from tests.simulation.broken import Broken

SOURCE, TARGET = "a", "b"
FENCE_S = 10.0
BUSY, LONGEST = 600, 6000  # steps with faults, and after which it hangs
STEP_S = 0.5
LOOK_S = FENCE_S * 0.6  # a process that runs looks at its route at least so often


@dataclass
class Log:
    """One cluster: (writer, number) in order, and what the group has settled."""

    records: list[tuple[int, int]] = field(default_factory=list)
    settled: set[int] = field(default_factory=set)
    shadows: set[int] = field(default_factory=set)
    owner: Process | None = None
    low: int = 0
    at: int = 0  # of the owner: what it was given
    waiting: list[int] = field(default_factory=list)  # given and not started, in order
    running: list[int] = field(default_factory=list)
    cuts: dict[int, dict[str, int]] = field(default_factory=dict)  # of the owner: writer -> ends on earlier clusters

    @property
    def watermark(self) -> int:
        while self.low in self.settled:
            self.low += 1
        return self.low

    @property
    def left(self) -> int:
        return len(self.records) - len(self.settled)

    @property
    def owed(self) -> int:
        """What a handler has to see."""
        return len(set(range(len(self.records))) - self.settled - self.shadows)

    def unread(self, end: int) -> int:
        """Of what was there when it ended here."""
        return sum(number not in self.settled for number in range(end))


@dataclass(eq=False)
class Process:
    name: str
    writer: int
    move: Move
    looked_at: float
    confirmed_at: float
    joined: bool = False
    frozen: bool = False
    sent: int = 0


@dataclass
class Operator:
    """goal: where he wants to have it. heard: what each process said last, and when he heard it."""

    goal: core.Stage
    heard: dict[str, tuple[Instance, float]] = field(default_factory=dict)
    quiet_since: dict[str, float] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    begin: int = 0  # end of the target when he first looked in this step
    epoch: int = 0


class World:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now = 100.0
        self.ordered = self.dice.random() < 0.7
        self.logs = {SOURCE: Log(), TARGET: Log()}
        self.route = Move("t", SOURCE, TARGET, "source", 1)
        self.processes: list[Process] = []
        self.post: list[tuple[float, Operator, Instance]] = []
        self.late: list[tuple[float, tuple[int, int]]] = []  # shadows that are not stored yet
        self.writers = 0
        self.handled: dict[int, int] = {}  # writer -> how many of its messages, in order
        self.done: set[tuple[int, int]] = set()
        self.operators = [Operator(self._goal()), Operator(self._goal())]
        self.p_fault, self.p_loss = self.dice.choice([0.0, 0.01, 0.05]), self.dice.choice([0.0, 0.3, 0.6])
        self.slow = self.dice.choice([0.02, 0.2, 0.6])  # how eagerly they look at the route
        self.p_write = self.dice.choice([0.1, 0.5])
        self.is_doubled = seed % 3 == 2
        for _ in range(self.dice.randrange(1, 4)):
            self.begin()

    def _goal(self) -> core.Stage:
        return self.dice.choice(["target", "source"])

    # --- the schedule -----------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        for step in range(LONGEST):
            self.now += self.dice.random() * STEP_S
            is_busy = step < BUSY
            if is_busy and self.dice.random() < self.p_fault:
                self.fault()
            for process in [one for one in self.processes if not one.frozen]:
                self.turn(process, is_busy)
            self.deliver_post()
            self.store_shadows()
            self.own(is_busy)
            self.operate(self.dice.choice(self.operators), is_busy)
            if step == BUSY:
                self.heal()
            if step > BUSY and self.is_over():
                return
        raise Broken(f"STUCK at {self.route.stage}")

    def heal(self) -> None:
        for process in self.processes:
            process.frozen = False
        goal = self._goal()
        for operator in self.operators:
            operator.goal = goal
        self.p_loss = 0.0

    def is_over(self) -> bool:
        if self.route.stage != self.operators[0].goal or any(one.move != self.route for one in self.processes):
            return False
        read = self.route.view.reads
        for name, log in self.logs.items():
            if log.owed and name not in read:
                raise Broken(f"LOST {log.owed} on {name}")
        return not any(log.owed for log in self.logs.values())

    # --- faults -----------------------------------------------------------------------------------------------------------------------

    def fault(self) -> None:
        frozen = [one for one in self.processes if one.frozen]
        process = self.dice.choice(frozen if frozen and self.dice.random() < 0.7 else self.processes)
        if process.frozen:
            process.frozen = False
            self.thaw(process)
        elif self.dice.random() < 0.5:
            process.frozen = True
            if self.dice.random() < 0.7:
                self.give_up(process)
        else:
            self.give_up(process)
            self.processes.remove(process)
            self.begin()
            self.processes[-1].frozen = self.dice.random() < 0.5  # it has read the route, and nobody has heard of it yet

    def begin(self) -> None:
        """A new process is a new producer."""
        self.processes.append(Process(f"p{self.writers}", self.writers, self.route, self.now, self.now))
        self.writers += 1

    def thaw(self, process: Process) -> None:
        """Before it takes anything again."""
        self.look(process)

    def give_up(self, process: Process) -> None:
        """Its partitions go to others; what ran there comes again."""
        for log in self.logs.values():
            if log.owner is process:
                self.disown(log)

    # --- what a process does ----------------------------------------------------------------------------------------------------------

    def turn(self, process: Process, is_busy: bool) -> None:
        if is_busy and self.dice.random() < self.p_write:
            self.write(process)  # first: after a freeze its threads are in no order
        if self.dice.random() < self.slow or self.now - process.looked_at > LOOK_S or not is_busy:
            self.look(process)
        if not process.joined and self.dice.random() < 0.3:
            process.joined = True
        if self.dice.random() < 0.4:
            self.report(process)

    def look(self, process: Process) -> None:
        process.looked_at = process.confirmed_at = self.now
        if process.move != self.route:
            before, process.move = process.move, self.route
            process.joined = process.joined and before.view.reads == process.move.view.reads
            for name, log in self.logs.items():
                if log.owner is process and name not in process.move.view.reads:
                    self.leave(log)
                elif log.owner is process and before.view.reads != process.move.view.reads:
                    log.cuts = {}

    def write(self, process: Process) -> None:
        if self.now - process.confirmed_at > FENCE_S / 2:
            self.look(process)
        record = process.writer, process.sent
        self.logs[process.move.view.writes].records.append(record)
        process.sent += 1
        if process.move.stage == "dual_write" and self.dice.random() < 0.9:
            self.late.append((self.now + self.dice.choice([0.0, 1.0, FENCE_S]) * self.dice.random(), record))

    def store_shadows(self) -> None:
        """In any order, whatever has become of the stage and of the process meanwhile."""
        for letter in [one for one in self.late if one[0] <= self.now]:
            self.late.remove(letter)
            target = self.logs[TARGET]
            target.shadows.add(len(target.records))
            target.records.append(letter[1])

    def report(self, process: Process) -> None:
        held = tuple((name, len(log.running)) for name, log in self.logs.items() if log.owner is process)
        said = Instance(process.name, process.move.epoch, process.move.stage, "" if process.joined else "its consumers", held)
        if self.dice.random() < self.p_loss:
            return
        if self.now - process.confirmed_at <= FENCE_S / 2:
            process.confirmed_at = self.now
        for operator in self.operators:
            self.post.append((self.now + self.dice.random() * 2, operator, said))

    def deliver_post(self) -> None:
        for letter in [one for one in self.post if one[0] <= self.now]:
            self.post.remove(letter)
            at, operator, said = letter
            known = operator.heard.get(said.name)
            if known is None or known[1] <= at:
                operator.heard[said.name] = said, at

    # --- reading ----------------------------------------------------------------------------------------------------------------------

    def own(self, is_busy: bool) -> None:
        for name, log in self.logs.items():
            owner = log.owner
            if owner is not None and is_busy and self.dice.random() < 0.05 and not log.running:
                self.disown(log)
            if log.owner is None:
                able = [one for one in self.processes if not one.frozen and one.joined and name in one.move.view.reads]
                if able:
                    log.owner, log.at = self.dice.choice(able), 0
            if log.owner is not None and not log.owner.frozen:
                self.read(name, log, log.owner)

    def disown(self, log: Log) -> None:
        log.owner, log.at, log.waiting, log.running, log.cuts = None, 0, [], [], {}

    def leave(self, log: Log) -> None:
        """In order: what runs ends first."""
        for number in list(log.running):
            self.finish(log, number)
        self.disown(log)

    def read(self, name: str, log: Log, owner: Process) -> None:
        while log.at < len(log.records) and self.dice.random() < 0.7:
            if log.at not in log.settled:
                if self.is_shadow(log, owner):
                    log.settled.add(log.at)
                else:
                    log.waiting.append(log.at)
            log.at += 1
        for number in list(log.running):
            if self.dice.random() < 0.3:
                self.finish(log, number)
        busy = {log.records[number][0] for number in log.running}
        for number in list(log.waiting):
            writer = log.records[number][0]
            if writer not in busy and self.may_start(name, log, owner, writer):
                log.waiting.remove(number)
                log.running.append(number)
                self.start(log, number)
            busy.add(writer)

    def is_shadow(self, log: Log, owner: Process) -> bool:
        """Of the record that is received: it says so itself, whatever the owner knows of the stage."""
        return log.at in log.shadows

    def may_start(self, name: str, log: Log, owner: Process, writer: int) -> bool:
        if not self.ordered:
            return True
        reads = owner.move.view.reads
        if writer not in log.cuts:
            log.cuts[writer] = {one: len(self.logs[one].records) for one in reads[: reads.index(name)]}
        return all(self.logs[one].watermark >= end for one, end in log.cuts[writer].items())

    def start(self, log: Log, number: int) -> None:
        writer, sequence = log.records[number]
        if self.ordered and sequence != self.handled.get(writer, 0):
            raise Broken(f"OVERTAKE {writer}/{sequence} before {self.handled.get(writer, 0)}")

    def finish(self, log: Log, number: int) -> None:
        log.running.remove(number)
        log.settled.add(number)
        record = log.records[number]
        if record in self.done:
            raise Broken("TWICE")
        self.done.add(record)
        self.handled[record[0]] = self.handled.get(record[0], 0) + 1

    # --- operators --------------------------------------------------------------------------------------------------------------------

    def operate(self, operator: Operator, is_busy: bool) -> None:
        if is_busy and self.dice.random() < 0.01:
            operator.goal = self._goal()
        self.watch(operator)
        seen = self.route
        to = next(self.ways(operator.goal, seen.stage), None)
        if to is None or not all(gate.ok for gate in core.gates(seen, to, self.facts(operator))):
            return
        if is_busy and self.dice.random() < 0.1:
            return  # he dies, or the other one was quicker, before he has written it
        self.route = seen.at(to)

    def ways(self, goal: core.Stage, stage: core.Stage) -> Iterator[core.Stage]:
        if goal == "target" and (step := core.ahead(stage, doubled=self.is_doubled)) is not None:
            yield step
        if goal == "source":
            yield from core.back(stage, "source", self.ordered)[:1]

    def watch(self, operator: Operator) -> None:
        if operator.epoch != self.route.epoch:
            operator.epoch = self.route.epoch
            operator.quiet_since = {}
            operator.begin = len(self.logs[TARGET].records)
        for name, log in self.logs.items():
            end = len(log.records)
            if log.left or operator.ends.get(name) != end or name not in operator.quiet_since:
                operator.quiet_since[name] = self.now
            operator.ends[name] = end

    def facts(self, operator: Operator) -> Facts:
        instances = [one._replace(gone=self.now - at > FENCE_S) for one, at in operator.heard.values()]
        backlogs = [Backlog("g", name, log.left, members=1) for name, log in self.logs.items()]
        members = [(name, log.owner.name) for name, log in self.logs.items() if log.owner is not None]
        quiet = {name: self.now - since for name, since in operator.quiet_since.items()}
        unread = (("g", self.logs[TARGET].unread(operator.begin)),)
        return Facts(self.ordered, tuple(instances), tuple(members), tuple(backlogs), quiet, fence_s=FENCE_S, unread=unread)


def run(seed: int) -> None:
    World(seed).run()
