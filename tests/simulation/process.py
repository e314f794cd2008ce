"""One simulated process: the real session, supervisor, consumer loops, publishers, mover and switch, over threads that are played."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mqsdk.api.outlet import Outlet
from mqsdk.api.reloading import reload
from mqsdk.api.session import Session
from mqsdk.config.model import Cluster, Configuration
from mqsdk.core.actions import Cut, Spec, Tuning
from mqsdk.errors import ConfigError
from mqsdk.runtime.environment import Declared, Environment
from mqsdk.runtime.launching import Launcher
from mqsdk.runtime.loop import ConsumerLoop
from mqsdk.runtime.mover import Mover
from mqsdk.runtime.publisher import Publisher
from mqsdk.runtime.results import AsyncResults
from mqsdk.runtime.sender import Answer, Sender
from mqsdk.runtime.supervisor import Supervisor
from mqsdk.runtime.workers import Results, Workers
from mqsdk.spi import Backend
from mqsdk.testing.simconsumer import SimConsumer
from tests.simulation.backends import LogBackend, QueueBackend
from tests.simulation.plan import Consumer
from tests.simulation.schedule import ProcessClock, Thread
from tests.simulation.workers import SimWorkers
from tests.simulation.writer import TOPIC, Writer

if TYPE_CHECKING:
    from tests.simulation.fleet import World

LOOP = (0.0, 0.0005, 0.005)  # how long after its cause a thread runs
SENDER = (0.0, 0.001)
POLL_S = 1.0
SWITCH_S = 0.02  # the thread of a change looks every two milliseconds; seldom enough here to look at more schedules
LONGEST_WAIT_S = 0.08
LATE = 1  # whose process only publishes, where somebody follows a change of cluster late


@dataclass
class _Handler:
    """What the runtime looks at of a handler that `SimWorkers` play."""

    is_async: bool = False
    batch: bool = False
    invoke: Any = None
    invoke_async: Any = None
    invoke_batch: Any = None
    invoke_batch_async: Any = None


HANDLER = _Handler()


def _declared(one: Consumer) -> Declared:
    tuning = {"retry": one.policy, "timeout_s": one.timeout_s}
    return Declared(topic=TOPIC, group=one.group, handler=HANDLER, ordered=one.ordered, tuning=tuning)


class PlayedSender(Sender):
    """The sender without its thread: `carry_next` is called by one of the schedule."""

    thread: Thread

    def _ensure_thread(self, topic: str, drafts: Any) -> None:
        self.thread.wake()

    def send(self, topic: str, drafts: Any, timeout_s: float) -> list[Answer]:
        raise AssertionError("a blocking publish behind a submitted one would wait for a thread; the writer waits instead")

    def step(self) -> float | None:
        if self._parcels:
            self.carry_next()
        return self._clock.mono() if self._parcels else None


class PlayedResults(AsyncResults):
    """Waits for answers in virtual time."""

    def _wait(self, done: Any, timeout_s: float) -> None:
        clock = self._clock
        assert isinstance(clock, ProcessClock)
        clock.wait(timeout_s, done)


class PlayedLauncher(Launcher):
    """Where layer 2 delays, a retry is a copy after a wait that comes up here."""

    def plan(self, declared: Declared, cluster: str, behind: tuple[int, ...] = ()) -> Spec:
        spec = super().plan(declared, cluster, behind)
        return spec if spec.longest_wait_s is None else replace(spec, longest_wait_s=LONGEST_WAIT_S)


class PlayedSupervisor(Supervisor):
    """Tells its process what it starts."""

    process: Process

    def __init__(self, configuration: Configuration, environment: Environment, process: Process) -> None:
        super().__init__(configuration, environment, "app")
        self.process = process
        self.launcher = PlayedLauncher(self)

    def publisher_of(self, cluster: str) -> Publisher:
        is_known = cluster in self._publishers
        publisher = super().publisher_of(cluster)
        if not is_known:
            self.process.adopt(publisher, cluster)
        return publisher

    def run(self, declared: Declared, spec: Spec, cutter: Callable[[Cut], None] | None = None) -> ConsumerLoop:
        loop = super().run(declared, spec, cutter)
        self.process.began(loop)
        return loop


class PlayedSession(Session):
    def __init__(self, configuration: Configuration, environment: Environment, process: Process) -> None:
        super().__init__(configuration, environment, "app")
        self.supervisor = PlayedSupervisor(configuration, environment, process)
        self.outlet = Outlet(self.supervisor, self.limits)


class Process:
    """index: whose place it has; a new process takes it after this one has ended. pid: never given twice."""

    def __init__(self, world: World, index: int, configuration: Configuration) -> None:
        self.world, self.rules = world, world.rules
        self.index, self.pid = index, world.next_pid()
        self.is_dead = self.is_draining = False
        self.frozen_until = 0.0
        self.backends: list[LogBackend | QueueBackend] = []
        self.senders: list[PlayedSender] = []
        self.movers: dict[Mover, Thread] = {}
        self._threads: dict[ConsumerLoop, Thread] = {}
        self.clock = ProcessClock(world.schedule, self)
        self.session = PlayedSession(configuration, self._environment(), self)
        self.supervisor = self.session.supervisor
        self._switch = Thread(self, self._step_of_switch, LOOP)
        is_reader = not (world.plan.late and index == LATE)
        declared = [_declared(one) for one in world.plan.consumers] if is_reader else []
        self.supervisor.start(declared, 30.0)
        if world.plan.delay == "ladder":
            self._start_movers()
        self._wake_switch()
        self.writer = Writer(self)
        self.writer.thread.wake()
        world.say(self, "starts")

    def _environment(self) -> Environment:
        return Environment(
            clock=self.clock, rng=self.world.rng, make_backend=self._make_backend, make_workers=self._make_workers, settle_every_s=0.01,
            threaded=False, isolated=False, observe=lambda event: self.rules.heard(self, event), memory=self.world.memory[self.index],
        )  # fmt: skip

    def _make_backend(self, cluster: Cluster) -> Backend:
        store, plan = self.world.stores[cluster.name], self.world.plan
        backend: LogBackend | QueueBackend
        if plan.kind == "queue":
            backend = QueueBackend(self, store, cluster.name)
        else:
            backend = LogBackend(self, store, cluster.name, self.world.capabilities)
        self.backends.append(backend)
        return backend

    def _make_workers(self, declared: Declared, results: Results, tuning: Tuning) -> Workers:
        return SimWorkers(self, declared, results, tuning.concurrency)

    # --- threads ------------------------------------------------------------------------------------------------------------------------

    def began(self, loop: ConsumerLoop) -> None:
        thread = self._threads[loop] = Thread(self, lambda: self._step_of_loop(loop), LOOP)
        thread.wake()

    def adopt(self, publisher: Publisher, cluster: str) -> None:
        """Give a new publisher the threads that it does without where nothing is threaded."""
        limits = self.session.configuration.publish
        sender = PlayedSender(publisher.send_now, self.clock, limits, cluster)
        sender.thread = Thread(self, sender.step, SENDER)
        publisher._sender = sender
        self.senders.append(sender)
        if not publisher._direct:
            publisher._results = results = PlayedResults(self.clock, publisher._flow)
            publisher._producer = publisher._backend.producer(results)

    def _start_movers(self) -> None:
        for cluster in self.world.stores:
            mover = self.supervisor.movers.make(cluster)
            self.movers[mover] = Thread(self, lambda mover=mover: self._step_of_mover(mover), LOOP)  # type: ignore[misc]
            self.movers[mover].wake()

    def thread_of(self, consumer: SimConsumer) -> Thread | None:
        """Who polls this consumer; nobody yet while it joins."""
        for loop, thread in self._threads.items():
            if getattr(loop, "_consumer", None) is consumer:
                return thread
        return next((thread for mover, thread in self.movers.items() if mover._consumer is consumer), None)

    def woken(self, results: Results) -> None:
        """Something was put into the results of a loop."""
        for loop, thread in self._threads.items():
            if loop._results is results:
                thread.wake()

    def _step_of_loop(self, loop: ConsumerLoop) -> float | None:
        if loop not in self._threads:
            return None
        moved = loop.step(0.0)
        self.rules.check(self, loop)
        now = self.clock.mono()
        if loop.finished.is_set():
            del self._threads[loop]
            self._wake_switch()
            return None
        if self.supervisor.switching._wake.is_set():  # a machine asked for a cut
            self.supervisor.switching._wake.clear()
            self._wake_switch()
        if moved and (loop._results.items or loop._consumer.has_news):  # type: ignore[attr-defined]
            return now + self.world.rng.choice(LOOP[1:])
        due = loop.due()
        return now + POLL_S if due is None else min(due, now + POLL_S)

    def _step_of_mover(self, mover: Mover) -> float | None:
        if mover.finished.is_set():
            return None
        moved = mover.step(0.0)
        now = self.clock.mono()
        if moved:
            return now + 0.001
        due = mover.due()
        return now + POLL_S if due is None else min(due, now + POLL_S)

    def _wake_switch(self) -> None:
        if self.world.plan.switch and self.supervisor.switching.due() is not None:
            self._switch.wake()

    def _step_of_switch(self) -> float | None:
        switching = self.supervisor.switching
        switching.step()
        due = switching.due()
        return None if due is None else max(due, self.clock.mono() + SWITCH_S)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """In this process, so not if it is no more, and not before it is thawed."""

        def due() -> None:
            if self.is_dead:
                return
            if self.world.schedule.now < self.frozen_until:
                self.world.schedule.at(self.frozen_until, due)
            else:
                call()

        self.world.schedule.after(seconds, due)

    # --- what happens to it -------------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        if self.is_dead:
            return
        self.world.say(self, "is killed")
        self.rules.killed(self)
        self._vanish()
        self.world.replace(self)

    def _vanish(self) -> None:
        self.is_dead = True
        for backend in self.backends:
            backend.crash()

    def freeze(self, seconds: float) -> None:
        self.world.say(self, f"is frozen for {seconds:g} s")
        self.frozen_until = self.world.schedule.now + seconds
        self.rules.frozen(self)
        for thread in self._threads.values():
            thread.wake()

    def reload(self, configuration: Configuration) -> None:
        """As `App.reload` would."""
        if self.is_dead:
            return
        try:
            reload(self.session, lambda: configuration, [TOPIC], lambda event: None)
        except ConfigError as error:
            self.world.say(self, f"refuses to reload: {error.what}")
            return
        self.world.say(self, f"reloads: version {self.session.configuration.version}")
        for thread in self._threads.values():
            thread.wake()
        self._wake_switch()

    def stop(self, timeout_s: float) -> None:
        """In order; the process then ends."""
        if self.is_dead or self.is_draining:
            return
        self.world.say(self, f"stops within {timeout_s:g} s")
        self.is_draining = True
        self.rules.draining(self)
        threads, self._threads = self._threads, {}
        deadline = self.clock.mono() + timeout_s
        for mover, thread in self.movers.items():
            mover.drain(deadline)
            thread.wake()
        loops = [loop for _, loop in self.supervisor.loops]
        report = self.supervisor.stop(timeout_s)
        if not self.is_flushed:
            self.clock.wait(max(0.0, deadline - self.clock.mono()), _Flushed(self))
        self.rules.stopped(self, report, loops)
        for mover in self.movers:
            mover.close(self.clock.mono())
        self.is_dead = True
        for backend in self.backends:
            backend.close(self.clock.mono())
        threads.clear()
        self.world.say(self, f"has stopped: {report}")

    @property
    def is_flushed(self) -> bool:
        return not any(sender.records for sender in self.senders) and all(mover.finished.is_set() for mover in self.movers)

    @property
    def is_idle(self) -> bool:
        """Nothing is in flight in it, and no handler runs that has outlived its ownership."""
        if any(sender.records for sender in self.senders):
            return False
        loops = [loop for _, loop in self.supervisor.loops]
        views = [loop.view() for loop in loops]
        return not any(view.records or view.waiting for view in views) and not any(any(loop._workers.running()) for loop in loops)


class _Flushed:
    """An event that is set when a process has sent and moved everything."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def is_set(self) -> bool:
        return self._process.is_flushed
