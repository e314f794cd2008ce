"""Where a TestApp plays: in virtual time over the in-memory log, or in real time over the real one."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mqsdk import units
from mqsdk.config.model import Cluster, Configuration
from mqsdk.core.actions import Tuning
from mqsdk.errors import Duration, StateError
from mqsdk.runtime import plugins, reading
from mqsdk.runtime.environment import Declared, Environment
from mqsdk.runtime.supervisor import Supervisor
from mqsdk.runtime.unfinished import InMemory
from mqsdk.runtime.workers import Results, Workers
from mqsdk.spi import Backend, Capabilities, Record
from mqsdk.testing.clock import VirtualClock
from mqsdk.testing.executor import InlineWorkers, SteppedTasks, VirtualLoop
from mqsdk.testing.simlog import MEMORY, SimBackend, SimLog
from mqsdk.testing.simstore import PublishFault

# A drain that takes more rounds than this feeds itself. A round carries up to 500 records of each consumer.
MAX_ROUNDS = 100_000
START_S = 30.0
# Nobody is ever frozen in virtual time: a jump of the clock must not cost a consumer its partitions.
NO_LEASE_S = 1e9
# Timers are sums of floats, targets are whole nanoseconds: what is due within this is due.
TICK_S = 1e-6
QUIET_WITHIN_S = 60.0
LOOK_EVERY_S = 0.002


class NoJitter(random.Random):
    """Draws 0.0, so that retries come exactly after their backoff."""

    def random(self) -> float:
        return 0.0


class Stage(ABC):
    """What TestApp delegates to. `supervisor` is set when the App is open."""

    supervisor: Supervisor

    @abstractmethod
    def configuration(self, configuration: Configuration) -> Configuration:
        """The same with every cluster replaced."""

    @abstractmethod
    def environment(self) -> Environment: ...

    @abstractmethod
    def settle_down(self) -> None:
        """Run until nothing is due now."""

    @abstractmethod
    def advance(self, duration: Duration) -> None: ...

    @abstractmethod
    def now(self) -> datetime: ...

    @abstractmethod
    def records(self, topic: str) -> Iterable[tuple[int, Record]]:
        """(partition, record) of a whole topic, in the order of publishing."""

    @abstractmethod
    def crash(self) -> None: ...

    @abstractmethod
    def fail_publish(self, outcome: PublishFault, times: int) -> None: ...


class VirtualStage(Stage):
    """In-memory log, virtual clock, nothing runs by itself. like: a backend whose capabilities are taken. seed: 0 = no jitter."""

    def __init__(self, like: str | None, seed: int) -> None:
        self.clock = VirtualClock()
        self.store = SimLog(self.clock)
        claimed = MEMORY if like is None else capabilities_of(like)
        # What layer 2 emulates with threads of its own the in-memory log does by itself: to an application it is the same.
        self._capabilities = replace(claimed, delay="native") if claimed.delay == "ladder" else claimed
        self._rng = random.Random(seed) if seed else NoJitter(0)
        self._backends: list[SimBackend] = []
        self._loop: VirtualLoop | None = None

    def configuration(self, configuration: Configuration) -> Configuration:
        return redirected(configuration, backend="memory", options={}, lease_s=NO_LEASE_S)

    def environment(self) -> Environment:
        return Environment(
            clock=self.clock,
            rng=self._rng,
            make_backend=self._make_backend,
            make_workers=self._make_workers,
            make_event_loop=self._make_event_loop,
            settle_every_s=0.0,
            threaded=False,
            isolated=False,
            memory=InMemory(),
        )

    def _make_backend(self, cluster: Cluster) -> Backend:
        backend = SimBackend(self.store, name=cluster.name, capabilities=self._capabilities)
        self._backends.append(backend)
        return backend

    def _make_workers(self, declared: Declared, results: Results, tuning: Tuning) -> Workers:
        if not declared.handler.is_async:
            return InlineWorkers(declared, self.clock, results)
        loop = self.supervisor.event_loop()
        assert isinstance(loop, VirtualLoop)
        return SteppedTasks(declared, self.clock, results, loop, tuning.concurrency)

    def _make_event_loop(self, name: str) -> VirtualLoop:
        self._loop = VirtualLoop(self.clock, name)
        return self._loop

    # --- time -------------------------------------------------------------------------------------------------------------------

    def settle_down(self) -> None:
        for _ in range(MAX_ROUNDS):
            if not self._round():
                return
        raise StateError(
            f"the consumers do not come to rest within {MAX_ROUNDS:,} rounds",
            fix="does a handler publish to its own topic without end?",
            state="RUNNING",
        )

    def _round(self) -> bool:
        moved = [loop.step(0.0) for _, loop in self.supervisor.loops]
        moved.append(self.supervisor.switching.step())
        if self._loop is not None and self._loop.run_until_idle():
            return True
        return any(moved)

    def advance(self, duration: Duration) -> None:
        target = self.clock.mono() + units.seconds(duration)
        self.settle_down()
        while (due := self._due()) is not None and due <= target + TICK_S:
            self.clock.advance_to(due)
            self.settle_down()
        self.clock.advance_to(target)
        self.settle_down()

    def _due(self) -> float | None:
        """The next moment at which something happens by itself."""
        moments = [self.store.due(), self.supervisor.switching.due(), *(loop.due() for _, loop in self.supervisor.loops)]
        if self._loop is not None:
            moments.append(self._loop.due())
        return min((moment for moment in moments if moment is not None), default=None)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.wall_ms() / 1000, UTC)

    # --- the rest ---------------------------------------------------------------------------------------------------------------

    def records(self, topic: str) -> Iterable[tuple[int, Record]]:
        return self.store.records(topic)

    def crash(self) -> None:
        declared = list({id(one): one for one, _ in self.supervisor.loops}.values())  # one may read several clusters
        for backend in self._backends:
            backend.crash()
            backend.open(self.clock.mono())
        if self._loop is not None:
            self._loop.abandon()
        self.supervisor.switching.stop()
        self.supervisor.loops = []
        self.supervisor.start(declared, START_S)

    def fail_publish(self, outcome: PublishFault, times: int) -> None:
        self.store.fail_publish(outcome, times)


class RealStage(Stage):
    """The embedded log in a directory, threads, and the time of the world."""

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)

    def configuration(self, configuration: Configuration) -> Configuration:
        return redirected(configuration, backend="log", options={"path": self._path, "durability": "none"}, lease_s=10.0)

    def environment(self) -> Environment:
        return Environment(isolated=False, memory=InMemory())

    def settle_down(self) -> None:
        give_up = time.monotonic() + QUIET_WITHIN_S
        while not all(self._is_quiet(declared) for declared, _ in self.supervisor.loops):
            if time.monotonic() > give_up:
                raise StateError(f"the consumers do not come to rest within {QUIET_WITHIN_S:g} s", state="RUNNING")
            time.sleep(LOOK_EVERY_S)

    def _is_quiet(self, declared: Declared) -> bool:
        """Everything is settled but what waits for its next attempt."""
        for other, loop in self.supervisor.loops:
            if other is declared:
                view = loop.view()
                if declared.broadcast:  # nobody but the instance itself knows where it is
                    admin = self.supervisor.clusters.of_topic(declared.topic)[1].admin()
                    read = all(admin.bounds(*one.partition)[1] <= one.received for one in view.partitions)
                    return read and view.waiting == view.records
                return self.supervisor.lag(declared.topic, declared.group).messages <= view.waiting == view.records
        return True

    def advance(self, duration: Duration) -> None:
        time.sleep(units.seconds(duration))
        self.settle_down()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def records(self, topic: str) -> Iterable[tuple[int, Record]]:
        admin = self.supervisor.clusters.of_topic(topic)[1].admin()
        starts = {number: admin.bounds(topic, number)[0] for number in range(admin.partitions(topic) or 0)}
        return ((found.partition, found.record) for found in reading.merged(admin, topic, starts))

    def crash(self) -> None:
        raise _only_in_memory("crash")

    def fail_publish(self, outcome: PublishFault, times: int) -> None:
        raise _only_in_memory("fail_publish")


def _only_in_memory(call: str) -> StateError:
    return StateError(f"`{call}` works over the in-memory log only", fix="leave out `path=`", state="RUNNING")


def redirected(configuration: Configuration, *, backend: str, options: dict[str, str], lease_s: float) -> Configuration:
    """The configuration with its routes and names, every cluster the same backend, and no port that the real service may have."""
    clusters = {name: Cluster(name=name, backend=backend, options=options, create=True, lease_s=lease_s) for name in configuration.clusters}
    return replace(configuration, clusters=clusters, observability=replace(configuration.observability, listen=None))


def capabilities_of(backend: str) -> Capabilities:
    """What a backend by this name can do. Raises ConfigError with the known names, MissingExtra when its client is not installed."""
    if backend == "memory":
        return MEMORY
    return plugins.make_backend(Cluster(name="like", backend=backend)).capabilities
