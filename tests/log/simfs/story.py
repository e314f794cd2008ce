"""What a program does with the log in one seed, and what it was answered: the measure for what has to be there after a crash."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from mqsdk_log.engine import cursors, groups
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.errors import CorruptRange, LogError, SyncFailed
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.engine.shared import Durability, Limits

from tests.log.simfs.clock import BASE_MS, Clock
from tests.log.simfs.fault import Fault
from tests.log.simfs.system import Death, System

TOPIC, GROUP = "orders", "billing"
HOUR_MS = 3_600_000
NEVER_MS = BASE_MS + 1000 * 24 * HOUR_MS
WRITE_LIMIT = fmt.WRITE_LIMIT  # a process that is killed inside a call never gives back what it found there


class Setting(NamedTuple):
    """What a seed decides before anything is done."""

    durability: Durability
    limits: Limits
    steps: int
    sizes: tuple[int, ...]
    delays: bool
    retention: bool
    fault: Fault | None
    early: bool = False  # the fault may strike while the log and its topic are being made

    @classmethod
    def of(cls, chance: random.Random) -> Setting:
        durability: Durability = chance.choice(("none", "interval", "always", "always"))
        segment_bytes = chance.choice((700, 3000, 9000, 30000, 1 << 20))
        sizes: tuple[int, ...] = chance.choice(((10, 100), (10, 100, 300), (50, 500, 5000), (3000, 9000), (100, 40_000)))
        with_delays = chance.random() < 0.35
        return cls(
            durability, Limits(segment_bytes=segment_bytes, min_free_bytes=0), chance.randint(6, 28), sizes, with_delays,
            not with_delays and chance.random() < 0.3, _fault(chance) if chance.random() < 0.35 else None, chance.random() < 0.2,
        )  # fmt: skip


def _fault(chance: random.Random) -> Fault:
    kind = chance.randrange(5)
    times = chance.choice((1, 1, 1, 3, 1000))
    if kind == 0:
        return Fault(("fdatasync",), chance.randrange(20), times, errno.EIO)
    if kind == 1:
        return Fault(("fsync", "fdatasync"), chance.randrange(30), times, errno.EIO)
    if kind == 2:
        return Fault(("pwrite", "pwritev", "write"), chance.randrange(40), times, errno.ENOSPC, short=True)
    if kind == 3:
        return Fault(("pwritev", "ftruncate"), chance.randrange(25), times, errno.EIO)
    calls = ("open", "mkdir", "rename", "link", "pwrite", "pwritev", "write", "fallocate", "fsync", "unlink")
    return Fault(calls, chance.randrange(120), times, errno.ENOSPC)


class Attempt(NamedTuple):
    """Values that were to be stored together. delayed: they take their place later, each where it is seen."""

    values: tuple[bytes, ...]
    delayed: bool


class Known:
    """What was asked for and answered up to some moment. Facts are only ever appended, so a moment is a number of facts."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.facts: list[tuple[Any, ...]] = []

    def tell(self, *fact: Any) -> None:
        self.facts.append(fact)

    def attempt(self, values: tuple[bytes, ...], *, delayed: bool = False) -> int:
        self.attempts.append(Attempt(values, delayed))
        self.tell("try", len(self.attempts) - 1)
        return len(self.attempts) - 1


class Story:
    """Acts on a simulated system as its seed says."""

    def __init__(self, setting: Setting, chance: random.Random, system: System, clock: Clock, known: Known) -> None:
        self.setting = setting
        self.known = known
        self._chance = chance
        self._system = system
        self._clock = clock
        self._logs: list[Log] = []
        self._parts: list[PartitionLog] = []
        self._group = groups.Group(system.path, GROUP)
        self._cursor: Any = None
        self._epoch = 0
        self._seen = 0  # below it every offset is known

    def run(self) -> None:
        """To its end, errors that the engine tells of included."""
        try:
            if self.setting.early:
                self._system.fault = self.setting.fault
            self._guarded(self._begin)
            self._system.fault = self.setting.fault
            for _ in range(self.setting.steps):
                self._guarded(self._step)
                self._guarded(self._look)
        finally:
            self.end()

    def end(self) -> None:
        """Close descriptors as the kernel does, and nothing else."""
        if self._cursor is not None:
            self._cursor.close()
        for one in self._logs:
            one._forget()
        self._logs, self._parts = [], []

    def _guarded(self, action: Callable[[], Any]) -> None:
        with suppress(LogError, OSError):
            action()

    # --- steps --------------------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._open()
        if self._chance.random() < 0.6:
            self._group.ensure(TOPIC, [self._parts[0].end()])
            if not self._system.struck:
                self.known.tell("group", self._parts[0].end())
            self._own()

    def _open(self) -> None:
        found = open_log(self._system, self.setting.durability, self.setting.limits)
        try:
            topic = found.create_topic(TOPIC, 1)
            if not self._system.struck:
                self.known.tell("topic")
            part = topic.partition(0)
        except BaseException:
            found._forget()
            raise
        self._logs.append(found)
        self._parts.append(part)

    def _step(self) -> None:
        steps: list[tuple[int, Callable[[], None]]] = [
            (40, self._append), (8, self._append_durably), (9, self._sync), (3, self._seal), (3, self._another), (2, self._wait),
            (1, self._jump), (2, self._append_large), (4, self._die),
        ]  # fmt: skip
        if self._cursor is not None:
            steps += [(16, self._settle), (4, self._sync_cursor), (2, self._own)]
        if self.setting.delays:
            steps += [(14, self._delay), (10, self._move), (5, self._checkpoint)]
        if self.setting.retention:
            steps += [(5, self._remove)]
        action = self._chance.choices([one for _, one in steps], [weight for weight, _ in steps])[0]
        if self._system.trace is not None:
            self._system.trace.append(f"       {action.__name__.strip('_')}")
        action()

    def _part(self) -> PartitionLog:
        if not self._parts:
            self._open()
        return self._chance.choice(self._parts)

    def _values(self, count: int) -> tuple[bytes, ...]:
        number = len(self.known.attempts)
        return tuple(f"{number}:{index}:".encode() + self._filler() for index in range(count))

    def _filler(self) -> bytes:
        size = self._chance.choice(self.setting.sizes)
        return bytes([self._chance.randrange(256)]) * self._chance.randint(size // 2, size)

    def _append(self, *, durable: bool = False, values: tuple[bytes, ...] = ()) -> None:
        part = self._part()
        values = values or self._values(self._chance.choice((1, 1, 1, 2, 5)))
        self._store(part, self.known.attempt(values), values, durable)

    def _store(self, part: PartitionLog, number: int, values: tuple[bytes, ...], durable: bool) -> None:
        try:
            base = part.append(_records(values), timestamp_ms=self._now_ms(), durable=durable)
        except SyncFailed:
            self.known.tell("unknown", number)
            raise
        except (LogError, OSError):
            self.known.tell("rejected", number)
            raise
        self.known.tell("stored", number, base)
        if durable or self.setting.durability == "always":
            self.known.tell("durable", base + len(values))

    def _append_durably(self) -> None:
        self._append(durable=True)

    def _append_large(self) -> None:
        """Several batches in one go; the limit of one write is lowered for it, which the format leaves free."""
        values = self._values(self._chance.randint(2, 4))
        fmt.WRITE_LIMIT = 200
        part, number = self._part(), self.known.attempt(values)
        try:
            base = part._append_large(_records(values), (self._now_ms(), 0, 0), None, False)
        except SyncFailed:
            self.known.tell("unknown", number)
            raise
        except (LogError, OSError):
            self.known.tell("rejected", number)
            raise
        finally:
            fmt.WRITE_LIMIT = WRITE_LIMIT
        self.known.tell("stored", number, base)
        if self.setting.durability == "always":
            self.known.tell("durable", base + len(values))

    def _sync(self) -> None:
        part = self._part()
        tail = part.tail()
        part._commit.sync()  # as the background does
        self.known.tell("durable", tail)

    def _seal(self) -> None:
        self._part().seal(0)

    def _another(self) -> None:
        """A second process; the first one may end in order."""
        if len(self._logs) > 1:
            self._logs.pop(0).close()
            self._parts.pop(0)
            if self.setting.durability != "none" and not self._parts[0].is_read_only:
                self.known.tell("durable", self._parts[0].end())
        self._open()

    def _die(self) -> None:
        """The process is killed in one of the next calls; another one goes on."""
        part, self._parts = self._part(), []
        victim = next(log for log in self._logs if log.topic(TOPIC).partition(0) is part)
        others, self._logs = [log for log in self._logs if log is not victim], [victim]
        self._parts = [part]
        self._system.lives_for = self._chance.randint(1, 12)
        try:
            while self._system.lives_for:
                self._guarded(self._chance.choice(self._deadly))
        except Death:
            victim._forget()
        finally:
            self._system.lives_for = None
            self._logs, self._parts = others, [log.topic(TOPIC).partition(0) for log in others]
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None
            self._own()
        self._open()

    @property
    def _deadly(self) -> list[Callable[[], None]]:
        found = [self._append, self._append_durably, self._append_large, self._sync, self._seal]
        if self._cursor is not None:
            found += [self._settle, self._sync_cursor]
        if self.setting.delays:
            found += [self._delay, self._move, self._checkpoint]
        return found + ([self._remove] if self.setting.retention else [])

    def _wait(self) -> None:
        self._clock.waited_s += self._chance.choice((0.2, 1.5, 10))

    def _jump(self) -> None:
        self._clock.jumped_s += self._chance.choice((-7200, -60, 60, 7200, 86400))

    def _remove(self) -> None:
        part = self._part()
        below = self._chance.randint(part.start(), part.tail())
        self.known.tell("remove", below)
        part.remove_before(below)

    # --- a group ------------------------------------------------------------------------------------------------------------------------

    def _own(self) -> None:
        if self._cursor is None:
            self._cursor = self._group.cursors(TOPIC)
        taken = self._cursor.take(0, lambda _: True)
        self._epoch = taken[1].epoch
        self._progress(taken[1].watermark, taken[1].high)

    def _progress(self, watermark: int, high: int) -> None:
        self.known.tell("progress", watermark, high)

    def _settle(self) -> None:
        end = self._part().end()
        before = self._cursor.read(0)
        watermark = self._chance.randint(before.watermark, max(end, before.watermark))
        high = self._chance.randint(max(watermark, before.high), max(end, before.high))
        self._progress(watermark, high)
        stored = self._cursor.store(0, cursors.Cursor(watermark, self._epoch, high=high, sparse=b"s" * self._chance.randrange(90)))
        assert stored is not None

    def _sync_cursor(self) -> None:
        stored = self._cursor.read(0)
        self._cursor.sync()
        self.known.tell("progress synced", stored.watermark, stored.high)

    # --- what is delayed ------------------------------------------------------------------------------------------------------------------

    def _delay(self) -> None:
        part: Any = self._part()
        durable = self._chance.random() < 0.2
        values = self._values(self._chance.choice((1, 1, 3)))
        number = self.known.attempt(values, delayed=True)
        now_ms = self._now_ms()
        dues = [now_ms + self._chance.choice((1, 5, 400, 60_000, 2 * HOUR_MS)) for _ in values]
        try:
            part.delays.put(_records(values), dues, timestamp_ms=now_ms, durable=durable)
        except SyncFailed:
            self.known.tell("unknown", number)
            raise
        except (LogError, OSError):
            self.known.tell("rejected", number)
            raise
        self.known.tell("stored", number, None)
        if durable or self.setting.durability == "always":
            self.known.tell("delayed durably", number)

    def _move(self) -> None:
        part = self._part()
        part.move(self._now_ms() + self._chance.choice((0, 10, 1000, 3 * HOUR_MS)))

    def _checkpoint(self) -> None:
        part: Any = self._part()
        part.delays.checkpoint()

    def _look(self) -> None:
        """Note what took its place since the last look: what is moved comes at no offset that its publisher was told."""
        if not self.setting.delays:
            return
        part = self._part()
        reader = part.reader(max(self._seen, part.start()))
        try:
            while found := reader.read(1000, 1 << 24):
                for record in found:
                    self.known.tell("seen", record.position, record.value)
                self._seen = reader.position
        except CorruptRange as gap:
            reader.seek(gap.stop)
        finally:
            reader.close()

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def open_log(system: System, durability: Durability, limits: Limits) -> Log:
    """As the backend opens one: recovery gives out no offset that a group has settled. Nothing runs in the background."""
    path = system.path
    found = Log.open(path, durability=durability, limits=limits)
    found.floor = lambda name, number: cursors.highest(path, name, number)
    found._syncer.mark = _refuse  # type: ignore[method-assign]
    return found


def _refuse(*_: Any, **__: Any) -> bool:
    return False


def _records(values: tuple[bytes, ...]) -> list[Any]:
    return [(None, b"", value, 0, 0, 1) for value in values]
