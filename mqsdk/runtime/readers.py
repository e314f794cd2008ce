"""One consumer of a topic that was given another cluster: it reads the older ones on, and the newest, until the older ones are done."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mqsdk.core.actions import Cut, Tuning
from mqsdk.core.cut import Cuts
from mqsdk.core.oldside import OldSide
from mqsdk.core.shares import divided
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
    """This consumer at one cluster. loop: None = nobody reads there now. old: None = the newest one.

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

    def end_cuts(self) -> None:
        self.behind = ()
        if self.loop is not None:
            self.loop.cuts_over()


class Readers:
    """All sides of one consumer, oldest first; the last is where its topic's route leads. Called with the lock of `Switching` held, but for
    `look`, which asks servers."""

    def __init__(self, switching: Switching, declared: Declared, sides: Sequence[Reader]) -> None:
        self._switching = switching
        self._owner = switching.owner
        self.declared = declared
        self.sides = list(sides)
        self._cut_since: float | None = None

    @property
    def newest(self) -> Reader:
        return self.sides[-1]

    @property
    def is_unfinished(self) -> bool:
        """Something is, or may be, left on an older cluster."""
        return any(side.is_wanted or side.loop is not None for side in self.sides[:-1])

    # --- another cluster ----------------------------------------------------------------------------------------------------------

    def follow(self, older: Place, target: Place, now: float, settle_s: float) -> None:
        """From now on the newest is `target`. A cluster that comes again is no older one any more."""
        newest = self.newest
        newest.place = older
        newest.old = self._old_side(now, settle_s)
        reader = next((side for side in self.sides if side.place.cluster == target.cluster), None) or Reader(target)
        if reader in self.sides:
            self.sides.remove(reader)
            for side in self.sides:
                side.end_cuts()  # they were behind one that is now behind them: each would wait for the other
        reader.place, reader.old = target, None
        reader.behind = tuple(self.sides) if self.declared.ordered else ()
        self.sides.append(reader)
        self.tell(newest, "reading")

    def _old_side(self, now: float, settle_s: float) -> OldSide:
        every_s = self._owner.configuration.reload.every_s
        patience_s = max(PATIENCE_S, PATIENCE_LOOKS * every_s) if self.declared.ordered else 0.0
        return OldSide(now, settle_s, closes=not self.declared.broadcast, patience_s=patience_s)

    def resume(self, now: float, settle_s: float) -> None:
        """After a restart nobody knows what is left on the older ones."""
        for side in self.sides[:-1]:
            side.old = self._old_side(now, settle_s)
            self.tell(side, "reading")

    def tell(self, side: Reader, step: str) -> None:
        one = self.declared
        self._switching.tell(ClusterChanged(one.topic, one.group, side.place.cluster, self.newest.place.cluster, step))

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
        """Ask the older clusters that are due, or that a cut waits for. Returns what is to be done about it, with the lock held."""
        for side in list(self.sides):
            while side.asked:
                side.cuts.ask(*side.asked.popleft())
        found: list[tuple[Reader, tuple[PartitionProgress, ...] | None]] = []
        for side in [one for one in list(self.sides) if one.old is not None]:
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
            if side.old is None or side not in self.sides:
                continue  # the topic has come back to it meanwhile
            if progress is None:
                side.old.failed(now)
                continue
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
            if side in one.behind:
                one.end_cuts()

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
        behind = tuple(one.place.partitions for one in side.behind)
        side.cuts, side.tuning = Cuts(), None
        side.asked.clear()
        try:
            spec = self._owner.launcher.plan(self.declared, side.place.cluster, behind)
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
        open_sides = [side for side in self.sides[:-1] if side.is_wanted]
        parts = divided(whole, [side.old is not None and side.old.is_quiet for side in open_sides])
        names = [side.place.cluster for side in (*open_sides, self.newest)]
        return parts[names.index(cluster)] if cluster in names else parts[0]

    def _share(self) -> None:
        whole = self._owner.whole_tuning(self.declared)
        for side in self.sides:
            if side.loop is not None and (tuning := self.tuning(side.place.cluster, whole)) != side.tuning:
                side.tuning = tuning
                side.loop.retune(tuning)
