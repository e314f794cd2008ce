"""Owns what runs in a process: opened clusters, publishers, consumer loops. Start order, readiness, and the stop checklist.

The API's App holds one; nothing here knows decorators or payload types.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from mqsdk.config.model import Configuration
from mqsdk.core.actions import Copy, Spec, Tuning
from mqsdk.core.machine import Machine
from mqsdk.errors import BackendError, CapabilityError, ConfigError, MqError, Problem, PublishRejected, PublishUnknown, StateError
from mqsdk.names import RETRIES, composed
from mqsdk.runtime import overview
from mqsdk.runtime.clusters import Clusters
from mqsdk.runtime.environment import Declared, Environment
from mqsdk.runtime.exchange import CLOSE_S, Retired
from mqsdk.runtime.inspection import ConsumerInfo, Health, Lag, StopReport
from mqsdk.runtime.loop import ConsumerLoop
from mqsdk.runtime.publisher import Publisher
from mqsdk.runtime.sender import Draft
from mqsdk.runtime.threads import ThreadWorkers
from mqsdk.runtime.workers import Results, Workers
from mqsdk.spi import Backend, Capabilities, Consumer, Outcome, Rejected, Stored, Subscription, Unknown

if TYPE_CHECKING:
    from mqsdk.runtime.tasks import EventLoop


log = logging.getLogger("mqsdk.consumer")

STEP_S = 0.01

# What a second signal leaves for answers under way: without it two signals at once would report settles as unknown that are stored.
LAST_SETTLE_S = 0.25


class Supervisor:
    """One per opened App. Methods are called by one thread at a time, but for `publisher`, which any thread may call."""

    def __init__(self, configuration: Configuration, environment: Environment, app: str) -> None:
        self.configuration = configuration
        self.environment = environment
        self.app = app
        self.clusters = Clusters(configuration, environment.make_backend, environment.clock)
        self.loops: list[tuple[Declared, ConsumerLoop]] = []
        self._threads: list[threading.Thread] = []
        self._publishers: dict[str, Publisher] = {}
        self._lock = threading.Lock()
        self._event_loop: EventLoop | None = None
        self._retired: list[Retired] = []
        self._draining = False
        # Eight random bytes name this process's stream of publishes (`mq-pid`); a fork or a restart is a new producer.
        self._incarnation = f"{environment.rng.getrandbits(64) or 1:016x}"

    # --- publishing -------------------------------------------------------------------------------------------------------------

    def publisher(self, topic: str) -> Publisher:
        """The publisher of the topic's cluster. Raises PublishRejected(no_route), ConfigError or BackendError."""
        return self.publisher_of(self.clusters.name_of(topic))

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
                    incarnation=self._incarnation,
                    sticky=self.environment.rng.getrandbits(16),
                    limits=self.configuration.publish,
                    topic_rule=lambda topic: self.configuration.topic_rule(topic),
                    threaded=self.environment.threaded,
                )
                self._publishers[cluster] = publisher
            return publisher

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
        plans = [self._plan(one) for one in declared]  # everything that can be refused is refused before anything runs
        deadline = self.environment.clock.mono() + timeout_s
        try:
            for one, backend, spec in plans:
                self._launch(one, backend, spec)
            self._await_joined(deadline)
        except BaseException:
            self.stop(0.0)
            raise

    def _plan(self, declared: Declared) -> tuple[Declared, Backend, Spec]:
        try:
            cluster, backend = self.clusters.of_topic(declared.topic)
        except PublishRejected as error:
            raise ConfigError(error.what, where=f"consumer {declared.name}", fix=error.fix) from error
        check_capabilities(declared, backend.capabilities, cluster)
        spec = Spec(
            topic=declared.topic,
            group=declared.group,
            cluster=cluster,
            ordered=declared.ordered,
            batch=declared.batch,
            batch_wait_s=declared.batch_wait_s,
            is_async=declared.handler.is_async,
            sparse_bytes=backend.capabilities.sparse_bytes,
            dead_letter=declared.dead_letter,
            retry=composed(declared.topic, declared.group, RETRIES) if backend.capabilities.companions and not declared.broadcast else None,
            settle_every_s=self.environment.settle_every_s,
        )
        return declared, backend, spec

    def _launch(self, declared: Declared, backend: Backend, spec: Spec) -> None:
        cluster = self.clusters.cluster(spec.cluster)
        self._ensure(declared, backend, create=cluster.create, cluster=spec.cluster)
        tuning = self.tuning(declared)
        subscription = Subscription(
            topics=(spec.topic,) if spec.retry is None else (spec.topic, spec.retry),  # the second comes with the first redrive
            group=declared.group,
            ordered=declared.ordered,
            broadcast=declared.broadcast,
            start=declared.start,
            lease_s=cluster.lease_s,
            instance=f"{self.app}@{socket.gethostname()}:{os.getpid()}",
        )
        loop = ConsumerLoop(
            name=declared.name,
            machine=Machine(spec, tuning, self.environment.rng, self._wall_offset_s()),
            connect=lambda: self._connect(declared, spec.cluster, subscription),
            make_workers=lambda results: self._make_workers(declared, results, tuning),
            copier=lambda copy, done: self._copy(copy, spec, done),
            clock=self.environment.clock,
            observe=self.environment.observe,
            tuning=tuning,
            lease_s=cluster.lease_s,
        )
        self.loops.append((declared, loop))
        if self.environment.threaded:
            thread = threading.Thread(target=loop.run, name=f"mqsdk-{declared.name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connect(self, declared: Declared, cluster: str, subscription: Subscription) -> Consumer:
        """At the backend that the cluster has now, another one after an exchange.

        A broadcast that is restarted goes on where it was: the backend knows nothing of its progress.
        """
        places = next((loop.places for one, loop in self.loops if one is declared), {}) if declared.broadcast else {}
        return self.clusters.backend(cluster).consumer(subscription._replace(positions=tuple(places.items())))

    def _ensure(self, declared: Declared, backend: Backend, *, create: bool, cluster: str) -> None:
        admin = backend.admin()
        if create:
            admin.ensure_topic(declared.topic, self.configuration.topic_rule(declared.topic).partitions)
            if not declared.broadcast:
                admin.ensure_group(declared.topic, declared.group, declared.start)
        elif declared.broadcast and admin.partitions(declared.topic) is not None:
            return
        elif admin.partitions(declared.topic) is None or declared.group not in {info.group for info in admin.groups(declared.topic)}:
            raise CapabilityError(
                f"topic {declared.topic} or its group {declared.group} does not exist and `create` is false",
                where=f"cluster {cluster}",
                fix=f"mqsdk groups ensure {declared.topic} {declared.group}, or create: true",
                capability="create",
                cluster=cluster,
                consumer=declared.name,
            )

    def _make_workers(self, declared: Declared, results: Results, tuning: Tuning) -> Workers:
        if self.environment.make_workers is not None:
            return self.environment.make_workers(declared, results, tuning)
        clock, handler = self.environment.clock, declared.handler
        if not handler.is_async:
            return ThreadWorkers(handler, clock, results, f"mqsdk-{declared.name}", tuning.concurrency, declared.ordered)
        from mqsdk.runtime.tasks import LoopWorkers

        return LoopWorkers(handler, clock, results, self.event_loop(), tuning.concurrency, declared.ordered)

    def event_loop(self) -> EventLoop:
        """The App's own event loop, started on first need."""
        from mqsdk.runtime.tasks import EventLoop

        if self._event_loop is None:
            self._event_loop = (self.environment.make_event_loop or EventLoop)(f"mqsdk-{self.app}-loop")
        return self._event_loop

    def _wall_offset_s(self) -> float:
        clock = self.environment.clock
        return clock.wall_ms() / 1000 - clock.mono()

    def _await_joined(self, deadline: float) -> None:
        if not self.environment.threaded:
            return
        for declared, loop in self.loops:
            if not loop.joined.wait(max(0.0, deadline - self.environment.clock.mono())):
                raise StateError(f"consumer {declared.name} did not join its group in time", where=loop.failure, state="OPEN")

    def tuning(self, declared: Declared) -> Tuning:
        return self.configuration.tuning(declared.topic, declared.group, declared.tuning)

    def _copy(self, copy: Copy, spec: Spec, done: Callable[[Outcome], None]) -> None:
        """Store a dead letter: in the topic's own cluster, or where `dead_letter=` is routed."""
        publisher = self.publisher(copy.topic) if spec.dead_letter is not None else self.publisher_of(spec.cluster)
        record = copy.record
        if not publisher.has_room(1, len(record.value)):  # this is the I/O thread: a wait here would cost it its leases
            done(Rejected("throttled", "the publish window is full", retryable=True))
            return
        draft = Draft(
            key=record.key,
            value=record.value,
            id=record.id or f"{spec.cluster}:{spec.topic}:{copy.origin.partition}:{record.ref}",
            content_type=record.content_type,
            headers=record.headers,
            extra=copy.extra,
        )
        future = publisher.submit(copy.topic, draft, self.configuration.publish.timeout_s, block=False)
        future.add_done_callback(lambda ended: done(_outcome(ended.exception())))

    # --- while running ----------------------------------------------------------------------------------------------------------

    def apply(self, configuration: Configuration) -> None:
        """Give running consumers the live keys of a new configuration. One reference is swapped; nobody sees half of it."""
        self.configuration = configuration
        self.clusters.configuration = configuration
        for declared, loop in self.loops:
            loop.retune(self.tuning(declared))

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
            for backend in opened.values():
                backend.close(self.environment.clock.mono() + CLOSE_S)
            raise ConfigError.of(problems)
        return opened

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
                retired.begin(loops, clock.mono() + configuration.drain_timeout_s, configuration.publish.timeout_s)

    def pause(self, topic: str, group: str, paused: bool) -> None:
        """Stop or resume starting handlers of one consumer. Raises StateError when it does not run here."""
        for declared, loop in self.loops:
            if (declared.topic, declared.group) == (topic, group):
                loop.pause(paused)
                return
        raise StateError(f"no running consumer {topic}/{group}", fix="app.start() first", state="OPEN")

    def lag(self, topic: str, group: str) -> Lag:
        """Lag of a group anywhere, running here or not; without partitions when the topic or the group does not exist."""
        return overview.lag(self.clusters, topic, group, self.environment.clock)

    def consumers(self, with_lag: bool = True) -> list[ConsumerInfo]:
        return [self._info(declared, loop, with_lag) for declared, loop in self.loops]

    def _info(self, declared: Declared, loop: ConsumerLoop, with_lag: bool) -> ConsumerInfo:
        info = overview.consumer(declared, loop, self.tuning(declared), self.environment.clock)
        state = "draining" if self._draining and info.state in ("running", "joining") else info.state
        lag = overview.lag_or_none(self.clusters, declared, self.environment.clock) if with_lag else None
        return info._replace(state=state, lag=lag, config=self.configuration.version)

    def health(self, running: bool) -> Health:
        """running: the App's state is RUNNING."""
        return overview.health(self.clusters, self.loops, running)

    # --- stop -------------------------------------------------------------------------------------------------------------------

    def stop(self, timeout_s: float) -> StopReport:
        """Drain: start nothing, wait for running handlers, settle, hand back, leave. Ends at the timeout at the latest (seconds)."""
        self._draining = True
        clock = self.environment.clock
        deadline = clock.mono() + timeout_s
        for _, loop in self.loops:
            loop.drain(deadline)  # all at once, so that they share the time
        unfinished, clean = 0, True
        for _, loop in self.loops:
            self._finish(loop, deadline)
            cut, settled = self._closed(loop, deadline)
            unfinished += cut
            clean = clean and settled
        self.loops, self._threads = [], []
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
        flushed = [publisher.close(deadline) for publisher in self._publishers.values()]
        self._publishers = {}
        if self._event_loop is not None:
            self._event_loop.close(max(0.1, deadline - clock.mono()))
            self._event_loop = None
        for retired in self._retired:
            retired.close(max(deadline, clock.mono() + 1.0))
        self.clusters.close(max(deadline, clock.mono() + 1.0))
        return report._replace(clean=report.clean and all(flushed))


def _outcome(error: BaseException | None) -> Outcome:
    if error is None:
        return Stored()
    if isinstance(error, PublishRejected):
        return Rejected(error.code, error.what, error.retryable)
    if isinstance(error, PublishUnknown):
        return Unknown(error.what)
    return Unknown(error.what if isinstance(error, MqError) else type(error).__name__)


def check_capabilities(declared: Declared, capabilities: Capabilities, cluster: str) -> None:
    """Refuse what the backend cannot do and layer 2 does not emulate. Raises CapabilityError."""
    wanted: list[tuple[bool, str, str]] = [
        (declared.ordered and not capabilities.ordered, "ordered", "keeps no order per key"),
        (declared.broadcast and not capabilities.broadcast, "broadcast", "cannot give each instance everything"),
        (declared.start == "earliest" and not capabilities.history, "history", 'keeps no history, so from_="earliest" cannot be honoured'),
        (isinstance(declared.start, datetime) and not capabilities.by_time, "by_time", "finds no position by time, so from_ cannot be one"),
    ]
    for missing, capability, reason in wanted:
        if missing:
            raise CapabilityError(
                f"consumer {declared.name} asks for something that cluster {cluster} cannot do: it {reason}",
                where=f"cluster {cluster}",
                fix="leave the argument out, or route the topic to another cluster",
                capability=capability,
                cluster=cluster,
                consumer=declared.name,
            )
