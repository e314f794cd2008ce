"""Which clusters this process moves delayed messages of: those that it has open, once delay topics exist there and while consumers run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from mqsdk.core import delay
from mqsdk.errors import AccessDenied, MqError
from mqsdk.runtime import ladder
from mqsdk.runtime.clusters import Clusters
from mqsdk.runtime.environment import Environment
from mqsdk.runtime.mover import Mover
from mqsdk.runtime.targets import Targets
from mqsdk.spi import Consumer, Subscription

if TYPE_CHECKING:
    from mqsdk.config.model import Configuration

log = logging.getLogger("mqsdk.delay")

# How soon the first delayed message that another process publishes to a cluster is noticed. One question about one topic.
LOOK_EVERY_S = 5.0
TRIM_EVERY_S = 60.0  # delay topics have no retention: what has left them is removed


class Movers:
    """One per opened App. `start`, `stop` by the thread that calls them on the supervisor; the rest by any."""

    def __init__(self, clusters: Clusters, environment: Environment, configuration: Callable[[], Configuration], instance: str) -> None:
        """configuration: the one in force. instance: name of this process in member lists."""
        self._clusters = clusters
        self._environment = environment
        self._configuration = configuration
        self._instance = instance
        self._movers: dict[str, Mover] = {}
        self._lock = threading.Lock()
        self._look = threading.Event()
        self._has_delayed = False
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._troubles: dict[str, str] = {}

    def start(self) -> None:
        """Look for clusters with delay topics from now on, beside everything else. Waits for nothing."""
        if self._thread is not None or not self._environment.threaded:
            return
        self._is_stopping = False
        self._look.set()
        self._thread = threading.Thread(target=self._run, name="mqsdk-movers", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """A message was delayed here: its topics exist now."""
        self._has_delayed = True
        self._look.set()

    def _run(self) -> None:
        trim_at = self._environment.clock.mono() + TRIM_EVERY_S
        while not self._is_stopping:
            self._look.wait(LOOK_EVERY_S)
            self._look.clear()
            for name, backend in self._clusters.opened().items():
                if not self._is_stopping and name not in self._movers and backend.capabilities.delay == "ladder":
                    self._begin_if_needed(name)
            if self._environment.clock.mono() >= trim_at and not self._is_stopping:
                trim_at = self._environment.clock.mono() + TRIM_EVERY_S
                for name, mover in self._movers.items():
                    self._trim(name, mover)

    def _trim(self, name: str, mover: Mover) -> None:
        by_topic: dict[str, dict[int, int]] = {}
        for partition, position in mover.take_stored().items():
            by_topic.setdefault(partition.topic, {})[partition.number] = position
        try:
            for topic, positions in by_topic.items():
                self._clusters.backend(name).admin().trim(topic, positions)
        except Exception as error:  # it is done with what comes next
            what = error.what if isinstance(error, MqError) else type(error).__name__
            log.warning("cluster %s: what has left a delay topic is not removed: %s", name, what)

    def _begin_if_needed(self, name: str) -> None:
        try:
            if ladder.exists(self._clusters.backend(name).admin()):
                self._begin(name)
            self._troubles.pop(name, None)
        except AccessDenied as error:
            # Nothing may be read of a topic that need not exist either: no trouble of an application that delays nothing.
            if self._has_delayed:
                self._tell(name, error.what)
        except Exception as error:
            self._tell(name, error.what if isinstance(error, MqError) else type(error).__name__)

    def _tell(self, name: str, what: str) -> None:
        """Once, and in the health."""
        if self._troubles.get(name) != what:
            log.warning("cluster %s: delayed messages are not moved by this process: %s", name, what)
        self._troubles[name] = what

    def _begin(self, name: str) -> None:
        mover = self.make(name)
        with self._lock:
            if self._is_stopping:
                mover.close(self._environment.clock.mono())
                return
            self._movers[name] = mover
        log.info("cluster %s: this process moves delayed messages", name)
        threading.Thread(target=mover.run, name=f"mqsdk-mover-{name}", daemon=True).start()

    def make(self, name: str) -> Mover:
        """A mover of a cluster that has joined its group and is not running. Raises BackendError."""
        clusters, environment, cluster = self._clusters, self._environment, self._clusters.cluster(name)
        subscription = Subscription(delay.TOPICS, delay.GROUP, lease_s=cluster.lease_s, instance=self._instance)

        def connect() -> Consumer:
            return clusters.backend(name).consumer(subscription)

        return Mover(
            name,
            connect=connect,
            make_targets=lambda sink: Targets(
                name, clusters, sink, environment.clock, lambda topic: self._configuration().topic_rule(topic), environment.threaded
            ),
            clock=environment.clock,
            observe=environment.observe,
            lease_s=cluster.lease_s,
            sparse_bytes=clusters.backend(name).capabilities.sparse_bytes,
        )

    def exchange(self, name: str) -> list[Mover]:
        """Those that read with a client of this cluster; the others forget it as a target."""
        with self._lock:
            movers = dict(self._movers)
        for other in movers.values():
            if other.cluster != name:
                other.forget(name)
        return [movers[name]] if name in movers else []

    def problems(self) -> list[str]:
        """What keeps delayed messages from being moved by this process."""
        troubles = {**self._troubles, **{name: mover.failure for name, mover in list(self._movers.items()) if mover.failure}}
        return [f"delayed messages of cluster {name} are not moved by this process: {what}" for name, what in troubles.items()]

    def drain(self, deadline: float) -> None:
        """Begin to hand back. deadline: monotonic seconds."""
        with self._lock:
            self._is_stopping = True
            movers = list(self._movers.values())
        self._look.set()
        for mover in movers:
            mover.drain(deadline)

    def stop(self, deadline: float) -> None:
        """End all of them, by the deadline and a second."""
        self.drain(deadline)
        clock, thread = self._environment.clock, self._thread
        for mover in self._movers.values():
            mover.finished.wait(max(0.0, deadline - clock.mono()) + 1.0)
            mover.close(max(deadline, clock.mono() + 0.5))
        if thread is not None:
            thread.join(max(0.0, deadline - clock.mono()) + 1.0)
        self._movers, self._thread, self._troubles = {}, None, {}
