"""Layer 2 whole: processes that publish and consume over one or two clusters, under the faults of a seed, then in peace until all is done.

`run(seed)` plays one schedule and raises `Broken` when a rule of the guarantees does not hold.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from mqsdk.config.model import Cluster, Configuration, PublishLimits, Reload, Route
from mqsdk.core import delay
from mqsdk.runtime.deadletters import letters
from mqsdk.runtime.redrive import Redrive
from mqsdk.runtime.unfinished import InMemory
from mqsdk.spi import Capabilities, NewRecord, Partition
from mqsdk.testing.simlog import MEMORY, SimLog
from tests.simulation.backends import LogBackend
from tests.simulation.broken import Broken
from tests.simulation.plan import Plan, draw
from tests.simulation.process import LATE, Process
from tests.simulation.rules import Rules
from tests.simulation.schedule import START_S, Killed, Schedule
from tests.simulation.writer import TOPIC

LEASE_S = 2.0
HANDOVER_S = 10.0
FAULTS_S = 1.0  # when faults happen
HEALED_S = 1.2
PEACE_S = 120.0  # within which all must be done afterwards: a late writer is heard by its old cluster within half a minute
LOOK_S = 0.3
LATE_S = 6.0  # when who is late follows a change of cluster


@dataclass(frozen=True)
class Message:
    id: str
    key: bytes | None
    delay_ms: int | None
    not_before: float = 0.0


class World:
    """One seed. trace: what happens is told to it, line by line."""

    def __init__(self, plan: Plan, trace: Callable[[str], None] | None = None) -> None:
        self.plan, self.trace = plan, trace
        self.rng = Random(f"world {plan.seed}")
        self.schedule = Schedule(self.rng)
        self.is_healed = self.is_ending = self.is_redriving = False
        self.unclean = self._pids = 0  # unclean: ends of ownerships that nobody handed back
        self._rates = dict(plan.rates)
        self.capabilities = self._capabilities()
        self.stores = {name: SimLog(self.schedule, handover_s=HANDOVER_S, partitions=2) for name in ("a", "b")[: 2 if plan.switch else 1]}
        self.memory = [InMemory() for _ in range(plan.members)]
        self.programs = [self._program(index) for index in range(plan.members)]
        self.lethal = self.rng.choice(self.programs[0]).id if plan.lethal else None
        self.rules = Rules(self)
        self._configurations = [self._configuration()] * plan.members
        self._make_topics()
        self.processes: list[Process] = []
        for index in range(plan.members):
            self.processes.append(Process(self, index, self._configurations[index]))
        self._schedule_faults()

    # --- what there is ------------------------------------------------------------------------------------------------------------------

    def _capabilities(self) -> Capabilities:
        return replace(MEMORY, sparse_bytes=self.plan.sparse_bytes, delay=self.plan.delay, amend=False, retention=False)

    def _program(self, index: int) -> list[Message]:
        rng, plan = self.rng, self.plan
        keys = [None, *(b"%d" % number for number in range(plan.keys))]
        messages = []
        for number in range(plan.messages):
            delay_ms = rng.choice((50, 400, 1500, 2600)) if rng.random() < plan.delayed else None
            key = rng.choice(keys) if delay_ms is None else None
            messages.append(Message(f"{index}.{number}", key, delay_ms))
        if plan.late and index == LATE:  # when nobody reads the old cluster any more, and again by the new route
            messages += [Message(f"{index}.late{moment:g}", keys[-1], None, START_S + moment) for moment in (LATE_S - 2.0, LATE_S + 1.0)]
        return messages

    def _configuration(self) -> Configuration:
        plan = self.plan
        clusters = {
            name: Cluster(name=name, backend="rabbitmq" if plan.kind == "queue" else "log", options={"path": name}, lease_s=LEASE_S)
            for name in self.stores
        }
        first = plan.consumers[0]
        return Configuration(
            clusters=clusters, routes=(Route(topics=("*",), cluster="a"),), publish=PublishLimits(timeout_s=plan.publish_s),
            defaults={"concurrency": first.concurrency, "in_flight_records": first.in_flight}, reload=Reload(watch=False, settle_s=0.5),
            drain_timeout_s=1.0,
        )  # fmt: skip

    def _make_topics(self) -> None:
        """Every group exists before the first publish."""
        store = self.stores["a"]
        store.create_topic(TOPIC, self.plan.partitions)
        for consumer in self.plan.consumers:
            store.create_group(TOPIC, consumer.group, None, history=self.plan.kind == "log", by_time=True)
        if self.plan.delay == "ladder":
            for store in self.stores.values():
                for topic in delay.TOPICS:
                    store.create_topic(topic, 1)
                    store.create_group(topic, delay.GROUP, None, history=True, by_time=True)

    def next_pid(self) -> int:
        self._pids += 1
        return self._pids

    def is_ordered(self, group: str) -> bool:
        return any(one.group == group and one.ordered for one in self.plan.consumers)

    def is_poison(self, name: str | None) -> bool:
        return "poison" in self._rates and zlib.crc32((name or "").encode()) % 10 < self._rates["poison"] * 10

    def say(self, who: Process | None, what: str) -> None:
        if self.trace is not None:
            self.trace(f"{self.schedule.now - START_S:9.4f}  {'' if who is None else who.pid:>3}  {what}")

    # --- faults -------------------------------------------------------------------------------------------------------------------------

    def happens(self, fault: str) -> bool:
        """Whether this fault happens now."""
        rate = self._rates.get(fault)
        return rate is not None and not self.is_healed and self.rng.random() < rate

    def _schedule_faults(self) -> None:
        for name, times in self.plan.times:
            for _ in range(times):
                self.schedule.after(self.rng.random() * FAULTS_S, getattr(self, f"_fault_{name}"))
        if self.plan.redrive:
            for moment in (0.4, 1.0, HEALED_S + 0.5):
                self.schedule.after(moment, self._redrive)
        if self.plan.switch:
            for index in range(self.plan.members):
                is_late = self.plan.late and index == LATE
                moment = LATE_S if is_late else self.rng.random() * FAULTS_S
                awaits = not is_late and self.rng.random() < 0.5
                self.schedule.after(0.002 if awaits else moment, partial(self._switch, index, START_S + moment if awaits else 0.0))

    def _someone(self) -> Process:
        return self.rng.choice(self.processes)

    def replace(self, process: Process) -> None:
        """Another process takes the place of one that has ended."""

        def begin() -> None:
            self.processes[process.index] = Process(self, process.index, self._configurations[process.index])

        self.schedule.after(self.rng.choice((0.01, 0.3)), begin)

    def _fault_kill(self) -> None:
        process = self._someone()
        if not process.is_dead:
            self.unclean += 1
            process.kill()

    def _fault_freeze(self) -> None:
        process = self._someone()
        if not process.is_dead and not process.is_draining:
            self.unclean += 1
            process.freeze(self.rng.choice((0.3, 4.0)))

    def _fault_stop(self) -> None:
        process = self._someone()
        if process.is_dead or process.is_draining or self.schedule.now < process.frozen_until:
            return
        try:
            process.stop(self.rng.choice((0.0, 0.05, 1.0)))
        except Killed:
            return
        self.replace(process)

    def _fault_lost(self) -> None:
        """A partition is taken from its owner, who is told at once; somebody gets it a little later."""
        name = self.rng.choice(list(self.stores))
        store = self.stores[name]
        groups = [group for group in store.groups.get(TOPIC, {}).values() if any(cursor.owner for cursor in group.cursors)]
        if not groups:
            return
        group = self.rng.choice(groups)
        number = self.rng.choice([cursor.partition.number for cursor in group.cursors if cursor.owner is not None])
        process = getattr(group.cursors[number].owner, "process", None)
        if process is None or self.schedule.now < process.frozen_until:
            return
        self.unclean += 1
        for one in (group, *group._followers):
            cursor = one.cursors[number]
            if cursor.owner is not None:
                cursor.owner.lost(cursor)
                cursor.release(clean=False)
        self.schedule.after(0.05, lambda: group.balance(self.schedule.now, HANDOVER_S))

    def _fault_reload(self) -> None:
        process = self._someone()
        if process.is_dead or process.is_draining:
            return
        old = self._configurations[process.index]
        limit = self.rng.choice((1, 3, 100))
        self.rules.limit = max(self.rules.limit, limit)
        values = {**old.defaults, "concurrency": self.rng.choice((1, 3)), "in_flight_records": limit, "retry": {"attempts": 3}}
        new = replace(old, defaults=values)
        self._configurations[process.index] = new
        process.reload(new)

    def _switch(self, index: int, until: float) -> None:
        """A topic changes its cluster while it is in use: a process that is not there now is told when it is.

        until: before that only while something is under way to the old one.
        """
        process = self.processes[index]
        is_there = not (process.is_dead or process.is_draining or self.schedule.now < process.frozen_until)
        is_early = self.schedule.now < until and bool(self.programs[index]) and not any(sender.records for sender in process.senders)
        if not is_there or is_early:
            self.schedule.after(0.05 if not is_there else 0.003, partial(self._switch, index, until))
            return
        new = replace(self._configurations[index], routes=(Route(topics=("*",), cluster="b"),))
        self._configurations[index] = new
        process.reload(new)

    def _fault_pause(self) -> None:
        process, group = self._someone(), self.plan.consumers[0].group
        if process.is_dead or process.is_draining or not process.supervisor.loops:
            return
        process.supervisor.pause(TOPIC, group, True)

        def resume() -> None:
            if not process.is_dead and not process.is_draining:
                process.supervisor.pause(TOPIC, group, False)

        self.schedule.after(self.rng.random() * 0.5, resume)

    def _fault_clock(self) -> None:
        self.schedule.wall_shift_ms += self.rng.choice((-3000, 3000))

    def _fault_trim(self) -> None:
        """Retention takes what it takes, read or not."""
        number = self.rng.randrange(self.plan.partitions)
        partition = Partition(TOPIC, number)
        log = self.stores["a"].logs[partition]
        before = log.base + self.rng.randint(0, 4)
        self.rules.trimmed("a", partition, log.read(log.base, before - log.base))
        self.say(None, f"a: {partition} is trimmed to {before}")
        self.stores["a"].trim(TOPIC, number, before)

    # --- a person -----------------------------------------------------------------------------------------------------------------------

    def _redrive(self) -> None:
        group = self.plan.consumers[0].group
        operator = LogBackend(self.processes[0], self.stores["a"], "a", self.capabilities)
        operator.open(0.0)
        self.say(None, f"the dead letters of {group} are redriven")
        self.is_redriving = True
        try:
            found = list(letters(operator.admin(), TOPIC, group))
            for _ in Redrive(operator, TOPIC, group, self.schedule, 0.0).run(iter(found)) if found else ():
                pass
        except Killed:
            self.say(None, "the redrive is killed")
        finally:
            self.is_redriving = False

    def cuts_off(self, process: Process, batch: object) -> bool:
        """A redrive is killed between its copies and their removal."""
        if not self.is_redriving or self.is_healed or not isinstance(batch, list | tuple):
            return False
        first = batch[0]
        assert isinstance(first, NewRecord)
        return first.partition.topic.endswith(".dlq") and self.rng.random() < 0.3

    # --- a whole run --------------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        schedule = self.schedule
        schedule.run(START_S + HEALED_S)
        self._heal()
        deadline = schedule.now + PEACE_S
        while not self._is_done():
            if schedule.now > deadline:
                raise Broken(f"STUCK: {self._left()}")
            schedule.run(schedule.now + LOOK_S)
        self.is_ending = True
        for process in self.processes:
            process.stop(5.0)
        self.rules.finish()

    def _heal(self) -> None:
        self.say(None, "all faults are over")
        self.is_healed = True
        self.schedule.wall_shift_ms = max(0, self.schedule.wall_shift_ms)

    def _is_done(self) -> bool:
        if self.plan.redrive and self.schedule.now < START_S + HEALED_S + 0.6:
            return False
        if self.plan.late and self.schedule.now < START_S + LATE_S + 0.1:
            return False
        if any(self.programs) or any(process.is_dead for process in self.processes) or self._waiting():
            return False
        return all(process.is_idle for process in self.processes)

    def _waiting(self) -> list[tuple[str, str, str, int]]:
        """(cluster, topic, group, messages) of what is not settled, or not due."""
        found = []
        for name, store in self.stores.items():
            found += [(name, "delayed", "", 1)] if store.due() is not None else []
            for topic, groups in store.groups.items():
                for group in groups.values():
                    left = sum(cursor.log.end - cursor.watermark for cursor in group.cursors)  # a gap that nobody was told of too
                    found += [(name, topic, group.name, left)] if left else []
        return found

    def _left(self) -> str:
        loops = [(process.pid, loop.view()) for process in self.processes for _, loop in process.supervisor.loops]
        views = [f"{pid}: {view.records} in flight, {view.waiting} waiting" for pid, view in loops]
        return f"not settled: {self._waiting()}, not published: {sum(map(len, self.programs))}, consumers by process: {views}"


def run(seed: int, plan: Plan | None = None, trace: Callable[[str], None] | None = None) -> None:
    """Raises Broken, with the seed in front."""
    try:
        World(plan or draw(seed), trace).run()
    except Broken as error:
        raise Broken(f"seed {seed}: {error}") from error
    except Exception as error:
        raise Broken(f"seed {seed}: {type(error).__name__}: {error}") from error
