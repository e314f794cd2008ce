"""Publishing: records go to a thread of the producer's own, which hands them to the client and keeps their deadlines."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from kafka import errors as raw

from mqsdk.spi import BackendError, EventSink, NewRecord, Outcome, Partition, Producer, Published, Rejected, Stored, Unknown
from mqsdk_kafka.backend import MAX_PAYLOAD
from mqsdk_kafka.client import Client
from mqsdk_kafka.errors import refusal
from mqsdk_kafka.line import OPTIONS, UNSENT, Line, NotSent
from mqsdk_kafka.routes import Routes

WINDOW_RECORDS = 50_000
WINDOW_BYTES = 64 << 20
CONNECT_S = 1.0
END_S = 2.0
IDLE_S = 60.0
HELD_BACK = Rejected("throttled", "an earlier message of this partition may not be stored", retryable=True)
LATE = Rejected("throttled", "no time was left before the deadline", retryable=True)
SILENT = Unknown("the broker did not answer before the deadline")
CUT = Unknown("the connection was given up before the broker answered")


class Flying(NamedTuple):
    """call: number of the `publish` that it came with."""

    record: NewRecord
    deadline: float
    size: int
    call: int


class KafkaProducer(Producer):
    """Any thread may publish. One answer per record, at its deadline at the latest."""

    def __init__(self, client: Client, events: EventSink) -> None:
        self._client = client
        self._events = events
        self._routes = Routes(client)
        self._queue: deque[Flying] = deque()
        self._results: deque[tuple[int, Any]] = deque()  # (token, what the client told)
        self._flying: dict[int, Flying] = {}
        self._taken_back: set[int] = set()  # of those that fly: never sent
        self._doubtful: set[Partition] = set()  # partitions with a record of this line that may be stored or not
        self._deadlines: list[tuple[float, int]] = []  # a heap of (deadline, number of the call)
        self._open: dict[int, int] = {}  # number of a call -> how many of its records fly
        self._calls = 0
        self._bell = threading.Event()
        self._room = threading.Condition()
        self._records = self._bytes = 0
        self._line: Line | None = None
        self._ending_at: float | None = None
        self._thread: threading.Thread | None = None

    # --- any thread ---------------------------------------------------------------------------------------------------------------------

    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        """Waits for room in the window, no longer than the deadline; not for the broker."""
        self._client.check()
        size = sum(len(record.value) + (len(record.key) if record.key is not None else 0) for record in batch)
        with self._room:
            while self._records and (self._records + len(batch) > WINDOW_RECORDS or self._bytes + size > WINDOW_BYTES):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._room.wait(left_s):
                    self._put([(record.token, LATE, 0) for record in batch])
                    return
            self._client.check()
            if self._ending_at is not None:
                raise self._client.doors.closed()
            self._records += len(batch)
            self._bytes += size
            self._calls += 1
            self._queue.extend([Flying(record, deadline, _size(record), self._calls) for record in batch])
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mqsdk-kafka-publish", daemon=True)
                self._thread.start()
        self._ring()

    def close(self, deadline: float) -> None:
        """Wait for what is on its way, until the deadline; what is still out then is Unknown."""
        if self._client.state == "stale":
            return
        with self._room:
            self._ending_at = deadline if self._ending_at is None else min(deadline, self._ending_at)
        self._ring()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, deadline - time.monotonic()) + END_S)

    def vanish(self) -> None:
        """End without waiting for any answer."""
        self.close(time.monotonic())

    def _ring(self) -> None:
        if not self._bell.is_set():
            self._bell.set()

    def _told(self, token: int, result: Any) -> None:
        self._results.append((token, result))
        self._ring()

    # --- the thread ---------------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_over():
            now = time.monotonic()
            next_at = self._deadlines[0][0] if self._deadlines else now + IDLE_S
            if self._ending_at is not None:
                next_at = min(next_at, self._ending_at)
            self._bell.wait(max(0.0, next_at - now))
            self._bell.clear()
            self._turn()
        if self._flying or self._queue:
            self._retire(CUT)
        if self._line is not None:
            self._line.end(wait=True)

    def _is_over(self) -> bool:
        if self._ending_at is None:
            return False
        return not (self._flying or self._queue or self._results) or time.monotonic() >= self._ending_at

    def _turn(self) -> None:
        self._answer()
        if self._line is not None and self._line.broken:
            self._retire(CUT)
        while self._queue:
            self._send(self._queue.popleft())
        self._answer()
        self._expire(time.monotonic())

    def _send(self, flying: Flying) -> None:
        record, line = flying.record, self._line
        if line is None or not self._routes.is_open(record.partition, line) or len(record.value) > MAX_PAYLOAD:
            refused = self._refused(flying)
            if refused is not None:
                self._done([(flying, refused)])
                return
            line = self._line
            assert line is not None  # a route was found over it
        self._take_off(flying)
        try:
            sent = line.send(record)
        except UNSENT as error:
            self._land(record.token)
            outcome = refusal(error)
            if isinstance(outcome, Unknown):
                outcome = Rejected("backend", f"the client refuses the message: {type(error).__name__}")
            self._done([(flying, outcome)])
        else:
            if not sent:
                self._land(record.token)
                self._queue.appendleft(flying)
                self._answer()
                self._retire(CUT)

    def _take_off(self, flying: Flying) -> None:
        call = flying.call
        self._flying[flying.record.token] = flying
        if call in self._open:
            self._open[call] += 1
        else:
            self._open[call] = 1
            heapq.heappush(self._deadlines, (flying.deadline, call))

    def _land(self, token: int) -> Flying | None:
        flying = self._flying.pop(token, None)
        if flying is not None:
            left = self._open[flying.call] - 1
            if left:
                self._open[flying.call] = left
            else:
                del self._open[flying.call]
        return flying

    def _refused(self, flying: Flying) -> Rejected | None:
        """Why this record is not sent at all; None when the way is free."""
        record = flying.record
        if len(record.value) > MAX_PAYLOAD:
            return Rejected("too_large", f"the payload has over {MAX_PAYLOAD} bytes", fix="store it elsewhere and send where")
        left_s = min(CONNECT_S, flying.deadline - time.monotonic())
        if left_s <= 0:
            return LATE
        try:
            if self._line is None:
                self._line = Line(self._client.producer(time.monotonic() + left_s, [record.partition.topic], **OPTIONS), self._told)
            return self._routes.refusal(record.partition, self._line, time.monotonic() + left_s)
        except BackendError as error:
            return Rejected("backend", error.what, retryable=error.retryable, fix=error.fix)
        except raw.KafkaError as error:
            return Rejected("backend", f"the topic's brokers are not known: {type(error).__name__}", retryable=True)

    # --- answers ------------------------------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        """Answer what the client told. Records that were taken back are kept for the next line."""
        done: list[tuple[Flying, Outcome]] = []
        while self._results:
            token, result = self._results.popleft()
            if isinstance(result, NotSent):
                self._taken_back.add(token)
                continue
            flying = self._land(token)
            if flying is not None:
                outcome = refusal(result) if isinstance(result, Exception) else Stored(result.offset)
                if isinstance(outcome, Unknown):
                    self._doubtful.add(flying.record.partition)
                done.append((flying, outcome))
        if done:
            self._done(done)

    def _expire(self, now: float) -> None:
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][1] not in self._open):
            _, call = heapq.heappop(self._deadlines)
            if call in self._open:
                self._retire(SILENT)

    def _retire(self, doubt: Unknown) -> None:
        """End the line. What has gone out without an answer is in doubt, and holds back what is newer in its partition."""
        line, self._line = self._line, None
        if line is not None:
            line.take_back()
            line.end(wait=False)
        self._answer()
        taken_back, self._taken_back = self._taken_back, set()
        now = time.monotonic()
        flying, self._flying = self._flying, {}
        self._open.clear()
        doubtful, self._doubtful = self._doubtful, set()
        doubtful |= {one.record.partition for token, one in flying.items() if token not in taken_back}
        unsent = [one for token, one in flying.items() if token in taken_back]
        while self._queue:  # other threads add to it
            unsent.append(self._queue.popleft())
        done: list[tuple[Flying, Outcome]] = [(one, doubt) for token, one in flying.items() if token not in taken_back]
        for one in unsent:
            if one.record.partition in doubtful:
                done.append((one, HELD_BACK))
            elif one.deadline <= now or self._ending_at is not None:
                done.append((one, LATE))
            else:
                self._queue.append(one)
        self._done(done)
        if self._queue:
            self._ring()

    def _done(self, done: Sequence[tuple[Flying, Outcome]]) -> None:
        self._put([(flying.record.token, outcome, flying.call) for flying, outcome in done])
        with self._room:
            self._records -= len(done)
            self._bytes -= sum(flying.size for flying, _ in done)
            self._room.notify_all()

    def _put(self, outcomes: Sequence[tuple[int, Outcome, int]]) -> None:
        """One event for a run of consecutive tokens of one call with one refusal, or with consecutive positions."""
        index = 0
        while index < len(outcomes):
            token, outcome, call = outcomes[index]
            length = 1
            while index + length < len(outcomes) and outcomes[index + length] == (token + length, _after(outcome, length), call):
                length += 1
            self._events.put(Published(token, outcome, length))
            index += length


def _after(outcome: Outcome, steps: int) -> Outcome:
    if isinstance(outcome, Stored) and outcome.position is not None:
        return Stored(outcome.position + steps)
    return outcome


def _size(record: NewRecord) -> int:
    return len(record.value) + (len(record.key) if record.key is not None else 0)
