"""Looks at every consumer of the process now and then, and carries out what `core.watchdog` decides.

"Assigned, backlog, nothing settled" is seen from two sides: what the consumer has in flight, and what its backend says is unread. The
second one sees a client that is connected and delivers nothing, of which the consumer itself knows nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from mqsdk.core.view import MachineView
from mqsdk.core.watchdog import Sight, Watchdog
from mqsdk.errors import MqError, StateError
from mqsdk.events import Event, Stalled
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.clusters import Clusters
from mqsdk.runtime.environment import Declared
from mqsdk.runtime.loop import ConsumerLoop
from mqsdk.spi import Admin, CapabilityError

log = logging.getLogger("mqsdk.watchdog")

Loops = Sequence[tuple[Declared, ConsumerLoop]]

LOOKS_PER_PATIENCE = 4
LONGEST_S, SHORTEST_S = 15.0, 0.05


class Guard:
    """One per supervisor. given_up: what could not be helped, "" while nothing was. wake: called once when something is given up.

    loops, patience_s: asked at every look, because both may change while it runs.
    """

    def __init__(
        self,
        loops: Callable[[], Loops],
        clusters: Clusters,
        clock: Clock,
        observe: Callable[[Event], None],
        patience_s: Callable[[], float],
    ) -> None:
        self._loops = loops
        self._clusters = clusters
        self._clock = clock
        self._observe = observe
        self._patience_s = patience_s
        self._dogs: dict[ConsumerLoop, Watchdog] = {}
        self._unread: dict[ConsumerLoop, dict[int, int]] = {}  # by partition: what would have come next, at the last look
        self._stop = threading.Event()
        self.given_up = ""
        self.wake: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._stop, self.given_up = threading.Event(), ""  # a look of before may still be under way, and knows its own
        threading.Thread(target=self._run, args=(self._stop,), name="mqsdk-guard", daemon=True).start()

    def stop(self) -> None:
        """Look no more. A look that is under way may wait for its backend, and nobody waits for that."""
        self._stop.set()
        self._dogs = {}

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(max(SHORTEST_S, min(LONGEST_S, self._patience_s() / LOOKS_PER_PATIENCE))):
            try:
                self.look()
            except Exception as error:  # a look that fails must not be the last one
                log.error("the watchdog could not look: %s", type(error).__name__, exc_info=not isinstance(error, MqError))

    def look(self) -> None:
        """Once at every consumer."""
        loops = list(self._loops())
        here = {loop for _, loop in loops}
        self._dogs = {loop: dog for loop, dog in self._dogs.items() if loop in here}
        self._unread = {loop: unread for loop, unread in self._unread.items() if loop in here}
        for declared, loop in loops:
            dog = self._dogs.setdefault(loop, Watchdog())
            sight = self._sight(declared, loop)
            now, patience_s = self._clock.mono(), self._patience_s()
            remedy = dog.judge(now, sight, patience_s)
            if self._stop.is_set() or remedy is None:
                continue
            if remedy == "restart":
                self._restart(declared, loop, patience_s)
            else:
                self._give_up(declared, patience_s)

    def still_for(self, loop: ConsumerLoop) -> float:
        """Seconds that a consumer has been standing still at the last looks."""
        dog = self._dogs.get(loop)
        return 0.0 if dog is None else dog.still_for(self._clock.mono())

    def _restart(self, declared: Declared, loop: ConsumerLoop, patience_s: float) -> None:
        view = loop.view()
        if not view.stalled:
            self._observe(Stalled(declared.topic, declared.group, loop.spec.cluster, patience_s))
        why = f"work waits and nothing was settled for {patience_s:.3g} s"
        log.error(
            "%s: the consumer is restarted: %s (%d in flight, %d running); the process ends with 9 if that does not help",
            declared.name, why, view.records, len(loop.running()), extra={"mq_topic": declared.topic, "mq_group": declared.group},
        )  # fmt: skip
        loop.restart(StateError(why, where=f"consumer {declared.name}", state="RUNNING"))

    def _give_up(self, declared: Declared, patience_s: float) -> None:
        if self.given_up:
            return
        self.given_up = f"consumer {declared.name} stands still, and its restart {patience_s:.3g} s ago did not help"
        log.critical(
            "%s: given up: its restart %.3g s ago did not help. `mqsdk run` ends with 9, `health().live` is False: a new process is needed."
            " Handlers that hang (see the lines above, `mqsdk stacks`) or a backend that delivers nothing (`mqsdk doctor`) may be why",
            declared.name, patience_s, extra={"mq_topic": declared.topic, "mq_group": declared.group},
        )  # fmt: skip
        self.wake()

    # --- what is seen ---------------------------------------------------------------------------------------------------------------

    def _sight(self, declared: Declared, loop: ConsumerLoop) -> Sight:
        view = loop.view()
        ended = view.handled + view.dead_lettered + view.dropped + view.failed
        away = bool(loop.failure) or not loop.joined.is_set() or loop.finished.is_set() or not view.partitions
        unstored = view.unstored and not declared.broadcast  # whose progress nothing keeps, so nothing need confirm it
        return Sight(ended, view.last_settled_at, unstored, not away and self._waits(declared, loop, view), away)

    def _waits(self, declared: Declared, loop: ConsumerLoop, view: MachineView) -> bool:
        if view.paused or view.held or view.breaker not in (None, "closed") or loop.is_working():
            return False
        return view.records > 0 or self._is_unread(declared, loop, view)

    def _is_unread(self, declared: Declared, loop: ConsumerLoop, view: MachineView) -> bool:
        """Whether the backend holds messages of owned partitions that never came: at two looks the same one, for at one look a message may
        just be on its way. Unknown is no: a backend's own trouble is told apart."""
        if declared.broadcast:
            return False
        last, self._unread[loop] = self._unread.get(loop, {}), self._left_unread(declared, loop, view)
        return any(last.get(number) == position for number, position in self._unread[loop].items())

    def _left_unread(self, declared: Declared, loop: ConsumerLoop, view: MachineView) -> dict[int, int]:
        found: dict[int, int] = {}
        known = {one.partition.number: one for one in view.partitions if one.partition.topic == declared.topic and not one.paused}
        try:
            admin = self._clusters.backend(loop.spec.cluster).admin()
            for progress in admin.progress(declared.topic, declared.group):
                one = known.get(progress.partition)
                if one is None or progress.messages <= one.records + one.waiting:
                    continue
                if _holds(admin, declared.topic, progress.partition, one.received):
                    found[progress.partition] = one.received
        except MqError:
            return {}
        return found


def _holds(admin: Admin, topic: str, partition: int, position: int) -> bool:
    """A number may count what nobody ever gets (markers of transactions, what was compacted): look for a message, where that can be."""
    try:
        return bool(admin.read(topic, partition, position, 1))
    except CapabilityError:
        return True
