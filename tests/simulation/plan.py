"""What one seed plays: the subset of faults, their rates, the sizes and the workload. Data, so that a failing one can be made smaller."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from mqsdk.core.retry import Backoff, OnExhausted, RetryPolicy

# How often, each time that it may happen. Most seeds have few of them at high rates: corners that a uniform mixture never reaches.
RATES = ("fail", "poison", "reject", "slow", "hang", "settle", "answer", "publish", "repeat")
# So many times, at moments of their own.
EVENTS = ("kill", "freeze", "stop", "lost", "reload", "pause", "clock", "trim")
FAULTS = (*RATES, *EVENTS)
COUNTS = {"kill": 2, "freeze": 2, "stop": 2, "lost": 3, "reload": 3, "pause": 1, "clock": 2, "trim": 1}

Kind = Literal["log", "queue"]


@dataclass(frozen=True)
class Consumer:
    """One group."""

    group: str
    ordered: bool
    concurrency: int
    in_flight: int
    policy: RetryPolicy
    timeout_s: float

    def __str__(self) -> str:
        kind = "ordered" if self.ordered else "unordered"
        limits = f"{self.concurrency} at once, {self.in_flight} in flight, {self.timeout_s:g} s each"
        return f"group {self.group} ({kind}): {limits}, {self.policy.attempts} attempts, then {self.policy.on_exhausted}"


@dataclass(frozen=True)
class Plan:
    """kind: of the cluster. sparse_bytes: room beside the watermark. delay: how it delays. writes: blocking calls, or submitted ones.

    messages: by each process. switch: the topic is given another cluster. late: one process only publishes, and follows long after.
    lethal: a message that kills its process whenever it runs. redrive: dead letters are given back. rates, times: by fault.
    """

    seed: int
    kind: Kind
    sparse_bytes: int
    delay: Literal["native", "ladder"]
    members: int
    partitions: int
    keys: int
    messages: int
    delayed: float
    writes: Literal["send", "submit", "many"]
    consumers: tuple[Consumer, ...]
    publish_s: float
    switch: bool
    late: bool
    lethal: bool
    redrive: bool
    rates: tuple[tuple[str, float], ...]
    times: tuple[tuple[str, int], ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """Those that may happen, by name."""
        return (*(name for name, _ in self.rates), *(name for name, _ in self.times))

    def without(self, fault: str) -> Plan:
        return replace(
            self,
            rates=tuple(one for one in self.rates if one[0] != fault),
            times=tuple(one for one in self.times if one[0] != fault),
        )

    def __str__(self) -> str:
        extras = [name for name in ("switch", "late", "lethal", "redrive") if getattr(self, name)]
        return "\n".join(
            (
                f"{self.members} processes with {self.messages} messages each ({self.writes}) of {self.keys} keys",
                f"{self.partitions} partitions on a {self.kind} that delays by {self.delay}",
                f"{self.sparse_bytes} bytes beside the watermark",
                *map(str, self.consumers),
                f"rates: {', '.join(f'{name} {rate:g}' for name, rate in self.rates) or 'none'}",
                f"events: {', '.join(f'{name} x{times}' for name, times in self.times) or 'none'}",
                f"also: {', '.join(extras) or 'nothing'}",
            )
        )


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    rng = Random(f"plan {seed}")
    share = rng.choice((0.0, 0.15, 0.3, 0.5))
    drawn = [name for name in FAULTS if rng.random() < share]
    kind: Kind = "queue" if rng.random() < 0.3 else "log"
    ladder = kind == "log" and rng.random() < 0.1
    switch = rng.random() < 0.12
    holds = switch and rng.random() < 0.5  # the old cluster answers late, while more is submitted
    redrive = kind == "log" and not switch and not ladder and rng.random() < 0.25
    lethal = kind == "log" and not switch and not redrive and rng.random() < 0.06
    sparse_bytes = 0 if kind == "queue" else rng.choice((4040, 4040, 4040, 24)) if not lethal else 4040
    two_groups = not redrive and not lethal and rng.random() < 0.15
    members = rng.choice((1, 1, 2, 2, 3))
    # On a queue nothing tells how far a group is: a topic that has ordered consumers stays there.
    may_order = not (switch and kind == "queue")
    consumers = tuple(_consumer(rng, f"g{number}", may_order, redrive or lethal) for number in range(2 if two_groups else 1))
    rates = [name for name in RATES if (name in drawn or (holds and name == "publish")) and _may(name, kind, lethal)]
    return Plan(
        seed=seed, kind=kind, sparse_bytes=sparse_bytes, delay="ladder" if ladder else "native",
        members=members, partitions=rng.choice((1, 1, 2, 3)), keys=rng.randint(1, 3), messages=max(1, rng.randint(2, 12) // members),
        delayed=rng.choice((0.0, 0.0, 0.3)) if not ladder else 0.5,
        writes="submit" if holds else rng.choice(("send", "submit", "many")), consumers=consumers, publish_s=rng.choice((0.3, 2.0)),
        switch=switch, late=switch and members > 1 and rng.random() < 0.5, lethal=lethal, redrive=redrive,
        rates=tuple((name, 0.8 if holds and name == "publish" else rng.choice((0.05, 0.3))) for name in rates),
        times=tuple((name, rng.randint(1, COUNTS[name])) for name in drawn if name in EVENTS and _may(name, kind, lethal)),
    )  # fmt: skip


def _may(name: str, kind: Kind, lethal: bool) -> bool:
    """A queue has no positions that could be gone or read again; a message that kills is told from others that die by chance."""
    return not (kind == "queue" and name in ("trim", "repeat")) and not (lethal and name in ("kill", "lost", "freeze", "stop"))


def _consumer(rng: Random, group: str, may_order: bool, dead_letters: bool) -> Consumer:
    ended: OnExhausted = "dead_letter" if dead_letters or rng.random() < 0.8 else "drop"
    return Consumer(
        group, may_order and rng.random() < 0.7, rng.choice((1, 2, 4)), rng.choice((2, 5, 100)),
        RetryPolicy(rng.choice((1, 2, 4)), Backoff(0.05, max=0.2), ended), rng.choice((0.2, 5.0)),
    )  # fmt: skip
