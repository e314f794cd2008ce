"""The thread that drives the client of one consumer: joins, reads ahead, finds gaps, gives up what is not polled or not renewed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as client
from kafka.coordinator.base import MemberState
from kafka.structs import OffsetAndMetadata

from mqsdk.spi import BackendError, Gap, Link, Partition
from mqsdk_kafka import marks
from mqsdk_kafka.desk import Desk
from mqsdk_kafka.errors import FAILURES, PASSING, Doors
from mqsdk_kafka.keeper import Keeper
from mqsdk_kafka.marks import Mark

POLL_MS = 50  # how long a close may wait for this thread
# Everything that was fetched: the client never finds again what it had begun to hand out of several partitions when they were paused.
# Bounded by the bytes of a fetch.
READ_RECORDS = 1 << 30
COMPANION_S = 0.5  # how often the group's own topics are looked for
LOOK_MS = 2000
PAUSE_S = 0.05
LINK_S = 1.0  # without any connection for so long, the link is down
LEAVE_MS = 500
JOIN_S = 1.5
HEARD_S = 0.3  # an answer is so much younger than its request at most: a fetch waits a tenth of a second
# The client raises these for good: nothing that this process does makes the next poll succeed.
_FATAL = (
    client.AuthorizationError, client.InvalidSessionTimeoutError, client.InconsistentGroupProtocolError, client.InvalidGroupIdError,
    client.SaslAuthenticationFailedError, client.UnsupportedSaslMechanismError, client.GroupMaxSizeReachedError,
)  # fmt: skip

Existing = Callable[[Sequence[str], float], set[str]]  # which of these topics exist, asked until a deadline


class Reading:
    """`run` is the thread's whole life. topics: what is subscribed to; those of the desk that are missing are taken up when they exist."""

    def __init__(self, consumer: KafkaConsumer, desk: Desk, keeper: Keeper, doors: Doors, existing: Existing) -> None:
        self._consumer = consumer
        self._desk = desk
        self._keeper = keeper
        self._doors = doors
        self._existing = existing
        self.topics: list[str] = []
        self._is_in = False
        self._companions_at = 0.0
        self._is_up = True
        self._seen_up_at = time.monotonic()

    def run(self) -> None:
        try:
            while not self._desk.closing:
                self._turn(time.monotonic())
        except Exception as error:
            # Nobody joins this thread but `close`: layer 2 hears of it by the next poll.
            with self._desk as desk:
                desk.failure = error
                desk.lose(lambda _: True)
        finally:
            self._end()

    def _turn(self, now: float) -> None:
        if self._is_forgotten(now):
            self._give_up()
            with self._desk as desk:
                desk.wait(PAUSE_S)
            return
        if self._desk.owned and now > self.valid_until():
            self._give_up()
        self._link(now)
        if not self._is_in:
            self._join()
        if now >= self._companions_at:
            self._companions_at = now + COMPANION_S
            self._look_for_companions()
        idle = self._set_pauses()
        self._read(0 if idle else POLL_MS)
        if idle:
            with self._desk as desk:
                if not any(owned.paused and owned.is_low for owned in desk.owned.values()):
                    desk.wait(PAUSE_S)

    # --- membership ---------------------------------------------------------------------------------------------------------------------

    def valid_until(self) -> float:
        """Until when the broker certainly keeps this member: from the sending of the last heartbeat that was answered."""
        desk, heartbeat = self._desk, self._consumer._coordinator.heartbeat
        sent, received = heartbeat.last_send, heartbeat.last_receive
        if received >= sent:
            desk.granted_at = max(desk.granted_at, sent)
        if self._is_joining():
            desk.granted_at = max(desk.granted_at, self._heard_at() - HEARD_S)
        return desk.granted_at + desk.lease_s - desk.margin_s

    def _is_joining(self) -> bool:
        task = self._consumer._coordinator._join_task
        return task is not None and not task.is_done

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

    def _join(self) -> None:
        self._consumer.subscribe(topics=self.topics, listener=self._keeper)
        self._is_in = True

    def _give_up(self) -> None:
        """Leave the group without a word about progress."""
        if not self._is_in:
            return
        self._is_in = False
        with self._desk as desk:
            desk.lose(lambda _: True)
        self._consumer._coordinator.maybe_leave_group(timeout_ms=LEAVE_MS)
        self._consumer.unsubscribe()

    def _look_for_companions(self) -> None:
        """The group's own topics are made when they are needed for the first time, and read from their beginning."""
        missing = [topic for topic in self._desk.topics if topic not in self.topics]
        if not missing:
            return
        try:
            found = self._existing(missing, time.monotonic() + LOOK_MS / 1000)
        except BackendError:
            return  # the broker is away; there is a next time
        if found:
            self.topics = [topic for topic in self._desk.topics if topic in self.topics or topic in found]
            self._join()

    def _link(self, now: float) -> None:
        connections = list(self._consumer._client._manager._conns.values())
        if any(connection.connected for connection in connections):
            self._seen_up_at = now
        is_up = now - self._seen_up_at < LINK_S
        if is_up != self._is_up:
            self._is_up = is_up
            error = None if is_up else self._doors.error(client.KafkaConnectionError("no connection"))
            with self._desk as desk:
                desk.tell(Link(up=is_up, error=error))

    # --- reading ------------------------------------------------------------------------------------------------------------------------

    def _set_pauses(self) -> bool:
        """Stop what is far enough ahead, go on with what has come down. True when there is nothing to read."""
        assignment = self._consumer.assignment()
        going = 0
        with self._desk as desk:
            for place in assignment:
                owned = desk.owned.get(Partition(*place))
                if owned is None or owned.ending:
                    self._consumer.pause(place)
                    continue
                if owned.paused and owned.is_low:
                    owned.paused = False
                    self._consumer.resume(place)
                elif not owned.paused and owned.is_full:
                    owned.paused = True
                    self._consumer.pause(place)
                going += not owned.paused
        return bool(assignment) and not going

    def _hold_on(self) -> None:
        """Let a join that outlives one poll be waited for by the next.

        The client forgets it when what it joined for (new partitions of a topic) is dealt with while the answer is still on its way: it
        would stay without partitions and without heartbeats for ever.
        """
        coordinator = self._consumer._coordinator
        if coordinator._join_task is not None or coordinator.need_rejoin():
            coordinator.request_rejoin()

    def _read(self, timeout_ms: int) -> None:
        self._hold_on()
        try:
            if self._is_joining():
                # The client reads nothing meanwhile; what is owned stays owned, so it may. The wait is for the join: an answer that
                # comes while nobody waits for it is thrown away, and the whole group joins again.
                found = self._consumer.poll(timeout_ms=POLL_MS, max_records=READ_RECORDS)
                if not found:
                    found, _ = self._consumer._fetcher.fetch_records(READ_RECORDS, timeout_ms=0)
            else:
                found = self._consumer.poll(timeout_ms=timeout_ms, max_records=READ_RECORDS)
        except client.OffsetOutOfRangeError as error:
            self._find_gaps(error.args[0])
        except client.LogTruncationError as error:
            self._cut_back({place: found.offset for place, found in error.divergent_offsets.items() if found is not None})
        except _FATAL:
            raise
        except PASSING:
            self._pause()
        except client.KafkaError:
            # A hand-over could not be carried out: begin anew.
            self._give_up()
            self._pause()
        else:
            if found:
                self._take_in(found)

    def _take_in(self, found: dict[TopicPartition, list[Any]]) -> None:
        with self._desk as desk:
            for place, records in found.items():
                owned = desk.owned.get(Partition(*place))
                if owned is not None and not owned.ending and records[0].offset >= owned.position:
                    owned.receive(records)
            desk.tell()

    def _find_gaps(self, places: Any) -> None:
        """A position is outside of what the log holds: what was lost is told, reading goes on behind it."""
        wanted = [place for place in places if place in self._consumer.assignment()]
        try:
            firsts = self._consumer.beginning_offsets(wanted, timeout_ms=LOOK_MS)
            ends = self._consumer.end_offsets(wanted, timeout_ms=LOOK_MS)
        except PASSING:
            return
        beyond = {}
        for place in wanted:
            with self._desk as desk:
                owned = desk.owned.get(Partition(*place))
                if owned is None:
                    continue
                if owned.position > ends[place]:
                    beyond[place] = ends[place]
                    continue
                if owned.position < firsts[place]:
                    owned.lose(firsts[place])
                self._consumer.seek(place, owned.position)
                desk.tell()
        if beyond:
            self._cut_back(beyond)

    def _cut_back(self, ends: dict[TopicPartition, int]) -> None:
        """The log has lost its newest records (an unclean election), and others take their positions: begin anew where it was cut."""
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
            self._pause()  # the next poll finds it again
        else:
            self._give_up()

    def _pause(self) -> None:
        with self._desk as desk:
            if not desk.closing:
                desk.wait(PAUSE_S)

    def _finish_joining(self, give_up: float) -> None:
        """In the middle of a rebalance nothing can be committed: what is handed back would look like left without a word."""
        while self._consumer.group_metadata().state is MemberState.REBALANCING and time.monotonic() < give_up:
            self._hold_on()
            self._consumer.poll(timeout_ms=POLL_MS, max_records=1)

    def _end(self) -> None:
        left_s = max(LEAVE_MS / 1000, self._desk.close_by - time.monotonic())
        try:
            self._finish_joining(time.monotonic() + min(left_s / 2, JOIN_S))
            self._consumer.close(autocommit=False, timeout_ms=int(min(left_s, 5.0) * 1000))
        except FAILURES:
            # It could not say good-bye: its session ends by itself.
            self._consumer._client.close()
        with self._desk as desk:
            desk.ended = True
            desk.tell()
