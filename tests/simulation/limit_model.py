"""What a rate and a breaker allow, in the plainest words: the simulation asks it at every job and every start."""

from __future__ import annotations

from random import Random

from mqsdk.core import actions as act
from mqsdk.core.actions import BreakerPolicy
from mqsdk.events import BreakerChanged
from tests.simulation.broken import Broken


def draw(rng: Random) -> dict[str, object]:
    """Limits of one seed: none in half of them."""
    policy = BreakerPolicy(rng.choice((0.3, 0.6, 1.0)), rng.choice((1, 2, 4)), rng.choice((0.1, 1.0)), rng.choice((0.02, 0.1)))
    return {"rate_per_s": rng.choice((None, None, None, 40.0, 300.0)), "breaker": rng.choice((None, None, policy))}


class LimitModel:
    """tokens: what may start now, kept as a number that grows; the machine keeps a moment. Of one process."""

    def __init__(self, tuning: act.Tuning) -> None:
        self.now = 0.0
        self.rate: float | None = None
        self.tokens = 0.0
        self.state = "closed"
        self.probe: int | None = None
        self.retune(tuning)

    @property
    def burst(self) -> float:
        return max(1, int((self.rate or 0) / 10))

    def retune(self, tuning: act.Tuning) -> None:
        missing = 0.0 if self.rate is None else self.burst - self.tokens
        self.rate = tuning.rate_per_s
        self.tokens = self.burst - min(missing, self.burst)

    def fed(self, now: float, events: list[object]) -> None:
        """Before a feed."""
        if self.rate is not None:
            self.tokens = min(self.burst, self.tokens + (now - self.now) * self.rate)
        self.now = now
        for event in events:
            if isinstance(event, act.Retuned):
                self.retune(event.tuning)
            elif isinstance(event, act.Finished | act.Returned):
                unstarted = event.skipped if isinstance(event, act.Finished) else event.records
                self.tokens = min(self.burst, self.tokens + len(unstarted))

    def reported(self, event: BreakerChanged) -> None:
        if event.state == self.state:
            raise Broken(f"the breaker is reported {event.state} twice")
        self.state, self.probe = event.state, None

    def given(self, job: act.Job) -> None:
        """A job was given out."""
        if self.rate is not None:
            if self.tokens < min(len(job.records), self.burst) - 1e-5:
                raise Broken(f"{len(job.records)} start with {self.tokens} tokens")
            self.tokens -= len(job.records)
        if self.state != "closed":
            if self.state == "open" or len(job.records) > 1:
                raise Broken("a job is given out while the breaker is open")
            self.probe = job.token

    def started(self, job: act.Job) -> None:
        if self.state == "open" or (self.state == "probing" and job.token != self.probe):
            raise Broken("a message starts while the breaker is open")
