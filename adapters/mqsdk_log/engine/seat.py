"""One consumer's place in a group: it takes part in the agreement, holds leases, shows life, notices the others' deaths.

Nothing here blocks (but for the cursor file's lock, bounded by its patience) and there is no thread: `turn` is called by the consumer's own
thread, and says what changed. All times are monotonic seconds of this process.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence

from . import assignment, claim, members
from .assignment import Assignment
from .claim import Claim
from .cursors import Cursor, CursorDamaged, CursorFile
from .errors import reason
from .groups import Group
from .holding import Appeared, Change, Dropped, Extended, Gained, Holding, Holdings, Key, Recalled, Troubled
from .leases import Leases
from .members import Membership
from .observation import Observation
from .peers import Peers
from .setbacks import Setbacks

Mark = Callable[[Callable[[], None]], bool]
MARGIN = 0.1  # of the lease: nothing may start in the last tenth, so that a start and a takeover are seen in this order
HANDOVER_LEASES = 3  # how many leases a revoked owner may take to finish what runs


class Seat:
    """One thread, but for `abandon`."""

    def __init__(
        self,
        group: Group,
        wakers: Mapping[str, Callable[[], None]],
        lease_s: float,
        label: str = "",
        mark: Mark | None = None,
        awaited: Sequence[str] = (),
    ) -> None:
        """Joins the group. wakers: per topic to read, the leading one first, what wakes its sleepers. awaited: topics to read once the
        group has progress in them.

        mark: told what to call, by another thread and soon, to bring progress to the medium, and says whether it will; None leaves that to
        the kernel.
        Raises NoSuchGroup when the group has no progress in one of the topics.
        """
        self._group = group
        self._wakers = dict(wakers)
        self._topics = (*wakers, *awaited)
        self._awaited = list(awaited)
        self._lease_s = lease_s
        self._label = label
        self._mark = mark
        self.held = Holdings()
        self._wanted: frozenset[Key] = frozenset()
        interval = min(0.5, lease_s / 4)
        self._observation = Observation(interval, lease_s / 3)
        self._peers = Peers(group.members_directory, self._observation)
        self._lock = group.lock()
        self._files: dict[str, CursorFile] = {}
        self._leases: dict[str, Leases] = {}
        self._membership: Membership | None = None
        self._leaving = False
        self._setbacks = Setbacks()
        self._stamp = (0, 0)
        self._written = Assignment()
        self._beat_at = self._sweep_at = self._share_at = 0.0
        self._unsettled = True  # the group may not agree: this member has just joined
        self._open()

    def _open(self) -> None:
        try:
            for topic in self._wakers:
                self._open_topic(topic)
            self._membership = Membership(self._group.members_directory, self._topics, self._lease_s, self._label)
        except BaseException:
            self.abandon()
            raise

    def _open_topic(self, topic: str) -> None:
        self._files[topic] = self._group.cursors(topic, min(1.0, self._lease_s / 4))
        self._leases[topic] = self._group.leases(topic, self._lease_s)

    def take_up(self, topic: str, wake: Callable[[], None]) -> None:
        """Read an awaited topic from now on. Raises NoSuchGroup."""
        self._open_topic(topic)
        self._wakers[topic] = wake
        self._awaited.remove(topic)
        self._unsettled, self._share_at = True, 0.0
        self._stamp, self._written = (0, 0), Assignment()  # what is written is read anew, for this topic too

    @property
    def watched_fd(self) -> int:
        return self._peers.fd

    @property
    def due(self) -> float:
        """When `turn` has something to do even if nobody wakes it."""
        recalls = [holding.give_back_by for holding in self.held.values() if holding.give_back_by]
        share = [self._share_at] if self._unsettled else []
        return min(self._beat_at, self._sweep_at, *recalls, *share)

    def is_restless(self) -> bool:
        """Whether a look is worth it although nothing is due: there is another assignment, or a lease that is waited for. One stat.

        Wake-ups reach those only who sleep, so who was busy at that moment asks before going to sleep, and now and then while busy.
        """
        if self._leaving:
            return False
        missing = self._wanted - self.held.keys()
        if missing and not all(self._setbacks.holds(key, time.monotonic()) for key in missing):
            return True
        return assignment.stamp(self._group.assignment_path) != self._stamp

    # --- the one entry ---------------------------------------------------------------------------------------------------------------

    def turn(self, now: float, nudged: bool = False) -> list[Change]:
        """Do what is due and report what changed. nudged: somebody woke this consumer, so the assignment may be a new one."""
        changes: list[Change] = []
        if now >= self._beat_at:
            self._beat(now, changes)
        try:
            self._agree(now, nudged, changes)
        except OSError as error:  # too many open files: a failed look is no reason to give up what is held
            self._share_at = max(self._share_at, now + self._observation.interval_s)
            self._note("group", f"group {self._group.name} cannot be looked at", error, changes)
        return changes

    def _agree(self, now: float, nudged: bool, changes: list[Change]) -> None:
        if now >= self._sweep_at:
            self._sweep(now)
            changes += [Appeared(topic) for topic in self._awaited if self._group.knows(topic)]
            nudged = True
        if self._unsettled and now >= self._share_at:
            self._share(now)
            nudged = True
        if nudged or now >= self.due:
            self._follow(now, changes)

    def hang_up(self) -> None:
        """The watched neighbour died: look at once."""
        self._peers.close()
        self._sweep_at = 0.0

    def store(self, key: Key, epoch: int, cursor: Cursor, *, final: bool) -> bool:
        """Store progress under an epoch. False: this ownership is over. final: hand the partition back, in order."""
        holding = self.held.get(key)
        if holding is None or holding.epoch != epoch or holding.ended:
            return False
        file = self._files[key[0]]
        stored = file.store(key[1], cursor)
        if stored is None:
            return False
        holding.stored = stored
        if self._mark is not None and not file.marked:
            file.marked = True  # before the mark: the sync takes it back
            if not self._mark(file.sync):
                file.marked = False
        if final:
            # Handed back unasked means about to leave: take nothing more, and let the others share at once.
            unasked = not holding.give_back_by and key in self._wanted
            self.held.end(holding)
            if unasked and not self._leaving:
                self._withdraw()
            self._wakers[key[0]]()
        return True

    def drop(self, key: Key) -> list[Holding]:
        """Forget an ownership that is over, and with it the same partition of the other topics; nothing is stored."""
        return self.held.drop(key)

    def set_aside(self, key: Key) -> bool:
        """Give a partition up that cannot be used, and take it again after a while. True when that is to be told."""
        if (holding := self.held.get(key)) is not None:
            self.held.release(holding)
        return self._setbacks.add(key, time.monotonic())

    def leave(self) -> None:
        """Hand everything back in order and leave the group. Idempotent."""
        try:
            claim.hand_back(self.held, self._files)
            self._withdraw()
            if self._mark is not None:
                for file in self._files.values():
                    self._mark(file.sync)
            for wake in self._wakers.values():
                wake()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close every descriptor and nothing else: what a forked child does, and the end of `leave`. Idempotent."""
        for holding in self.held.values():
            holding.lease.close()
        self.held.clear()
        self._peers.close()
        self._lock.release()
        for file in self._files.values():
            file.close()
        if self._membership is not None:
            self._membership.abandon()

    # --- life -------------------------------------------------------------------------------------------------------------------------

    def _beat(self, now: float, changes: list[Change]) -> None:
        """Show life in every slot and in the member file. What is refused is lost."""
        sent = time.monotonic()
        for key, holding in list(self.held.items()):
            if key not in self.held:
                continue
            try:
                stored = self._files[key[0]].store(key[1], holding.stored)
            except (CursorDamaged, OSError) as error:
                stored = None
                self._note(key, f"the progress of {key[0]}/{key[1]} cannot be stored", error, changes)
            if stored is None:
                changes += map(Dropped, self.drop(key))
            else:
                holding.stored = stored
        if not self._leaving and self._membership is not None and not self._membership.beat():
            try:
                self._rejoin()
            except OSError as error:  # at the next beat, then
                self._note("group", f"group {self._group.name} cannot be joined again", error, changes)
        self._beat_at = now + self._lease_s / 4
        changes.append(Extended(self._valid_until(sent)))

    def _valid_until(self, sent: float) -> float:
        return sent + self._lease_s * (1 - MARGIN)

    def _rejoin(self) -> None:
        """The others gave this process up while it was stopped. What it still owns, by the slots, it hands over in order."""
        joined = Membership(self._group.members_directory, self._topics, self._lease_s, self._label)
        if self._membership is not None:
            self._membership.abandon()
        self._membership = joined
        self._unsettled, self._share_at = True, 0.0

    def _note(self, what: Hashable, text: str, error: Exception, changes: list[Change]) -> None:
        """Try again later, and tell it once."""
        if self._setbacks.add(what, time.monotonic()):
            changes.append(Troubled(f"{text} ({reason(error)}); tried again until it succeeds"))

    # --- agreement --------------------------------------------------------------------------------------------------------------------

    def _sweep(self, now: float) -> None:
        self._observation.begin(now)
        self._sweep_at = now + self._observation.interval_s
        self._stamp = (0, 0)  # two changes within one tick of the file system's clock may have left the same stamp: read it again
        self._look(now)
        for topic, file in self._files.items():
            for partition in range(file.partitions):
                if (topic, partition) not in self.held:
                    self._quiet_s((topic, partition), now)

    def _look(self, now: float) -> None:
        if self._peers.look(self._id, now) and not self._leaving:
            self._unsettled, self._share_at = True, 0.0

    def _share(self, now: float) -> None:
        """Agree with the others on who owns what; another time when one of them is at it."""
        if not self._lock.try_acquire(now):
            self._share_at = now + random.uniform(0.005, 0.015)
            return
        try:
            for member in self._peers.frozen(self._id, now):
                members.remove(self._group.members_directory, member)
            before = assignment.stamp(self._group.assignment_path)
            self._group.rebalance(self._lock)
            self._unsettled = False
        finally:
            self._lock.release()
        if assignment.stamp(self._group.assignment_path) != before:
            for wake in self._wakers.values():
                wake()

    def _follow(self, now: float, changes: list[Change]) -> None:
        """Give up what is assigned to others, take what is assigned to us."""
        self._read_assignment(now)
        for key, holding in list(self.held.items()):
            if holding.give_back_by:
                if now >= holding.give_back_by:
                    self.held.release(holding)
                    changes.append(Dropped(holding))
                    self._wakers[key[0]]()
            elif key not in self._wanted and not self._leaving and not holding.ended:
                holding.give_back_by = now + HANDOVER_LEASES * self._lease_s
                changes.append(Recalled(holding))
        for key in sorted(self._wanted - self.held.keys(), key=self._turn_of):
            if self.held.admits(key, self._topics[0]) and not self._setbacks.holds(key, now):
                self._try_to_gain(key, now, changes)

    def _read_assignment(self, now: float) -> None:
        stamp = assignment.stamp(self._group.assignment_path)
        if stamp == self._stamp or self._leaving:
            return
        written = self._group.assignment()
        self._stamp = stamp
        if written == self._written:
            return
        self._written = written
        self._wanted = frozenset((topic, number) for topic in self._files for number in written.of(self._id, topic))
        self._look(now)  # somebody came or went: there may be another neighbour to watch

    def _turn_of(self, key: Key) -> tuple[int, int]:
        return self._topics.index(key[0]), key[1]

    # --- leases -----------------------------------------------------------------------------------------------------------------------

    def _try_to_gain(self, key: Key, now: float, changes: list[Change]) -> None:
        """One partition that cannot be taken does not keep the others from being taken."""
        try:
            sent = time.monotonic()
            claimed = self._claim(key, now)
        except (CursorDamaged, OSError) as error:
            self._note(key, f"{key[0]}/{key[1]} cannot be taken", error, changes)
            return
        if claimed is not None:
            lease, left, mine = claimed
            holding = self.held[key] = Holding(key, mine.epoch, lease, mine)
            changes.append(Gained(holding, left, self._valid_until(sent)))

    def _claim(self, key: Key, now: float) -> Claim | None:
        """None while the lease is held by another one that has shown life within its term."""
        topic, partition = key
        file, leases = self._files[topic], self._leases[topic]
        lease = leases.try_hold(partition)
        if lease is not None:
            return claim.take_free(file, leases, partition, lease)
        evidence = file.evidence(partition)
        if self._quiet_s(key, now) < leases.term_s(partition):
            return None
        return claim.take_over(file, leases, partition, evidence)

    def _quiet_s(self, key: Key, now: float) -> float:
        return self._observation.quiet_s(key, self._files[key[0]].evidence(key[1]), now)

    def _withdraw(self) -> None:
        self._leaving, self._unsettled = True, False
        self._wanted = frozenset()
        if self._membership is not None:
            self._membership.leave()

    @property
    def _id(self) -> str:
        return self._membership.id if self._membership is not None else ""
