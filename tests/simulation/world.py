"""What surrounds the machine in the simulation: a cursor backend of ten lines, a virtual clock, and faults drawn from a seed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from mqsdk.core import actions as act
from mqsdk.core.retry import Backoff, OnExhausted, RetryPolicy
from mqsdk.spi import events as spi
from tests.simulation import limit_model
from tests.simulation.broken import Broken
from tests.simulation.halt_model import HaltModel
from tests.simulation.letter_model import LetterModel

TOPIC, RETRY = "orders", "orders.g.retry"
BASE_S, MAX_S = 0.05, 0.2
RATES = ("fail", "poison", "reject", "slow", "settle", "copy", "stale", "ask")
FAULTS = ("revoke", "lost", "crash", "pause", "retune", "renew", "drain", "gap")


@dataclass
class Cursor:
    """What the backend keeps of one partition, and its records (positions may have holes)."""

    records: list[spi.Record]
    epoch: int = 0
    position: int = 0
    sparse: bytes = b""
    stored: set[int] = field(default_factory=set)
    owned: bool = False
    read_to: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    credit: int = 0


class World:
    """One seed; `Simulation` adds the machine and its workers. `rates`: probability of each fault, 0 for most of them in most seeds.

    cursors: those of the topic's partitions, then in half of the seeds as many of the retry topic's; a record's id tells its cursor.
    """

    def __init__(self, seed: int, without: Collection[str] = ()) -> None:
        rng = self.rng = Random(seed)
        self.limits = Random(f"limits of {seed}")  # its own, so that other draws stay what they were
        self.rates = {name: rng.choice((0.0, 0.0, 0.05, 0.3)) for name in RATES}
        self.faults = [name for name in FAULTS if rng.random() < 0.4]
        self.rates |= dict.fromkeys(self.rates.keys() & set(without), 0.0)
        self.faults = [name for name in self.faults if name not in without]
        self.spec = act.Spec(
            TOPIC, "g", "c", ordered=rng.random() < 0.7, batch=rng.choice((None, None, None, 4)), batch_wait_s=rng.choice((0.0, 0.03)),
            is_async=rng.random() < 0.3, sparse_bytes=rng.choice((4096, 4096, 24, 0)), retry=RETRY if rng.random() < 0.5 else None,
        )  # fmt: skip
        ended: OnExhausted = rng.choice(("dead_letter", "drop"))
        self.halts = Random(f"halts of {seed}")
        if self.spec.sparse_bytes == 4096 and self.halts.random() < 0.5:
            ended = "halt_key" if self.spec.ordered and self.halts.random() < 0.7 else "halt_partition"
        follows = self.spec.ordered and self.halts.random() < 0.3
        policy = RetryPolicy(rng.choice((1, 2, 4)), Backoff(BASE_S, max=MAX_S), ended, dlq_follow_key=follows)
        self.tuning = act.Tuning(
            concurrency=rng.choice((1, 2, 4)), in_flight_records=rng.choice((1, 3, 8, 100)), span_records=rng.choice((5, 1000)),
            retry=policy, **limit_model.draw(self.limits),  # type: ignore[arg-type]
        )  # fmt: skip
        self.now = 0.0
        self.heap: list[tuple[float, float, Callable[[], None]]] = []
        self.inbox: list[Any] = []
        self.healed = self.ending = False
        self.releases = 0
        self.readings: dict[float, list[tuple[int, int]]] = {}
        self.process = 0
        self.drain_by: float | None = None
        self.drained: act.Drained | None = None
        self.cursors = self._publish()
        self.final: set[tuple[int, int]] = set()
        self.ok: set[tuple[int, int, int, int]] = set()
        self.running_keys: dict[tuple[int, bytes | None], int] = {}
        self.failed_at: dict[tuple[int, int], tuple[int, float]] = {}
        self.marks: dict[tuple[int, int], int] = {}
        self.gates: dict[tuple[int, int], bool] = {}
        self.halt_model = HaltModel()
        self.letter_model = LetterModel(self.partitions)
        self._schedule_faults()

    # --- the world --------------------------------------------------------------------------------------------------------------

    def _publish(self) -> list[Cursor]:
        rng, cursors = self.rng, []
        keys = [None, b"a", b"b", b"c", b"d"][: rng.randint(1, 5)]
        holes = rng.random() < 0.3
        self.partitions = rng.randint(1, 2)
        for index in range(self.partitions * (1 if self.spec.retry is None else 2)):
            records, position = [], 0
            for _ in range(rng.randint(5, 25)):
                position += rng.randint(1, 3) if holes and rng.random() < 0.3 else 0
                records.append(spi.Record(position, rng.choice(keys), b"x", id=f"{index}:{position}"))
                position += 1
            cursors.append(Cursor(records))
        return cursors

    def part(self, index: int) -> spi.Partition:
        return spi.Partition((TOPIC, RETRY)[index // self.partitions], index % self.partitions)

    def index(self, partition: spi.Partition) -> int:
        return partition.number + (0 if partition.topic == TOPIC else self.partitions)

    def restart(self) -> None:
        """A new process without any memory: everything that ran in the old one is gone."""
        self.process += 1
        self.drain_by = None
        self.inbox.clear()
        self.running_keys.clear()
        self.gates.clear()
        self.letter_model.restart()
        for number, cursor in enumerate(self.cursors):
            cursor.owned = False
            self._assign_after(self.rng.random() * 0.02, number)

    def _assign_after(self, seconds: float, number: int) -> None:
        self.after(seconds, lambda: self._assign(number))

    def _schedule_faults(self) -> None:
        for name in self.faults:
            for _ in range(self.rng.randint(1, 2)):
                self.after(self.rng.random() * 0.6, getattr(self, f"_fault_{name}"))
        self.after(0.8, self._heal)
        self._release()
        self.after(0.1, self._purge)

    def _purge(self) -> None:
        """A person takes the letters of a key away, now and then."""
        letters = self.letter_model.letters
        if letters:
            key = self.halts.choice(list(letters.values())).key
            self.letter_model.letters = {where: letter for where, letter in letters.items() if letter.key != key}
        self.after(self.halts.choice((0.05, 0.5)), self._purge)

    def _read_letters(self) -> None:
        """Somebody was asked for them: reads a little later, and tells it later still."""
        process = self.process

        def read() -> None:
            found, asked_at = dict(self.letter_model.letters), self.now
            keys = frozenset(letter.key for letter in found.values())
            self.after(self.halts.choice((0.0, 0.02)), lambda: self._late(process, act.Letters(asked_at, keys)))
            self.readings[asked_at] = list(found)
            if found and process == self.process:
                self.after(0.1, read)

        self.after(self.halts.choice((0.0, 0.01)), read)

    def _release(self) -> None:
        """A person looks after what is halted, now and then; when all faults are healed, so that everything ends."""
        if self.tuning.retry.on_exhausted.startswith("halt"):
            self.after(self.halts.choice((0.05, 0.3)), self._release)
            outcomes: tuple[act.ReleaseAs, ...] = ("dead_letter", "drop") if self.healed else ("retry", "retry", "dead_letter", "drop")
            keys = None if self.healed or self.halts.random() < 0.5 else (self.halts.choice((None, b"a", b"b")),)
            self.releases += 1
            self.inbox.append(act.Release(self.releases, self.halts.choice(outcomes), keys))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (self.now + seconds, self.rng.random(), call))

    def rate(self, name: str) -> bool:
        return not self.healed and self.rng.random() < self.rates[name]

    def _heal(self) -> None:
        self.healed = True
        self.inbox.append(act.Pause(False))

    # --- backend ----------------------------------------------------------------------------------------------------------------

    def _assign(self, number: int) -> None:
        cursor, process = self.cursors[number], self.process
        if cursor.owned or self.drain_by is not None:
            return
        cursor.epoch += 1
        cursor.owned, cursor.read_to, cursor.credit = True, cursor.position, 0
        self.gates[number, cursor.epoch] = True
        self.halt_model.assigned(number, cursor)
        self.marks[number, cursor.epoch] = cursor.position
        self.inbox.append(spi.Assigned(self.part(number), cursor.epoch, cursor.position, cursor.sparse))
        self.after(0.001, lambda: self._deliver(number, cursor.epoch, process))

    def _deliver(self, number: int, epoch: int, process: int) -> None:
        cursor = self.cursors[number]
        if process != self.process or epoch != cursor.epoch or not cursor.owned:
            return
        if cursor.read_to > cursor.records[-1].position:
            return  # all of it is delivered; the next owner begins anew
        if not cursor.credit and not cursor.gaps:
            self.after(0.01, lambda: self._deliver(number, epoch, process))
            return
        while gap := next((gap for gap in cursor.gaps if gap[0] <= cursor.read_to < gap[1]), None):
            self.inbox.append(spi.Gap(self.part(number), epoch, cursor.read_to, gap[1], "retention"))
            cursor.read_to = gap[1]
        end = min((start for start, _ in cursor.gaps if start >= cursor.read_to), default=1 << 62)
        held = cursor.records
        if cursor.gaps:
            held = [record for record in held if not any(start <= record.position < stop for start, stop in cursor.gaps)]
        ready = [record for record in held if cursor.read_to <= record.position < end][: min(cursor.credit, self.rng.randint(1, 20))]
        if ready:
            again = max(0, cursor.read_to - 2) if self.rate("stale") else cursor.read_to
            first = max(again, cursor.position)
            repeats = [record for record in held if first <= record.position < cursor.read_to]
            cursor.read_to = ready[-1].position + 1
            cursor.credit = max(0, cursor.credit - len(repeats) - len(ready))
            size = sum(record.size for record in [*repeats, *ready])
            batch = spi.Batch(self.part(number), epoch, [*repeats, *ready], size)
            self.inbox.append(batch)
            if self.rate("stale"):
                self.after(0.1, lambda: self._repeat(process, batch))
        elif cursor.credit and end < 1 << 62 and not any(cursor.read_to <= record.position < end for record in held):
            cursor.read_to = end
        self.after(self.rng.choice((0.002, 0.03)), lambda: self._deliver(number, epoch, process))

    def _repeat(self, process: int, batch: spi.Batch) -> None:
        cursor = self.cursors[self.index(batch.partition)]
        if process == self.process and batch.epoch == cursor.epoch:
            cursor.credit = max(0, cursor.credit - len(batch.records))
        self._late(process, batch)

    def _late(self, process: int, event: Any) -> None:
        if process == self.process:
            self.inbox.append(event)

    def _settle(self, progress: spi.Progress) -> None:
        number = self.index(progress.partition)
        cursor = self.cursors[number]
        claimed = {position for start, stop in progress.done for position in range(start, stop)} | set(range(progress.watermark))
        real = {record.position for record in cursor.records}
        if wrong := [position for position in claimed & real if (number, position) not in self.final]:
            raise Broken(f"settled without an outcome: {wrong}")
        if progress.watermark < self.marks.get((number, progress.epoch), 0):
            raise Broken("watermark fell")
        if len(progress.sparse) > self.spec.sparse_bytes:
            raise Broken("sparse blob too long")
        outcome = "stored" if cursor.owned and progress.epoch == cursor.epoch else "stale"
        applied = outcome == "stored"
        if applied and self.rate("settle"):
            outcome, applied = "failed", self.rng.random() < 0.5
        if applied:
            self.marks[number, progress.epoch] = progress.watermark
            cursor.position, cursor.sparse = progress.watermark, progress.sparse
            cursor.stored |= claimed
        if progress.final and outcome == "stored":
            cursor.owned = False
            self._assign_after(0.01, number)
        process, answer = self.process, spi.Settled(progress.partition, progress.epoch, progress.token, outcome)  # type: ignore[arg-type]
        self.after(self.rng.choice((0.0, 0.001, 0.05)), lambda: self._late(process, answer))

    # --- faults -----------------------------------------------------------------------------------------------------------------

    def _pick(self) -> int | None:
        owned = [number for number, cursor in enumerate(self.cursors) if cursor.owned]
        return self.rng.choice(owned) if owned and not self.healed else None

    def _fault_revoke(self) -> None:
        number = self._pick()
        if number is not None:
            epoch, seconds = self.cursors[number].epoch, self.rng.choice((0.0, 0.02, 0.5))
            self.inbox.append(spi.Revoking(self.part(number), epoch, self.now + seconds))
            self.after(seconds + 0.001, lambda: self._take_away(number, epoch))

    def _take_away(self, number: int, epoch: int) -> None:
        if self.cursors[number].owned and self.cursors[number].epoch == epoch:
            self._lose(number)

    def _fault_lost(self) -> None:
        number = self._pick()
        if number is not None:
            self._lose(number)

    def _lose(self, number: int) -> None:
        cursor = self.cursors[number]
        cursor.owned = False
        self.inbox.append(spi.Lost(self.part(number), cursor.epoch))
        if self.rng.random() < 0.5:
            self._assign(number)
        else:
            self._assign_after(self.rng.random() * 0.1, number)

    def _fault_crash(self) -> None:
        if self.healed and self.drain_by is None:
            return
        self.restart()

    def _fault_drain(self) -> None:
        """A stop of the process, which then starts again."""
        if not self.healed:
            self._drain(self.rng.choice((0.0, 0.02, 0.5)))

    def _drain(self, seconds: float) -> None:
        self.drain_by, self.drained = self.now + seconds, None
        self.inbox.append(act.Drain(self.drain_by))

    def _fault_gap(self) -> None:
        """Retention overtakes the group: what comes next is gone."""
        number = self._pick()
        if number is not None:
            cursor = self.cursors[number]
            gone = [record.position for record in cursor.records if record.position >= cursor.read_to][: self.rng.randint(1, 4)]
            if gone:
                cursor.gaps.append((cursor.read_to, gone[-1] + 1))

    def _fault_pause(self) -> None:
        self.inbox.append(act.Pause(True))
        self.after(self.rng.random() * 0.3, lambda: self.inbox.append(act.Pause(False)))

    def _fault_retune(self) -> None:
        values: dict[str, object] = {"concurrency": self.rng.choice((1, 3)), "in_flight_records": self.rng.choice((1, 5, 50))}
        if self.halts.random() < 0.5:
            policy = self.tuning.retry
            values["retry"] = RetryPolicy(policy.attempts + 1, policy.backoff, policy.on_exhausted, dlq_follow_key=policy.dlq_follow_key)
        if self.limits.random() < 0.5:
            values |= limit_model.draw(self.limits)
        self.tuning = replace(self.tuning, **values)  # type: ignore[arg-type]
        self.inbox.append(act.Retuned(self.tuning))

    def _fault_renew(self) -> None:
        self.inbox += [spi.Link(False), spi.Renewed(self.now), spi.Link(True)]
        self.after(0.05, lambda: self.inbox.append(spi.Renewed(float("inf"))))
