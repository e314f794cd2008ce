"""Where delayed messages go next: the cluster of their topic's route, its partitions and a producer there; found out beside the mover.

A cluster that cannot be reached, or that makes whoever publishes wait, has its own thread: nobody else waits for it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mqsdk.config.model import TopicRule
from mqsdk.core import delay
from mqsdk.errors import AccessDenied, MqError, PublishRejected
from mqsdk.runtime import ladder
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.clusters import Clusters
from mqsdk.runtime.topics import ensure_with_groups
from mqsdk.spi import Backend, EventSink, NewRecord, Producer, Published, Rejected, Unknown

log = logging.getLogger("mqsdk.delay")

RETRY_S = 1.0  # a cluster that could not be asked is asked again
KNOWN = 4096  # topics kept; a fleet that makes up names must not grow for ever
LOOKS = 8  # topics that are looked up at once; the others wait their turn


class Way(NamedTuple):
    """cluster: name. delay: what its backend claims. partitions: of the topic. steps: partitions of each delay topic, {} without any."""

    cluster: str
    delay: str
    producer: Producer
    partitions: int
    steps: dict[str, int]


class _Refused(NamedTuple):
    outcome: Rejected
    until: float


class Targets:
    """Of one mover, whose thread calls `find`."""

    def __init__(
        self, own: str, clusters: Clusters, sink: EventSink, clock: Clock, topic_rule: Callable[[str], TopicRule], threaded: bool
    ) -> None:
        """own: name of the mover's cluster. sink: gets the results of every producer."""
        self._own = own
        self._clusters = clusters
        self._sink = sink
        self._clock = clock
        self._topic_rule = topic_rule
        self._threaded = threaded
        self._lock = threading.Lock()
        self._ways: dict[tuple[str, str], Way | _Refused | None] = {}  # by (cluster, topic); None: being found out
        self._steps: dict[str, dict[str, int]] = {}
        self._producers: dict[str, tuple[Backend, Producer]] = {}
        self._generation = 0
        self._looks = threading.Semaphore(LOOKS)

    def find(self, topic: str, here: bool = False) -> Way | Rejected | None:
        """The way to a topic, None while it is being found out. here: in the mover's own cluster, whatever the route says.

        A topic without a route in this process stays in the cluster where it waits: somebody's configuration routes it there.
        """
        cluster = self._own if here else self._routed(topic)
        found = self._ways.get((cluster, topic), _UNKNOWN)
        if isinstance(found, _Refused):
            if self._clock.mono() < found.until:
                return found.outcome
            found = _UNKNOWN
        if found is _UNKNOWN:
            self._look(cluster, topic)
            found = self._ways.get((cluster, topic))
        return found.outcome if isinstance(found, _Refused) else found

    def _routed(self, topic: str) -> str:
        try:
            return self._clusters.name_of(topic)
        except PublishRejected:
            return self._own

    def forget(self, cluster: str) -> None:
        """It has another client now. Any thread."""
        with self._lock:
            self._generation += 1
            self._ways = {key: way for key, way in self._ways.items() if key[0] != cluster}
            _end(self._producers.pop(cluster, None))

    def forget_topic(self, topic: str) -> None:
        """It is not as it was: ask again."""
        with self._lock:
            self._ways.pop((self._routed(topic), topic), None)

    def close(self) -> None:
        """End the threads; what was handed over before is still published."""
        with self._lock:
            for known in self._producers.values():
                _end(known)
            self._producers = {}

    # --- finding out ------------------------------------------------------------------------------------------------------------

    def _look(self, cluster: str, topic: str) -> None:
        if not self._looks.acquire(blocking=False):
            return
        with self._lock:
            if len(self._ways) >= KNOWN:
                self._ways = {}
            self._ways[cluster, topic] = None
            generation = self._generation
        if not self._threaded:
            self._ask(cluster, topic, generation)
            return
        work = threading.Thread(target=self._ask, args=(cluster, topic, generation), name="mqsdk-delay-look", daemon=True)
        work.start()

    def _ask(self, cluster: str, topic: str, generation: int) -> None:
        found: Way | _Refused
        try:
            found = self._found(cluster, topic)
        except MqError as error:
            found = _Refused(_refusal(error), self._clock.mono() + RETRY_S)
        except Exception as error:
            log.error("where topic %s is in cluster %s cannot be found out", topic, cluster, exc_info=error)
            found = _Refused(Rejected("backend", type(error).__name__, retryable=True), self._clock.mono() + RETRY_S)
        with self._lock:
            if generation == self._generation:
                self._ways[cluster, topic] = found
            else:
                self._ways.pop((cluster, topic), None)  # what was found may be of a client that is not in use any more
        self._looks.release()

    def _found(self, cluster: str, topic: str) -> Way | _Refused:
        backend = self._clusters.backend(cluster)
        admin, create, is_own = backend.admin(), self._clusters.cluster(cluster).create, cluster == self._own
        count = admin.partitions(topic)
        if count is None and create and (not is_own or topic == delay.DEAD_LETTERS):
            # It was there when the message was published: here it has been deleted since, elsewhere its route has changed.
            count = ensure_with_groups(backend, cluster, topic, self._topic_rule(topic))
        if count is None:
            return _Refused(Rejected("no_route", f"there is no topic {topic} in cluster {cluster}"), self._clock.mono() + RETRY_S)
        kind = backend.capabilities.delay
        if kind == "ladder" and cluster not in self._steps:
            self._steps[cluster] = ladder.partitions_of(admin, create, cluster)
        return Way(cluster, kind, self._producer(cluster, backend), count, self._steps.get(cluster, {}))

    def _producer(self, cluster: str, backend: Backend) -> Producer:
        with self._lock:
            known = self._producers.get(cluster)
            if known is not None and known[0] is backend:
                return known[1]
            made = backend.producer(self._sink)
            if self._threaded and cluster != self._own:
                made = _Beside(made, self._sink, cluster)
            _end(known)
            self._producers[cluster] = (backend, made)
            return made


_UNKNOWN = _Refused(Rejected("backend", ""), float("-inf"))


def _refusal(error: MqError) -> Rejected:
    """Nothing was sent; who may not ask now may be allowed to later."""
    if isinstance(error, AccessDenied):
        return Rejected("denied", error.what, retryable=True, fix=error.fix)
    if isinstance(error, PublishRejected):
        return Rejected(error.code, error.what, retryable=True, fix=error.fix)
    return Rejected("backend", error.what, retryable=True, fix=error.fix)


class _Beside(Producer):
    """A producer on a thread of its own: one that stores at once makes its caller wait for a cluster that does not answer."""

    def __init__(self, producer: Producer, sink: EventSink, cluster: str) -> None:
        self._producer = producer
        self._sink = sink
        self._batches: queue.SimpleQueue[tuple[Sequence[NewRecord], float] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=f"mqsdk-delay-{cluster}", daemon=True).start()

    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        self._batches.put((batch, deadline))

    def end(self) -> None:
        """After what was handed over before."""
        self._batches.put(None)

    def _run(self) -> None:
        while (item := self._batches.get()) is not None:
            publish(self._producer, *item, self._sink)


def _end(known: tuple[Backend, Producer] | None) -> None:
    if known is not None and isinstance(known[1], _Beside):
        known[1].end()


def publish(producer: Producer, batch: Sequence[NewRecord], deadline: float, sink: EventSink) -> None:
    """Publish, whatever it raises: a client that is being exchanged, or closed, refuses as a whole and has sent nothing."""
    try:
        producer.publish(batch, deadline)
    except MqError as error:
        for record in batch:
            sink.put(Published(record.token, _refusal(error)))
    except Exception as error:
        log.error("publishing what was delayed failed", exc_info=error)
        for record in batch:
            sink.put(Published(record.token, Unknown(type(error).__name__)))
