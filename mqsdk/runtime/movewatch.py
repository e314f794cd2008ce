"""Looks at a move from outside: what instances report, what groups have left, how long a cluster has been silent. Changes nothing.

One process of an operator, anywhere; two of them do not know of each other. What it has not seen itself it does not believe: an instance is
alive until it was silent for the fence time of this process's clock, and a cluster is silent since this process saw it so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mqsdk.core import report
from mqsdk.core.move import Backlog, Facts, Instance, Move
from mqsdk.core.report import Report
from mqsdk.core.stages import has_shadows
from mqsdk.errors import MqError
from mqsdk.runtime.clusters import Clusters
from mqsdk.runtime.inspection import progress_of
from mqsdk.spi import Admin, Consumer, GroupInfo, Member, Partition, PartitionProgress, Record, Subscription
from mqsdk.spi.events import Assigned, Batch

READ_AT_ONCE = 500
FORGOTTEN_S = 60.0  # a report that is older than the newest one by so much, and by three fence times, is of a process long gone
LISTENER = "mq-move"


class _Heard(NamedTuple):
    """at: monotonic seconds here. at_ms: by the clock of the process that said it."""

    report: Report
    at: float
    at_ms: int


class _Silence:
    """Of one cluster: since when nothing is left there and nothing new was written."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._ends: tuple[object, ...] | None = None

    def reset(self) -> None:
        self._since = None

    def looked(self, now: float, left: int, ends: tuple[object, ...]) -> float:
        if left or ends != self._ends:
            self._since = None
        elif self._since is None:
            self._since = now
        self._ends = ends
        return 0.0 if self._since is None else now - self._since


class _Unread:
    """Of the messages that a cluster had when this process first looked: how many a group has not settled."""

    def __init__(self) -> None:
        self._ends: dict[tuple[str, int], int] = {}
        self._fewest: dict[tuple[str, int], int] = {}

    def looked(self, group: str, progress: Sequence[PartitionProgress], has_positions: bool) -> int:
        """Without positions: the fewest that were ever left, for a queue that was empty once holds none of them."""
        count = 0
        for one in progress:
            name = group, one.partition
            end = self._ends.setdefault(name, one.end)
            self._fewest[name] = fewest = min(self._fewest.get(name, one.messages), one.messages)
            if not has_positions:
                count += fewest
            elif one.watermark < end:
                count += one.messages
        return count


class MoveWatch:
    """Of one topic. `look` asks both clusters once."""

    def __init__(self, clusters: Clusters, mono: Callable[[], float] = time.monotonic) -> None:
        self._clusters = clusters
        self._mono = mono
        self._heard: dict[str, _Heard] = {}
        self._ears: dict[str, Ear] = {}
        self._silence: dict[str, _Silence] = {}
        self._unread = _Unread()
        self.shadows_since_ms: dict[str, int] = {}  # by producer: what it published to the source after that has a shadow on the target
        self._newest_ms = 0
        self._epoch: int | None = None
        self._since = 0.0

    def look(self, move: Move, fence_s: float) -> Facts:
        """What is so now. A cluster that does not answer is in `unreadable`, with what it says in `troubles`."""
        if move.epoch != self._epoch:
            self._epoch, self._since = move.epoch, self._mono()
            for silence in self._silence.values():
                silence.reset()  # what was silent before the step may not have heard of it
            self._unread = _Unread()
            self.shadows_since_ms = {}
        unreadable: list[str] = []
        infos: dict[str, list[GroupInfo]] = {}
        progress: dict[str, dict[str, tuple[PartitionProgress, ...]]] = {}
        self.troubles: dict[str, str] = {}
        for cluster in (move.source, move.target):
            try:
                admin = self._clusters.backend(cluster).admin()
                self._listen(cluster, move.topic, admin)
                infos[cluster] = admin.groups(move.topic) if admin.partitions(move.topic) is not None else []
                progress[cluster] = {info.group: progress_of(admin, move.topic, info.group) for info in infos[cluster]}
            except MqError as error:
                unreadable.append(cluster)
                self.troubles[cluster] = error.what
        return self._facts(move, fence_s, infos, progress, unreadable)

    def _facts(
        self,
        move: Move,
        fence_s: float,
        infos: dict[str, list[GroupInfo]],
        progress: dict[str, dict[str, tuple[PartitionProgress, ...]]],
        unreadable: Sequence[str],
    ) -> Facts:
        now = self._mono()
        self._forget()
        instances = list(self._instances(now, self._gone_s(move, fence_s)))
        living = [one for one in instances if not one.gone]
        backlogs = tuple(
            Backlog(
                info.group,
                cluster,
                sum(one.messages for one in progress[cluster][info.group]),
                sum(one.delayed for one in progress[cluster][info.group]),
                len(info.members),
            )
            for cluster, found in infos.items()
            for info in found
        )
        quiet_s = {cluster: self._quiet_s(now, cluster, backlogs, progress[cluster], living) for cluster in infos}
        groups = {cluster: {info.group for info in found} for cluster, found in infos.items()}
        written = move.view.writes
        other = move.target if written == move.source else move.source
        unread = self._unread_shadows(move, progress.get(move.target)) if has_shadows(move.stage) else ()
        missing = [(group, other) for group in sorted(groups.get(written, set()) - groups.get(other, set()))]
        return Facts(
            ordered=self._is_ordered(),
            instances=tuple(instances),
            members=tuple((cluster, self._name_of(one)) for cluster, found in infos.items() for info in found for one in info.members),
            backlogs=backlogs,
            quiet_s=quiet_s,
            missing=tuple(missing) if other in infos else (),
            unreadable=tuple(unreadable),
            fence_s=fence_s,
            listened_s=now - self._since,
            unread=unread,
        )

    def _unread_shadows(self, move: Move, progress: dict[str, tuple[PartitionProgress, ...]] | None) -> tuple[tuple[str, int], ...]:
        if progress is None:
            return ()
        has_positions = self._clusters.backend(move.target).capabilities.read_by_position
        return tuple((group, self._unread.looked(group, found, has_positions)) for group, found in progress.items())

    @property
    def knows_order(self) -> bool:
        """Whether any instance has told of its consumers."""
        return any(heard.report.groups for heard in self._heard.values())

    def _is_ordered(self) -> bool:
        told = [is_ordered for heard in self._heard.values() for is_ordered in heard.report.groups.values()]
        return any(told) or not told

    def _name_of(self, member: Member) -> str:
        """The instance that a member belongs to, as far as it reports; else what the cluster calls it."""
        for heard in self._heard.values():
            one = heard.report
            is_named = member.id == one.instance or member.id.startswith(f"{one.instance}-")
            if is_named or (member.pid == one.pid and member.host == one.host):
                return one.instance
        where = f" ({member.host}, pid {member.pid})" if member.pid else ""
        return f"{member.id}{where}"

    def _quiet_s(
        self,
        now: float,
        cluster: str,
        backlogs: Sequence[Backlog],
        progress: dict[str, tuple[PartitionProgress, ...]],
        living: Sequence[Instance],
    ) -> float:
        left = sum(one.messages + one.delayed for one in backlogs if one.cluster == cluster)
        left += sum(count for one in living for place, count in one.held if place == cluster)
        ends = tuple((group, one.partition, one.end) for group, found in sorted(progress.items()) for one in found)
        return self._silence.setdefault(cluster, _Silence()).looked(now, left, ends)

    def _gone_s(self, move: Move, fence_s: float) -> float:
        """A consumer that stands still has its partitions for a lease from its last sign of life, which may come after its last report."""
        leases = [self._clusters.cluster(name).lease_s for name in (move.source, move.target)]
        return max(fence_s, max(leases) + fence_s / 3)

    def _instances(self, now: float, gone_s: float) -> Iterator[Instance]:
        for _, heard in sorted(self._heard.items()):
            yield heard.report.seen(gone=now - heard.at > gone_s)

    # --- reports ----------------------------------------------------------------------------------------------------------------------

    def _listen(self, cluster: str, topic: str, admin: Admin) -> None:
        ear = self._ears.get(cluster)
        if ear is None:
            if admin.partitions(report.TOPIC) is None:
                return  # nobody has reported there yet
            ear = self._ears[cluster] = self._ear(cluster, admin)
        for record in ear.hear():
            found = report.decoded(record.value)
            if found is not None and found.topic == topic:
                self._take(found, record.timestamp_ms or 0)

    def _take(self, found: Report, at_ms: int) -> None:
        self._newest_ms = max(self._newest_ms, at_ms)
        name = f"{found.instance}/{found.incarnation}"
        if found.epoch == self._epoch and "since_ms" in found.shadows:
            self.shadows_since_ms[found.incarnation] = found.shadows["since_ms"]
        known = self._heard.get(name)
        if found.left:
            self._heard.pop(name, None)
        elif known is None or at_ms >= known.at_ms:
            self._heard[name] = _Heard(found, self._mono(), at_ms)

    def _forget(self) -> None:
        """Processes that had ended long before this one began to listen."""
        over = [
            name
            for name, heard in self._heard.items()
            if heard.at_ms < self._newest_ms - round(max(FORGOTTEN_S, 9 * heard.report.every_s) * 1000)
        ]
        for name in over:
            del self._heard[name]

    def _ear(self, cluster: str, admin: Admin) -> Ear:
        backend = self._clusters.backend(cluster)
        if backend.capabilities.read_by_position:
            return Reading(admin)
        return Listening(backend.consumer(Subscription((report.TOPIC,), LISTENER, broadcast=True)))

    def close(self) -> None:
        for ear in self._ears.values():
            ear.close()
        self._ears = {}


class Ear:
    """Reports that have come since the last call."""

    def hear(self) -> list[Record]:
        raise NotImplementedError

    def close(self) -> None:
        return None


class Reading(Ear):
    """Where positions can be read: what was told before is heard too."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._next = admin.bounds(report.TOPIC, 0)[0]

    def hear(self) -> list[Record]:
        found: list[Record] = []
        while True:
            batch = self._admin.read(report.TOPIC, 0, self._next, READ_AT_ONCE)
            found += batch
            if not batch:
                return found
            self._next = batch[-1].position + 1


class Listening(Ear):
    """Where only what is told from now on is heard."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def hear(self) -> list[Record]:
        found: list[Record] = []
        while events := self._consumer.poll(READ_AT_ONCE, 0.05):
            for event in events:
                if isinstance(event, Assigned):
                    self._consumer.credit(event.partition, READ_AT_ONCE, 1 << 24)
                elif isinstance(event, Batch):
                    found += event.records
                    self._consumer.credit(Partition(report.TOPIC, 0), READ_AT_ONCE, 1 << 24)
        return found

    def close(self) -> None:
        self._consumer.close(time.monotonic() + 1.0)
