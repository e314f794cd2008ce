"""What the parts of one machine share: its settings, its timers, its counters, and the list of actions under construction."""

from __future__ import annotations

from typing import Protocol

from mqsdk.core.actions import Action, Report, Spec, Tuning
from mqsdk.core.attempts import accept
from mqsdk.core.durations import Durations
from mqsdk.core.timers import Timers
from mqsdk.events import Event


class Draws(Protocol):
    """Randomness handed in from outside; `random.Random` fits."""

    def random(self) -> float:
        """A draw from [0, 1)."""


class Counters:
    """Messages by what became of them, since the machine was made."""

    __slots__ = (
        "dead_lettered", "dropped", "durations", "failed", "gap", "handled", "orphaned", "redelivered", "repeated", "retried", "shadows",
    )  # fmt: skip

    def __init__(self) -> None:
        self.handled = self.failed = self.retried = self.dead_lettered = 0
        self.dropped = self.redelivered = self.repeated = self.shadows = self.orphaned = self.gap = 0
        self.durations = Durations()


class Desk:
    """One per machine. `is_stopped`: paused or draining, nothing may start."""

    __slots__ = ("_tokens", "actions", "counters", "is_stopped", "rng", "spec", "timers", "tuning", "wall_offset_s")

    def __init__(self, spec: Spec, tuning: Tuning, rng: Draws, wall_offset_s: float) -> None:
        self.spec = spec
        self.tuning = accept(tuning, spec)
        self.rng = rng
        self.wall_offset_s = wall_offset_s
        self.timers = Timers()
        self.counters = Counters()
        self.actions: list[Action] = []
        self._tokens = 0
        self.is_stopped = False

    def token(self) -> int:
        """A number that this machine never gave out before."""
        self._tokens += 1
        return self._tokens

    def report(self, event: Event) -> None:
        self.actions.append(Report(event))

    def wall_ms(self, moment: float) -> int:
        """Monotonic seconds as milliseconds since 1970."""
        return round((moment + self.wall_offset_s) * 1000)
