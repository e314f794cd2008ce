"""How one consumer is put together: what it needs of its backend, its group, its loop and workers, and where its dead letters go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from mqsdk.core.actions import Copy, Cut, Spec, Tuning
from mqsdk.core.machine import Machine
from mqsdk.errors import CapabilityError, ConfigError, MqError, PublishRejected, PublishUnknown
from mqsdk.names import RETRIES, composed
from mqsdk.runtime.environment import Declared
from mqsdk.runtime.halts import check_retries
from mqsdk.runtime.letters import LetterWatch
from mqsdk.runtime.loop import ConsumerLoop
from mqsdk.runtime.sender import Draft
from mqsdk.runtime.threads import ThreadWorkers
from mqsdk.runtime.topics import ensure_topic
from mqsdk.runtime.workers import Results, Workers
from mqsdk.spi import Backend, Capabilities, Consumer, Outcome, Rejected, Stored, Subscription, Unknown

if TYPE_CHECKING:
    from mqsdk.runtime.inbox import Inbox
    from mqsdk.runtime.supervisor import Supervisor

# Unordered, where layer 2 delays: what waits longer for its next attempt costs two writes instead of memory. Twice what the default
# policy waits at most, which so stays in memory.
LONGEST_WAIT_S = 120.0


class Launcher:
    """Makes the consumers of one supervisor, which owns and runs them."""

    def __init__(self, owner: Supervisor) -> None:
        self._owner = owner
        self._environment = owner.environment

    def cluster(self, declared: Declared) -> str:
        """Where the topic's route leads. Raises ConfigError."""
        try:
            return self._owner.clusters.name_of(declared.topic)
        except PublishRejected as error:
            raise ConfigError(error.what, where=f"consumer {declared.name}", fix=error.fix) from error

    def plan(self, declared: Declared, cluster: str, behind: tuple[int, ...] = ()) -> Spec:
        """behind: as in Spec. Raises CapabilityError, ConfigError or BackendError."""
        backend = self._owner.clusters.backend(cluster)
        check_capabilities(declared, backend.capabilities, cluster)
        self._check_inbox(declared)
        check_retries(declared, self._owner.whole_tuning(declared), backend.capabilities, cluster)
        has_retries = backend.capabilities.companions and not declared.broadcast
        parks = has_retries and not declared.ordered and backend.capabilities.delay == "ladder"
        return Spec(
            topic=declared.topic,
            group=declared.group,
            cluster=cluster,
            ordered=declared.ordered,
            batch=declared.batch,
            batch_wait_s=declared.batch_wait_s,
            is_async=declared.handler.is_async and declared.isolation is None,
            sparse_bytes=backend.capabilities.sparse_bytes,
            dead_letter=declared.dead_letter,
            retry=composed(declared.topic, declared.group, RETRIES) if has_retries else None,
            longest_wait_s=LONGEST_WAIT_S if parks else None,
            settle_every_s=self._environment.settle_every_s,
            has_copies=backend.capabilities.copies,
            behind=behind,
        )

    def _check_inbox(self, declared: Declared) -> None:
        if self._owner.configuration.inbox(declared.topic, declared.group) is None:
            return
        wanted = (
            (declared.broadcast, "is a broadcast", "what one instance has handled, no other would"),
            (declared.isolation is not None, "runs in worker processes", "nobody would ask it there"),
        )
        for wrong, what, why in wanted:
            if wrong:
                where = self._owner.configuration.source
                raise ConfigError(
                    f"consumer {declared.name} {what} and has an inbox: {why}", where=where, fix=f'inbox: none for "{declared.name}"'
                )

    def launch(self, declared: Declared, spec: Spec, cutter: Callable[[Cut], None]) -> ConsumerLoop:
        """A consumer that has joined its group and is not stepped yet. Raises CapabilityError, ConfigError or BackendError."""
        cluster = self._owner.clusters.cluster(spec.cluster)
        self._ensure(declared, self._owner.clusters.backend(spec.cluster), create=cluster.create, cluster=spec.cluster)
        tuning = self._owner.tuning(declared, spec.cluster)
        inbox = self._inbox(declared)
        handling = declared if inbox is None else replace(declared, handler=inbox.before(declared.handler))
        subscription = Subscription(
            topics=(spec.topic,) if spec.retry is None else (spec.topic, spec.retry),  # the second comes with the first redrive
            group=declared.group,
            ordered=declared.ordered,
            broadcast=declared.broadcast,
            start=declared.start,
            lease_s=cluster.lease_s,
            instance=self._owner.instance,
        )
        return ConsumerLoop(
            name=declared.name,
            machine=Machine(spec, tuning, self._environment.rng, self._wall_offset_s()),
            connect=lambda: self._connect(declared, spec.cluster, subscription),
            make_workers=lambda results: self._make_workers(handling, results, tuning),
            copier=lambda copy, done: self._copy(copy, spec, done),
            cutter=cutter,
            clock=self._environment.clock,
            observe=self._environment.observe,
            tuning=tuning,
            lease_s=cluster.lease_s,
            make_letters=lambda tell: LetterWatch(
                lambda: self._owner.clusters.backend(spec.cluster).admin(),
                spec.topic,
                spec.group,
                tell,
                self._environment.clock,
                self._environment.threaded,
            ),
            inbox=inbox,
        )

    def _inbox(self, declared: Declared) -> Inbox | None:
        """Raises ConfigError for a file that cannot be used."""
        rule = self._owner.configuration.inbox(declared.topic, declared.group)
        if rule is None:
            return None
        from mqsdk.runtime.inbox import Inbox  # sqlite3 and asyncio, for those who need them

        return Inbox(rule, declared.name, self._environment.clock.wall_ms)

    def _connect(self, declared: Declared, cluster: str, subscription: Subscription) -> Consumer:
        """At the backend that the cluster has now, another one after an exchange.

        A broadcast that is restarted goes on where it was: the backend knows nothing of its progress.
        """
        of_this = (loop.places for one, loop in self._owner.loops if one is declared and loop.spec.cluster == cluster)
        places = next(of_this, {}) if declared.broadcast else {}
        return self._owner.clusters.backend(cluster).consumer(subscription._replace(positions=tuple(places.items())))

    def _ensure(self, declared: Declared, backend: Backend, *, create: bool, cluster: str) -> None:
        admin = backend.admin()
        if create:
            ensure_topic(backend, cluster, declared.topic, self._owner.configuration.topic_rule(declared.topic))
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
        if self._environment.make_workers is not None:
            return self._environment.make_workers(declared, results, tuning)
        clock, handler = self._environment.clock, declared.handler
        if declared.isolation is not None:
            from mqsdk.runtime.processes import ProcessWorkers

            return ProcessWorkers(handler, declared.isolation, clock, results, declared.name, tuning.concurrency, declared.ordered)
        if not handler.is_async:
            return ThreadWorkers(handler, clock, results, f"mqsdk-{declared.name}", tuning.concurrency, declared.ordered)
        from mqsdk.runtime.tasks import LoopWorkers

        return LoopWorkers(handler, clock, results, self._owner.event_loop(), tuning.concurrency, declared.ordered)

    def _wall_offset_s(self) -> float:
        clock = self._environment.clock
        return clock.wall_ms() / 1000 - clock.mono()

    def _copy(self, copy: Copy, spec: Spec, done: Callable[[Outcome], None]) -> None:
        """Store a retry or a dead letter in the topic's own cluster, a dead letter with `dead_letter=` where that is routed."""
        is_routed = copy.due_ms is None and spec.dead_letter is not None
        publisher = self._owner.publisher(copy.topic) if is_routed else self._owner.publisher_of(spec.cluster)
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
            due_ms=copy.due_ms,
            attempt=copy.attempt,
        )
        future = publisher.submit(copy.topic, draft, self._owner.configuration.publish.timeout_s, block=False)
        future.add_done_callback(lambda ended: done(_outcome(ended.exception())))


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
