"""The thread that drives the client of one consumer: reads ahead and finds gaps. How the consumer stands to others is not its concern."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as client

from mqsdk.spi import Link, Partition
from mqsdk_kafka.desk import Desk
from mqsdk_kafka.errors import FAILURES, PASSING, Doors
from mqsdk_kafka.membership import LEAVE_MS, LOOK_MS, POLL_MS

# Everything that was fetched: the client never finds again what it had begun to hand out of several partitions when they were paused.
# Bounded by the bytes of a fetch.
READ_RECORDS = 1 << 30
PAUSE_S = 0.05
IDLE_S = 0.5  # how often it looks around while nothing happens
# How long the broker holds back the answer to a fetch when there is nothing: no other fetch goes to it meanwhile, so a partition that
# is read again after a pause waits for that one.
BUSY_FETCH_MS, IDLE_FETCH_MS = 100, 500
BUSY_S = 1.0  # after the last record, the last pause, the last change of the group
LINK_S = 1.0  # without any connection for so long, the link is down
JOIN_S = 1.5
# The client raises these for good: nothing that this process does makes the next poll succeed.
_FATAL = (
    client.AuthorizationError, client.InvalidSessionTimeoutError, client.InconsistentGroupProtocolError, client.InvalidGroupIdError,
    client.SaslAuthenticationFailedError, client.UnsupportedSaslMechanismError, client.GroupMaxSizeReachedError,
)  # fmt: skip


class Standing(Protocol):
    """What the consumer is to its topic, a member of a group or one instance of a broadcast; called by the reading thread."""

    def turn(self, now: float) -> bool:
        """What there is to do before reading; False when nothing is to be read."""

    def begin_anew(self) -> None:
        """Something could not be carried out: drop what is owned where others can take it."""

    def cut_back(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Tell what is lost behind these ends and begin there; False when that could not be stored."""

    def leave(self, give_up: float) -> None:
        """Get ready to be closed, until then at the latest."""

    def nudge(self) -> None:
        """There is something to settle. Any thread."""

    def valid_until(self) -> float: ...
    def is_joining(self) -> bool: ...
    def is_settled(self) -> bool: ...
    def hold_on(self) -> None: ...


class Reading:
    """`run` is the thread's whole life."""

    def __init__(self, consumer: KafkaConsumer, desk: Desk, standing: Standing, doors: Doors) -> None:
        self._consumer = consumer
        self._desk = desk
        self._standing = standing
        self._doors = doors
        self._is_up = True
        self._seen_up_at = time.monotonic()
        self._is_answered = False
        self._busy_until = 0.0

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
        if not self._standing.turn(now):
            with self._desk as desk:
                desk.wait(PAUSE_S)
            return
        self._link(now)
        full = self._set_pauses()
        quiet = full or self._standing.is_settled()
        self._hurry(now, quiet)
        self._is_answered = False
        if self._read(0 if quiet else POLL_MS):
            self._busy_until = now + BUSY_S
        elif quiet:
            self._wait(PAUSE_S if full else min(IDLE_S, self._desk.margin_s))

    def _hurry(self, now: float, quiet: bool) -> None:
        """A consumer without work costs a few requests a second, one with work waits for none of them."""
        with self._desk as desk:
            if not quiet or any(owned.paused for owned in desk.owned.values()):
                self._busy_until = now + BUSY_S
        self._consumer._fetcher.config["fetch_max_wait_ms"] = BUSY_FETCH_MS if now < self._busy_until else IDLE_FETCH_MS

    def _wait(self, longest_s: float) -> None:
        """For the answer to a fetch, for credit, for a close: on the desk, for nobody can wake a thread that waits inside of the client."""
        for future in list(self._consumer._fetcher._fetch_futures):
            future.add_both(self._note_answer)  # at once if it has come meanwhile
        with self._desk as desk:
            if not (self._is_answered or desk.closing or any(owned.paused and owned.is_low for owned in desk.owned.values())):
                desk.wait(longest_s)

    def _note_answer(self, _: Any) -> None:
        """On the client's own thread."""
        with self._desk as desk:
            self._is_answered = True
            desk.tell()

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

    def _read(self, timeout_ms: int) -> bool:
        """Whether there was anything."""
        self._standing.hold_on()
        try:
            if self._standing.is_joining():
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
            self._standing.begin_anew()
            self._pause()
        else:
            if found:
                self._take_in(found)
                return True
        return False

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
        if not self._standing.cut_back(ends):
            self._pause()  # the next poll finds it again

    def _pause(self) -> None:
        with self._desk as desk:
            if not desk.closing:
                desk.wait(PAUSE_S)

    def _end(self) -> None:
        left_s = max(LEAVE_MS / 1000, self._desk.close_by - time.monotonic())
        try:
            self._standing.leave(time.monotonic() + min(left_s / 2, JOIN_S))
            self._consumer.close(autocommit=False, timeout_ms=int(min(left_s, 5.0) * 1000))
        except FAILURES:
            # It could not say good-bye: its session ends by itself.
            self._consumer._client.close()
        with self._desk as desk:
            desk.ended = True
            desk.tell()
