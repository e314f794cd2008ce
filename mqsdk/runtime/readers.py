"""One consumer of a topic that is on several clusters: it reads the older ones and the newest until the older ones are done, or, in a
move, as long as its stage says."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mqsdk.core.actions import Cut, Tuning
from mqsdk.core.cut import Cuts
from mqsdk.core.oldside import OldSide
from mqsdk.core.shares import divided
from mqsdk.core.stages import View
from mqsdk.errors import MqError
from mqsdk.events import ClusterChanged
from mqsdk.runtime.environment import Declared
from mqsdk.runtime.inspection import progress_of
from mqsdk.runtime.loop import ConsumerLoop
from mqsdk.runtime.unfinished import Place
from mqsdk.spi import PartitionProgress

if TYPE_CHECKING:
    from mqsdk.runtime.switching import Switching

log = logging.getLogger("mqsdk.move")

# Before a closed cluster is read again in order this process has had the time to look at its configuration: more than twice, for it takes
# what two looks have found alike, on a machine that has other things to do.
PATIENCE_S, PATIENCE_LOOKS = 10.0, 4
CUT_FIRST_S, CUT_LONGEST_S = 0.05, 1.0  # between two looks at how far a cut is; a tenth of the time that it has waited


class Reader:
    """This consumer at one cluster. loop: None = nobody reads there now. old: None = the one that is written to.

    behind: the older readers that its messages wait for, of an ordered consumer. asked: cuts that its machine wants to know of; any thread.
    """

    def __init__(self, place: Place, behind: Sequence[Reader] = (), loop: ConsumerLoop | None = None) -> None:
        self.place = place
        self.behind = tuple(behind)
        self.loop = loop
        self.old: OldSide | None = None
        self.cuts = Cuts()
        self.asked: deque[Cut] = deque()
        self.closing_by: float | None = None
        self.tuning: Tuning | None = None
        self.has_complained = False

    @property
    def is_wanted(self) -> bool:
        return self.old is None or self.old.is_open

    @property
    def counts(self) -> tuple[int, ...]:
        """Partitions of the clusters that its messages wait for."""
        return tuple(one.place.partitions for one in self.behind)

    def wait_for(self, behind: Sequence[Reader]) -> None:
        """From now on, each producer's messages wait for what it left there."""
        if tuple(behind) == self.behind:
            return
        self.behind = tuple(behind)
        self.cuts = Cuts()
        self.asked.clear()
        if self.loop is not None:
            self.loop.wait_for(self.counts)

    def take_asked(self) -> None:
        """Cuts that a machine asked for before it heard of another arrangement name other clusters: it has asked anew since."""
        while self.asked:
            cut = self.asked.popleft()
            if len(cut.numbers) == len(self.behind):
                self.cuts.ask(*cut)


class Readers:
    """All sides of one consumer, oldest first. main: the one that the topic is published to, the last one unless it moves. Called with the
    lock of `Switching` held, but for `look`, which asks servers."""

    def __init__(self, switching: Switching, declared: Declared, sides: Sequence[Reader], main: Reader) -> None:
        self._switching = switching
        self._owner = switching.owner
        self.declared = declared
        self.sides = list(sides)
        self.main = main
        self._cut_since: float | None = None

    @property
    def others(self) -> list[Reader]:
        """All sides but the one that the topic is published to."""
        return [side for side in self.sides if side is not self.main]

    @property
    def unfinished(self) -> list[str]:
        """Clusters beside the main one where something is, or may be, left."""
        return [side.place.cluster for side in self.others if side.is_wanted or side.loop is not None]

    def missing(self, view: View) -> str:
        """A cluster that it does not read yet as `view` says, "" without one."""
        for cluster in view.reads:
            side = next((one for one in self.sides if one.place.cluster == cluster), None)
            if side is None or side.loop is None or side.closing_by is not None or side.loop.behind != side.counts:
                return cluster
        return ""

    def place(self, cluster: str) -> Place | None:
        """What is known of a cluster; None when this consumer does not know how many partitions the topic has there."""
        return next((side.place for side in self.sides if side.place.cluster == cluster and side.place.partitions), None)

    # --- another cluster ----------------------------------------------------------------------------------------------------------

    def arrange(self, view: View, places: Mapping[str, Place], now: float, settle_s: float) -> None:
        """From now on read what `view` says. What else was read is read on until nothing is left there.

        places: partitions of the topic by cluster, of those that are known.
        """
        is_turned = view.writes != self.main.place.cluster and view.reads[-1] == view.writes
        known = {side.place.cluster: side for side in self.sides}
        before, older = list(self.sides), self.sides[:-1]
        read = [known.get(cluster) or Reader(Place(cluster, 0)) for cluster in view.reads]
        left = [side for side in self.sides if side not in read]
        for side in self.sides:
            side.place = places.get(side.place.cluster, side.place)
        for side in read:
            side.place = places.get(side.place.cluster, side.place)
        self.sides = [*left, *read]
        self.main = read[view.reads.index(view.writes)]
        self._watch(view, now, settle_s)
        if self.declared.ordered:
            self._order(read, left, before, is_turned)
        for side in self.sides[:-1]:
            if side not in older:
                self.tell(side, "reading")

    def _watch(self, view: View, now: float, settle_s: float) -> None:
        self.main.old = None
        for side in self.others:
            is_held = side.place.cluster in view.reads
            if side.old is None or side.old.is_held != is_held:
                side.old = self._old_side(now, settle_s, is_held)

    def _order(self, read: Sequence[Reader], left: Sequence[Reader], before: Sequence[Reader], is_turned: bool) -> None:
        """Who waits for whom. What is left goes on as it was, but for one that is written to again: that waits for all others."""
        for number, side in enumerate(read):
            is_last = side is read[-1]
            older = left if side not in before or (is_last and is_turned) else [one for one in left if one in side.behind]
            side.wait_for([*older, *read[:number]])
        for side in left:
            side.wait_for([one for one in side.behind if side not in one.behind])  # else each would wait for the other

    def _old_side(self, now: float, settle_s: float, is_held: bool) -> OldSide:
        closes = not self.declared.broadcast and not is_held
        return OldSide(now, settle_s, closes=closes, patience_s=self._patience_s(), is_held=is_held)

    def _patience_s(self) -> float:
        return max(PATIENCE_S, PATIENCE_LOOKS * self._owner.configuration.reload.every_s) if self.declared.ordered else 0.0

    def apply(self, settle_s: float) -> None:
        """Another configuration is in force: its times hold for what is under way, too."""
        for side in self.sides:
            if side.old is not None:
                side.old.settle_s, side.old.patience_s = settle_s, self._patience_s()

    def resume(self, view: View, now: float, settle_s: float) -> None:
        """After a restart nobody knows what is left on the older ones."""
        self._watch(view, now, settle_s)
        for side in self.sides[:-1]:
            self.tell(side, "reading")

    def tell(self, side: Reader, step: str) -> None:
        one, last = self.declared, self.sides[-1]
        target = last if last is not side else self.main
        self._switching.tell(ClusterChanged(one.topic, one.group, side.place.cluster, target.place.cluster, step))

    # --- what is left there -------------------------------------------------------------------------------------------------------

    def due(self) -> float | None:
        """When `look` has something to do; monotonic seconds."""
        return min((side.old.due() for side in self.sides if side.old is not None), default=None)

    def cut_due(self, now: float) -> float | None:
        """When to look how far a cut is, None without one."""
        if not any(side.asked or any(side.cuts.is_open(index) for index in range(len(side.behind))) for side in self.sides):
            self._cut_since = None
            return None
        self._cut_since = now if self._cut_since is None else self._cut_since
        return now + min(CUT_LONGEST_S, max(CUT_FIRST_S, (now - self._cut_since) / 10))

    @property
    def is_closing(self) -> bool:
        return any(side.closing_by is not None for side in self.sides)

    @property
    def is_missing(self) -> bool:
        """A cluster that is to be read could not be."""
        return any(side.is_wanted and side.loop is None for side in self.sides)

    def look(self, now: float) -> Callable[[float], bool]:
        """Ask the clusters that are due, or that a cut waits for. Returns what is to be done about it, with the lock held."""
        for side in list(self.sides):
            side.take_asked()
        found: list[tuple[Reader, tuple[PartitionProgress, ...] | None]] = []
        for side in list(self.sides):
            if (side.old is not None and now >= side.old.due()) or (self._awaited(side) and not side.has_complained):
                found.append((side, self._progress(side)))
        return lambda moment: self._looked(moment, found)

    def _awaited(self, side: Reader) -> bool:
        return any(one.cuts.is_open(one.behind.index(side)) for one in self.sides if side in one.behind)

    def _progress(self, side: Reader) -> tuple[PartitionProgress, ...] | None:
        if self.declared.broadcast:
            return ()
        try:
            admin = self._owner.clusters.backend(side.place.cluster).admin()
            found = progress_of(admin, self.declared.topic, self.declared.group)
        except MqError as error:
            self._complain(side, f"how far the group is there is not known: {error.what}")
            return None
        side.has_complained = False
        return found

    def _looked(self, now: float, found: Sequence[tuple[Reader, tuple[PartitionProgress, ...] | None]]) -> bool:
        moved = False
        for side, progress in found:
            if side not in self.sides:
                continue
            if progress is None:
                if side.old is not None:
                    side.old.failed(now)
                continue
            if side.old is not None:  # else the topic has come back to it, or only a cut waits for it
                moved |= self._judge(now, side, side.old, progress)
            for one in [one for one in self.sides if side in one.behind]:
                for token in one.cuts.looked(one.behind.index(side), progress):
                    moved = True
                    if one.loop is not None:
                        one.loop.cut_passed(token)
        return moved

    def _judge(self, now: float, side: Reader, old: OldSide, progress: Sequence[PartitionProgress]) -> bool:
        view = None if side.loop is None else side.loop.view()
        verdict = old.looked(now, progress, 0 if view is None else view.records + view.waiting)
        if verdict == "open":
            self.tell(side, "reopened")
        if verdict == "over" and side.loop is not None:
            old.is_open = False  # ended in order first
        elif verdict == "over":
            self._forget(side)
        return verdict is not None

    def _forget(self, side: Reader) -> None:
        """Its watch is over."""
        self.tell(side, "over")
        self.sides.remove(side)
        for one in self.sides:
            one.wait_for([older for older in one.behind if older is not side])

    # --- consumers that run ---------------------------------------------------------------------------------------------------------

    def reconcile(self, now: float) -> bool:
        """Start and end what is to read and does or does not."""
        moved = False
        for side in list(self.sides):
            if side.is_wanted and side.loop is None:
                moved |= self._begin(side)
            elif side.loop is not None and (side.closing_by is not None or not side.is_wanted):
                moved |= self._close(now, side, side.loop)
        self._share()
        return moved

    def _begin(self, side: Reader) -> bool:
        side.cuts, side.tuning = Cuts(), None
        side.asked.clear()
        try:
            spec = self._owner.launcher.plan(self.declared, side.place.cluster, side.counts)
            side.loop = self._owner.run(self.declared, spec, lambda cut: self._switching.asked(side, cut))
        except MqError as error:
            self._complain(side, f"it cannot be read: {error.what}")
            return False
        side.has_complained = False
        if side.loop is not None and any(one.loop is not None and one.loop.paused for one in self.sides):
            side.loop.pause(True)
        return True

    def _complain(self, side: Reader, what: str) -> None:
        if not side.has_complained:
            side.has_complained = True
            one = self.declared
            log.error("%s/%s: cluster %s: %s; it is tried again", one.topic, one.group, side.place.cluster, what)

    def _close(self, now: float, side: Reader, loop: ConsumerLoop) -> bool:
        if side.closing_by is None:
            side.closing_by = now + self._owner.configuration.drain_timeout_s
            loop.drain(side.closing_by)
        if not loop.finished.is_set():
            return False
        self._end(side, loop, now)
        if not side.is_wanted:
            self.tell(side, "closed")
        return True

    def _end(self, side: Reader, loop: ConsumerLoop, now: float) -> None:
        side.loop = side.closing_by = None
        self._owner.leave(loop, now + 1.0)

    # --- limits ---------------------------------------------------------------------------------------------------------------------

    def tuning(self, cluster: str, whole: Tuning) -> Tuning:
        """The part of `whole` that the consumer has at one cluster."""
        open_sides = [side for side in self.others if side.is_wanted]
        parts = divided(whole, [side.old is not None and side.old.is_quiet for side in open_sides])
        names = [side.place.cluster for side in (*open_sides, self.main)]
        return parts[names.index(cluster)] if cluster in names else parts[0]

    def _share(self) -> None:
        whole = self._owner.whole_tuning(self.declared)
        for side in self.sides:
            if side.loop is not None and (tuning := self.tuning(side.place.cluster, whole)) != side.tuning:
                side.tuning = tuning
                side.loop.retune(tuning)
