"""Start gates of a consumer: what a worker may start while the machine has not heard yet of what has come."""

from __future__ import annotations

import random
from typing import Any

from mqsdk.config.model import Cluster, Configuration, Route
from mqsdk.runtime.environment import Declared, Environment
from mqsdk.runtime.sender import Draft
from mqsdk.runtime.supervisor import Supervisor
from mqsdk.runtime.unfinished import InMemory
from mqsdk.runtime.workers import ScanEvent
from mqsdk.testing.clock import VirtualClock
from mqsdk.testing.executor import InlineWorkers
from mqsdk.testing.simlog import SimBackend, SimLog

LEASE_S = 2.0


class _Handler:
    is_async = batch = False
    invoke = invoke_async = invoke_batch = invoke_batch_async = None


class Busy(InlineWorkers):
    """Every worker is in a call: what it is given waits. seen: the gates of that as they were while a round was under way."""

    def flush(self) -> None:
        """Nobody has time."""

    def scan(self, now: float, stuck_after_s: float) -> list[ScanEvent]:
        self.seen = [task.gate.valid_until for task in self._queue]
        return []


class Host:
    def __init__(self, store: SimLog, clock: VirtualClock) -> None:
        self.workers: Any = None
        self.clock = clock
        configuration = Configuration(
            clusters={"local": Cluster(name="local", backend="memory", lease_s=LEASE_S)}, routes=(Route(topics=("*",), cluster="local"),)
        )
        environment = Environment(
            clock=clock, rng=random.Random(1), make_backend=lambda cluster: SimBackend(store), make_workers=self._make_workers,
            threaded=False, memory=InMemory(),
        )  # fmt: skip
        self.supervisor = Supervisor(configuration, environment, "shop")
        self.supervisor.start([Declared(topic="orders", group="billing", handler=_Handler())], 1.0)  # type: ignore[arg-type]

    def _make_workers(self, declared: Declared, results: Any, tuning: Any) -> Busy:
        made = self.workers = Busy(declared, self.clock, results)
        return made

    def rounds(self, count: int = 3) -> None:
        for _ in range(count):
            for _, loop in self.supervisor.loops:
                loop.step(0.0)


def test_a_renewal_that_comes_with_a_loss_does_not_open_what_is_lost() -> None:
    """A frozen process that had lost its partition started what its workers had been given, in the moment in which it was thawed."""
    clock = VirtualClock()
    store = SimLog(clock, partitions=1)
    frozen = Host(store, clock)
    frozen.supervisor.publisher("orders").send("orders", [Draft(b"k", b"1", "1")], 1.0)
    frozen.rounds()
    other = Host(store, clock)
    assert frozen.workers.seen[0] > clock.mono()
    clock.advance(f"{LEASE_S + 1:g}s")
    other.rounds()
    frozen.rounds(1)
    assert frozen.workers.seen == [0.0]
