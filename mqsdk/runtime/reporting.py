"""Reports of a process about topics that move, over the clusters themselves; and the proof that its route is the one in force.

Nothing of it runs before a route has a `move:`. One thread says what is to be told, one per cluster tells it, so that a cluster that does
not answer keeps no report from the other.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from mqsdk.config.model import Configuration, Route
from mqsdk.core import report
from mqsdk.core.report import Report
from mqsdk.core.stages import View
from mqsdk.errors import ConfigError, MqError
from mqsdk.events import MoveAdvanced
from mqsdk.spi import Backend, NewRecord, Partition, Producer, ProducerEvent, Published, Rejected, Stored

if TYPE_CHECKING:
    from mqsdk.runtime.supervisor import Supervisor

log = logging.getLogger("mqsdk.move")

KEEP_S = 3600.0
REASON = 300  # characters of why a reload was refused
LAST_S = 1.0  # for the report that it leaves
PARTITION = Partition(report.TOPIC, 0)


class Reporting:
    """Of one supervisor. waits_for: what a topic's stage asks and this process does not do yet, "" for nothing."""

    def __init__(self, owner: Supervisor, waits_for: Callable[[str, View], str]) -> None:
        self._owner = owner
        self._waits_for = waits_for
        self._clock = owner.environment.clock
        self._configuration = Configuration(routes=())
        self._posts: dict[str, Post] = {}
        self._told: list[str] = []  # topics of the last reports
        self._refused = ""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def apply(self, configuration: Configuration) -> None:
        """This configuration is in force, and everything that it asks for is begun."""
        before, self._configuration = self._configuration, configuration
        self._refused = ""
        fences = [route.move.fence_s for route in configuration.routes if route.move is not None]
        self._owner.proof.fence_s = min(fences, default=0.0)
        self._tell(before)
        if self._is_moving(configuration) or self._thread is not None:
            self._begin()

    @staticmethod
    def _is_moving(configuration: Configuration) -> bool:
        return any(route.move is not None for route in configuration.routes)

    def _tell(self, before: Configuration) -> None:
        for topic in self.topics() if before.routes else ():
            old, new = before.route(topic), self._configuration.route(topic)
            if new is not None and new.move is not None and (old is None or old.move != new.move):
                self._owner.environment.observe(MoveAdvanced(topic, new.move.stage, new.cluster, new.move.to))

    def _begin(self) -> None:
        self._wake.set()
        with self._lock:
            if self._thread is None and not self._is_closed and self._owner.environment.threaded:
                self._thread = threading.Thread(target=self._run, name="mqsdk-reports", daemon=True)
                self._thread.start()

    def refused(self, error: ConfigError) -> None:
        """A new configuration was not taken: whoever waits for this process shall know why."""
        what = error.problems[0].what if error.problems else error.what
        self._refused = f"reload refused: {what[:REASON]}"
        self.changed()

    def changed(self) -> None:
        """Something that is told may have changed: tell it now. Any thread."""
        if self._thread is not None:
            self._wake.set()

    # --- what is told -----------------------------------------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """What this process consumes and has published to."""
        consumed = [declared.topic for declared, _ in self._owner.loops]
        return list(dict.fromkeys((*consumed, *(topic for _, topic, _, _ in self._owner.published()))))

    def reports(self, *, left: bool = False) -> list[tuple[Route, Report]]:
        """One per topic that moves."""
        found = []
        configuration = self._configuration
        for topic in self._told if left else self.topics():
            route = configuration.route(topic)
            if route is not None and route.move is not None:
                found.append((route, self._report(topic, route, left)))
        return found

    def _report(self, topic: str, route: Route, left: bool) -> Report:
        assert route.move is not None
        held: dict[str, int] = {}
        groups: dict[str, bool] = {}
        for declared, loop in self._owner.loops:
            if declared.topic == topic:
                view = loop.view()
                groups[declared.group] = declared.ordered
                held[loop.spec.cluster] = held.get(loop.spec.cluster, 0) + view.records + view.waiting
        return Report(
            instance=self._owner.instance,
            host=socket.gethostname(),
            pid=os.getpid(),
            incarnation=self._owner.incarnation,
            topic=topic,
            stage=route.move.stage,
            epoch=route.move.epoch,
            waits_for=self._refused or self._waits_for(topic, route.view),
            held=held,
            groups=groups,
            every_s=route.move.fence_s / 3,
            left=left,
            shadows=self._owner.shadowing.counts(topic),
        )

    # --- the thread -------------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_closed:
            every_s = None
            try:
                every_s = self.send()
            except Exception:  # whoever is not heard of for the fence time counts as gone: this must not end
                log.exception("a report about a move could not be made; the next one follows")
                every_s = LAST_S
            self._wake.wait(every_s)
            self._wake.clear()

    def send(self, *, left: bool = False) -> float | None:
        """Tell everything now. Returns seconds until it is to be told again, None without anything to tell."""
        by_cluster: dict[str, list[Report]] = {}
        told = self.reports(left=left)
        self._told = list(dict.fromkeys((*self._told, *(one.topic for _, one in told))))
        for route, one in told:
            for cluster in route.clusters:
                by_cluster.setdefault(cluster, []).append(one)
        for cluster in by_cluster:
            self._post(cluster).offer(by_cluster[cluster])
        waiting = any(one.waits_for for _, one in told)
        return min((one.every_s / (5 if waiting else 1) for _, one in told), default=None)

    def _post(self, cluster: str) -> Post:
        post = self._posts.get(cluster)
        if post is None:
            post = self._posts[cluster] = Post(cluster, self._owner)
        return post

    def close(self) -> None:
        """Say that this process leaves, to clusters that answer."""
        if self._thread is not None and not self._is_closed:
            self._is_closed = True
            self._wake.set()
            self._thread.join(LAST_S)
            self.send(left=True)
        for post in self._posts.values():
            post.close()
        self._posts = {}


class Post:
    """Reports to one cluster, from a thread of its own: the newest ones, whatever became of those before."""

    def __init__(self, cluster: str, owner: Supervisor) -> None:
        self._cluster = cluster
        self._owner = owner
        self._clock = owner.environment.clock
        self._offered: Sequence[Report] = ()
        self._wake = threading.Event()
        self._is_closing = False
        self._token = 0
        self._sent: dict[int, float] = {}
        self._backend: Backend | None = None
        self._producer: Producer | None = None
        self._has_complained = False
        self._thread = threading.Thread(target=self._run, name=f"mqsdk-reports-{cluster}", daemon=True)
        self._thread.start()

    def offer(self, reports: Iterable[Report]) -> None:
        self._offered = tuple(reports)
        self._wake.set()

    def close(self) -> None:
        self._is_closing = True
        self._wake.set()
        self._thread.join(LAST_S)

    def _run(self) -> None:
        while self._offered or not self._is_closing:
            self._wake.wait()
            self._wake.clear()
            offered, self._offered = self._offered, ()
            if offered:
                self._send(offered)

    def _send(self, reports: Sequence[Report]) -> None:
        try:
            now = self._clock.mono()
            records = [self._record(one, now) for one in reports]
            self._connected().publish(records, now + max(LAST_S, reports[0].every_s))
        except Exception as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        self._backend = None
        if not self._has_complained:
            self._has_complained = True
            what = error.what if isinstance(error, MqError) else type(error).__name__
            log.warning("cluster %s: this process cannot report there how far a move is: %s", self._cluster, what)

    def _connected(self) -> Producer:
        backend = self._owner.clusters.backend(self._cluster)
        if backend is not self._backend or self._producer is None:
            admin = backend.admin()
            if self._owner.clusters.cluster(self._cluster).create:
                admin.ensure_topic(report.TOPIC, 1)
            elif admin.partitions(report.TOPIC) is None:
                raise ConfigError(f"topic {report.TOPIC} does not exist there and `create` is false", fix="create it, with one partition")
            if backend.capabilities.retention:
                admin.keep(report.TOPIC, KEEP_S)
            self._producer = backend.producer(self)
            self._backend = backend
        return self._producer

    def _record(self, one: Report, now: float) -> NewRecord:
        self._token += 1
        self._sent[self._token] = now
        name = one.instance.encode()
        wall_ms = self._clock.wall_ms()
        return NewRecord(self._token, PARTITION, name, one.encoded(), f"{one.instance}/{self._token}", wall_ms, "application/json")

    def put(self, event: ProducerEvent, /) -> None:
        """Of the producer; any thread."""
        if not isinstance(event, Published):
            return
        for token in range(event.token, event.token + event.length):
            at = self._sent.pop(token, None)
            if at is not None and isinstance(event.outcome, Stored):
                self._has_complained = False
                self._owner.proof.reported(at)
            elif isinstance(event.outcome, Rejected):
                self._backend = None  # look for the topic again; without anybody who listens a queue takes nothing
