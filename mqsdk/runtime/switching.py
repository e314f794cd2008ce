"""Topics that were given another cluster while they are in use: writers wait until the old one has answered, readers read both."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mqsdk.config.model import Configuration
from mqsdk.core.actions import Cut, Tuning
from mqsdk.core.oldside import WATCH_S
from mqsdk.core.stages import View
from mqsdk.events import ClusterChanged
from mqsdk.runtime.changing import Change, Preparation, Prepared
from mqsdk.runtime.clusters import view_in
from mqsdk.runtime.environment import Declared
from mqsdk.runtime.overview import tell_what_holds
from mqsdk.runtime.readers import Reader, Readers
from mqsdk.runtime.topics import ensure_topic
from mqsdk.runtime.unfinished import Entry, OnDisk, Place
from mqsdk.spi import Backend

if TYPE_CHECKING:
    from mqsdk.runtime.loop import ConsumerLoop
    from mqsdk.runtime.supervisor import Supervisor

log = logging.getLogger("mqsdk.move")

WRITERS_EVERY_S = 0.002
CLOSE_S = AFTER_ERROR_S = 1.0
CLOSING_EVERY_S = 0.02
KEEP_EVERY_S = 3600.0
UNFINISHED_S = 30 * 86_400.0  # how long a process may be away that still read an older cluster


class Switching:
    """Of one supervisor. Nothing of it runs, and nothing is asked of any server, before a topic in use has changed its cluster.

    `step` does what is due; a thread of its own calls it, or, where nothing is threaded, whoever drives the rest.
    """

    def __init__(self, owner: Supervisor) -> None:
        self.owner = owner
        self._memory = owner.environment.memory or OnDisk(owner.configuration.app, owner.configuration.source)
        self._readers: list[Readers] = []
        self._writers: list[tuple[Sequence[ClusterChanged], Callable[[], bool]]] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._kept_ms = 0

    # --- a new configuration --------------------------------------------------------------------------------------------------------

    def prepare(self, new: Configuration, topics: Sequence[str], opened: Mapping[str, Backend]) -> Prepared:
        """Look whether these topics may go where `new` routes them, and make what has to exist there. Raises ConfigError."""
        return Preparation(self.owner, new, opened, self.unfinished, self._place).run(topics)

    def begin(self, prepared: Prepared, are_written: Callable[[], bool]) -> None:
        """The new configuration is in force. are_written: lets the waiting publishes go, and is True, once the old clusters have answered
        every publish."""
        clock = self.owner.environment.clock
        now, settle_s = clock.mono(), self.owner.configuration.reload.settle_s
        for name, backend in prepared.opened.items():
            self.owner.clusters.adopt(name, backend)
            tell_what_holds(self.owner.clusters.cluster(name), backend)
        changes = [
            ClusterChanged(one.topic, "", one.before.writes, one.after.writes, "writing")
            for one in prepared.changes
            if one.is_written_elsewhere
        ]
        try:
            with self._lock:
                self._writers.append((changes, are_written))  # first: publishes wait for it, whatever becomes of the readers
                for change in prepared.changes:
                    self._remember(change)
                    for readers in self._readers_of(change.topic):
                        readers.arrange(change.after, change.places, now, settle_s)
                        readers.reconcile(now)
        finally:
            self._let_write()
            self.go_on()

    def apply(self, settle_s: float) -> None:
        """A changed `reload.settle` or `reload.every` holds for what is under way, too."""
        with self._lock:
            for readers in self._readers:
                readers.apply(settle_s)
        self._wake.set()

    def _readers_of(self, topic: str) -> list[Readers]:
        """Of every running consumer of the topic."""
        known = [readers for readers in self._readers if readers.declared.topic == topic]
        names = {readers.declared.group for readers in known}
        for declared, loop in self.owner.loops:
            if declared.topic == topic and declared.group not in names:
                side = Reader(Place(loop.spec.cluster, 0), loop=loop)
                known.append(Readers(self, declared, [side], side))
                self._readers.append(known[-1])
        return known

    def _remember(self, change: Change) -> None:
        """A restart has to know what the route does not say any more."""
        left = [place for cluster in change.before.reads if cluster not in change.after.reads and (place := change.places.get(cluster))]
        older = [place for place in left if place.partitions]
        if not older:
            return
        newest = change.after.reads[-1]
        target = change.places.get(newest, Place(newest, 0))
        now_ms = self.owner.environment.clock.wall_ms()
        known = self._memory.entries(now_ms).get(change.topic)
        named = {place.cluster for place in (*older, target)}
        places = [place for place in (known.older if known else ()) if place.cluster not in named]
        self._memory.put(Entry(change.topic, (*places, *older), target, now_ms + round(WATCH_S * 1000)), now_ms)

    def tell(self, change: ClusterChanged) -> None:
        """A step of one consumer. What is on disk holds for a day from the last one on."""
        now_ms = self.owner.environment.clock.wall_ms()
        known = self._memory.entries(now_ms).get(change.topic)
        if known is not None and change.step in ("closed", "reopened"):
            self._memory.put(known._replace(until_ms=now_ms + round(WATCH_S * 1000)), now_ms)
        self.owner.environment.observe(change)

    # --- start and stop -------------------------------------------------------------------------------------------------------------

    def resumed(self, declared: Declared, cluster: str) -> Readers | None:
        """Of a consumer that is about to start: None unless its topic moves, or was elsewhere lately, as an earlier process has written
        down. cluster: where the topic is published to. Raises BackendError or ConfigError.
        """
        now_ms = self.owner.environment.clock.wall_ms()
        reads = self._reads(declared.topic, cluster)
        entry = self._memory.entries(now_ms).get(declared.topic)
        places = [] if entry is None else [*entry.older, entry.target]
        places = [place for place in places if place.cluster not in reads and self._is_known(declared.topic, place.cluster)]
        if not places and len(reads) == 1:
            return None
        places += [Place(one, self._partitions(declared, one)) for one in reads[:-1]] + [Place(reads[-1], 0)]
        sides: list[Reader] = []
        for place in places:
            sides.append(Reader(place, sides if declared.ordered else ()))
        return Readers(self, declared, sides, next(side for side in sides if side.place.cluster == cluster))

    def _reads(self, topic: str, cluster: str) -> tuple[str, ...]:
        found = view_in(self.owner.configuration, topic)
        return (cluster,) if found is None else found.reads

    def _partitions(self, declared: Declared, cluster: str) -> int:
        """Of a cluster that others wait for: it has to exist there."""
        if not declared.ordered:
            return 0
        backend = self.owner.clusters.backend(cluster)
        return ensure_topic(backend, cluster, declared.topic, self.owner.configuration.topic_rule(declared.topic))

    def _is_known(self, topic: str, cluster: str) -> bool:
        if cluster in self.owner.configuration.clusters:
            return True
        log.error("topic %s was on cluster %s, which is not configured any more: what is left there is not read", topic, cluster)
        return False

    def resume(self, readers: Readers, loop: ConsumerLoop) -> None:
        """The consumer has started where its route leads; the older clusters follow."""
        readers.main.loop = loop
        view = view_in(self.owner.configuration, readers.declared.topic) or View(loop.spec.cluster, (loop.spec.cluster,))
        readers.resume(view, self.owner.environment.clock.mono(), self.owner.configuration.reload.settle_s)
        with self._lock:
            self._readers.append(readers)

    def go_on(self) -> None:
        """Let the rest happen in its time, if there is any."""
        if self._readers or self._writers:
            self._go_on()

    def stop(self) -> None:
        """All consumers are about to stop, those of older clusters too."""
        with self._lock:
            self._readers = []

    def close(self) -> None:
        self._is_closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    # --- what is under way ------------------------------------------------------------------------------------------------------------

    def unfinished(self, topic: str) -> set[str]:
        """Clusters of the topic that a consumer here reads beside the one that it is published to."""
        return {cluster for readers in self._readers if readers.declared.topic == topic for cluster in readers.unfinished}

    def is_unfinished(self, topic: str) -> bool:
        """Whether an older cluster of the topic is read that its route does not name any more."""
        found = view_in(self.owner.configuration, topic)
        return bool(self.unfinished(topic).difference(() if found is None else found.reads))

    def _place(self, topic: str, cluster: str) -> Place | None:
        """What a consumer here knows of a topic's cluster."""
        found = (readers.place(cluster) for readers in self._readers if readers.declared.topic == topic)
        return next((place for place in found if place is not None), None)

    def clusters(self, topic: str) -> list[str]:
        """Where consumers here read the topic, apart from where it is published to; oldest first."""
        sides = [side for readers in self._readers if readers.declared.topic == topic for side in readers.others if side.is_wanted]
        return list(dict.fromkeys(side.place.cluster for side in sides))

    def in_use(self) -> set[str]:
        """Clusters that no route may lead to and that are needed all the same."""
        return {side.place.cluster for readers in self._readers for side in readers.others}

    def tuning(self, declared: Declared, cluster: str, whole: Tuning) -> Tuning:
        """The part of its limits that a consumer has at one cluster: all of them unless it reads several."""
        if not self._readers:
            return whole
        found = next((readers for readers in self._readers if readers.declared is declared), None)
        return whole if found is None else found.tuning(cluster, whole)

    def waits_for(self, topic: str, view: View) -> str:
        """What this process does not do yet of what a stage asks, "" for nothing."""
        with self._lock:
            written = [change.source for changes, _ in self._writers for change in changes if change.topic == topic]
            if written:
                return f"answers of cluster {written[0]} to its publishes"
            for declared, loop in self.owner.loops:
                if declared.topic == topic and not loop.joined.is_set():
                    return f"{declared.name} to join on cluster {loop.spec.cluster}"
            for readers in self._readers:
                if readers.declared.topic == topic and (cluster := readers.missing(view)):
                    return f"{readers.declared.name} to read cluster {cluster}"
        return ""

    def asked(self, reader: Reader, cut: Cut) -> None:
        """A machine wants to know when this cut has passed; any thread."""
        reader.asked.append(cut)
        self._wake.set()

    def asked_at(self, declared: Declared, cluster: str, cut: Cut) -> None:
        """As `asked`, of a consumer that was started before its topic was anywhere else."""
        found = (side for readers in self._readers if readers.declared is declared for side in readers.sides)
        side = next((side for side in found if side.place.cluster == cluster), None)
        if side is not None:
            self.asked(side, cut)

    # --- the thread -------------------------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        if not self.owner.environment.threaded:
            self.step()
            return
        self._wake.set()
        with self._lock:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="mqsdk-switch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._is_closed:
            due = self.due()
            self._wake.wait(None if due is None else max(0.0, due - self.owner.environment.clock.mono()))
            self._wake.clear()
            try:
                self.step()
            except Exception:
                log.exception("a change of cluster does not go on; it is tried again")
                self._wake.wait(AFTER_ERROR_S)

    def due(self) -> float | None:
        """Monotonic time at which `step` has something to do; None: never."""
        now = self.owner.environment.clock.mono()
        with self._lock:
            moments = [moment for readers in self._readers for moment in (readers.due(), readers.cut_due(now))]
            moments += [now + WRITERS_EVERY_S] if self._writers else []
            moments += [now + CLOSING_EVERY_S for readers in self._readers if readers.is_closing]
            moments += [now + AFTER_ERROR_S for readers in self._readers if readers.is_missing]
        return min((moment for moment in moments if moment is not None), default=None)

    def step(self) -> bool:
        """Do what is due; whether anything came of it. Servers are asked without the lock."""
        clock = self.owner.environment.clock
        moved = self._let_write()
        for readers in list(self._readers):
            judge = readers.look(clock.mono())
            with self._lock:
                if readers in self._readers:
                    moved |= judge(clock.mono()) | readers.reconcile(clock.mono())
                    if len(readers.sides) == 1:
                        self._readers = [one for one in self._readers if one is not readers]
        self._keep_in_mind()
        return moved

    def _keep_in_mind(self) -> None:
        """What is on disk must outlast what is still read there: a halted or delayed message may stay for long."""
        now_ms = self.owner.environment.clock.wall_ms()
        if now_ms < self._kept_ms + round(KEEP_EVERY_S * 1000):
            return
        self._kept_ms = now_ms
        known = self._memory.entries(now_ms)
        for topic in {readers.declared.topic for readers in self._readers if readers.unfinished}.intersection(known):
            self._memory.put(known[topic]._replace(until_ms=now_ms + round(UNFINISHED_S * 1000)), now_ms)

    def _let_write(self) -> bool:
        with self._lock:
            done = [(changes, are_written) for changes, are_written in self._writers if are_written()]
            self._writers = [one for one in self._writers if one not in done]
        for changes, _ in done:
            for change in changes:
                self.tell(change)
        if done:
            self.owner.reporting.changed()
        return bool(done)
