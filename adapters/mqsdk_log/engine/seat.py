"""One consumer's place in a group: it takes part in the agreement, holds leases, shows life, notices the others' deaths.

Nothing here blocks (but for the cursor file's lock, bounded by its patience) and there is no thread: `turn` is called by the consumer's own
thread, and says what changed. All times are monotonic seconds of this process.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

from . import assignment, members
from .assignment import Assignment
from .cursors import Cursor, CursorFile
from .groups import Group
from .holding import Appeared, Change, Dropped, Extended, Gained, Holding, Holdings, Key, Recalled
from .leases import Lease, Leases
from .members import Membership
from .observation import Observation
from .peers import Peers

Mark = Callable[[Callable[[], None]], None]
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

        mark: told what to call, by another thread and soon, to bring progress to the medium; None leaves that to the kernel.
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
        return not self._wanted <= self.held.keys() or assignment.stamp(self._group.assignment_path) != self._stamp

    # --- the one entry ---------------------------------------------------------------------------------------------------------------

    def turn(self, now: float, nudged: bool = False) -> list[Change]:
        """Do what is due and report what changed. nudged: somebody woke this consumer, so the assignment may be a new one."""
        changes: list[Change] = []
        if now >= self._beat_at:
            self._beat(now, changes)
        if now >= self._sweep_at:
            self._sweep(now)
            changes += [Appeared(topic) for topic in self._awaited if self._group.knows(topic)]
            nudged = True
        if self._unsettled and now >= self._share_at:
            self._share(now)
            nudged = True
        if nudged or now >= self.due:
            self._follow(now, changes)
        return changes

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
            file.marked = True
            self._mark(file.sync)
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

    def leave(self) -> None:
        """Hand everything back in order and leave the group. Idempotent."""
        for holding in list(self.held.values()):
            cursor = holding.stored
            self._files[holding.key[0]].store(
                holding.key[1], Cursor(cursor.watermark, holding.epoch, high=cursor.high, sparse=cursor.sparse, clean=True)
            )
        for holding in list(self.held.values()):
            self.held.release(holding)
        self._withdraw()
        if self._mark is not None:
            for file in self._files.values():
                self._mark(file.sync)
        for wake in self._wakers.values():
            wake()
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
            stored = self._files[key[0]].store(key[1], holding.stored)
            if stored is None:
                changes += map(Dropped, self.drop(key))
            else:
                holding.stored = stored
        if not self._leaving and self._membership is not None and not self._membership.beat():
            self._rejoin()
        self._beat_at = now + self._lease_s / 4
        changes.append(Extended(self._valid_until(sent)))

    def _valid_until(self, sent: float) -> float:
        return sent + self._lease_s * (1 - MARGIN)

    def _rejoin(self) -> None:
        """The others gave this process up while it was stopped. What it still owns, by the slots, it hands over in order."""
        if self._membership is not None:
            self._membership.abandon()
        self._membership = Membership(self._group.members_directory, self._topics, self._lease_s, self._label)
        self._unsettled, self._share_at = True, 0.0

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
            gained = self._gain(key, now) if self._may_gain(key) else None
            if gained is not None:
                changes.append(gained)

    def _read_assignment(self, now: float) -> None:
        stamp = assignment.stamp(self._group.assignment_path)
        if stamp == self._stamp or self._leaving:
            return
        self._stamp = stamp
        written = self._group.assignment()
        if written == self._written:
            return
        self._written = written
        self._wanted = frozenset((topic, number) for topic in self._files for number in written.of(self._id, topic))
        self._look(now)  # somebody came or went: there may be another neighbour to watch

    def _turn_of(self, key: Key) -> tuple[int, int]:
        return self._topics.index(key[0]), key[1]

    def _may_gain(self, key: Key) -> bool:
        """A partition of a further topic belongs to whoever has that of the leading one."""
        topic, number = key
        leading = self.held.get((self._topics[0], number))
        return topic == self._topics[0] or (leading is not None and not leading.ended and not leading.give_back_by)

    # --- leases -----------------------------------------------------------------------------------------------------------------------

    def _gain(self, key: Key, now: float) -> Gained | None:
        topic, partition = key
        file, leases = self._files[topic], self._leases[topic]
        sent = time.monotonic()
        lease = leases.try_hold(partition)
        if lease is None:
            return self._take_over(key, now, sent)
        taken = file.take(partition, lambda _left: leases.is_current(lease, partition))
        if taken is None:
            lease.close()
            return None
        return self._own(key, lease, taken, sent)

    def _take_over(self, key: Key, now: float, sent: float) -> Gained | None:
        """The lease is held: wait for it, unless its holder has shown no life for its whole term."""
        topic, partition = key
        file, leases = self._files[topic], self._leases[topic]
        evidence = file.evidence(partition)
        if self._quiet_s(key, now) < leases.term_s(partition):
            return None
        made: list[Lease] = []

        def claim(left: Cursor) -> bool:
            while made:
                made.pop().close()
            lease = leases.replace(partition, left.epoch + 1)
            made.extend([lease] if lease is not None else [])
            return bool(made)

        taken = file.take(partition, claim, unchanged=evidence)
        if taken is None:
            for lease in made:
                lease.close()
            return None
        return self._own(key, made[0], taken, sent)

    def _own(self, key: Key, lease: Lease, taken: tuple[Cursor, Cursor], sent: float) -> Gained:
        left, mine = taken
        holding = self.held[key] = Holding(key, mine.epoch, lease, mine)
        return Gained(holding, left, self._valid_until(sent))

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
