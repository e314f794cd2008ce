"""How a consumer belongs to a group, on its reading thread: joins, gives up what is not polled or not renewed, leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as client
from kafka.coordinator.base import MemberState
from kafka.structs import OffsetAndMetadata

from mqsdk.spi import BackendError, Gap, Partition
from mqsdk_kafka import marks
from mqsdk_kafka.desk import Desk
from mqsdk_kafka.keeper import Keeper
from mqsdk_kafka.marks import Mark

POLL_MS = 50  # how long a close may wait for the reading thread
COMPANION_S = 0.5  # how often the group's own topics are looked for
LOOK_MS = 2000
LEAVE_MS = 500
HEARD_S = 0.7  # an answer is so much younger than its request at most: a fetch waits half a second

Existing = Callable[[Sequence[str], float], set[str]]  # which of these topics exist, asked until a deadline


class Membership:
    """topics: what is subscribed to; those of the desk that are missing are taken up when they exist."""

    def __init__(self, consumer: KafkaConsumer, desk: Desk, keeper: Keeper, existing: Existing, topics: list[str]) -> None:
        self._consumer = consumer
        self._desk = desk
        self._keeper = keeper
        self._existing = existing
        self._topics = topics
        self._is_in = False
        self._companions_at = 0.0

    def turn(self, now: float) -> bool:
        """What there is to do before reading; False when nothing is to be read."""
        if self._is_forgotten(now):
            self.begin_anew()
            return False
        if self._desk.owned and now > self.valid_until():
            self.begin_anew()
        if not self._is_in:
            self._join()
        if now >= self._companions_at:
            self._companions_at = now + COMPANION_S
            self._look_for_companions()
        return True

    def nudge(self) -> None:
        """There is something to commit. Any thread."""
        self._keeper.nudge()

    def begin_anew(self) -> None:
        """Leave the group without a word about progress; the next turn joins it again."""
        if not self._is_in:
            return
        self._is_in = False
        with self._desk as desk:
            desk.lose(lambda _: True)
        self._consumer._coordinator.maybe_leave_group(timeout_ms=LEAVE_MS)
        self._consumer.unsubscribe()

    def cut_back(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Begin anew at these ends, where the log was cut; False when that could not be stored."""
        offsets = {}
        with self._desk as desk:
            for place, end in ends.items():
                owned = desk.owned.get(Partition(*place))
                if owned is not None and owned.position > end:
                    desk.tell(Gap(owned.partition, owned.epoch, end, owned.position, "truncated"))
                    offsets[place] = OffsetAndMetadata(min(owned.watermark, end), marks.encode(Mark(False, owned.epoch)), -1)
        try:
            if offsets:
                self._consumer.commit(offsets, timeout_ms=LOOK_MS)
        except client.KafkaError:
            return False
        self.begin_anew()
        return True

    def leave(self, give_up: float) -> None:
        """In the middle of a rebalance nothing can be committed: what is handed back would look like left without a word."""
        while self._consumer.group_metadata().state is MemberState.REBALANCING and time.monotonic() < give_up:
            self.hold_on()
            self._consumer.poll(timeout_ms=POLL_MS, max_records=1)

    # --- the lease ----------------------------------------------------------------------------------------------------------------------

    def valid_until(self) -> float:
        """Until when the broker certainly keeps this member: from the sending of the last heartbeat that was answered."""
        desk, heartbeat = self._desk, self._consumer._coordinator.heartbeat
        sent, received = heartbeat.last_send, heartbeat.last_receive
        if received >= sent:
            desk.granted_at = max(desk.granted_at, sent)
        if self.is_joining():
            desk.granted_at = max(desk.granted_at, self._heard_at() - HEARD_S)
        return desk.granted_at + desk.lease_s - desk.margin_s

    def is_joining(self) -> bool:
        task = self._consumer._coordinator._join_task
        return task is not None and not task.is_done

    def is_settled(self) -> bool:
        """Nothing changes in the group that the client would have to be driven for."""
        coordinator = self._consumer._coordinator
        return not (self.is_joining() or coordinator.need_rejoin() or coordinator.coordinator_unknown())

    def _heard_at(self) -> float:
        """When the broker that coordinates the group has answered anything.

        There are no heartbeats while a join waits for other members, which may be dead: the broker keeps who waits, and cannot go on before
        it has answered the join. So as long as it answers other requests, the join is still open and the partitions are still ours.
        """
        coordinator = str(self._consumer._coordinator.coordinator_id or "").removeprefix("coordinator-")
        for node, connection in list(self._consumer._client._manager._conns.items()):
            if str(node) == coordinator and connection.connected:
                return float(connection.transport.last_read)
        return float("-inf")

    def _is_forgotten(self, now: float) -> bool:
        """Layer 2 has not polled for a whole lease: it is stuck, and somebody else shall go on."""
        with self._desk as desk:
            return not desk.is_polling and now - desk.polled_at > desk.lease_s

    # --- joining ------------------------------------------------------------------------------------------------------------------------

    def hold_on(self) -> None:
        """Let a join that outlives one poll be waited for by the next.

        The client forgets it when what it joined for (new partitions of a topic) is dealt with while the answer is still on its way: it
        would stay without partitions and without heartbeats for ever.
        """
        coordinator = self._consumer._coordinator
        if coordinator._join_task is not None or coordinator.need_rejoin():
            coordinator.request_rejoin()

    def _join(self) -> None:
        self._consumer.subscribe(topics=self._topics, listener=self._keeper)
        self._is_in = True

    def _look_for_companions(self) -> None:
        """The group's own topics are made when they are needed for the first time, and read from their beginning."""
        missing = [topic for topic in self._desk.topics if topic not in self._topics]
        if not missing:
            return
        try:
            found = self._existing(missing, time.monotonic() + LOOK_MS / 1000)
        except BackendError:
            return  # the broker is away; there is a next time
        if found:
            self._topics = [topic for topic in self._desk.topics if topic in self._topics or topic in found]
            self._join()
