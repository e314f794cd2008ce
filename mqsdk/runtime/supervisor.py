"""Owns what runs in a process: opened clusters, publishers, consumer loops. Start order, readiness, and the stop checklist.

The API's App holds one; nothing here knows decorators or payload types.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mqsdk.config.model import Configuration
from mqsdk.core.actions import Cut, ReleaseAs, Released, Spec, Tuning
from mqsdk.core.proof import Proof
from mqsdk.errors import BackendError, CapabilityError, ConfigError, MqError, Problem, StateError
from mqsdk.runtime import overview
from mqsdk.runtime.clusters import Clusters, owner_topic, view_in
from mqsdk.runtime.environment import Declared, Environment
from mqsdk.runtime.exchange import CLOSE_S, Retired
from mqsdk.runtime.halts import check_retries
from mqsdk.runtime.inspection import ConsumerInfo, Health, Lag, StopReport
from mqsdk.runtime.launching import Launcher
from mqsdk.runtime.loop import ConsumerLoop
from mqsdk.runtime.movers import Movers
from mqsdk.runtime.publisher import Publisher
from mqsdk.runtime.readers import Readers
from mqsdk.runtime.reporting import Reporting
from mqsdk.runtime.shadowing import Doubled, Shadowing
from mqsdk.runtime.switching import Switching
from mqsdk.runtime.tally import Tally
from mqsdk.runtime.watchdog import Guard
from mqsdk.spi import Backend

if TYPE_CHECKING:
    from mqsdk.runtime.tasks import EventLoop


log = logging.getLogger("mqsdk.consumer")

STEP_S = 0.01

# What a second signal leaves for answers under way: without it two signals at once would report settles as unknown that are stored.
LAST_SETTLE_S = 0.25
SHADOWS_S = 2.0  # for shadows under way, which nobody waits for


class Supervisor:
    """One per opened App. Methods are called by one thread at a time, but for `publisher`, which any thread may call."""

    def __init__(self, configuration: Configuration, environment: Environment, app: str) -> None:
        self.configuration = configuration
        self.tally = Tally()
        self.environment = environment = replace(environment, observe=self.tally.before(environment.observe))
        self.app = app
        self.clusters = Clusters(configuration, environment.make_backend, environment.clock)
        self.loops: list[tuple[Declared, ConsumerLoop]] = []
        self._publishers: dict[str, Publisher] = {}
        self._lock = threading.Lock()
        self._event_loop: EventLoop | None = None
        self._retired: list[Retired] = []
        self.guard = Guard(
            lambda: self.loops, self.clusters, environment.clock, environment.observe, lambda: self.configuration.no_progress_s
        )
        self.instance = f"{app}@{socket.gethostname()}:{os.getpid()}"  # name of this process in member lists
        self.movers = Movers(self.clusters, environment, lambda: self.configuration, self.instance)
        self._draining = False
        self.launcher = Launcher(self)
        self.switching = Switching(self)
        self.proof = Proof(environment.clock.mono())
        self.shadowing = Shadowing(self)
        self.look_again: Callable[[], None] | None = None  # has the configuration looked at soon; None where it cannot change by itself
        self.reporting = Reporting(self, self.switching.waits_for)
        # Eight random bytes name this process's stream of publishes (`mq-pid`); a fork or a restart is a new producer.
        self.incarnation = f"{environment.rng.getrandbits(64) or 1:016x}"

    # --- publishing -------------------------------------------------------------------------------------------------------------

    def publisher(self, topic: str) -> Publisher:
        """The publisher of the topic's cluster. Raises PublishRejected(no_route), ConfigError or BackendError."""
        return self.publisher_of(self.clusters.name_of(topic))

    def outgoing(self, topic: str) -> Publisher | Doubled:
        """As `publisher`, for what the application publishes: a topic that moves may be written to both clusters."""
        return self.shadowing.doubled(topic, self.publisher(topic))

    def publisher_of(self, cluster: str) -> Publisher:
        """The publisher of a cluster by its name."""
        with self._lock:
            publisher = self._publishers.get(cluster)
            if publisher is None:
                backend = self.clusters.backend(cluster)
                publisher = Publisher(
                    self.clusters.cluster(cluster),
                    backend,
                    clock=self.environment.clock,
                    incarnation=self.incarnation,
                    sticky=self.environment.rng.getrandbits(16),
                    limits=self.configuration.publish,
                    topic_rule=lambda topic: self.configuration.topic_rule(topic),
                    threaded=self.environment.threaded,
                    delays=self.movers.look,
                    observe=self.environment.observe,
                )
                self._publishers[cluster] = publisher
                publisher.apply(self.configuration.publish)  # a reload meanwhile has not seen it
            return publisher

    def moves(self, topic: str) -> bool:
        """Whether the route of this topic has a move."""
        route = self.configuration.route(owner_topic(topic))
        return route is not None and route.move is not None

    def is_proven(self, topic: str) -> bool:
        """Whether the route of this topic is known to be the one in force, as far as that has to be proven."""
        return not self.proof.fence_s or self.is_current() or not self.moves(topic)

    def is_current(self) -> bool:
        """Whether this process may rely on the routes that it knows; always where they cannot change."""
        return self.look_again is None or self.proof.holds(self.environment.clock.mono())

    def published(self) -> list[tuple[str, str, str, int]]:
        """(cluster, topic, outcome, messages) of all that was published here and has an answer."""
        return [(cluster, *one) for cluster, publisher in list(self._publishers.items()) for one in publisher.published()]

    def is_sending(self, covers: Callable[[str], bool]) -> bool:
        """Whether something that was submitted to one of these topics has no answer yet."""
        return any(publisher.is_sending(covers) for publisher in list(self._publishers.values()))

    def flush(self, timeout_s: float | None) -> bool:
        """Wait until everything submitted has its answer; False at the timeout."""
        clock = self.environment.clock
        end = None if timeout_s is None else clock.mono() + timeout_s
        return all(publisher.flush(None if end is None else max(0.0, end - clock.mono())) for publisher in list(self._publishers.values()))

    # --- start ------------------------------------------------------------------------------------------------------------------

    def start(self, declared: Sequence[Declared], timeout_s: float) -> None:
        """Start consumers; returns when each has joined its group.

        Raises CapabilityError, ConfigError, BackendError, or StateError when one has not joined in time; what was started is stopped then.
        """
        self._draining = False
        plans = [self._planned(one) for one in declared]  # everything that can be refused is refused before anything runs
        deadline = self.environment.clock.mono() + timeout_s
        try:
            for one, spec, readers in plans:
                self._start(one, spec, readers)
            self._await_joined(deadline)
            self.switching.go_on()
            self.reporting.changed()
            if self.environment.threaded:
                self.guard.start()
            if plans:
                self.movers.start()
        except BaseException:
            self.stop(0.0)
            raise

    def _planned(self, declared: Declared) -> tuple[Declared, Spec, Readers | None]:
        cluster = self.launcher.cluster(declared)
        readers = self.switching.resumed(declared, cluster)
        behind = () if readers is None else readers.main.counts
        return declared, self.launcher.plan(declared, cluster, behind), readers

    def _start(self, declared: Declared, spec: Spec, readers: Readers | None) -> None:
        if readers is None:
            self.run(declared, spec)
        else:
            main = readers.main
            self.switching.resume(readers, self.run(declared, spec, lambda cut: self.switching.asked(main, cut)))

    def run(self, declared: Declared, spec: Spec, cutter: Callable[[Cut], None] | None = None) -> ConsumerLoop:
        """Start one consumer at one cluster. cutter: told of its cuts. Raises CapabilityError, ConfigError or BackendError."""
        loop = self.launcher.launch(declared, spec, cutter or (lambda cut: self.switching.asked_at(declared, spec.cluster, cut)))
        self.loops = [*self.loops, (declared, loop)]
        if self.environment.threaded:
            threading.Thread(target=loop.run, name=f"mqsdk-{declared.name}", daemon=True).start()
        return loop

    def leave(self, loop: ConsumerLoop, deadline: float) -> None:
        """A consumer that has drained ends for good."""
        self.loops = [one for one in self.loops if one[1] is not loop]
        self._closed(loop, deadline)

    def event_loop(self) -> EventLoop:
        """The App's own event loop, started on first need."""
        from mqsdk.runtime.tasks import EventLoop

        if self._event_loop is None:
            self._event_loop = (self.environment.make_event_loop or EventLoop)(f"mqsdk-{self.app}-loop")
        return self._event_loop

    def _await_joined(self, deadline: float) -> None:
        if not self.environment.threaded:
            return
        for declared, loop in self.loops:
            if not loop.joined.wait(max(0.0, deadline - self.environment.clock.mono())):
                raise StateError(f"consumer {declared.name} did not join its group in time", where=loop.failure, state="OPEN")

    def tuning(self, declared: Declared, cluster: str) -> Tuning:
        """What a consumer may do at one cluster."""
        return self.switching.tuning(declared, cluster, self.whole_tuning(declared))

    def whole_tuning(self, declared: Declared) -> Tuning:
        """What a consumer may do, wherever it reads."""
        return self.configuration.tuning(declared.topic, declared.group, declared.tuning)

    # --- while running ----------------------------------------------------------------------------------------------------------

    def apply(self, configuration: Configuration) -> None:
        """Give running consumers and publishers the live keys of a new configuration. One reference is swapped; nobody sees half of it."""
        self.configuration = configuration
        self.clusters.configuration = configuration
        for publisher in list(self._publishers.values()):
            publisher.apply(configuration.publish)
        for declared, loop in self.loops:
            loop.retune(self.tuning(declared, loop.spec.cluster))
        self.switching.apply(configuration.reload.settle_s)

    def opened_anew(self, configuration: Configuration, names: Sequence[str]) -> dict[str, Backend]:
        """New clients of these clusters, connected and not in use. Raises ConfigError, with one problem per cluster that refuses."""
        opened: dict[str, Backend] = {}
        problems: list[Problem] = []
        for name in names:
            try:
                opened[name] = self.clusters.opened_anew(configuration.clusters[name])
            except (BackendError, ConfigError) as error:
                what = f"the new client cannot be used: {error.what}"
                problems.append(Problem(f"clusters.{name}", what, error.fix or "undo the change", configuration.source))
        if problems:
            self.discard(opened)
            raise ConfigError.of(problems)
        return opened

    def discard(self, opened: Mapping[str, Backend]) -> None:
        """Close new clients that are not to be used after all."""
        for backend in opened.values():
            backend.close(self.environment.clock.mono() + CLOSE_S)

    def exchange(self, opened: Mapping[str, Backend]) -> None:
        """Use these clients from now on: publishers at once, consumers when what runs has ended or `drain.timeout` is over."""
        clock, configuration = self.environment.clock, self.configuration
        for name, backend in opened.items():
            old = self.clusters.exchange(name, backend)
            publisher = self._publishers.get(name)
            if publisher is not None:
                publisher.exchange(backend)
            if old is not None:
                retired = Retired(old, clock)
                self._retired.append(retired)
                loops = [loop for _, loop in self.loops if loop.spec.cluster == name]
                retired.begin(
                    [*loops, *self.movers.exchange(name)], clock.mono() + configuration.drain_timeout_s, configuration.publish.timeout_s
                )

    def pause(self, topic: str, group: str, paused: bool) -> None:
        """Stop or resume starting handlers of one consumer. Raises StateError when it does not run here."""
        found = [loop for declared, loop in self.loops if (declared.topic, declared.group) == (topic, group)]
        for loop in found:
            loop.pause(paused)
        if not found:
            raise StateError(f"no running consumer {topic}/{group}", fix="app.start() first", state="OPEN")

    def release(self, topic: str, group: str, outcome: ReleaseAs, keys: Sequence[bytes | None] | None, timeout_s: float) -> Released:
        """Free halted messages of one consumer: of these keys, of all with None. Blocks until that is stored.

        Raises StateError when the consumer does not run here, and when it was not stored in time: it may still be.
        """
        found = [loop for declared, loop in self.loops if (declared.topic, declared.group) == (topic, group)]
        if not found:
            raise StateError(f"no running consumer {topic}/{group}", fix="app.start() first", state="OPEN")
        deadline = self.environment.clock.mono() + timeout_s
        futures = [loop.release(outcome, keys) for loop in found]
        try:
            done = [future.result(max(0.0, deadline - self.environment.clock.mono())) for future in futures]
        except TimeoutError:
            what = f"consumer {topic}/{group} has not stored the release within {timeout_s:g} s: it may still do"
            raise StateError(what, fix=f"look at `mqsdk groups {topic}`", state="RUNNING") from None
        return Released(0, sum(one.freed for one in done), sum(one.left for one in done), sum(one.lost for one in done))

    def refused(self, configuration: Configuration) -> list[Problem]:
        """What a new configuration asks of running consumers that they or their clusters cannot do."""
        problems = []
        for declared, loop in self.loops:
            tuning = configuration.tuning(declared.topic, declared.group, declared.tuning)
            try:
                check_retries(declared, tuning, self.clusters.backend(loop.spec.cluster).capabilities, loop.spec.cluster)
            except CapabilityError as error:
                name = "dlq_follow_key" if "dlq_follow_key" in error.what else "on_exhausted"
                problems.append(Problem(f"consumers.{declared.name}.retry.{name}", error.what, error.fix, configuration.source))
        return problems

    def lag(self, topic: str, group: str) -> Lag:
        """Lag of a group anywhere, running here or not; without partitions when the topic or the group does not exist."""
        written = self.clusters.name_of(topic)
        view = view_in(self.configuration, topic)
        clusters = dict.fromkeys((*self.switching.clusters(topic), *(view.reads if view is not None else ()), written))
        return overview.lag(self.clusters, list(clusters), topic, group, self.environment.clock)

    def pairs(self) -> list[tuple[str, str]]:
        """(topic, group) of the consumers that run here and have progress."""
        return [(declared.topic, declared.group) for declared, _ in self.loops if not declared.broadcast]

    def consumers(self, with_lag: bool = True) -> list[ConsumerInfo]:
        return [self._info(declared, loop, with_lag) for declared, loop in self.loops]

    def _info(self, declared: Declared, loop: ConsumerLoop, with_lag: bool) -> ConsumerInfo:
        info = overview.consumer(declared, loop, self.tuning(declared, loop.spec.cluster), self.environment.clock)
        state = "draining" if self._draining and info.state in ("running", "joining") else info.state
        lag = overview.lag_or_none(self.clusters, declared, loop.spec.cluster, self.environment.clock) if with_lag else None
        return info._replace(state=state, lag=lag, config=self.configuration.version)

    def health(self, running: bool) -> Health:
        """running: the App's state is RUNNING."""
        found = overview.health(self.clusters, self.loops, running, self.guard.given_up)
        blocked = [f"cluster {name} takes no publishes: {one.blocked}" for name, one in list(self._publishers.items()) if one.blocked]
        return found._replace(problems=(*found.problems, *self.movers.problems(), *blocked))

    # --- stop -------------------------------------------------------------------------------------------------------------------

    def stop(self, timeout_s: float) -> StopReport:
        """Drain: start nothing, wait for running handlers, settle, hand back, leave. Ends at the timeout at the latest (seconds)."""
        self._draining = True
        self.guard.stop()
        self.switching.stop()
        clock = self.environment.clock
        deadline = clock.mono() + timeout_s
        for _, loop in self.loops:
            loop.drain(deadline)  # all at once, so that they share the time
        self.movers.drain(deadline)
        unfinished, clean = 0, True
        for _, loop in self.loops:
            self._finish(loop, deadline)
            cut, settled = self._closed(loop, deadline)
            unfinished += cut
            clean = clean and settled
        self.loops = []
        self.movers.stop(deadline)
        return StopReport(unfinished, clean)

    def _closed(self, loop: ConsumerLoop, deadline: float) -> tuple[int, bool]:
        """One that cannot leave its group must not keep the others from it."""
        try:
            return loop.close(deadline)
        except Exception as error:
            log.error("consumer %s could not leave its group: %s", loop.name, error if isinstance(error, MqError) else type(error).__name__)
            return 0, False

    def hurry(self) -> None:
        """End a running stop now: a second signal came. Settles that were sent already get a moment to be answered."""
        for _, loop in self.loops:
            loop.drain(self.environment.clock.mono() + LAST_SETTLE_S)
        self.movers.drain(self.environment.clock.mono() + LAST_SETTLE_S)

    def _finish(self, loop: ConsumerLoop, deadline: float) -> None:
        if self.environment.threaded:
            # The loop ends by itself at the deadline; the second more is for its last settle.
            loop.finished.wait(max(0.0, deadline - self.environment.clock.mono()) + 1.0)
        else:
            while not loop.finished.is_set():
                if not loop.step(0.0):
                    self.environment.clock.sleep(STEP_S)  # what still runs gets its time, which nobody else turns

    def close(self, timeout_s: float) -> StopReport:
        """Stop, flush, close clients. Idempotent."""
        clock = self.environment.clock
        deadline = clock.mono() + timeout_s
        report = self.stop(timeout_s) if self.loops else StopReport()
        self.reporting.close()
        self.switching.close()
        self.shadowing.close(min(deadline, clock.mono() + SHADOWS_S))
        flushed = [publisher.close(deadline) for publisher in self._publishers.values()]
        self._publishers = {}
        if self._event_loop is not None:
            self._event_loop.close(max(0.1, deadline - clock.mono()))
            self._event_loop = None
        for retired in self._retired:
            retired.close(max(deadline, clock.mono() + 1.0))
        self.clusters.close(max(deadline, clock.mono() + 1.0))
        return report._replace(clean=report.clean and all(flushed))
